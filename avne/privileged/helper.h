// SPDX-License-Identifier: GPL-3.0-or-later
/* What the helper's files share.  With privilege: helper.c, network.c, view.c, paths.c.
 * Without: seal.c, init.c. */
#ifndef AVNE_HELPER_H
#define AVNE_HELPER_H

#include "request.h"

#include <stdbool.h>
#include <sys/types.h>

enum { LINE = 3 };                        /* the descriptor of the socket to the supervisor */

enum mode { ROOTLESS, SETUID, ROOT };

/* What the program is to find as it was before us. */
struct saved {
    mode_t umask;
    unsigned long personality;
    char cwd[4096];                       /* PATH_MAX; empty where it has no name */
};

/* What REQUEST asks for: flags, and O_PATH descriptors in the order that request.h gives. */
struct wishes {
    uint32_t flags;
    uint64_t read_only, opened;           /* bit n: the nth share is read-only; its sockets may be reached */
    unsigned homes, shares, masks;
    int terminal;                         /* that the caller is at; -1 if at none */
    int paths[AVNE_MAX_PATHS];            /* -1 for a socket that is gone */
};

/* helper.c: the line, and small things. Whatever fails is told as (stage, errno) and ends us. */
void say(enum avne_type type, enum avne_stage stage, int value, int fd);
int hear(struct avne_message *message, int *fd);
int hear_many(struct avne_message *message, int *fds, unsigned room, unsigned *count);
_Noreturn void fail(enum avne_stage stage, int error);
void must(enum avne_stage stage, long result);
void reach_files_as(uid_t uid);
int write_file(int directory, const char *path, int flags, const char *text);

int make_tun(enum mode mode);             /* network.c: the device's descriptor */
void make_network(void);                  /* network.c: links, addresses, routes */
void make_view(enum mode mode, const struct wishes *wishes);  /* view.c: mounts and names */
void seal(const struct wishes *wishes);   /* seal.c: seccomp and Landlock, for good */

/* paths.c: what REQUEST names by descriptors. */
bool read_wishes(struct wishes *wishes, const struct avne_message *request, unsigned count, enum mode mode);
void find_again(struct wishes *wishes);
int bind_fd(int source, int target);
void mask_sockets(const struct wishes *wishes, int dead);
void cover_home(const struct wishes *wishes, int scratch, enum mode mode);
void show_shares(const struct wishes *wishes);
void forget_paths(const struct wishes *wishes);

_Noreturn void serve(const struct saved *saved);  /* init.c: GO, the program, END */

#endif
