/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The servers' epoll loop and its connections.
 */
#include "pb.h"

#include <netinet/tcp.h>

static int loop;
static struct conn *graveyard;
struct in_addr resolves_to;

void start_loop(void)
{
    if ((loop = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
}

void watch(struct conn *c, uint32_t want)
{
    if (want == c->want)
        return;
    struct epoll_event e = {.events = want, .data.ptr = c};
    int op = !want ? EPOLL_CTL_DEL : !c->want ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(loop, op, c->fd, &e))
        die("epoll_ctl");
    c->want = want;
}

struct conn *track(int fd, void (*ready)(struct conn *))
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        die("calloc");
    c->fd = fd;
    c->pipe[0] = -1;
    c->ready = ready;
    return c;
}

void bury(struct conn *c)
{
    if (!c || c->dead)
        return;
    c->dead = true;
    close(c->fd);
    if (c->pipe[0] >= 0) {
        close(c->pipe[0]);
        close(c->pipe[1]);
    }
    c->next_dead = graveyard;
    graveyard = c;
    bury(c->peer);
}

static void on_accept(struct conn *listener)
{
    for (int i = 0; i < 64; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        listener->accepted(track(fd, NULL));
    }
}

void listen_tcp(const char *ip, int port, void (*accepted)(struct conn *))
{
    struct sockaddr_in a = address(ip, port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096))
        die("listen");
    struct conn *c = track(fd, on_accept);
    c->accepted = accepted;
    watch(c, EPOLLIN);
}

/* Reads on until HEAD holds NEED bytes; false while it does not. */
bool filled(struct conn *c)
{
    while (c->have < c->need) {
        ssize_t n = recv(c->fd, c->head + c->have, c->need - c->have, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                bury(c);
            return false;
        }
        c->have += n;
    }
    return true;
}

void run_loop(void)
{
    struct epoll_event events[256];
    puts("ready");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(loop, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c->dead)
                c->ready(c);
        }
        while (graveyard) {
            struct conn *c = graveyard;
            graveyard = c->next_dead;
            free(c);
        }
    }
}
