// SPDX-License-Identifier: GPL-3.0-or-later
/* Starting a program, without any privilege: the one that the environment is for (GO), and those
 * that are attached to it (ATTACH).
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_STRINGS = 8 << 20 };  // argv and environment: more than any exec takes (execve(2), E2BIG)

/* Cuts `count` strings off the front of `text`; null where there are fewer. */
static char **cut_strings(char **text, const char *end, uint32_t count)
{
    char **list = calloc((size_t)count + 1, sizeof *list);

    for (uint32_t i = 0; list && i < count; i++) {
        if (*text == end) {
            free(list);
            return NULL;
        }
        list[i] = *text;
        *text += strlen(*text) + 1;  // the last byte is a NUL: never beyond the end
    }
    return list;
}

/* A copy in memory of our own: the memfd's owner may still change it.  0, or an errno. */
static int copy_strings(int fd, char **text, size_t *size)
{
    struct stat status;

    if (fstat(fd, &status) < 0)
        return errno;
    if (!S_ISREG(status.st_mode) || status.st_size < 1 || status.st_size > MAX_STRINGS)
        return E2BIG;
    *size = (size_t)status.st_size;
    *text = calloc(1, *size);
    if (!*text)
        return ENOMEM;
    for (size_t done = 0; done < *size;) {
        ssize_t n = pread(fd, *text + done, *size - done, (off_t)done);
        if (n <= 0)
            return n < 0 ? errno : EBADMSG;
        done += (size_t)n;
    }
    return (*text)[*size - 1] == '\0' ? 0 : EBADMSG;
}

int read_strings(struct start *start, int fd, uint32_t argc, uint32_t envc, bool with_cwd)
{
    size_t size = 0;
    int error = copy_strings(fd, &start->text, &size);
    char *next = start->text;
    const char *end = next + size;

    if (error)
        return error;
    if (argc < 1 || argc > size || envc > size)
        return EBADMSG;
    start->argv = cut_strings(&next, end, argc);
    start->env = start->argv ? cut_strings(&next, end, envc) : NULL;
    if (!start->env)
        return EBADMSG;
    if (with_cwd) {
        if (next == end)
            return EBADMSG;
        start->cwd = next;
        next += strlen(next) + 1;
    }
    return next == end ? 0 : EBADMSG;
}

void forget_strings(struct start *start)
{
    free(start->argv);
    free(start->env);
    free(start->text);
    start->argv = start->env = NULL;
    start->text = NULL;
}

/* A session of its own with its own standard descriptors, and the terminal that it was given. */
static int stand_apart(const struct start *start)
{
    if (setsid() < 0)
        return -1;
    for (int fd = 0; fd < LINE; fd++)
        if (dup2(start->standard[fd], fd) < 0)
            return -1;
    return start->terminal ? ioctl(0, TIOCSCTTY, 0) : 0;
}

/* The child: the state that the program would have had without us, then exec.  Tells its errno. */
static _Noreturn void become_program(const struct start *start, int report)
{
    sigset_t blocked;
    int error;

    (void)umask(start->umask);
    (void)personality(start->personality);
    // By its name, again: the directory we are in may be one that the mounts have covered.
    if (start->cwd[0] != '/' || chdir(start->cwd) < 0)
        (void)!chdir("/");
    (void)sigemptyset(&blocked);
    for (int number = 1; number <= 64; number++) {
        if (start->ignored >> (number - 1) & 1)
            (void)signal(number, SIG_IGN);
        if (start->blocked >> (number - 1) & 1)
            (void)sigaddset(&blocked, number);
    }
    if ((!start->attached || stand_apart(start) == 0) && dup3(report, LINE, O_CLOEXEC) == LINE
        && close_range(LINE + 1, ~0U, 0) == 0 && take_capabilities(start->raw) == 0
        && sigprocmask(SIG_SETMASK, &blocked, NULL) == 0) {
        environ = start->env;  // execvp(3) takes PATH from there
        (void)execvp(start->argv[0], start->argv);
    }
    error = errno;
    (void)!write(LINE, &error, sizeof error);
    _exit(127);
}

pid_t start_program(const struct start *start, int *report)
{
    int ends[2], error;
    pid_t program;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    program = fork();
    if (program == 0)
        become_program(start, ends[1]);
    error = errno;
    (void)close(ends[1]);
    if (program < 0)
        (void)close(ends[0]);
    *report = ends[0];
    errno = error;
    return program;
}

int read_report(int report)
{
    int error = 0;
    ssize_t size;

    do
        size = read(report, &error, sizeof error);
    while (size < 0 && errno == EINTR);
    (void)close(report);
    if (size == 0)
        return 0;
    return size == sizeof error && error > 0 ? error : EIO;
}
