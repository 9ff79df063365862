// SPDX-License-Identifier: GPL-3.0-or-later
/* What the helper's files share.  With privilege: helper.c, network.c, view.c.  Without: seal.c, init.c. */
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

/* helper.c: the line, and small things. Whatever fails is told as (stage, errno) and ends us. */
void say(enum avne_type type, enum avne_stage stage, int value, int fd);
int hear(struct avne_message *message, int *fd);
_Noreturn void fail(enum avne_stage stage, int error);
void must(enum avne_stage stage, long result);
void reach_files_as(uid_t uid);
int write_file(int directory, const char *path, int flags, const char *text);

int make_tun(enum mode mode);             /* network.c: the device's descriptor */
void make_network(void);                  /* network.c: links, addresses, routes */
void make_view(enum mode mode);           /* view.c: mounts and names */
void seal(void);                          /* seal.c: seccomp, for good */
_Noreturn void serve(const struct saved *saved);  /* init.c: GO, the program, END */

#endif
