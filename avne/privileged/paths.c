// SPDX-License-Identifier: GPL-3.0-or-later
/* What REQUEST names by descriptors: files to be seen where they are, sockets to be hidden, a home.
 *
 * No string of the caller's comes here.  A descriptor shows that the caller could reach the file; its
 * name is the kernel's.  By that name it is opened again, with the caller's rights, in the copy of the
 * caller's mounts that is ours and before anything is mounted: a mount can only be made of, and on, what
 * is in there.  The same file must be found.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINK_SIZE = 32 };

/* Takes over flags and counts, where they are right. */
bool read_wishes(struct wishes *wishes, const struct avne_message *request, unsigned count, enum mode mode)
{
    const uint32_t flags = (uint32_t)request->value;
    const uint32_t known = AVNE_STRICT | AVNE_OWN_HOME | AVNE_KEPT_HOME;

    wishes->flags = flags;
    wishes->homes = (flags & AVNE_OWN_HOME ? 1 : 0) + (flags & AVNE_KEPT_HOME ? 2 : 0);
    wishes->read_only = request->ignored;
    wishes->opened = request->blocked;
    wishes->shares = request->argc;
    wishes->masks = request->envc;
    wishes->terminal = -1;
    return request->type == AVNE_REQUEST && !(flags & ~known)
        && wishes->homes != 2 && !(wishes->homes && mode == SETUID) && wishes->shares <= AVNE_MAX_SHARES
        && wishes->masks <= AVNE_MAX_PATHS && wishes->homes + wishes->shares + wishes->masks == count;
}

static void name_link(char link[LINK_SIZE], int fd)
{
    (void)snprintf(link, LINK_SIZE, "/proc/self/fd/%d", fd);
}

/* The kernel's name of what a descriptor is of. */
static int name_of(int fd, char name[PATH_MAX])
{
    char link[LINK_SIZE];
    ssize_t size;

    name_link(link, fd);
    size = readlink(link, name, PATH_MAX);
    if (size < 0)
        return -1;
    errno = size < PATH_MAX && name[0] == '/' ? 0 : ENAMETOOLONG;
    if (!errno)
        name[size] = '\0';
    return errno ? -1 : 0;
}

/* The same file in our own copy of the mounts; -1 with errno. */
static int open_again(int fd)
{
    struct stat before, now;
    char name[PATH_MAX];
    int again;

    if (fstat(fd, &before) < 0 || name_of(fd, name) < 0)
        return -1;
    again = open(name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (again < 0)
        return -1;
    if (fstat(again, &now) == 0 && now.st_dev == before.st_dev && now.st_ino == before.st_ino
        && now.st_mode == before.st_mode && now.st_rdev == before.st_rdev)
        return again;
    (void)close(again);
    errno = ESTALE;
    return -1;
}

/* To be called as soon as the mounts are our own, and before one of them is made. */
void find_again(struct wishes *wishes)
{
    const unsigned wanted = wishes->homes + wishes->shares;

    for (unsigned i = 0; i < wanted + wishes->masks; i++) {
        int again = open_again(wishes->paths[i]);

        if (again < 0 && i < wanted)
            fail(AVNE_STAGE_FIND, errno);
        (void)close(wishes->paths[i]);
        wishes->paths[i] = again;  // a socket that is gone meanwhile needs no cover
    }
    for (int fd = 0; fd < LINE && wishes->terminal < 0; fd++)
        if (isatty(fd))
            wishes->terminal = open_again(fd);
}

void forget_paths(const struct wishes *wishes)
{
    for (unsigned i = 0; i < wishes->homes + wishes->shares + wishes->masks; i++)
        if (wishes->paths[i] >= 0)
            (void)close(wishes->paths[i]);
    if (wishes->terminal >= 0)
        (void)close(wishes->terminal);
}

/* Mounts what the one descriptor is of, and all below it, over what the other is of. */
int bind_fd(int source, int target)
{
    char from[LINK_SIZE], to[LINK_SIZE];

    name_link(from, source);
    name_link(to, target);
    return mount(from, to, NULL, MS_BIND | MS_REC, NULL);
}

/* Over each socket one that nobody listens on. */
void mask_sockets(const struct wishes *wishes, int dead)
{
    const int *masks = wishes->paths + wishes->homes + wishes->shares;
    struct stat status;

    for (unsigned i = 0; i < wishes->masks; i++)
        if (masks[i] >= 0 && fstat(masks[i], &status) == 0 && S_ISSOCK(status.st_mode))
            must(AVNE_STAGE_MASK, bind_fd(dead, masks[i]));
}

static int make_directory(int at, const char *name)
{
    must(AVNE_STAGE_MOUNT_HOME, mkdirat(at, name, 0700));
    at = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    must(AVNE_STAGE_MOUNT_HOME, at);
    return at;
}

/* An overlay on the home directory: what is written goes to memory or to the directory for it. */
void cover_home(const struct wishes *wishes, int scratch, enum mode mode)
{
    const int home = wishes->paths[0];
    char options[160], target[LINK_SIZE];
    int upper, work;

    if (!wishes->homes)
        return;
    upper = wishes->flags & AVNE_KEPT_HOME ? wishes->paths[1] : make_directory(scratch, "upper");
    work = wishes->flags & AVNE_KEPT_HOME ? wishes->paths[2] : make_directory(scratch, "work");
    (void)snprintf(options, sizeof options,
                   "lowerdir=/proc/self/fd/%d,upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d%s", home,
                   upper, work, mode == ROOTLESS ? ",userxattr" : "");
    name_link(target, home);
    must(AVNE_STAGE_MOUNT_HOME, mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, options));
}

/* The place of that name in what the program will see, made where a directory of ours lacks it. */
static int open_place(const char *name, bool is_directory)
{
    char part[NAME_MAX + 1];
    int at = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

    while (at >= 0 && *name++ == '/' && *name) {
        const size_t size = strcspn(name, "/");
        const bool last = !name[size];
        int next;

        if (size > NAME_MAX) {
            errno = ENAMETOOLONG;
            return -1;
        }
        (void)snprintf(part, sizeof part, "%.*s", (int)size, name);
        name += size;
        next = openat(at, part, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0 && errno == ENOENT) {
            if (last && !is_directory)
                (void)mknodat(at, part, S_IFREG | 0600, 0);
            else
                (void)mkdirat(at, part, 0700);
            next = openat(at, part, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        }
        (void)close(at);
        at = next;
    }
    return at;
}

/* Puts back, by name, what the mounts have hidden of what was asked for. */
void show_shares(const struct wishes *wishes)
{
    struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};

    for (unsigned i = 0; i < wishes->shares; i++) {
        const int fd = wishes->paths[wishes->homes + i];
        char name[PATH_MAX];
        struct stat status;
        int place;

        must(AVNE_STAGE_SHARE, fstat(fd, &status));
        must(AVNE_STAGE_SHARE, name_of(fd, name));
        place = open_place(name, S_ISDIR(status.st_mode));
        must(AVNE_STAGE_SHARE, place);
        must(AVNE_STAGE_SHARE, bind_fd(fd, place));
        (void)close(place);
        if (wishes->read_only >> i & 1) {
            place = open_place(name, S_ISDIR(status.st_mode));  // now it is the mount
            must(AVNE_STAGE_SHARE, place);
            must(AVNE_STAGE_SHARE,
                 mount_setattr(place, "", AT_EMPTY_PATH | AT_RECURSIVE, &read_only, sizeof read_only));
            (void)close(place);
        }
    }
}
