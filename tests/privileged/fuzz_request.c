// SPDX-License-Identifier: GPL-3.0-or-later
/* Requests for an environment, most of them spoilt, to the helper's own code under sanitizers.
 *
 * helper.c, paths.c, init.c, program.c and attach.c are the real ones.  Whatever would end the process
 * comes back here instead, and what would mount, make files, start a program or send a signal is counted
 * (tests/privileged/fuzz.py has the list).  What is to be refused is worked out here a second time, from
 * request.h alone: both must agree on each.  Prints: requests, accepted, found again, shown, started.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KINDS = 16, GOOD = 9, MOST = 253 };  // SCM_MAX_FD: more the kernel does not send

int counted_mount(const char *source, const char *target, const char *kind, unsigned long flags, const void *data);
int counted_mount_setattr(int fd, const char *path, unsigned flags, struct mount_attr *attr, size_t size);
int counted_mkdirat(int at, const char *name, mode_t mode);
int counted_mknodat(int at, const char *name, mode_t mode, dev_t device);
pid_t counted_start(const struct start *start, int *report);
int counted_kill(pid_t pid, int number);
_Noreturn void counted_exit(int status);

static unsigned long accepted, found, shown, started;
static unsigned binds, sealed;            // of this request
static int scratch, dead, status_of_end;
static jmp_buf ended;
static uint64_t state;

static uint32_t dice(uint32_t sides)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % sides;
}

static _Noreturn void wrong(const char *what)
{
    (void)fprintf(stderr, "%s\n", what);
    abort();
}

_Noreturn void counted_exit(int status)
{
    status_of_end = status;
    longjmp(ended, 1);
}

int counted_mount(const char *source, const char *target, const char *kind, unsigned long flags, const void *data)
{
    (void)flags;
    if (strncmp(target, "/proc/self/fd/", 14) != 0 || (kind ? strlen(data) > 159 : strlen(source) > 31))
        wrong("a mount of something else");
    binds++;
    return 0;
}

int counted_mount_setattr(int fd, const char *path, unsigned flags, struct mount_attr *attr, size_t size)
{
    if (fd < 0 || *path || !(flags & AT_EMPTY_PATH) || size != sizeof *attr || attr->attr_clr)
        wrong("a mount is changed in another way");
    sealed++;
    return 0;
}

int counted_mkdirat(int at, const char *name, mode_t mode)
{
    if (strchr(name, '/') || mode != 0700)
        wrong("a directory somewhere else");
    errno = EACCES;
    return at == scratch ? 0 : -1;
}

int counted_mknodat(int at, const char *name, mode_t mode, dev_t device)
{
    if (at < 0 || strchr(name, '/') || mode != (S_IFREG | 0600) || device)
        wrong("a file somewhere else");
    errno = EACCES;
    return -1;
}

pid_t counted_start(const struct start *start, int *report)
{
    static volatile size_t sum;
    int ends[2];

    for (char **list = start->argv; *list; list++)
        sum += strlen(*list);
    for (char **list = start->env; *list; list++)
        sum += strlen(*list);
    if (!start->argv[0] || pipe2(ends, O_CLOEXEC) < 0)
        abort();
    (void)close(ends[1]);
    *report = ends[0];
    return (pid_t)(1 << 23) + (pid_t)(started++ & 0xffff);  // nobody's
}

int counted_kill(pid_t pid, int number)
{
    if (number < 1 || number > 64 || pid == 0 || pid == -1 || pid == 1 || abs(pid) < 1 << 23)
        wrong("a signal to somebody else");
    return 0;
}

// ---- descriptors of every kind -----------------------------------------------------------------

static int listening(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        abort();
    return fd;
}

/* In a directory of our own, which is the working directory: all that a user could open. */
static void open_kinds(int kinds[KINDS])
{
    const int path = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    char deep[200];
    int ends[2], sock = listening("socket"), i = 0;

    memset(deep, 'd', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    if (mkdir(deep, 0700) < 0 || mkdir("work", 0700) < 0 || mkdir("upper", 0700) < 0
        || mknod("file", S_IFREG | 0600, 0) < 0 || mknod("gone", S_IFREG | 0600, 0) < 0
        || mknod("moved", S_IFREG | 0600, 0) < 0 || symlink("file", "link") < 0
        || mkfifo("fifo", 0600) < 0 || pipe2(ends, O_CLOEXEC) < 0)
        abort();
    kinds[i++] = open("file", path);
    kinds[i++] = open("link", path);
    kinds[i++] = open("fifo", path);
    kinds[i++] = open("socket", path);
    kinds[i++] = open(deep, path);
    kinds[i++] = open(".", path);
    kinds[i++] = open("/", path);
    kinds[i++] = open("/dev/null", path);
    kinds[i++] = open("/proc/self/status", path);
    kinds[i++] = open("gone", path);
    kinds[i++] = open("moved", path);
    kinds[i++] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    kinds[i++] = sock;
    kinds[i++] = memfd_create("memory", MFD_CLOEXEC);
    kinds[i++] = ends[0];
    kinds[i++] = ends[1];
    // One is gone, and another file has the name that the kernel has for the other.
    if (i != KINDS || unlink("gone") < 0 || unlink("moved") < 0 || mknod("moved (deleted)", S_IFREG | 0600, 0) < 0)
        abort();
    for (i = 0; i < KINDS; i++)
        if (kinds[i] < 0)
            abort();
    scratch = open(".", path);
    dead = kinds[3];
}

// ---- what is said ------------------------------------------------------------------------------

union packet {
    struct avne_message message;
    unsigned char bytes[200];
};

static void send_packet(int line, const void *data, size_t size, const int *fds, uint32_t count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST * sizeof(int))];
    } rights = {.room = {0}};
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};

    if (count) {
        packet.msg_control = rights.room;
        packet.msg_controllen = CMSG_SPACE(count * sizeof(int));
        rights.head.cmsg_level = SOL_SOCKET;
        rights.head.cmsg_type = SCM_RIGHTS;
        rights.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&rights.head), fds, count * sizeof(int));
    }
    if (sendmsg(line, &packet, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        abort();
}

static const uint32_t odd[] = {0, 1, 2, 63, 64, 65, 249, 250, 251, 253, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};

/* A good one, then one thing or several are spoilt.  Gives its size. */
static size_t make_request(union packet *packet, uint32_t *count)
{
    static const uint32_t flags[] = {0, 0, 0, AVNE_STRICT, AVNE_OWN_HOME, AVNE_OWN_HOME | AVNE_KEPT_HOME,
                                     AVNE_KEPT_HOME, 7};
    const uint32_t flag = flags[dice(8)];
    size_t size = sizeof packet->message;

    *packet = (union packet){.message = {.magic = AVNE_MAGIC, .type = AVNE_REQUEST, .layout = AVNE_LAYOUT,
        .value = (int32_t)flag, .argc = dice(4), .envc = dice(4)}};
    if (!dice(40))
        packet->message.argc = dice(70);
    if (!dice(40))
        packet->message.envc = dice(MOST + 1);
    packet->message.ignored = (uint64_t)dice(256) << dice(57);
    packet->message.blocked = (uint64_t)dice(256) << dice(57);
    *count = (flag & AVNE_OWN_HOME ? 1 : 0) + (flag & AVNE_KEPT_HOME ? 2 : 0) + packet->message.argc
        + packet->message.envc;
    for (uint32_t spoils = dice(3); spoils > 0; spoils--)
        switch (dice(10)) {
        case 0: packet->bytes[dice(sizeof packet->message)] ^= (unsigned char)(1U << dice(8)); break;
        case 1: size = dice((uint32_t)size + 1); break;
        case 2: size = dice(sizeof *packet); break;
        case 3:
            for (uint32_t i = dice(16); i > 0; i--)
                packet->bytes[dice(sizeof packet->message)] = (unsigned char)dice(256);
            break;
        case 4: packet->message.argc = odd[dice(sizeof odd / sizeof *odd)]; break;
        case 5: packet->message.envc = odd[dice(sizeof odd / sizeof *odd)]; break;
        case 6: packet->message.value = (int32_t)odd[dice(sizeof odd / sizeof *odd)]; break;
        case 7: *count += 1 + dice(2); break;
        case 8: *count = dice(MOST + 1); break;
        default: packet->message.type = dice(14); break;
        }
    if (*count > MOST)
        *count = MOST;
    return size;
}

/* By request.h: whether that is a request, and one that may be granted in that mode. */
static bool is_right(const union packet *packet, size_t size, uint32_t count, enum mode mode)
{
    const struct avne_message *said = &packet->message;
    const uint32_t flags = (uint32_t)said->value;
    uint64_t wanted = (uint64_t)said->argc + said->envc;

    if (size != sizeof *said || said->magic != AVNE_MAGIC || said->layout != AVNE_LAYOUT
        || said->type != AVNE_REQUEST || count > AVNE_MAX_PATHS || said->argc > 64 || flags > 7)
        return false;
    if (flags & AVNE_KEPT_HOME && !(flags & AVNE_OWN_HOME))
        return false;
    if (flags & AVNE_OWN_HOME && mode == SETUID)
        return false;
    return wanted + (flags & AVNE_OWN_HOME ? 1 : 0) + (flags & AVNE_KEPT_HOME ? 2 : 0) == count;
}

/* Strings, as a rule as many as are said. */
static int make_memory(uint32_t *argc, uint32_t *envc)
{
    char text[400];
    size_t size = 0;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    *argc = 1 + dice(3);
    *envc = dice(4);
    for (uint32_t i = 0; i < *argc + *envc; i++) {
        size_t length = dice(40);
        memset(text + size, 'a' + (int)dice(26), length);
        size += length;
        text[size++] = '\0';
    }
    switch (dice(8)) {
    case 0: text[dice((uint32_t)size)] = (char)dice(256); break;
    case 1: size -= dice((uint32_t)size); break;
    case 2: *argc = dice(9); break;
    case 3: *envc = dice(9); break;
    case 4: *argc = odd[dice(sizeof odd / sizeof *odd)]; break;
    case 5: *envc = odd[dice(sizeof odd / sizeof *odd)]; break;
    default: break;
    }
    if (write(fd, text, size) != (ssize_t)size)
        abort();
    return fd;
}

/* GO and what may come after it, in any order and number. */
static void say_the_rest(int line, const int kinds[KINDS])
{
    const uint32_t first = 1 + dice(5);

    for (uint32_t more = first; more > 0; more--) {
        static const uint32_t types[] = {AVNE_GO, AVNE_GO, AVNE_GO, AVNE_SIGNAL, AVNE_ATTACH, AVNE_END,
                                         AVNE_REQUEST};
        union packet packet = {.bytes = {0}};
        uint32_t argc, envc;
        int fds[4] = {make_memory(&argc, &envc), kinds[dice(KINDS)], kinds[dice(KINDS)], kinds[dice(KINDS)]};
        int memory = fds[0];
        size_t size = sizeof packet.message;

        packet.message = (struct avne_message){.magic = AVNE_MAGIC, .type = types[more == first && dice(8) ? 0 : dice(7)],
            .layout = AVNE_LAYOUT, .value = (int)dice(140) - 30, .argc = argc, .envc = envc,
            .ignored = (uint64_t)dice(256) << dice(57), .blocked = (uint64_t)dice(256) << dice(57)};
        if (!dice(8))
            fds[0] = kinds[dice(KINDS)];
        if (!dice(6))
            packet.bytes[dice(sizeof packet.message)] = (unsigned char)dice(256);
        if (!dice(12))
            size = dice(sizeof packet);
        send_packet(line, packet.bytes, size, fds,
                    dice(12) ? packet.message.type == AVNE_GO || packet.message.type == AVNE_ATTACH : dice(5));
        (void)close(memory);
    }
}

// ---- the helper's steps ------------------------------------------------------------------------

static void check_found(const struct wishes *wishes, const int *sent, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct stat before, now;

        if (wishes->paths[i] < 0)
            continue;
        if (fstat(sent[i], &before) < 0 || fstat(wishes->paths[i], &now) < 0 || before.st_dev != now.st_dev
            || before.st_ino != now.st_ino || before.st_mode != now.st_mode
            || !(fcntl(wishes->paths[i], F_GETFL) & O_PATH) || !(fcntl(wishes->paths[i], F_GETFD) & FD_CLOEXEC))
            wrong("another file was found");
        found++;
    }
}

static void work(struct wishes *wishes, enum mode mode, bool right, const int *sent)
{
    static struct avne_message request;
    static const struct saved saved = {.cwd = "/"};
    unsigned count, sockets = 0;
    int heard = hear_many(&request, wishes->paths, AVNE_MAX_PATHS, &count);
    bool granted = heard == 1 && read_wishes(wishes, &request, count, mode);

    if (granted != right)
        wrong(right ? "a right request was refused" : "a wrong request was granted");
    if (!granted)
        fail(AVNE_STAGE_REQUEST, heard < 0 ? errno : EBADMSG);
    accepted++;
    find_again(wishes);
    check_found(wishes, sent, count);
    for (unsigned i = 0; i < wishes->masks; i++) {
        struct stat status;
        int fd = wishes->paths[wishes->homes + wishes->shares + i];
        sockets += fd >= 0 && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
    }
    mask_sockets(wishes, dead);
    if (binds != sockets)
        wrong("something else than a socket is covered, or a socket is not");
    cover_home(wishes, scratch, mode);
    binds = 0;
    show_shares(wishes);
    if (binds != wishes->shares || (wishes->shares < 64
        && sealed != (unsigned)__builtin_popcountll(wishes->read_only & ((1ULL << wishes->shares) - 1))))
        wrong("not every share is shown as it was asked for");
    shown += binds;
    forget_paths(wishes);
    serve(&saved);
}

static void ask(const int kinds[KINDS])
{
    struct wishes wishes;
    union packet packet;
    uint32_t count;
    const size_t size = make_request(&packet, &count);
    const enum mode mode = (enum mode[]){ROOT, ROOTLESS, SETUID}[dice(3)];
    struct avne_message answer = {0};
    int line[2], sent[MOST];
    unsigned words = 0;

    memset(&wishes, 0xa5, sizeof wishes);  // nothing may rely on what was there
    for (uint32_t i = 0; i < count; i++)
        sent[i] = kinds[dice(12) ? dice(GOOD) : dice(KINDS)];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line) < 0 || dup3(line[1], LINE, O_CLOEXEC) < 0)
        abort();
    (void)close(line[1]);
    send_packet(line[0], packet.bytes, size, sent, count);
    say_the_rest(line[0], kinds);
    (void)shutdown(line[0], SHUT_WR);
    binds = sealed = 0;
    status_of_end = -1;
    if (setjmp(ended) == 0)
        work(&wishes, mode, size && is_right(&packet, size, count, mode), sent);
    detach_all();
    while (recv(line[0], &answer, sizeof answer, MSG_DONTWAIT) == sizeof answer)
        if (answer.magic != AVNE_MAGIC || answer.layout != AVNE_LAYOUT || ++words > 4)
            wrong("that is no answer");
    if ((status_of_end == 1) != (answer.type == AVNE_FAILED) || status_of_end > 1)
        wrong("it ended without a word, or went on after one");
    (void)close(line[0]);
}

int main(int argc, char **argv)
{
    const unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    int kinds[KINDS], first;

    state = 88172645463325252ULL ^ (argc > 2 ? strtoul(argv[2], NULL, 10) : 0) * 0x9e3779b97f4a7c15ULL;
    if (open("/dev/null", O_RDWR) == LINE)
        (void)fcntl(LINE, F_SETFD, FD_CLOEXEC);
    open_kinds(kinds);
    first = dup(scratch);
    for (unsigned long i = 0; i < rounds; i++) {
        ask(kinds);
        (void)close_range((unsigned)first, ~0U, 0);  // as the end of the process would
    }
    (void)printf("%lu %lu %lu %lu %lu\n", rounds, accepted, found, shown, started);
    return 0;
}
