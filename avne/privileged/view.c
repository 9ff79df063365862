// SPDX-License-Identifier: GPL-3.0-or-later
/* What of the host's file system the program does not see: mounts over it, and names.
 *
 * In a mount namespace of our own that nothing is propagated to or from.  Every target is a
 * constant.  A remount always carries MS_BIND: without it, it would change the host's mount.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { QUIET = MS_NOSUID | MS_NODEV };

struct place {
    const char *target, *type, *options;
    unsigned long flags;
    enum avne_stage stage;
    bool may_lack;             // not a directory: nothing to hide, or a link to what is hidden here
};

static const struct place places[] = {
    {"/proc", "proc", NULL, QUIET | MS_NOEXEC, AVNE_STAGE_MOUNT_PROC, false},
    {"/sys", "sysfs", NULL, QUIET | MS_NOEXEC | MS_RDONLY, AVNE_STAGE_MOUNT_SYS, false},
    // Serial numbers and the maker's name of the machine.
    {"/sys/class/dmi", "tmpfs", "mode=0555", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_SYS, true},
    {"/sys/devices/virtual/dmi", "tmpfs", "mode=0555", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_SYS, true},
    {"/sys/firmware", "tmpfs", "mode=0555", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_SYS, true},
    {"/run", "tmpfs", "mode=0755", QUIET, AVNE_STAGE_MOUNT_RUN, false},
    {"/var/run", "tmpfs", "mode=0755", QUIET, AVNE_STAGE_MOUNT_RUN, true},
    // Here sssd has its sockets.
    {"/var/lib/sss", "tmpfs", "mode=0555", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_RUN, true},
    // Who logged in from where, and what daemons say of the network; the addresses that DHCP gave.
    {"/var/log", "tmpfs", "mode=0755", QUIET, AVNE_STAGE_MOUNT_RUN, true},
    {"/var/lib/dhcp", "tmpfs", "mode=0555", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_RUN, true},
    {"/var/lib/dhclient", "tmpfs", "mode=0555", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_RUN, true},
    {"/var/lib/dhcpcd", "tmpfs", "mode=0555", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_RUN, true},
    {"/var/lib/NetworkManager", "tmpfs", "mode=0555", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_RUN, true},
    {"/tmp", "tmpfs", "mode=1777", QUIET, AVNE_STAGE_MOUNT_TMP, true},
    {"/var/tmp", "tmpfs", "mode=1777", QUIET, AVNE_STAGE_MOUNT_TMP, true},
};

// A whole directory, as its one file could be uncovered by a rename(2) on the host.
static const struct place dbus = {
    "/var/lib/dbus", "tmpfs", "mode=0755", QUIET, AVNE_STAGE_MOUNT_RUN, true};
static const struct place scratch_place = {
    "/run", "tmpfs", "mode=0755", QUIET, AVNE_STAGE_MOUNT_ETC, false};
static const struct place etc = {
    "/etc", "overlay", "lowerdir=/run/etc:/etc", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_ETC, false};
static const struct place dev = {
    "/run", "tmpfs", "mode=0755", MS_NOSUID | MS_NOEXEC, AVNE_STAGE_MOUNT_DEV, false};
static const struct place in_dev[] = {
    // May be refused as well: without terminals of its own the environment is as tight.
    {"/run/pts", "devpts", "newinstance,ptmxmode=0666,mode=0600", MS_NOSUID | MS_NOEXEC, AVNE_STAGE_MOUNT_DEV,
     true},
    {"/run/shm", "tmpfs", "mode=1777", QUIET, AVNE_STAGE_MOUNT_DEV, false},
};
static const char *const nodes[] = {"null", "zero", "full", "random", "urandom", "tty"};
static const struct { const char *name, *target; } dev_links[] = {
    {"ptmx", "pts/ptmx"}, {"fd", "/proc/self/fd"}, {"stdin", "fd/0"}, {"stdout", "fd/1"}, {"stderr", "fd/2"}};

// Keys and moments of the host, and how it was started, with its disk's id; the last two are for root only.
static const char *const secrets[] = {
    "/proc/cmdline", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sched_debug", "/proc/kcore"};
static const char boot_id[] = "00000000-0000-4000-8000-000000000001\n";
static const char machine_id[] = "00000000000000000000000000000001\n";

// Where uid 0 may write without any capability, and change the host.
static const char *const roots_own[] = {"/proc/sys", "/proc/sysrq-trigger"};

/* What /etc shows of its own instead of the host's. */
static const struct { const char *name, *text; } neutral[] = {
    // Tor answers late: more time than the resolver's own 5 s; edns0, so that 4096 bytes fit in UDP.
    {"resolv.conf", "nameserver 10.213.0.1\nnameserver fd61:766e:6500::1\noptions edns0 timeout:10\n"},
    // No module that would ask a daemon of the host.
    {"nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\ngshadow: files\nhosts: files dns\n"
                      "networks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n"
                      "netgroup: files\n"},
    {"hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"},
    {"hostname", "localhost\n"},
    {"machine-id", machine_id},
};

/* Mounts on the directory that `target` itself is, whatever the name may come to mean meanwhile.
 * 1 where there is none, and may be none. */
static int mount_on(const struct place *place)
{
    char path[32];
    int result, error, fd = open(place->target, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return place->may_lack && (errno == ENOENT || errno == ENOTDIR) ? 1 : -1;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    result = mount(place->type, path, place->type, place->flags, place->options);
    if (result < 0 && place->stage == AVNE_STAGE_MOUNT_SYS)
        // For one, partly masked, as in a container: then nothing of it, rather than the host's.
        result = mount("tmpfs", path, "tmpfs", place->flags, "mode=0555");
    error = errno;
    (void)close(fd);
    errno = error;
    return result;
}

/* Comforts: an environment without them is as tight. */
static void set_sysctls(void)
{
    char text[32];

    (void)write_file(AT_FDCWD, "/proc/sys/net/ipv4/ip_local_port_range", 0, "1024 65535\n");
    // A program may listen wherever it likes: nobody else does here.
    (void)write_file(AT_FDCWD, "/proc/sys/net/ipv4/ip_unprivileged_port_start", 0, "0\n");
    // ping(8) without privilege, so that it gets our ICMP answer instead of EACCES.
    (void)snprintf(text, sizeof text, "%u %u\n", getgid(), getgid());
    (void)write_file(AT_FDCWD, "/proc/sys/net/ipv4/ping_group_range", 0, text);
}

static void make_read_only(const char *path)
{
    if (mount(path, path, NULL, MS_BIND, NULL) < 0) {
        if (errno != ENOENT)
            fail(AVNE_STAGE_MOUNT_PROC, errno);
        return;
    }
    must(AVNE_STAGE_MOUNT_PROC,
         mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOEXEC | QUIET, NULL));
}

static int open_path(const char *path, int flags)
{
    return open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC | flags);
}

/* A directory of memory on /run, for what is to be mounted elsewhere: it ends with make_view(). */
static int mount_scratch(void)
{
    int directory;

    must(AVNE_STAGE_MOUNT_ETC, mount_on(&scratch_place));
    directory = open_path("/run", O_DIRECTORY);
    must(AVNE_STAGE_MOUNT_ETC, directory);
    return directory;
}

/* Makes a place of that name in a directory of ours, and mounts there what `source` is of. */
static void put(enum avne_stage stage, int directory, const char *name, int source)
{
    struct stat status;
    int target;

    must(stage, source);
    must(stage, fstat(source, &status));
    must(stage, S_ISDIR(status.st_mode) ? mkdirat(directory, name, 0700)
                                        : mknodat(directory, name, S_IFREG | 0600, 0));
    target = openat(directory, name, O_PATH | O_CLOEXEC);
    must(stage, target);
    must(stage, bind_fd(source, target));
    (void)close(target);
}

/* A link is copied; a file or directory mounted; nothing else is shown. */
static void put_entry(int ours, int host, const char *name)
{
    const int source = openat(host, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat status;

    must(AVNE_STAGE_MOUNT_ETC, source);
    must(AVNE_STAGE_MOUNT_ETC, fstat(source, &status));
    if (S_ISLNK(status.st_mode)) {
        char target[PATH_MAX] = "";
        must(AVNE_STAGE_MOUNT_ETC, readlinkat(source, "", target, sizeof target - 1));
        must(AVNE_STAGE_MOUNT_ETC, symlinkat(target, ours, name));
    } else if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) {
        put(AVNE_STAGE_MOUNT_ETC, ours, name, source);
    }
    (void)close(source);
}

/* Where there is no overlay to be had: every entry of the host's that ours does not replace is put into
 * ours.  What a rename(2) on the host could peel off is on no directory of the host's. */
static void fill_etc(int ours)
{
    struct mount_attr sealed = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
    const int host = open("/etc", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *entries = host < 0 ? NULL : fdopendir(host);
    const struct dirent *entry;
    struct stat there;

    if (!entries)
        fail(AVNE_STAGE_MOUNT_ETC, errno);
    while ((entry = readdir(entries)))
        if (fstatat(ours, entry->d_name, &there, AT_SYMLINK_NOFOLLOW) < 0)
            put_entry(ours, host, entry->d_name);
    must(AVNE_STAGE_MOUNT_ETC, bind_fd(ours, host));
    (void)closedir(entries);
    must(AVNE_STAGE_MOUNT_ETC, mount_setattr(AT_FDCWD, "/etc", AT_RECURSIVE, &sealed, sizeof sealed));
}

/* A read-only overlay: ours above the host's.  Not binds over files of it: a rename(2) on the host peels those off. */
static void mount_etc(int scratch)
{
    int ours;

    must(AVNE_STAGE_MOUNT_ETC, mkdirat(scratch, "etc", 0755));
    ours = openat(scratch, "etc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    must(AVNE_STAGE_MOUNT_ETC, ours);
    for (size_t i = 0; i < sizeof neutral / sizeof *neutral; i++)
        must(AVNE_STAGE_MOUNT_ETC, write_file(ours, neutral[i].name, O_CREAT | O_EXCL, neutral[i].text));
    if (mount_on(&etc) < 0)
        fill_etc(ours);
    (void)close(ours);
    if (mount_on(&dbus) == 0)
        must(AVNE_STAGE_MOUNT_ETC, write_file(AT_FDCWD, "/var/lib/dbus/machine-id", O_CREAT | O_EXCL, machine_id));
}

/* Puts a file of ours over one of /proc, where the kernel has that. */
static void mask_file(int scratch, const char *ours, const char *path)
{
    int source = openat(scratch, ours, O_PATH | O_CLOEXEC), target = open_path(path, 0);

    must(AVNE_STAGE_MASK, source);
    if (target >= 0)
        must(AVNE_STAGE_MASK, bind_fd(source, target));
    (void)close(source);
    (void)close(target);
}

static void mask(int scratch, const struct wishes *wishes)
{
    int dead;

    must(AVNE_STAGE_MASK, write_file(scratch, "empty", O_CREAT | O_EXCL, ""));
    must(AVNE_STAGE_MASK, write_file(scratch, "boot_id", O_CREAT | O_EXCL, boot_id));
    must(AVNE_STAGE_MASK, mknodat(scratch, "socket", S_IFSOCK | 0666, 0));
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
        mask_file(scratch, "empty", secrets[i]);
    mask_file(scratch, "boot_id", "/proc/sys/kernel/random/boot_id");
    dead = openat(scratch, "socket", O_PATH | O_CLOEXEC);
    must(AVNE_STAGE_MASK, dead);
    mask_sockets(wishes, dead);
    (void)close(dead);
}

/* A /dev of six devices that are good for nothing but themselves, and new terminals.  The one that the
 * caller is at has the name /dev/console, so that ttyname(3) finds it. */
static void mount_dev(const struct wishes *wishes)
{
    char path[32];
    int directory;

    must(AVNE_STAGE_MOUNT_DEV, mount_on(&dev));
    directory = open_path("/run", O_DIRECTORY);
    must(AVNE_STAGE_MOUNT_DEV, directory);
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        (void)snprintf(path, sizeof path, "/dev/%s", nodes[i]);
        const int source = open_path(path, 0);
        put(AVNE_STAGE_MOUNT_DEV, directory, nodes[i], source);
        (void)close(source);
    }
    if (wishes->terminal >= 0)
        put(AVNE_STAGE_MOUNT_DEV, directory, "console", wishes->terminal);
    for (size_t i = 0; i < sizeof dev_links / sizeof *dev_links; i++)
        must(AVNE_STAGE_MOUNT_DEV, symlinkat(dev_links[i].target, directory, dev_links[i].name));
    for (size_t i = 0; i < sizeof in_dev / sizeof *in_dev; i++) {
        must(AVNE_STAGE_MOUNT_DEV, mkdir(in_dev[i].target, 0755));
        must(AVNE_STAGE_MOUNT_DEV, mount_on(&in_dev[i]) < 0 && !in_dev[i].may_lack ? -1 : 0);
    }
    (void)close(directory);
    must(AVNE_STAGE_MOUNT_DEV, mount("/run", "/dev", NULL, MS_MOVE, NULL));
}

/* Files whose mode or capabilities would give rights are like any other in here.  no_new_privs alone
 * would not run those with capabilities, ping(8) for one, instead of running them without. */
static void ignore_file_privileges(void)
{
    struct mount_attr no_privileges = {.attr_set = MOUNT_ATTR_NOSUID};

    (void)mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &no_privileges, sizeof no_privileges);  // Linux 5.12
}

void make_view(enum mode mode, const struct wishes *wishes)
{
    static const char name[] = "localhost", domain[] = "(none)";
    int scratch;

    ignore_file_privileges();
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        must(places[i].stage, mount_on(&places[i]));
    set_sysctls();
    if (mode == ROOT)
        for (size_t i = 0; i < sizeof roots_own / sizeof *roots_own; i++)
            make_read_only(roots_own[i]);
    scratch = mount_scratch();
    mask(scratch, wishes);     // before /etc, which may take sockets with it
    mount_etc(scratch);
    cover_home(wishes, scratch, mode);
    (void)close(scratch);
    must(AVNE_STAGE_MOUNT_ETC, umount2("/run", MNT_DETACH | UMOUNT_NOFOLLOW));  // what is mounted has it still
    mount_dev(wishes);
    show_shares(wishes);
    must(AVNE_STAGE_HOSTNAME, sethostname(name, sizeof name - 1));
    must(AVNE_STAGE_HOSTNAME, setdomainname(domain, sizeof domain - 1));
}
