/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What both halves share, and the entry point: see pb.h.
 */
#include "pb.h"

#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

unsigned char pattern[BLOCK + PERIOD];

void die(const char *what)
{
    fprintf(stderr, "pb: %s: %s\n", what, strerror(errno));
    exit(1);
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

struct sockaddr_in address(const char *ip, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, ip, &a.sin_addr) != 1) {
        errno = EINVAL;
        die(ip);
    }
    return a;
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = i % PERIOD;
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc == 3 && !strcmp(argv[1], "serve")) {
        serve(argv[2]);
    } else if (argc == 5 && !strcmp(argv[1], "relay")) {
        relay(argv[2], atoi(argv[3]), argv[4]);
    } else if (argc == 2 && !strcmp(argv[1], "agent")) {
        agent();
    } else {
        fprintf(stderr, "usage: pb serve ADDR | relay ADDR PORT IP | agent\n");
        return 2;
    }
    return 0;
}
