// SPDX-License-Identifier: GPL-3.0-or-later
/* Pid 1 of the environment, once every privilege is gone: starts the program, takes in the dead,
 * ends everything when the supervisor says so or is gone.
 *
 * It comes here with every signal blocked: those of the terminal are the program's.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_STRINGS = 8 << 20 };  // argv and environment: more than any exec takes (execve(2), E2BIG)

/* Cuts `count` strings off the front of `text`; null where there are fewer. */
static char **cut_strings(char **text, const char *end, uint32_t count)
{
    char **list = calloc((size_t)count + 1, sizeof *list);

    for (uint32_t i = 0; list && i < count; i++) {
        if (*text == end)
            return NULL;
        list[i] = *text;
        *text += strlen(*text) + 1;  // the last byte is a NUL: never beyond the end
    }
    return list;
}

/* Reads the strings of GO into memory of our own: the memfd's owner may still change it. */
static void read_strings(const struct avne_message *go, int fd, char ***argv, char ***env)
{
    struct stat status;
    char *text;
    const char *end;
    size_t size, done = 0;

    must(AVNE_STAGE_GO, fstat(fd, &status));
    if (!S_ISREG(status.st_mode) || status.st_size < 1 || status.st_size > MAX_STRINGS)
        fail(AVNE_STAGE_GO, E2BIG);
    size = (size_t)status.st_size;
    if (go->argc < 1 || go->argc > size || go->envc > size)
        fail(AVNE_STAGE_GO, EBADMSG);
    text = malloc(size);
    if (!text)
        fail(AVNE_STAGE_GO, ENOMEM);
    while (done < size) {
        ssize_t n = pread(fd, text + done, size - done, (off_t)done);
        if (n <= 0)
            fail(AVNE_STAGE_GO, n < 0 ? errno : EBADMSG);
        done += (size_t)n;
    }
    end = text + size;
    if (end[-1] != '\0')
        fail(AVNE_STAGE_GO, EBADMSG);
    *argv = cut_strings(&text, end, go->argc);
    *env = *argv ? cut_strings(&text, end, go->envc) : NULL;
    if (!*env || text != end)
        fail(AVNE_STAGE_GO, EBADMSG);
}

/* The child: the state that the program would have had without us, then exec.  Tells its errno. */
static _Noreturn void become_program(const struct avne_message *go, const struct saved *saved, char **argv,
                                     char **env, int report)
{
    sigset_t blocked;
    int error;

    (void)umask(saved->umask);
    (void)personality(saved->personality);
    // By its name, again: the directory we are in may be one that the mounts have covered.
    if (saved->cwd[0] != '/' || chdir(saved->cwd) < 0)
        (void)!chdir("/");
    (void)sigemptyset(&blocked);
    for (int number = 1; number <= 64; number++) {
        if (go->ignored >> (number - 1) & 1)
            (void)signal(number, SIG_IGN);
        if (go->blocked >> (number - 1) & 1)
            (void)sigaddset(&blocked, number);
    }
    if (dup3(report, LINE, O_CLOEXEC) == LINE && close_range(LINE + 1, ~0U, 0) == 0
        && sigprocmask(SIG_SETMASK, &blocked, NULL) == 0) {
        environ = env;  // execvp(3) takes PATH from there
        (void)execvp(argv[0], argv);
    }
    error = errno;
    (void)!write(LINE, &error, sizeof error);
    _exit(127);
}

static pid_t start_program(const struct avne_message *go, const struct saved *saved, int strings)
{
    char **argv, **env;
    int report[2], error = 0;
    pid_t program;
    ssize_t size;

    read_strings(go, strings, &argv, &env);
    (void)close(strings);
    must(AVNE_STAGE_GO, pipe2(report, O_CLOEXEC));
    program = fork();
    must(AVNE_STAGE_FORK, program);
    if (program == 0)
        become_program(go, saved, argv, env, report[1]);
    (void)close(report[1]);
    do
        size = read(report[0], &error, sizeof error);
    while (size < 0 && errno == EINTR);
    if (size != 0)
        fail(AVNE_STAGE_EXEC, size == sizeof error ? error : EIO);
    (void)close(report[0]);
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
    while ((dead = waitpid(-1, &status, WNOHANG)) > 0)
        if (dead == program->pid) {
            program->pid = 0;
            program->status = status;
            (void)kill(-1, SIGKILL);
        }
    if (dead < 0 && program->started && !program->pid && !program->told) {
        program->told = true;
        say(AVNE_EXITED, 0, program->status, -1);
    }
}

/* The end of this process is the end of the environment: the kernel kills what is left in it. */
_Noreturn void serve(const struct saved *saved)
{
    struct pollfd ready[2] = {{.fd = LINE, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    struct avne_message message = {0};
    struct program program = {0};
    sigset_t child;
    int fd;

    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    ready[1].fd = signalfd(-1, &child, SFD_CLOEXEC);
    must(AVNE_STAGE_GO, ready[1].fd);
    for (;;) {
        if (poll(ready, 2, -1) < 0 && errno != EINTR)
            fail(AVNE_STAGE_GO, errno);
        if (ready[1].revents)
            reap(&program, ready[1].fd);
        if (!ready[0].revents)
            continue;
        switch (hear(&message, &fd)) {
        case 0:
            _exit(0);
        case 1:
            break;
        default:
            fail(AVNE_STAGE_GO, errno);
        }
        if (message.type == AVNE_END) {
            _exit(0);
        } else if (message.type == AVNE_GO && !program.started && fd >= 0) {
            program.pid = start_program(&message, saved, fd);
            program.started = true;
        } else if (message.type == AVNE_SIGNAL && program.started && fd < 0 && message.value > 0
                   && message.value < NSIG) {
            (void)(program.pid && kill(program.pid, message.value));
        } else {
            fail(AVNE_STAGE_GO, EBADMSG);
        }
    }
}
