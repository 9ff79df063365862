// SPDX-License-Identifier: GPL-3.0-or-later
/* Pid 1 of the environment, once every privilege is gone: starts the program, takes in the dead,
 * ends everything when the supervisor says so or is gone.
 *
 * It comes here with every signal blocked: those of the terminal are the program's.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t start_first(const struct avne_message *go, const struct saved *saved, int strings)
{
    struct start start = {.cwd = saved->cwd, .umask = saved->umask, .personality = saved->personality,
                          .ignored = go->ignored, .blocked = go->blocked};
    int report, error = read_strings(&start, strings, go->argc, go->envc, false);
    pid_t program;

    if (error)
        fail(AVNE_STAGE_GO, error);
    (void)close(strings);
    program = start_program(&start, &report);
    must(AVNE_STAGE_FORK, program);
    forget_strings(&start);
    error = read_report(report);
    if (error)
        fail(AVNE_STAGE_EXEC, error);
    say(AVNE_STARTED, 0, 0, -1);
    return program;
}

struct program {
    pid_t pid;                 // 0 before it was started and once it has ended
    int status;                // wait(2)'s, once it has ended
    bool started, told;
};

/* Takes in every dead child.  With the program's end everything else in here ends too, so that the
 * kernel closes all sockets and sends what they hold; EXITED says that nothing is left that could
 * send more. */
static void reap(struct program *program, int signals)
{
    struct signalfd_siginfo info;
    pid_t dead;
    int status;

    (void)!read(signals, &info, sizeof info);  // one may stand for several
    while ((dead = waitpid(-1, &status, WNOHANG)) > 0) {
        if (dead == program->pid) {
            program->pid = 0;
            program->status = status;
            detach_all();
            (void)kill(-1, SIGKILL);
        } else {
            attached_ended(dead, status);
        }
    }
    if (dead < 0 && program->started && !program->pid && !program->told) {
        program->told = true;
        say(AVNE_EXITED, 0, program->status, -1);
    }
}

static void obey(const struct avne_message *message, int fd, struct program *program,
                 const struct saved *saved)
{
    if (message->type == AVNE_END) {
        _exit(0);
    } else if (message->type == AVNE_GO && !program->started && fd >= 0) {
        program->pid = start_first(message, saved, fd);
        program->started = true;
    } else if (message->type == AVNE_SIGNAL && program->started && fd < 0 && message->value > 0
               && message->value < NSIG) {
        (void)(program->pid && kill(program->pid, message->value));
    } else if (message->type == AVNE_ATTACH && program->started && fd >= 0) {
        attach(fd, program->pid != 0);
    } else {
        fail(AVNE_STAGE_GO, EBADMSG);
    }
}

/* The device, and a sock_diag(7) socket: by that the supervisor sees the connections in here, as ss(8) would.
 * It takes no privilege, and a kernel that has none of it is no reason to fail. */
void say_tun(int device, int no_tun)
{
    const int fds[] = {device, socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)};

    say_all(LINE, 0, AVNE_TUN, 0, no_tun, fds, fds[1] < 0 ? 1 : 2);
    (void)close(device);
    if (fds[1] >= 0)
        (void)close(fds[1]);
}

/* The end of this process is the end of the environment: the kernel kills what is left in it. */
_Noreturn void serve(const struct saved *saved)
{
    struct pollfd ready[2 + ATTACH_POLLED] = {{.fd = LINE, .events = POLLIN}, {.events = POLLIN}};
    struct avne_message message = {0};
    struct program program = {0};
    sigset_t child;
    int fd;

    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    ready[1].fd = signalfd(-1, &child, SFD_CLOEXEC);
    must(AVNE_STAGE_GO, ready[1].fd);
    for (;;) {
        poll_attached(ready + 2);
        if (poll(ready, 2 + ATTACH_POLLED, -1) < 0) {
            if (errno != EINTR)
                fail(AVNE_STAGE_GO, errno);
            continue;
        }
        if (ready[1].revents)
            reap(&program, ready[1].fd);
        serve_attached(ready + 2);
        if (!ready[0].revents)
            continue;
        switch (hear(&message, &fd)) {
        case 0:
            _exit(0);
        case 1:
            obey(&message, fd, &program, saved);
            break;
        default:
            fail(AVNE_STAGE_GO, errno);
        }
    }
}
