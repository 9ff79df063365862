/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The SOCKS5 server: CONNECT, UDP ASSOCIATE and Tor's RESOLVE.  It relays with
 * splice(2), so that it costs as little as a relay can.
 */
#include "pb.h"

#include <fcntl.h>
#include <netinet/tcp.h>

enum { PIPE_SIZE = 1 << 20 };

static struct { int ends[64][2], n; } spare_pipes;

static bool pump(struct conn *a)         /* a to its peer; false: broken */
{
    struct conn *b = a->peer;
    for (int i = 0; i < 8; i++) {
        if (!a->held && !a->eof) {
            if (a->pipe[0] < 0) {
                if (spare_pipes.n)
                    memcpy(a->pipe, spare_pipes.ends[--spare_pipes.n], sizeof a->pipe);
                else if (pipe2(a->pipe, O_NONBLOCK | O_CLOEXEC))
                    die("pipe2");
                else
                    fcntl(a->pipe[1], F_SETPIPE_SZ, PIPE_SIZE);
            }
            ssize_t n = splice(a->fd, NULL, a->pipe[1], NULL, PIPE_SIZE,
                               SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
            if (n < 0) {
                if (errno != EAGAIN)
                    return false;
                break;
            }
            a->held = n;
            a->eof = n == 0;
        }
        if (a->held) {
            ssize_t n = splice(a->pipe[0], NULL, b->fd, NULL, a->held,
                               SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
            if (n < 0) {
                if (errno != EAGAIN)
                    return false;
                break;
            }
            a->held -= n;
        }
        if (a->held || a->eof)
            break;
    }
    if (!a->held && a->pipe[0] >= 0) {   /* an idle connection keeps no pipe */
        if (spare_pipes.n < 64) {
            memcpy(spare_pipes.ends[spare_pipes.n++], a->pipe, sizeof a->pipe);
        } else {
            close(a->pipe[0]);
            close(a->pipe[1]);
        }
        a->pipe[0] = -1;
    }
    if (a->eof && !a->held && !a->shut) {
        shutdown(b->fd, SHUT_WR);
        a->shut = true;
    }
    return true;
}

static void on_relay(struct conn *c)
{
    struct conn *p = c->peer;
    if (!pump(c) || !pump(p) || (c->shut && p->shut)) {
        bury(c);
        return;
    }
    watch(c, (!c->eof && !c->held ? EPOLLIN : 0) | (p->held ? EPOLLOUT : 0));
    watch(p, (!p->eof && !p->held ? EPOLLIN : 0) | (c->held ? EPOLLOUT : 0));
}

static void socks_reply(struct conn *c, int code, uint32_t ip, uint16_t port)
{
    unsigned char reply[10] = {5, code, 0, 1};
    memcpy(reply + 4, &ip, 4);
    memcpy(reply + 8, &port, 2);
    send(c->fd, reply, sizeof reply, MSG_NOSIGNAL);
}

static void on_connected(struct conn *remote)
{
    struct conn *c = remote->peer;
    int err = 0;
    socklen_t size = sizeof err;
    getsockopt(remote->fd, SOL_SOCKET, SO_ERROR, &err, &size);
    if (err) {
        socks_reply(c, err == ECONNREFUSED ? 5 : err == ENETUNREACH ? 3 : 4, 0, 0);
        bury(c);
        return;
    }
    socks_reply(c, 0, 0, 0);
    c->ready = remote->ready = on_relay;
    watch(remote, EPOLLIN);
    watch(c, EPOLLIN);
}

static void on_association(struct conn *udp)
{
    unsigned char buf[2048 + 10], *data = buf + 10;
    for (int i = 0; i < 32; i++) {
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        ssize_t n = recvfrom(udp->fd, data, sizeof buf - 10, 0, (void *)&from, &size);
        if (n < 0)
            return;
        if (ntohl(from.sin_addr.s_addr) >> 24 == 127) {
            udp->client = from;
            size_t skip = data[3] == 1 ? 10 : data[3] == 3 ? 7u + data[4] : 0;
            if (n < 10 || !skip || (size_t)n < skip || data[2])
                continue;
            struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = resolves_to};
            if (data[3] == 1)
                memcpy(&to.sin_addr, data + 4, 4);
            memcpy(&to.sin_port, data + skip - 2, 2);
            sendto(udp->fd, data + skip, n - skip, 0, (void *)&to, sizeof to);
        } else if (udp->client.sin_port) {
            memcpy(buf, "\0\0\0\1", 4);
            memcpy(buf + 4, &from.sin_addr, 4);
            memcpy(buf + 8, &from.sin_port, 2);
            sendto(udp->fd, buf, n + 10, 0, (void *)&udp->client, sizeof udp->client);
        }
    }
}

static void on_control(struct conn *c)   /* an association lives as long as it */
{
    char buf[64];
    ssize_t n = recv(c->fd, buf, sizeof buf, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        bury(c);
}

static void associate(struct conn *c)
{
    struct sockaddr_in a = {.sin_family = AF_INET}, here = a;
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(fd, (void *)&a, sizeof a) || getsockname(fd, (void *)&a, &size) ||
        getsockname(c->fd, (void *)&here, &size))
        die("UDP ASSOCIATE");
    struct conn *udp = track(fd, on_association);
    udp->peer = c;
    c->peer = udp;
    c->ready = on_control;
    watch(udp, EPOLLIN);
    socks_reply(c, 0, here.sin_addr.s_addr, a.sin_port);
}

enum { GREETING, METHODS, USER, PASSWORD, REQUEST, TARGET };

static void next_stage(struct conn *c, int stage, size_t need)
{
    if (stage == GREETING || stage == USER || stage == REQUEST)
        c->have = 0;
    c->stage = stage;
    c->need = need;
}

static void on_socks(struct conn *c)
{
    unsigned char *h = c->head;
    while (filled(c)) {
        switch (c->stage) {
        case GREETING:
            next_stage(c, METHODS, 2 + h[1]);
            break;
        case METHODS:
            if (memchr(h + 2, 2, h[1])) {    /* as Tor: a password if offered */
                send(c->fd, "\5\2", 2, MSG_NOSIGNAL);
                next_stage(c, USER, 2);
            } else {
                send(c->fd, "\5\0", 2, MSG_NOSIGNAL);
                next_stage(c, REQUEST, 5);
            }
            break;
        case USER:
            if (c->need == 2) {
                c->need = 3 + h[1];
            } else {
                next_stage(c, PASSWORD, c->need + h[2 + h[1]]);
            }
            break;
        case PASSWORD:
            send(c->fd, "\1\0", 2, MSG_NOSIGNAL);
            next_stage(c, REQUEST, 5);
            break;
        case REQUEST:
            next_stage(c, TARGET, h[3] == 1 ? 10 : h[3] == 3 ? 7 + h[4] : 22);
            break;
        case TARGET: {
            struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = resolves_to};
            char name[256];
            if (h[3] == 1) {
                memcpy(&to.sin_addr, h + 4, 4);
            } else if (h[3] == 3) {
                memcpy(name, h + 5, h[4]);
                name[h[4]] = 0;
                inet_pton(AF_INET, name, &to.sin_addr);
            }
            memcpy(&to.sin_port, h + c->need - 2, 2);
            if (h[1] == 0xf0) {
                socks_reply(c, 0, to.sin_addr.s_addr, 0);
                bury(c);
            } else if (h[1] == 3) {
                associate(c);
            } else if (h[1] == 1 && h[3] != 4) {
                int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK |
                                        SOCK_CLOEXEC, 0);
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                struct conn *remote = track(fd, on_connected);
                remote->peer = c;
                c->peer = remote;
                watch(c, 0);
                if (connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS) {
                    socks_reply(c, 3, 0, 0);
                    bury(c);
                } else {
                    watch(remote, EPOLLOUT);
                }
            } else {
                socks_reply(c, h[1] == 1 ? 8 : 7, 0, 0);
                bury(c);
            }
            return;
        }
        }
    }
}

static void socks_accepted(struct conn *c)
{
    c->ready = on_socks;
    next_stage(c, GREETING, 2);
    watch(c, EPOLLIN);
}

void relay(const char *ip, int port, const char *names_are)
{
    start_loop();
    resolves_to = address(names_are, 0).sin_addr;
    listen_tcp(ip, port, socks_accepted);
    run_loop();
}
