/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The world's servers: bulk data, echo, DNS.
 */
#include "pb.h"

/* -- the data server: 'D' n sends n bytes; 'U' n takes n bytes and answers how
 *    many; 'V' n likewise, and compares them; "GET /n" is HTTP for 'D' n. */

enum { HEAD, SENDING, TAKING, DRAINING };

static void on_data(struct conn *c)
{
    static unsigned char scratch[BLOCK];
    if (c->stage == HEAD) {
        if (!c->need)
            c->need = 9;
        if (!filled(c))
            return;
        if (c->head[0] == 'G') {
            c->head[c->have] = 0;
            char *end = strstr((char *)c->head, "\r\n\r\n");
            if (!end) {
                if (c->need == sizeof c->head - 1)
                    bury(c);
                else
                    c->need++;
                return;
            }
            c->total = c->left = strtoull((char *)c->head + 5, NULL, 10);
            char reply[160];
            int n = snprintf(reply, sizeof reply,
                             "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\n"
                             "Connection: close\r\n\r\n",
                             (unsigned long long)c->total);
            if (send(c->fd, reply, n, MSG_NOSIGNAL) != n) {
                bury(c);
                return;
            }
            c->stage = SENDING;
        } else {
            memcpy(&c->total, c->head + 1, 8);
            c->left = c->total;
            c->verify = c->head[0] == 'V';
            c->stage = c->head[0] == 'D' ? SENDING : TAKING;
        }
        watch(c, c->stage == SENDING ? EPOLLOUT : EPOLLIN);
    }
    if (c->stage == SENDING) {
        for (int i = 0; i < 4 && c->left; i++) {
            size_t want = c->left < BLOCK ? c->left : BLOCK;
            ssize_t n = send(c->fd, pattern + (c->total - c->left) % PERIOD, want,
                             MSG_NOSIGNAL);
            if (n < 0) {
                if (errno != EAGAIN)
                    bury(c);
                return;
            }
            c->left -= n;
        }
        if (!c->left) {
            shutdown(c->fd, SHUT_WR);
            c->stage = DRAINING;
            watch(c, EPOLLIN);
        }
        return;
    }
    for (int i = 0; i < 4; i++) {
        ssize_t n = recv(c->fd, scratch, sizeof scratch, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                bury(c);
            return;
        }
        if (c->stage != TAKING)
            continue;
        if (c->verify && memcmp(scratch, pattern + (c->total - c->left) % PERIOD, n))
            c->wrong = true;
        c->left -= (uint64_t)n < c->left ? (uint64_t)n : c->left;
        if (!c->left) {
            uint64_t answer = c->wrong ? UINT64_MAX : c->total;
            send(c->fd, &answer, sizeof answer, MSG_NOSIGNAL);
            c->stage = DRAINING;
        }
    }
}

static void data_accepted(struct conn *c)
{
    c->ready = on_data;
    watch(c, EPOLLIN);
}

/* -- the echo server (its messages are a few bytes, so they never block) */

static void on_echo(struct conn *c)
{
    char buf[4096];
    ssize_t n = recv(c->fd, buf, sizeof buf, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || send(c->fd, buf, n, MSG_NOSIGNAL) != n)
        bury(c);
}

static void echo_accepted(struct conn *c)
{
    c->ready = on_echo;
    watch(c, EPOLLIN);
}

/* -- the DNS server: one A record for every name, by UDP and by TCP */

static size_t dns_answer(const unsigned char *query, size_t n, unsigned char *out)
{
    size_t end = 12;
    if (n < 17 || n > 512)
        return 0;
    while (end < n && query[end])
        end += query[end] + 1;
    end += 5;
    if (end > n)
        return 0;
    memcpy(out, query, end);
    out[2] = 0x81;
    out[3] = 0x80;
    memcpy(out + 4, "\0\1\0\0\0\0\0\0", 8);
    if (query[end - 3] != 1)             /* not type A: no such record */
        return end;
    out[7] = 1;
    memcpy(out + end, "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4", 12);
    memcpy(out + end + 12, &resolves_to, 4);
    return end + 16;
}

static void on_dns_udp(struct conn *c)
{
    unsigned char query[600], answer[600];
    struct sockaddr_in from;
    for (int i = 0; i < 64; i++) {
        socklen_t size = sizeof from;
        ssize_t n = recvfrom(c->fd, query, sizeof query, 0, (void *)&from, &size);
        if (n < 0)
            return;
        size_t m = dns_answer(query, n, answer);
        if (m)
            sendto(c->fd, answer, m, 0, (void *)&from, size);
    }
}

static void on_dns_tcp(struct conn *c)
{
    unsigned char answer[602];
    for (;;) {
        c->need = c->have < 2 ? 2 : 2 + (c->head[0] << 8 | c->head[1]);
        if (c->need > 600)
            bury(c);
        if (c->dead || !filled(c))
            return;
        if (c->need == 2)
            continue;
        size_t m = dns_answer(c->head + 2, c->have - 2, answer + 2);
        answer[0] = m >> 8;
        answer[1] = m;
        send(c->fd, answer, m + 2, MSG_NOSIGNAL);
        c->have = 0;
    }
}

static void dns_accepted(struct conn *c)
{
    c->ready = on_dns_tcp;
    watch(c, EPOLLIN);
}

void serve(const char *ip)
{
    struct sockaddr_in a = address(ip, DNS_PORT);
    start_loop();
    resolves_to = a.sin_addr;
    listen_tcp("0.0.0.0", DATA_PORT, data_accepted);
    listen_tcp("0.0.0.0", ECHO_PORT, echo_accepted);
    listen_tcp("0.0.0.0", DNS_PORT, dns_accepted);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(fd, (void *)&a, sizeof a))
        die("bind DNS");
    watch(track(fd, on_dns_udp), EPOLLIN);
    run_loop();
}
