// SPDX-License-Identifier: GPL-3.0-or-later
/* What of the host's file system the program does not see: mounts over it, and names.
 *
 * In a mount namespace of our own that nothing is propagated to or from.  Every target is a
 * constant.  A remount always carries MS_BIND: without it, it would change the host's mount.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
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
    {"/run", "tmpfs", "mode=0755", QUIET, AVNE_STAGE_MOUNT_RUN, false},
    {"/var/run", "tmpfs", "mode=0755", QUIET, AVNE_STAGE_MOUNT_RUN, true},
    {"/dev/shm", "tmpfs", "mode=1777", QUIET, AVNE_STAGE_MOUNT_RUN, true},
};

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
    {"machine-id", "00000000000000000000000000000001\n"},
};

/* Mounts on the directory that `target` itself is, whatever the name may come to mean meanwhile. */
static int mount_on(const struct place *place)
{
    char path[32];
    int result, error, fd = open(place->target, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return place->may_lack && (errno == ENOENT || errno == ENOTDIR) ? 0 : -1;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    result = mount(place->type, path, place->type, place->flags, place->options);
    if (result < 0 && errno == EPERM && place->stage == AVNE_STAGE_MOUNT_SYS)
        // Partly masked, as in a container: then nothing of it, rather than the host's.
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

/* A read-only overlay: ours above the host's.  Not binds: a rename(2) on the host peels those off. */
static void mount_etc(void)
{
    static const struct place scratch = {
        "/run", "tmpfs", "mode=0755,size=64k", QUIET, AVNE_STAGE_MOUNT_ETC, false};
    static const struct place etc = {
        "/etc", "overlay", "lowerdir=/run:/etc", QUIET | MS_RDONLY, AVNE_STAGE_MOUNT_ETC, false};
    int directory;

    must(AVNE_STAGE_MOUNT_ETC, mount_on(&scratch));
    directory = open("/run", O_PATH | O_DIRECTORY | O_CLOEXEC);
    must(AVNE_STAGE_MOUNT_ETC, directory);
    for (size_t i = 0; i < sizeof neutral / sizeof *neutral; i++)
        must(AVNE_STAGE_MOUNT_ETC,
             write_file(directory, neutral[i].name, O_CREAT | O_EXCL, neutral[i].text));
    (void)close(directory);
    must(AVNE_STAGE_MOUNT_ETC, mount_on(&etc));
    must(AVNE_STAGE_MOUNT_ETC, umount2("/run", MNT_DETACH | UMOUNT_NOFOLLOW));  // the overlay has it still
}

/* Files whose mode or capabilities would give rights are like any other in here.  no_new_privs alone
 * would not run those with capabilities, ping(8) for one, instead of running them without. */
static void ignore_file_privileges(void)
{
    struct mount_attr no_privileges = {.attr_set = MOUNT_ATTR_NOSUID};

    (void)mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &no_privileges, sizeof no_privileges);  // Linux 5.12
}

void make_view(enum mode mode)
{
    static const char name[] = "localhost", domain[] = "(none)";

    ignore_file_privileges();
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        must(places[i].stage, mount_on(&places[i]));
    set_sysctls();
    if (mode == ROOT)
        for (size_t i = 0; i < sizeof roots_own / sizeof *roots_own; i++)
            make_read_only(roots_own[i]);
    mount_etc();
    must(AVNE_STAGE_HOSTNAME, sethostname(name, sizeof name - 1));
    must(AVNE_STAGE_HOSTNAME, setdomainname(domain, sizeof domain - 1));
}
