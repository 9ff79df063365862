// SPDX-License-Identifier: GPL-3.0-or-later
/* avne-helper: makes an environment whose only network is a tun device, then is its init.
 *
 * Theory of operation.  The supervisor starts it with a socket as descriptor 3 and speaks the
 * messages of request.h.  It takes no argument, reads no environment variable and no file; what it
 * does is compiled in and the same for everybody.  The numbered steps of main() and environment()
 * are explained, each with the reason why it is safe, in README.md beside this file.
 *
 * Its rights come from who it is, never from an option:
 *   rootless  an ordinary user: the rights are those of a user namespace of its own
 *   setuid    effective user 0, real user not: the installed copy, where users may not make one
 *   root      started by root
 *
 * Two processes come of it.  The guard, in the host's pid namespace, only waits and takes the
 * environment down with it when it is killed.  Pid 1 of the environment makes it, gives up every
 * privilege, and only then hears what to run.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_MISUSED = 126 };  // not started by avne: there is nobody to tell

static struct saved saved;

// ---- the line to the supervisor ----------------------------------------------------------------

/* With `count` descriptors, two at most. */
void say_all(int line, int flags, enum avne_type type, enum avne_stage stage, int value, const int *fds,
             unsigned count)
{
    struct avne_message message = {
        .magic = AVNE_MAGIC, .type = type, .layout = AVNE_LAYOUT, .stage = stage, .value = value};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof *fds * 2)];
    } rights = {.room = {0}};
    struct iovec part = {&message, sizeof message};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};

    if (count) {
        packet.msg_control = rights.room;
        packet.msg_controllen = CMSG_SPACE(sizeof *fds * count);
        rights.head.cmsg_level = SOL_SOCKET;
        rights.head.cmsg_type = SCM_RIGHTS;
        rights.head.cmsg_len = CMSG_LEN(sizeof *fds * count);
        memcpy(CMSG_DATA(&rights.head), fds, sizeof *fds * count);
    }
    // A peer that is gone is found out by its end of file.
    (void)sendmsg(line, &packet, flags | MSG_NOSIGNAL);
}

void say_on(int line, int flags, enum avne_type type, enum avne_stage stage, int value, int fd)
{
    say_all(line, flags, type, stage, value, &fd, fd >= 0);
}

void say(enum avne_type type, enum avne_stage stage, int value, int fd)
{
    say_on(LINE, 0, type, stage, value, fd);
}

_Noreturn void fail(enum avne_stage stage, int error)
{
    say(AVNE_FAILED, stage, error, -1);
    _exit(1);
}

void must(enum avne_stage stage, long result)
{
    if (result < 0)
        fail(stage, errno);
}

/* The next message: 1, end of file: 0, something else: -1 with errno.  Takes up to `room` descriptors
 * that came with it, close-on-exec; a message that carries more is refused. */
int hear_many(struct avne_message *message, int *fds, unsigned room, unsigned *count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int) * AVNE_MAX_PATHS)];
    } rights = {.room = {0}};
    struct iovec part = {message, sizeof *message};
    // Not CMSG_SPACE: that may have room for one more.
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = rights.room,
                            .msg_controllen = CMSG_LEN(sizeof *fds * room)};
    ssize_t size;

    *count = 0;
    do
        size = recvmsg(LINE, &packet, MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (packet.msg_controllen >= CMSG_LEN(sizeof *fds) && rights.head.cmsg_level == SOL_SOCKET
        && rights.head.cmsg_type == SCM_RIGHTS) {
        *count = (unsigned)((rights.head.cmsg_len - CMSG_LEN(0)) / sizeof *fds);
        memcpy(fds, CMSG_DATA(&rights.head), *count * sizeof *fds);
    }
    if (size <= 0)
        return (int)size;
    errno = EBADMSG;
    if (size != sizeof *message || packet.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        return -1;
    if (message->magic != AVNE_MAGIC)
        return -1;
    errno = EPROTO;
    return message->layout == AVNE_LAYOUT ? 1 : -1;
}

/* The same with room for one; -1 where none came. */
int hear(struct avne_message *message, int *fd)
{
    unsigned count;
    int heard = hear_many(message, fd, 1, &count);

    if (count == 0)
        *fd = -1;
    return heard;
}

// ---- start-up: nothing of the caller's stays ---------------------------------------------------

/* 0, or the errno for which descriptors of the caller's are still open: to be told when we know to whom. */
static int reset_process(int argc, char **argv)
{
    static const int timers[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
    static const struct itimerval off;
    struct rlimit core;
    sigset_t none;
    int open_still;

    if (argc != 1 || !argv[0] || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || clearenv())
        _exit(EXIT_MISUSED);
    for (int fd = 0; fd < LINE; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            _exit(EXIT_MISUSED);
    open_still = close_range(LINE + 1, ~0U, 0) < 0 ? errno : 0;
    if (fcntl(LINE, F_SETFD, FD_CLOEXEC) < 0)
        _exit(EXIT_MISUSED);
    for (int number = 1; number < NSIG; number++)
        (void)signal(number, SIG_DFL);  // fails for those that cannot be set
    for (size_t i = 0; i < sizeof timers / sizeof *timers; i++)
        (void)setitimer(timers[i], &off, NULL);
    if (sigemptyset(&none) < 0 || sigprocmask(SIG_SETMASK, &none, NULL) < 0
        || getrlimit(RLIMIT_CORE, &core) < 0)
        _exit(EXIT_MISUSED);
    // With 0 a core_pattern that is a pipe would still be served, outside; with 1 it is not (core(5)).
    // A caller whose own limit is 0 for good (sudo does that) cannot be given 1.
    core.rlim_cur = core.rlim_max = core.rlim_max < 1 ? core.rlim_max : 1;
    if (setrlimit(RLIMIT_CORE, &core) < 0)
        _exit(EXIT_MISUSED);
    saved.umask = umask(022);  // every file we make is for all to read
    saved.personality = (unsigned long)personality(0xffffffff);
    (void)personality(PER_LINUX);
    return open_still;
}

/* A line must be a local socket whose other end this same user made: nobody else can speak to us. */
int check_peer(int line)
{
    struct ucred peer;
    int domain, type;
    socklen_t size = sizeof domain;

    if (getsockopt(line, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 || domain != AF_UNIX)
        return -1;
    size = sizeof type;
    if (getsockopt(line, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET)
        return -1;
    size = sizeof peer;
    if (getsockopt(line, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != getuid())
        return -1;
    return 0;
}

/* A socket keeps the network namespace it was made in, a local one can bring in descriptors of others,
 * and a directory is a way around the mounts: none may be standard input, output or error.  0, or an errno. */
int way_around(int fd)
{
    struct stat status;

    if (fstat(fd, &status) < 0)
        return errno;
    return S_ISREG(status.st_mode) || S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)
        || S_ISFIFO(status.st_mode) ? 0 : EINVAL;
}

static void check_standard_descriptors(void)
{
    for (int fd = 0; fd < LINE; fd++) {
        int error = way_around(fd);
        if (error)
            fail(AVNE_STAGE_STDIO, error);
    }
}

// ---- namespaces --------------------------------------------------------------------------------

int write_file(int directory, const char *path, int flags, const char *text)
{
    size_t size = strlen(text);
    int fd = openat(directory, path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0644);
    ssize_t written;
    int error;

    if (fd < 0)
        return -1;
    written = write(fd, text, size);
    error = written < 0 ? errno : EIO;
    (void)close(fd);
    errno = error;
    return written == (ssize_t)size ? 0 : -1;
}

static void write_map(const char *path, unsigned id)
{
    char text[32];

    (void)snprintf(text, sizeof text, "%u %u 1\n", id, id);
    must(AVNE_STAGE_ID_MAP, write_file(AT_FDCWD, path, 0, text));
}

static void unshare_everything(enum mode mode, uint32_t flags)
{
    static const int spaces =
        CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    uid_t uid = getuid();
    gid_t gid = getgid();

    if (mode != ROOTLESS) {
        must(AVNE_STAGE_NAMESPACES, unshare(spaces));
        return;
    }
    if (unshare(spaces | CLONE_NEWUSER) < 0) {
        int error = errno;
        must(AVNE_STAGE_USER_NAMESPACE, unshare(CLONE_NEWUSER));  // was it this one?
        fail(AVNE_STAGE_NAMESPACES, error);
    }
    must(AVNE_STAGE_ID_MAP, write_file(AT_FDCWD, "/proc/self/setgroups", 0, "deny"));
    write_map("/proc/self/uid_map", uid);
    write_map("/proc/self/gid_map", gid);
    must(AVNE_STAGE_DROP, prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));  // the maps are the owner's to write: not earlier
    keep_capabilities(mode, flags);
}

/* The caller's session keyring holds keys of its logins and of its network file systems.  EPERM is not the
 * kernel's answer: a container's filter refuses the call, to the program as well. */
static void join_new_keyring(void)
{
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS && errno != EPERM)
        fail(AVNE_STAGE_SEAL, errno);
}

// ---- two processes come of it ------------------------------------------------------------------

static _Noreturn void environment(enum mode mode, struct wishes *wishes)
{
    int device, no_tun;

    must(AVNE_STAGE_MOUNT_PRIVATE, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    find_again(wishes);
    device = make_device(mode, &no_tun);
    make_network();
    make_view(mode, wishes);
    must(AVNE_STAGE_DROP, chdir("/"));
    drop_privileges(mode, mode == ROOTLESS);
    join_new_keyring();
    seal(wishes);
    forget_paths(wishes);
    say_tun(device, no_tun);  // closed: the netstack's death is now the device's
    serve(&saved);
}

/* Outside: dies with the supervisor, and pid 1 dies with it. */
static _Noreturn void guard(enum mode mode, pid_t init)
{
    drop_privileges(mode, false);
    (void)close_range(LINE, ~0U, 0);
    (void)!chdir("/");
    while (waitpid(init, NULL, 0) < 0 && errno == EINTR)
        ;
    _exit(0);
}

int main(int argc, char **argv)
{
    static struct wishes wishes;
    struct avne_message request = {0};
    enum mode mode;
    sigset_t all;
    pid_t init;
    unsigned count;
    int heard, open_still;

    open_still = reset_process(argc, argv);                             // 1
    if (check_peer(LINE) < 0)                                           // 2
        _exit(EXIT_MISUSED);
    if (open_still)
        fail(AVNE_STAGE_DESCRIPTORS, open_still);
    check_standard_descriptors();                                       // 3
    mode = identify();                                                  // 4
    if (mode != ROOTLESS)
        must(AVNE_STAGE_DROP, prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    heard = hear_many(&request, wishes.paths, AVNE_MAX_PATHS, &count);  // 5
    if (heard == 0)
        _exit(0);
    if (heard < 0 || !read_wishes(&wishes, &request, count, mode))
        fail(AVNE_STAGE_REQUEST, heard < 0 ? errno : EBADMSG);
    if (mode != ROOTLESS)
        keep_capabilities(mode, wishes.flags);                          // 6
    if (!getcwd(saved.cwd, sizeof saved.cwd))
        saved.cwd[0] = '\0';
    unshare_everything(mode, wishes.flags);                             // 7
    // What the terminal sends to all of its process group is for the program, not for these two.
    (void)sigfillset(&all);
    must(AVNE_STAGE_FORK, sigprocmask(SIG_SETMASK, &all, NULL));        // 8
    init = fork();
    must(AVNE_STAGE_FORK, init);
    if (init == 0)
        environment(mode, &wishes);                                     // 9–17
    guard(mode, init);                                                  // 18
}
