// SPDX-License-Identifier: GPL-3.0-or-later
/* Second programs in the environment, for `avne attach`: served by pid 1, without any privilege.
 *
 * Each comes as a connection that the supervisor has accepted on a socket outside and handed in.
 * Nothing that is said on one can end pid 1, or make it wait: all reads are of what is there, the
 * connections are counted, and a request is refused as a whole or done as a whole.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

enum {
    STRINGS = LINE, TARGET,    // the request's descriptors: 0 to 2, the memfd, perhaps a pidfd
    MOST_FDS
};

static struct attached {
    int line;                  // its connection; -1: the slot is free
    int report;                // as long as its exec has not been done; else -1
    pid_t program;             // 0: its request has not come yet
} slots[MAX_ATTACHED] = {[0 ... MAX_ATTACHED - 1] = {-1, -1, 0}};

static bool running;           // the environment's own program: nothing is attached without it

static void answer(const struct attached *slot, enum avne_type type, enum avne_stage stage, int value, int fd)
{
    say_on(slot->line, MSG_DONTWAIT, type, stage, value, fd);
}

static void release(struct attached *slot)
{
    if (slot->line >= 0)
        (void)close(slot->line);
    if (slot->report >= 0)
        (void)close(slot->report);
    *slot = (struct attached){-1, -1, 0};
}

static void refuse(struct attached *slot, enum avne_stage stage, int error)
{
    answer(slot, AVNE_FAILED, stage, error, -1);
    release(slot);
}

/* Who asked is gone, or speaks nonsense: its program ends, as avne run's does in such a case. */
static void hang_up(struct attached *slot)
{
    if (slot->program) {
        (void)kill(-slot->program, SIGKILL);
        (void)kill(slot->program, SIGKILL);
    }
    release(slot);
}

// ---- the request -------------------------------------------------------------------------------

/* One packet of `size` bytes at most, without waiting, and its descriptors (`count` of them).
 * Its size; 0 at the end of file, or where it is of no use. */
static size_t hear_on(int line, void *data, size_t size, int fds[MOST_FDS], int *count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } rights = {.room = {0}};
    struct iovec part = {data, size};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = rights.room,
                            .msg_controllen = CMSG_LEN(MOST_FDS * sizeof(int))};
    ssize_t got = recvmsg(line, &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    *count = 0;
    if (got < 0)
        return 0;
    if (packet.msg_controllen >= CMSG_LEN(sizeof(int)) && rights.head.cmsg_level == SOL_SOCKET
        && rights.head.cmsg_type == SCM_RIGHTS) {
        *count = (int)((rights.head.cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(&rights.head), (size_t)*count * sizeof(int));
    }
    if (!(packet.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return (size_t)got;
    for (int i = 0; i < *count; i++)
        (void)close(fds[i]);
    *count = 0;
    return 0;
}

static bool is_ours(const struct avne_message *message, enum avne_type type)
{
    return message->magic == AVNE_MAGIC && message->layout == AVNE_LAYOUT && message->type == type;
}

/* A terminal of the environment's own in the place of the caller's, with its settings and size:
 * gives the other end, for the caller to relay.  -1 with errno. */
static int make_terminal(const int standard[LINE])
{
    const int unlocked = 0;
    struct termios settings;
    struct winsize window;
    int error, inner = -1, outer = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (outer < 0)
        return -1;
    if (ioctl(outer, TIOCSPTLCK, &unlocked) == 0)
        inner = ioctl(outer, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (inner < 0 || tcgetattr(standard[0], &settings) < 0 || tcsetattr(inner, TCSANOW, &settings) < 0)
        goto failed;
    if (ioctl(standard[0], TIOCGWINSZ, &window) == 0)
        (void)ioctl(inner, TIOCSWINSZ, &window);
    for (int fd = 0; fd < LINE; fd++)
        if (isatty(standard[fd]) && dup3(inner, standard[fd], O_CLOEXEC) < 0)
            goto failed;
    (void)close(inner);
    return outer;
failed:
    error = errno;
    if (inner >= 0)
        (void)close(inner);
    (void)close(outer);
    errno = error;
    return -1;
}

/* Starts what is asked for, or refuses it; the descriptors are the caller's to close. */
static void start_attached(struct attached *slot, const struct avne_attach *wish, int *fds, int count)
{
    struct start start = {.umask = wish->umask & 0777, .personality = wish->personality,
                          .ignored = wish->head.ignored, .blocked = wish->head.blocked, .attached = true,
                          .raw = wish->raw != 0, .terminal = wish->terminal != 0,
                          .standard = {fds[0], fds[1], fds[2]}};
    int error, outer = -1;

    // That a process is in here is known by the process itself, whatever its number says.
    if (count > TARGET && syscall(SYS_pidfd_send_signal, fds[TARGET], 0, NULL, 0) < 0) {
        refuse(slot, AVNE_STAGE_TARGET, errno);
        return;
    }
    for (int fd = 0; fd < LINE; fd++) {
        error = way_around(fds[fd]);
        if (error) {
            refuse(slot, AVNE_STAGE_STDIO, error);
            return;
        }
    }
    if (start.raw && !can_give_packets()) {
        refuse(slot, AVNE_STAGE_ATTACH, EOPNOTSUPP);
        return;
    }
    error = read_strings(&start, fds[STRINGS], wish->head.argc, wish->head.envc, true);
    if (!error && start.terminal) {
        outer = make_terminal(fds);
        error = outer < 0 ? errno : 0;
    }
    if (error) {
        refuse(slot, AVNE_STAGE_ATTACH, error);
    } else {
        pid_t program = start_program(&start, &slot->report);
        if (program < 0) {
            slot->report = -1;
            refuse(slot, AVNE_STAGE_FORK, errno);
        } else {
            slot->program = program;
            if (outer >= 0)
                answer(slot, AVNE_TERMINAL, 0, 0, outer);
        }
    }
    if (outer >= 0)
        (void)close(outer);
    forget_strings(&start);
}

static void take_request(struct attached *slot)
{
    struct avne_attach wish = {0};
    int count, fds[MOST_FDS];
    size_t size = hear_on(slot->line, &wish, sizeof wish, fds, &count);

    if (size == 0)
        release(slot);
    else if (size != sizeof wish || !is_ours(&wish.head, AVNE_ATTACH) || count <= STRINGS)
        refuse(slot, AVNE_STAGE_ATTACH, EBADMSG);
    else
        start_attached(slot, &wish, fds, count);
    for (int i = 0; i < count; i++)
        (void)close(fds[i]);
}

static void take_signal(struct attached *slot)
{
    struct avne_message message = {0};
    int count, fds[MOST_FDS];
    size_t size = hear_on(slot->line, &message, sizeof message, fds, &count);
    const int number = message.value;

    for (int i = 0; i < count; i++)
        (void)close(fds[i]);
    if (size != sizeof message || count || !is_ours(&message, AVNE_SIGNAL) || number <= -NSIG
        || number >= NSIG || number == 0)
        hang_up(slot);
    else if (number > 0)
        (void)kill(slot->program, number);
    else
        (void)kill(-slot->program, -number);  // as a terminal would: to all of its group
}

static void take_report(struct attached *slot)
{
    int error = read_report(slot->report);

    slot->report = -1;
    if (error) {
        slot->program = 0;     // it is ending by itself
        refuse(slot, AVNE_STAGE_EXEC, error);
    } else {
        answer(slot, AVNE_STARTED, 0, 0, -1);
    }
}

// ---- for pid 1's loop --------------------------------------------------------------------------

/* A free slot, else that of one who has not asked for anything yet. */
static struct attached *find_slot(void)
{
    static unsigned next;

    for (int asked = 0; asked < 2; asked++)
        for (unsigned i = 0; i < MAX_ATTACHED; i++) {
            struct attached *slot = &slots[(next + i) % MAX_ATTACHED];
            if (slot->line < 0 || (asked && !slot->program)) {
                next = (next + i + 1) % MAX_ATTACHED;
                release(slot);
                return slot;
            }
        }
    return NULL;
}

void attach(int line, bool alive)
{
    struct attached stranger = {line, -1, 0}, *slot;

    running = alive;
    if (check_peer(line) < 0) {
        refuse(&stranger, AVNE_STAGE_ATTACH, EPERM);
        return;
    }
    slot = alive ? find_slot() : NULL;
    if (slot)
        slot->line = line;
    else
        refuse(&stranger, AVNE_STAGE_ATTACH, alive ? EUSERS : ESRCH);
}

void poll_attached(struct pollfd ready[ATTACH_POLLED])
{
    for (unsigned i = 0; i < MAX_ATTACHED; i++) {
        ready[2 * i] = (struct pollfd){.fd = slots[i].line, .events = POLLIN};
        ready[2 * i + 1] = (struct pollfd){.fd = slots[i].report, .events = POLLIN};
    }
}

void serve_attached(const struct pollfd ready[ATTACH_POLLED])
{
    for (unsigned i = 0; i < MAX_ATTACHED; i++) {
        struct attached *slot = &slots[i];
        const struct pollfd *line = &ready[2 * i], *report = &ready[2 * i + 1];

        // A slot may have been released since: its descriptors are not those that were polled.
        if (report->revents && slot->report == report->fd)
            take_report(slot);
        if (!line->revents || slot->line != line->fd)
            continue;
        if (slot->program)
            take_signal(slot);
        else if (running)
            take_request(slot);
        else
            refuse(slot, AVNE_STAGE_ATTACH, ESRCH);
    }
}

void attached_ended(pid_t program, int status)
{
    for (unsigned i = 0; i < MAX_ATTACHED; i++)
        if (slots[i].program == program) {
            if (slots[i].report >= 0)
                take_report(&slots[i]);
            if (slots[i].program != program)
                return;
            answer(&slots[i], AVNE_EXITED, 0, status, -1);
            release(&slots[i]);
        }
}

void detach_all(void)
{
    running = false;
    for (unsigned i = 0; i < MAX_ATTACHED; i++)
        if (slots[i].program)
            answer(&slots[i], AVNE_END, 0, 0, -1);
        else if (slots[i].line >= 0)
            refuse(&slots[i], AVNE_STAGE_ATTACH, ESRCH);
}
