// SPDX-License-Identifier: GPL-3.0-or-later
/* Who we are, what we may do meanwhile, and the end of that: ids and capabilities.
 *
 * Capabilities are asked of the kernel directly: no library, and each set in one call.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Not SECBIT_KEEP_CAPS_LOCKED: ping(8) sets that bit before it gives up capabilities that it has not
// got, and would end; with every set empty there is nothing to keep.
static const unsigned long locked_bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP
    | SECBIT_NO_SETUID_FIXUP_LOCKED;
static const unsigned long no_ambient = SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
static const uint64_t packets = 1ULL << CAP_NET_RAW;  // what a rootless init can give to attached programs

// ---- who we are --------------------------------------------------------------------------------

static void get_capabilities(struct __user_cap_data_struct data[2])
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};

    must(AVNE_STAGE_IDENTITY, syscall(SYS_capget, &head, data));
}

/* `held` are also inheritable, and not in force. */
static long set_capabilities(uint64_t in_force, uint64_t held)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];

    for (int i = 0; i < 2; i++)
        data[i] = (struct __user_cap_data_struct){(uint32_t)(in_force >> 32 * i),
                                                  (uint32_t)((in_force | held) >> 32 * i),
                                                  (uint32_t)(held >> 32 * i)};
    return syscall(SYS_capset, &head, data);
}

bool can_give_packets(void)
{
    struct __user_cap_data_struct held[2];

    get_capabilities(held);
    return held[0].permitted == packets;
}

int take_capabilities(bool raw)
{
    if (set_capabilities(0, raw ? packets : 0) < 0)
        return -1;
    return raw ? prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0) : 0;
}

/* Files are reached with the caller's rights.  setfsuid(2) cannot report an error: ask again. */
void reach_files_as(uid_t uid)
{
    (void)setfsuid(uid);
    if ((uid_t)setfsuid((uid_t)-1) != uid)
        fail(AVNE_STAGE_IDENTITY, EPERM);
}

/* The file with the bit is the installed one itself: not a hard link that a user kept of an old
 * one, and nobody but root can change it. */
static void check_own_file(void)
{
    struct stat status;
    int fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);

    must(AVNE_STAGE_IDENTITY, fd);
    must(AVNE_STAGE_IDENTITY, fstat(fd, &status));
    if (!S_ISREG(status.st_mode) || status.st_uid != 0 || status.st_nlink != 1
        || status.st_mode & (S_IWGRP | S_IWOTH))
        fail(AVNE_STAGE_IDENTITY, EPERM);
    (void)close(fd);
}

enum mode identify(void)
{
    struct __user_cap_data_struct held[2];
    uid_t real, effective, kept;
    gid_t real_group, effective_group, kept_group;

    must(AVNE_STAGE_IDENTITY, getresuid(&real, &effective, &kept));
    must(AVNE_STAGE_IDENTITY, getresgid(&real_group, &effective_group, &kept_group));
    if (effective != kept || real_group != effective_group || real_group != kept_group)
        fail(AVNE_STAGE_IDENTITY, EPERM);
    if (effective == 0 && real != 0) {
        check_own_file();
        reach_files_as(real);
        return SETUID;
    }
    if (effective != real)
        fail(AVNE_STAGE_IDENTITY, EPERM);
    if (real == 0)
        return ROOT;
    get_capabilities(held);
    if (held[0].permitted | held[1].permitted)
        fail(AVNE_STAGE_IDENTITY, EPERM);  // capabilities without being root: not a case we know
    return ROOTLESS;
}

static unsigned long bits_of(enum mode mode)
{
    return mode == ROOTLESS ? locked_bits : locked_bits | no_ambient;
}

/* From here on this process and all that come of it can hold at most what the work needs, and
 * an exec gives nothing, whatever the file and the user.  An overlay over the home directory works in a
 * directory of mode 0: but for that, CAP_DAC_OVERRIDE is not kept, and in setuid mode never.  In a user
 * namespace of our own also CAP_NET_RAW over its network, for those who are to watch it. */
void keep_capabilities(enum mode mode, uint32_t flags)
{
    const uint32_t wanted = 1U << CAP_SYS_ADMIN | 1U << CAP_NET_ADMIN
        | (mode != SETUID ? 1U << CAP_NET_RAW : 0)
        | (mode != SETUID && flags & AVNE_OWN_HOME ? 1U << CAP_DAC_OVERRIDE : 0);
    struct __user_cap_data_struct held[2];

    must(AVNE_STAGE_DROP, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    get_capabilities(held);
    must(AVNE_STAGE_DROP, set_capabilities(held[0].permitted | (uint64_t)held[1].permitted << 32,
                                           mode == ROOTLESS ? packets : 0));
    for (unsigned long number = 0; prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
        must(AVNE_STAGE_DROP, prctl(PR_CAPBSET_DROP, number, 0, 0, 0));
    must(AVNE_STAGE_DROP, prctl(PR_SET_SECUREBITS, bits_of(mode), 0, 0, 0));
    must(AVNE_STAGE_DROP, set_capabilities(held[0].permitted & wanted, mode == ROOTLESS ? packets : 0));
}

// ---- no way back -------------------------------------------------------------------------------

static bool has_nothing(uid_t uid, gid_t gid, enum mode mode, uint64_t kept)
{
    struct __user_cap_data_struct held[2];
    uid_t u[3];
    gid_t g[3];

    if (getresuid(&u[0], &u[1], &u[2]) < 0 || getresgid(&g[0], &g[1], &g[2]) < 0)
        return false;
    for (int i = 0; i < 3; i++)
        if (u[i] != uid || g[i] != gid)
            return false;
    get_capabilities(held);
    for (int i = 0; i < 2; i++)
        if (held[i].effective || held[i].permitted != (uint32_t)(kept >> 32 * i)
            || held[i].inheritable != held[i].permitted)
            return false;
    for (unsigned long number = 0; prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
        if (prctl(PR_CAPBSET_READ, number, 0, 0, 0) != 0)
            return false;
    return (uid_t)setfsuid((uid_t)-1) == uid && (gid_t)setfsgid((gid_t)-1) == gid
        && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0
        && (unsigned long)prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) == bits_of(mode);
}

/* Tries what only privilege can do.  Each success is a failure. */
static bool can_regain(uid_t uid)
{
    return (uid != 0 && (setresuid((uid_t)-1, 0, (uid_t)-1) == 0 || setresuid(0, 0, 0) == 0))
        || set_capabilities(1U << CAP_SYS_ADMIN, 0) == 0 || set_capabilities(1U << CAP_SETUID, 0) == 0
        || unshare(CLONE_NEWNS) == 0 || sethostname("regained", 8) == 0;
}

/* All of them, for good; but `kept`, which is not in force. */
void drop_privileges(enum mode mode, bool keep_packets)
{
    const uint64_t kept = keep_packets ? packets : 0;
    const uid_t uid = getuid();
    const gid_t gid = getgid();

    // The supplementary groups stay: a group can also take rights away.
    must(AVNE_STAGE_DROP, setresgid(gid, gid, gid));
    must(AVNE_STAGE_DROP, setresuid(uid, uid, uid));
    must(AVNE_STAGE_DROP, set_capabilities(0, kept));
    // Both are reset by a change of credentials: only now.
    must(AVNE_STAGE_DROP, prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    must(AVNE_STAGE_DROP, prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
    if (!has_nothing(uid, gid, mode, kept) || can_regain(uid))
        fail(AVNE_STAGE_DROP, EPERM);
}
