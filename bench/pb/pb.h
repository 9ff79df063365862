/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The benchmark's C helper: the servers of the measured world, and the load
 * generator that runs inside each tool's environment.
 *
 *   pb serve ADDR           data, echo and DNS servers           serve.c
 *   pb relay ADDR PORT IP   SOCKS5 server; every name is IP      relay.c
 *   pb agent                load generator: commands on stdin,   agent.c, bulk.c,
 *                           JSON on stdout                      lookup.c
 *
 * The servers are one epoll loop (loop.c); the agent has threads and blocking
 * sockets, as most programs do.
 */
#ifndef PB_H
#define PB_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DNS_PORT = 53 };                  /* the others: by the compiler's -D */
enum { PERIOD = 251, BLOCK = 256 * 1024 };

/* Byte I of every bulk stream is I % PERIOD, so any end can check it. */
extern unsigned char pattern[BLOCK + PERIOD];

void die(const char *what);
uint64_t now_ns(void);
struct sockaddr_in address(const char *ip, int port);

/* ---- servers ----------------------------------------------------------- */

struct conn {
    int fd;
    uint32_t want;                       /* the watched events; 0: none */
    bool dead;
    struct conn *next_dead;
    void (*ready)(struct conn *);
    void (*accepted)(struct conn *);     /* listeners: set up a new one */
    struct conn *peer;                   /* relays: the other side */
    int pipe[2];                         /* relays: bytes on their way to it */
    size_t held;                         /* how many the pipe holds */
    bool eof, shut;                      /* relays: read to the end; passed on */
    int stage;
    size_t have, need;
    uint64_t left, total;
    bool verify, wrong;
    struct sockaddr_in client;           /* UDP associations: who asked */
    unsigned char head[1024];
};

extern struct in_addr resolves_to;       /* what every name resolves to */

void start_loop(void);
void watch(struct conn *c, uint32_t want);
struct conn *track(int fd, void (*ready)(struct conn *));
void bury(struct conn *c);
bool filled(struct conn *c);
void listen_tcp(const char *ip, int port, void (*accepted)(struct conn *));
void run_loop(void);           /* prints "ready", never returns */

void serve(const char *ip);
void relay(const char *ip, int port, const char *names_are);

/* ---- agent ------------------------------------------------------------- */

enum { MOST_THREADS = 256 };

struct job {
    struct sockaddr_in to;
    int streams;
    struct lane *lanes;
    uint64_t bytes, deadline, limit;     /* limit: how many operations */
    bool up, verify;
    _Atomic uint64_t next, good, bad;
    uint64_t *times;                     /* of each good operation, in ns */
};

extern char trouble[160];                /* the first failure of a command */

void blame(const char *what);
bool take(int fd, void *buf, size_t n);
bool give(int fd, const void *buf, size_t n);
int dial(const struct sockaddr_in *to, int rcvbuf);    /* rcvbuf: SO_RCVBUF, 0: the usual */
void in_threads(int n, void *(*body)(void *), struct job *job);
void bulk(struct job *job, int cap_ms, int rcvbuf);

void *resolver(void *job);
struct sockaddr_in own_resolver(void);
void agent(void);

#endif
