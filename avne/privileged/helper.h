// SPDX-License-Identifier: GPL-3.0-or-later
/* What the helper's files share.  With privilege: helper.c, identity.c, network.c,
 * netlink.c, view.c, paths.c, and, but never when setuid, veth.c.  Without: seal.c, init.c, program.c, attach.c. */
#ifndef AVNE_HELPER_H
#define AVNE_HELPER_H

#include "request.h"

#include <poll.h>
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
void say_all(int line, int flags, enum avne_type type, enum avne_stage stage, int value, const int *fds,
             unsigned count);
void say_on(int line, int flags, enum avne_type type, enum avne_stage stage, int value, int fd);
int hear(struct avne_message *message, int *fd);
int hear_many(struct avne_message *message, int *fds, unsigned room, unsigned *count);
int check_peer(int line);
int way_around(int fd);
_Noreturn void fail(enum avne_stage stage, int error);
void must(enum avne_stage stage, long result);
int write_file(int directory, const char *path, int flags, const char *text);

/* identity.c: ids and capabilities. */
enum mode identify(void);
void keep_capabilities(enum mode mode, uint32_t flags);
void reach_files_as(uid_t uid);
void drop_privileges(enum mode mode, bool keep_packets);  /* for good; but CAP_NET_RAW, not in force */
bool can_give_packets(void);              /* whether init holds that */
int take_capabilities(bool raw);          /* before an exec: that one, or none */

int make_device(enum mode mode, int *no_tun);  /* network.c: its descriptor, and why it is no tun */
int make_veth(void);                      /* veth.c: a packet socket at the other end of it */
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

void say_tun(int device, int no_tun);      /* init.c: TUN; the device is closed here */
_Noreturn void serve(const struct saved *saved);  /* GO, the program, END */

/* program.c: what to start, and how. */
struct start {
    char *text, **argv, **env;            /* of read_strings */
    const char *cwd;
    uint64_t ignored, blocked;            /* signals, bit n-1 */
    mode_t umask;
    unsigned long personality;
    bool attached;                        /* in a session of its own, with the following */
    bool raw;                             /* with CAP_NET_RAW over the environment's network */
    bool terminal;                        /* standard[0] is to be its controlling terminal */
    int standard[LINE];                   /* none of them 0 to 2 */
};

int read_strings(struct start *start, int fd, uint32_t argc, uint32_t envc, bool with_cwd);
void forget_strings(struct start *start);
pid_t start_program(const struct start *start, int *report);  /* -1 with errno */
int read_report(int report);              /* waits for the exec: 0, or its errno; closes it */

/* attach.c: at most so many further programs, each with a connection and a report to poll. */
enum { MAX_ATTACHED = 32, ATTACH_POLLED = 2 * MAX_ATTACHED };

void attach(int line, bool alive);        /* a connection to serve; `alive`: there still is a program */
void poll_attached(struct pollfd ready[ATTACH_POLLED]);
void serve_attached(const struct pollfd ready[ATTACH_POLLED]);
void attached_ended(pid_t program, int status);
void detach_all(void);                    /* the environment is ending */

#endif
