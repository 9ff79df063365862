// SPDX-License-Identifier: GPL-3.0-or-later
/* A million requests to attach, most of them spoilt, to the helper's own code under sanitizers.
 *
 * attach.c and program.c are the real ones; what would start a program or send a signal is counted
 * instead (the Makefile of this is test_fuzz.py).  Prints: requests, started, refused, signals.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned long started, refused, signals;
static uint64_t state;

static uint32_t dice(uint32_t sides)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % sides;
}

/* A string that is read to its end, so that the sanitizer sees all of it. */
static void read_all(char *const *list)
{
    static volatile size_t sum;

    for (; *list; list++)
        sum += strlen(*list);
}

pid_t counted_start(const struct start *start, int *report)
{
    int ends[2];

    read_all(start->argv);
    read_all(start->env);
    if (!start->argv[0] || !memchr(start->cwd, '\0', 1 << 16) || pipe2(ends, O_CLOEXEC) < 0)
        abort();
    (void)close(ends[1]);
    *report = ends[0];
    return (pid_t)(1 << 23) + (pid_t)(started++ & 0xffff);  // nobody's
}

int counted_kill(pid_t pid, int number)
{
    if (number < 1 || number > 64 || pid == 0 || pid == -1 || pid == 1 || abs(pid) < 1 << 23)
        abort();
    signals++;
    return 0;
}

/* Strings, as a rule as many as are said. */
static int make_memory(uint32_t *argc, uint32_t *envc)
{
    char text[600];
    size_t size = 0;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    *argc = 1 + dice(3);
    *envc = dice(4);
    for (uint32_t i = 0; i < *argc + *envc + 1; i++) {
        size_t length = dice(40);
        memset(text + size, 'a' + (int)dice(26), length);
        size += length;
        text[size++] = '\0';
    }
    switch (dice(8)) {
    case 0: text[dice((uint32_t)size)] = (char)dice(256); break;
    case 1: size -= dice((uint32_t)size); break;
    case 2: *argc = dice(9); break;
    case 3: *envc = dice(9); break;
    case 4: *argc = dice(2) ? 0xffffffff : 0x80000000; break;
    case 5: *envc = dice(2) ? 0xffffffff : (uint32_t)size; break;
    default: break;
    }
    if (write(fd, text, size) != (ssize_t)size)
        abort();
    return fd;
}

static void send_packet(int line, const void *data, size_t size, const int *fds, uint32_t count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(8 * sizeof(int))];
    } rights = {.room = {0}};
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};

    if (count) {
        packet.msg_control = rights.room;
        packet.msg_controllen = CMSG_SPACE(count * sizeof(int));
        rights.head.cmsg_level = SOL_SOCKET;
        rights.head.cmsg_type = SCM_RIGHTS;
        rights.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&rights.head), fds, count * sizeof(int));
    }
    (void)sendmsg(line, &packet, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void spoil(unsigned char *data, size_t *size, size_t room)
{
    switch (dice(6)) {
    case 0: data[dice((uint32_t)*size)] ^= (unsigned char)(1U << dice(8)); break;
    case 1: *size = dice((uint32_t)*size + 1); break;
    case 2: *size = dice((uint32_t)room); break;
    case 3:
        for (uint32_t i = dice(16); i > 0; i--)
            data[dice((uint32_t)*size)] = (unsigned char)dice(256);
        break;
    default: break;
    }
}

static void turn(void)
{
    struct pollfd ready[ATTACH_POLLED];

    poll_attached(ready);
    if (poll(ready, ATTACH_POLLED, 0) > 0)
        serve_attached(ready);
}

static void ask(int null)
{
    union { struct avne_attach wish; unsigned char bytes[200]; } packet = {.bytes = {0}};
    union { struct avne_message message; unsigned char bytes[200]; } after = {.bytes = {0}};
    struct avne_message answer;
    uint32_t argc, envc, count = dice(12) ? 4 + dice(2) : dice(8);
    size_t size = sizeof packet.wish;
    int line[2], fds[8] = {null, null, null, make_memory(&argc, &envc), null, null, null, null};

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line) < 0)
        abort();
    packet.wish = (struct avne_attach){.head = {.magic = AVNE_MAGIC, .type = AVNE_ATTACH,
        .layout = AVNE_LAYOUT, .argc = argc, .envc = envc}, .umask = dice(01000)};
    spoil(packet.bytes, &size, sizeof packet);
    attach(line[1], true);
    send_packet(line[0], packet.bytes, size, fds, count);
    turn();
    turn();
    for (uint32_t more = dice(3); more > 0; more--) {
        after.message = (struct avne_message){.magic = AVNE_MAGIC, .type = AVNE_SIGNAL,
            .layout = AVNE_LAYOUT, .value = (int)dice(140) - 70};
        size = sizeof after.message;
        spoil(after.bytes, &size, sizeof after);
        send_packet(line[0], after.bytes, size, fds, dice(10) ? 0 : 1);
        turn();
    }
    while (recv(line[0], &answer, sizeof answer, MSG_DONTWAIT) == sizeof answer)
        refused += answer.type == AVNE_FAILED;
    (void)close(line[0]);
    (void)close(fds[3]);
    if (dice(4))
        turn();
}

int main(int argc, char **argv)
{
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), before, after;

    state = 88172645463325252ULL ^ (argc > 2 ? strtoul(argv[2], NULL, 10) : 0) * 0x9e3779b97f4a7c15ULL;

    turn();
    before = dup(null);
    for (unsigned long i = 0; i < rounds; i++)
        ask(null);
    turn();
    turn();
    detach_all();
    after = dup(null);
    if (after > before + 1) {
        (void)fprintf(stderr, "descriptors are left open: %d after %d\n", after, before);
        return 1;
    }
    (void)printf("%lu %lu %lu %lu\n", rounds, started, refused, signals);
    return 0;
}
