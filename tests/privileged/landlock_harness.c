// SPDX-License-Identifier: GPL-3.0-or-later
/* seal.c on a kernel of another age: its landlock calls are written to standard output, and go on to the
 * kernel without the right that this one may lack, or not at all.
 * Arguments: the ABI to show, "forward" or "keep", two directories, a share with its sockets opened.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static int abi;
static bool forward;

long __real_syscall(long number, ...);
int __real_prctl(int option, ...);

long __wrap_syscall(long number, ...);
int __wrap_prctl(int option, ...);

long __wrap_syscall(long number, ...)
{
    va_list list;
    long a[4];

    va_start(list, number);
    for (int i = 0; i < 4; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == 444 && a[2] == LANDLOCK_CREATE_RULESET_VERSION)
        return abi;
    if (number == 444) {
        struct landlock_ruleset_attr attr = *(const struct landlock_ruleset_attr *)a[0];
        printf("handled %#llx\n", (unsigned long long)attr.handled_access_fs);
        attr.handled_access_fs &= 0xffff;
        return forward ? __real_syscall(444, &attr, sizeof attr, 0) : open("/dev/null", O_RDONLY);
    }
    if (number == 445) {
        struct landlock_path_beneath_attr rule = *(const struct landlock_path_beneath_attr *)a[2];
        char link[64], name[256];
        snprintf(link, sizeof link, "/proc/self/fd/%d", rule.parent_fd);
        ssize_t size = readlink(link, name, sizeof name);
        printf("rule %#llx %.*s\n", (unsigned long long)rule.allowed_access, (int)size, name);
        rule.allowed_access &= 0xffff;
        return forward && rule.allowed_access ? __real_syscall(445, a[0], a[1], &rule, 0) : 0;
    }
    printf("restrict\n");
    return forward ? __real_syscall(number, a[0], a[1], a[2], a[3]) : 0;
}

/* No seccomp here. */
int __wrap_prctl(int option, ...)
{
    return option == PR_SET_SECCOMP ? 0 : -1;
}

_Noreturn void fail(enum avne_stage stage, int error)
{
    printf("failed %d %d\n", stage, error);
    exit(1);
}

void must(enum avne_stage stage, long result)
{
    if (result < 0)
        fail(stage, errno);
}

int main(int argc, char **argv)
{
    struct wishes wishes = {.shares = 2, .opened = 2, .terminal = -1};
    char from[300], to[300];

    if (argc != 7)
        return 2;
    abi = atoi(argv[1]);
    forward = strcmp(argv[2], "forward") == 0;
    if (strcmp(argv[3], "strict") == 0)
        wishes.flags = AVNE_STRICT;
    wishes.paths[0] = open(argv[5], O_PATH);
    wishes.paths[1] = open(argv[6], O_PATH);
    __real_prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (strcmp(argv[3], "without") == 0) {
        const struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SOCK};
        long ruleset = __real_syscall(444, &attr, sizeof attr, 0);
        must(0, __real_syscall(446, ruleset, 0));
    } else {
        seal(&wishes);
    }
    snprintf(from, sizeof from, "%s/file", argv[4]);
    snprintf(to, sizeof to, "%s/file", argv[5]);
    printf("rename %d\n", rename(from, to) ? errno : 0);
    return 0;
}
