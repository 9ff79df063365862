/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The load generator's bulk streams: a thread and a blocking socket for each.
 */
#include "pb.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

struct lane {                            /* one stream */
    int fd;
    uint64_t moved, ended, gap;          /* gap: the longest wait for the next bytes, in ns */
};

static void *stream(void *arg)
{
    struct job *job = arg;
    struct lane *lane = &job->lanes[job->next++];
    unsigned char head[9] = {job->up ? job->verify ? 'V' : 'U' : 'D'};
    unsigned char *buf = malloc(BLOCK);
    uint64_t done = 0, last = now_ns();
    memcpy(head + 1, &job->bytes, 8);
    bool good = buf && give(lane->fd, head, sizeof head);
    while (good && done < job->bytes && last < job->deadline) {
        size_t want = job->bytes - done < BLOCK ? job->bytes - done : BLOCK;
        ssize_t n = job->up ? send(lane->fd, pattern + done % PERIOD, want, MSG_NOSIGNAL)
                            : recv(lane->fd, buf, want, 0);
        uint64_t now = now_ns();
        if (now - last > lane->gap)
            lane->gap = now - last;
        last = now;
        if (n == 0)
            errno = ECONNRESET;
        good = n > 0;
        if (good && job->verify && !job->up && memcmp(buf, pattern + done % PERIOD, n)) {
            errno = EBADMSG;
            good = false;
        }
        if (good)
            done += n;
    }
    if (good && job->up && done == job->bytes) {
        uint64_t answer = 0;
        good = take(lane->fd, &answer, sizeof answer);
        if (good && answer != job->bytes) {
            errno = EBADMSG;
            good = false;
        }
    }
    lane->ended = now_ns();
    int queued = 0;                      /* ours still: what a capped upload leaves */
    if (job->up && done < job->bytes && ioctl(lane->fd, SIOCOUTQ, &queued) == 0)
        done -= queued;
    lane->moved = done;
    if (!good) {
        blame("stream");
        job->bad++;
    }
    free(buf);
    return NULL;
}

static double since(uint64_t start, uint64_t end)
{
    return end > start ? (end - start) / 1e9 : 0.0;
}

/* RCVBUF, if any, is SO_RCVBUF of the first stream; its figures are told apart. */
void bulk(struct job *job, int cap_ms, int rcvbuf)
{
    struct lane lanes[MOST_THREADS] = {0}, all = {0};
    uint64_t rest_gap = 0;
    job->lanes = lanes;
    for (int i = 0; i < job->streams; i++)
        if ((lanes[i].fd = dial(&job->to, i ? 0 : rcvbuf)) < 0) {
            blame("connect");
            job->bad++;
        }
    int has = 0;
    socklen_t size = sizeof has;
    getsockopt(lanes[0].fd, SOL_SOCKET, SO_RCVBUF, &has, &size);
    uint64_t start = now_ns();
    job->deadline = start + cap_ms * 1000000ull;
    if (!job->bad)
        in_threads(job->streams, stream, job);
    for (int i = 0; i < job->streams; i++) {
        if (lanes[i].fd >= 0)
            close(lanes[i].fd);
        all.moved += lanes[i].moved;
        if (lanes[i].ended > all.ended)
            all.ended = lanes[i].ended;
        if (i && lanes[i].gap > rest_gap)
            rest_gap = lanes[i].gap;
    }
    printf("{\"bytes\": %llu, \"seconds\": %.6f, \"bad\": %llu, \"capped\": %s, "
           "\"first_bytes\": %llu, \"first_seconds\": %.6f, \"first_gap_ms\": %.3f, "
           "\"first_rcvbuf\": %d, \"rest_gap_ms\": %.3f, \"trouble\": \"%s\"}\n",
           (unsigned long long)all.moved, since(start, all.ended), (unsigned long long)job->bad,
           all.moved < job->bytes * job->streams ? "true" : "false",
           (unsigned long long)lanes[0].moved, since(start, lanes[0].ended), lanes[0].gap / 1e6,
           has, rest_gap / 1e6, trouble);
}
