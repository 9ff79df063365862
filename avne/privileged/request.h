/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The contract between the supervisor and the helper: fixed binary messages over a
 * SOCK_SEQPACKET socket that is the helper's descriptor 3.  One packet is one message.
 * All numbers are of the machine's own byte order; both ends are on one machine.
 *
 *   supervisor                 helper
 *   REQUEST + descriptors  ->             layout, flags, paths; nothing has been done yet
 *                          <-  TUN        + the tun's descriptor; sealed, privileges gone;
 *                                        + a sock_diag(7) socket of the network in there, if there is one
 *   GO + a memfd           ->             argv, environment and signal state of the program
 *                          <-  STARTED    the program has been exec'd
 *   SIGNAL number          ->             to the program
 *                          <-  EXITED     its wait(2) status; all processes inside have ended,
 *                                        the network is still up
 *   END                    ->             take the environment down
 *                          <-  FAILED     instead, at any time: (stage, errno)
 *
 * End of file means that the other end is gone: the helper ends the environment.
 *
 * AVNE_LAYOUT, given to the compiler, is the first 8 bytes of the SHA-256 of this file:
 * a helper of another version is told apart before anything is done.
 */
#ifndef AVNE_REQUEST_H
#define AVNE_REQUEST_H

#include <stdint.h>

enum { AVNE_MAGIC = 0x656e7661 };         /* "avne", little-endian */

enum avne_type {
    AVNE_REQUEST = 1,
    AVNE_TUN,
    AVNE_GO,
    AVNE_STARTED,
    AVNE_SIGNAL,
    AVNE_EXITED,
    AVNE_END,
    AVNE_FAILED,
    AVNE_ATTACH,
    AVNE_TERMINAL
};

/* REQUEST's flags, in `value`. */
enum avne_flag {
    AVNE_STRICT = 1,                      /* the program makes no unix sockets but pairs */
    AVNE_OWN_HOME = 2,                    /* what it writes to the home directory does not get there */
    AVNE_KEPT_HOME = 4                    /* but to a directory of its own, instead of memory */
};

/* REQUEST's descriptors, all O_PATH, are of the files themselves and opened by the supervisor with the
 * user's rights.  In this order: the home directory (OWN_HOME), upper and work directory (KEPT_HOME),
 * `argc` to be seen where they are although their place is hidden, `envc` sockets to be hidden. */
enum { AVNE_MAX_SHARES = 64, AVNE_MAX_PATHS = 250 };

/* Every message. Unused fields are zero. */
struct avne_message {
    uint32_t magic;
    uint32_t type;
    uint64_t layout;                      /* AVNE_LAYOUT of the sender */
    uint32_t stage;                       /* FAILED: enum avne_stage */
    int32_t value;                        /* FAILED: errno; EXITED: wait status; SIGNAL: number; REQUEST: flags;
                                             TUN: 0, or the errno for which it is no tun but a packet socket */
    uint64_t ignored;                     /* GO: signals the program starts with ignored, bit n-1;
                                             REQUEST: shares that are read-only, bit n for the nth */
    uint64_t blocked;                     /* GO: signals it starts with blocked;
                                             REQUEST: shares whose sockets may be reached, bit n */
    uint32_t argc;                        /* GO: strings in the memfd, each NUL-terminated: */
    uint32_t envc;                        /*     argc arguments, then envc NAME=VALUE; REQUEST: see above */
};

/* What can fail. The order is that of the work; avne/privileged/launch.py has the same list. */
enum avne_stage {
    AVNE_STAGE_REQUEST,                   /* not a request, or of another version */
    AVNE_STAGE_DESCRIPTORS,               /* those of the caller cannot be closed */
    AVNE_STAGE_STDIO,                     /* standard input, output or error leads out of a network namespace */
    AVNE_STAGE_IDENTITY,                  /* called with privileges we do not know */
    AVNE_STAGE_USER_NAMESPACE,
    AVNE_STAGE_ID_MAP,
    AVNE_STAGE_NAMESPACES,
    AVNE_STAGE_FORK,
    AVNE_STAGE_MOUNT_PRIVATE,
    AVNE_STAGE_FIND,                      /* a descriptor of REQUEST is of no file that has a name here */
    AVNE_STAGE_TUN_OPEN,
    AVNE_STAGE_TUN_CONFIGURE,
    AVNE_STAGE_VETH,                      /* what takes the place of a tun that is out of reach */
    AVNE_STAGE_ADDRESSES,
    AVNE_STAGE_ROUTES,
    AVNE_STAGE_MOUNT_PROC,
    AVNE_STAGE_MOUNT_SYS,
    AVNE_STAGE_MOUNT_RUN,
    AVNE_STAGE_MOUNT_TMP,
    AVNE_STAGE_MOUNT_ETC,
    AVNE_STAGE_MASK,                      /* a file of /proc, or a socket, cannot be covered */
    AVNE_STAGE_MOUNT_HOME,
    AVNE_STAGE_MOUNT_DEV,
    AVNE_STAGE_SHARE,                     /* what was asked for cannot be shown */
    AVNE_STAGE_HOSTNAME,
    AVNE_STAGE_DROP,
    AVNE_STAGE_SEAL,
    AVNE_STAGE_GO,
    AVNE_STAGE_EXEC,                      /* value: execve's errno */
    AVNE_STAGE_ATTACH,                    /* a request to attach that cannot be met */
    AVNE_STAGE_TARGET                     /* the process that names the environment is not in it */
};

/* Attaching.  The supervisor hands a connection in: ATTACH + its descriptor.  On that, which is
 * a SOCK_SEQPACKET socket of the same user again:
 *
 *   avne attach                init
 *   struct avne_attach     ->             + standard input, output, error, a memfd, and perhaps
 *                                         a pidfd: then only if that process is in here
 *                          <-  TERMINAL   + the other end of the terminal that was made for it
 *                          <-  STARTED    the program has been exec'd
 *   SIGNAL number          ->             to the program, -number: to its process group
 *                          <-  END        the environment is ending, and the program with it
 *                          <-  EXITED     its wait(2) status
 *                          <-  FAILED     instead of STARTED
 *
 * End of file ends the program, or tells that the environment is gone.
 */
struct avne_attach {
    struct avne_message head;             /* as in GO; in the memfd a third part follows: the directory */
    uint32_t umask;
    uint32_t personality;
    uint32_t terminal;                    /* 1: a terminal of its own instead of those among 0 to 2 */
    uint32_t raw;                         /* 1: with CAP_NET_RAW over the environment's own network */
};

#endif
