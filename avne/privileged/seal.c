// SPDX-License-Identifier: GPL-3.0-or-later
/* The seccomp(2) filter of init and the program: what leads around the network namespace, and
 * into the caller's terminal.  Everything else is allowed: it is the program's own system.
 *
 * And, where the kernel has that (Linux 7.1), the landlock(7) right over unix sockets that have a name:
 * those made in here can be reached, those of outside cannot, whenever they were made.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct abi {
    uint32_t machine, ioctl, socket, socketpair, socketcall, add_key, request_key, keyctl;
};

enum { NO_SUCH_CALL = 0, X32_BIT = 0x40000000, SOCK_TYPE_MASK = 0xf };

// A 32-bit program calls by other numbers: a filter that knows one table only is no filter.
static const struct abi abis[] = {
#if defined __x86_64__ && !defined __ILP32__
    {AUDIT_ARCH_X86_64, 16, 41, 53, NO_SUCH_CALL, 248, 249, 250},
    {AUDIT_ARCH_I386, 54, 359, 360, 102, 286, 287, 288},
#elif defined __aarch64__
    {AUDIT_ARCH_AARCH64, 29, 198, 199, NO_SUCH_CALL, 217, 218, 219},
    {AUDIT_ARCH_ARM, 54, 281, 288, 102, 309, 310, 311},
#elif defined __riscv && __riscv_xlen == 64
    {AUDIT_ARCH_RISCV64, 29, 198, 199, NO_SUCH_CALL, 217, 218, 219},
#else
#error "avne does not know the system calls of this machine yet"
#endif
};

static struct sock_filter filter[160];
static unsigned short filter_size;

static struct sock_filter *emit(int code, uint32_t k, unsigned yes, unsigned no)
{
    if (filter_size == sizeof filter / sizeof *filter)
        abort();
    filter[filter_size] = (struct sock_filter){(uint16_t)code, (uint8_t)yes, (uint8_t)no, k};
    return &filter[filter_size++];
}

#define LOAD(field) emit(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field), 0, 0)
#define IF_EQUAL(value, yes, no) emit(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define RETURN(action) emit(BPF_RET | BPF_K, action, 0, 0)
#define REFUSE(error) RETURN(SECCOMP_RET_ERRNO | (error))

static void refuse_call(uint32_t number)
{
    if (number == NO_SUCH_CALL)
        return;
    IF_EQUAL(number, 0, 1);
    REFUSE(ENOSYS);
}

/* Loads of an argument take its low 32 bits, all that the kernel looks at in these calls.  (The
 * offset is that of little-endian machines, and abis[] has no others.) */
static void refuse_arguments(uint32_t number)
{
    struct sock_filter *call = IF_EQUAL(number, 0, 0);

    LOAD(args[1]);
    IF_EQUAL(TIOCSTI, 1, 0);        // types into the caller's terminal
    IF_EQUAL(TIOCLINUX, 0, 1);      // so does this, on a console
    REFUSE(EPERM);
    RETURN(SECCOMP_RET_ALLOW);
    call->jf = (uint8_t)(&filter[filter_size] - call - 1);
}

/* Other families (vsock, Bluetooth, AF_ALG…) know no network namespace, or have no use in one.  Nor do
 * two of netlink's protocols know it everywhere: devices that come and go, and RDMA. */
static void allow_families(uint32_t number, bool strict)
{
    static const uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6, AF_PACKET};
    const unsigned count = sizeof families / sizeof *families;
    struct sock_filter *call = IF_EQUAL(number, 0, 0);

    LOAD(args[0]);
    IF_EQUAL(AF_NETLINK, 0, 4);
    LOAD(args[2]);
    IF_EQUAL(NETLINK_KOBJECT_UEVENT, 1, 0);
    IF_EQUAL(NETLINK_RDMA, 0, count - strict + 2);
    REFUSE(EPROTONOSUPPORT);
    for (unsigned i = strict; i < count; i++)
        IF_EQUAL(families[i], count - i, 0);
    REFUSE(EAFNOSUPPORT);
    RETURN(SECCOMP_RET_ALLOW);
    call->jf = (uint8_t)(&filter[filter_size] - call - 1);
}

/* Pairs are of unix sockets only, and if strict not of datagram ones: those can send to a third. */
static void allow_pairs(uint32_t number, bool strict)
{
    struct sock_filter *call = IF_EQUAL(number, 0, 0);

    LOAD(args[0]);
    IF_EQUAL(AF_UNIX, 1, 0);
    REFUSE(EAFNOSUPPORT);
    if (strict) {
        LOAD(args[1]);
        emit(BPF_ALU | BPF_AND | BPF_K, SOCK_TYPE_MASK, 0, 0);
        IF_EQUAL(SOCK_STREAM, 2, 0);
        IF_EQUAL(SOCK_SEQPACKET, 1, 0);
        REFUSE(EPROTONOSUPPORT);
    }
    RETURN(SECCOMP_RET_ALLOW);
    call->jf = (uint8_t)(&filter[filter_size] - call - 1);
}

static void build_filter(const struct abi *abi, bool strict)
{
    LOAD(arch);
    struct sock_filter *machine = IF_EQUAL(abi->machine, 0, 0);

    LOAD(nr);
    if (abi->machine == AUDIT_ARCH_X86_64) {
        emit(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
        REFUSE(ENOSYS);
    }
    for (uint32_t number = 425; number <= 427; number++)
        refuse_call(number);        // io_uring makes sockets past every filter; its numbers are the same everywhere
    refuse_call(abi->add_key);      // keys are the host's, and a request for one is answered by its root
    refuse_call(abi->request_key);
    refuse_call(abi->keyctl);
    refuse_call(abi->socketcall);   // its arguments are out of sight
    refuse_arguments(abi->ioctl);
    allow_families(abi->socket, strict);
    allow_pairs(abi->socketpair, strict);
    RETURN(SECCOMP_RET_ALLOW);
    machine->jf = (uint8_t)(&filter[filter_size] - machine - 1);
}

// ---- Landlock: newer than the headers of most systems, hence by its numbers -----------------------

enum {
    LANDLOCK_CREATE_RULESET = 444, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF,  // the same everywhere
    RESOLVE_UNIX_ABI = 9,
    REFER = 1 << 13,
    RESOLVE_UNIX = 1 << 16
};

static void allow_beneath(long ruleset, int fd, uint64_t rights)
{
    const struct landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = fd};

    must(AVNE_STAGE_SEAL, syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0));
}

static void hide_sockets(const struct wishes *wishes)
{
    // A ruleset that is silent about REFER takes it away: rename(2) between directories would fail.
    const struct landlock_ruleset_attr handled = {.handled_access_fs = RESOLVE_UNIX | REFER};
    long ruleset;
    int root;

    if (syscall(LANDLOCK_CREATE_RULESET, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < RESOLVE_UNIX_ABI)
        return;
    ruleset = syscall(LANDLOCK_CREATE_RULESET, &handled, sizeof handled, 0);
    root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    must(AVNE_STAGE_SEAL, root < 0 ? root : ruleset);
    allow_beneath(ruleset, root, REFER);
    for (unsigned i = 0; i < wishes->shares; i++)
        if (wishes->opened >> i & 1)
            allow_beneath(ruleset, wishes->paths[wishes->homes + i], RESOLVE_UNIX);
    must(AVNE_STAGE_SEAL, syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0));
    (void)close(root);
    (void)close((int)ruleset);
}

void seal(const struct wishes *wishes)
{
    const bool strict = wishes->flags & AVNE_STRICT;
    struct sock_fprog program = {.filter = filter};

    if (!strict)
        hide_sockets(wishes);  // without unix sockets there is nothing to hide
    for (size_t i = 0; i < sizeof abis / sizeof *abis; i++)
        build_filter(&abis[i], strict);
    RETURN(SECCOMP_RET_KILL_PROCESS);
    program.len = filter_size;
    must(AVNE_STAGE_SEAL, prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
}
