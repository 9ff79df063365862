/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The load generator: threads and blocking sockets, as most programs.
 */
#include "pb.h"

#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/time.h>

enum { PATIENCE_S = 10, STACK = 256 * 1024 };

static struct sockaddr_in via;           /* our own SOCKS server, if any */
char trouble[160];

void blame(const char *what)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int err = errno;
    pthread_mutex_lock(&lock);
    if (!trouble[0])
        snprintf(trouble, sizeof trouble, "%s: %s", what, strerror(err));
    pthread_mutex_unlock(&lock);
}

bool take(int fd, void *buf, size_t n)
{
    for (size_t have = 0; have < n;) {
        ssize_t m = recv(fd, (char *)buf + have, n - have, 0);
        if (m <= 0) {
            if (m == 0)
                errno = ECONNRESET;
            return false;
        }
        have += m;
    }
    return true;
}

bool give(int fd, const void *buf, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t m = send(fd, (const char *)buf + done, n - done, MSG_NOSIGNAL);
        if (m < 0)
            return false;
        done += m;
    }
    return true;
}

int dial(const struct sockaddr_in *to, int rcvbuf)
{
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    if (rcvbuf)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
    const struct sockaddr_in *first = via.sin_port ? &via : to;
    bool good = connect(fd, (const void *)first, sizeof *first) == 0;
    if (good && via.sin_port) {
        unsigned char msg[10] = {5, 1, 0, 1};
        good = give(fd, "\5\1\0", 3) && take(fd, msg, 2);
        memcpy(msg, "\5\1\0\1", 4);
        memcpy(msg + 4, &to->sin_addr, 4);
        memcpy(msg + 8, &to->sin_port, 2);
        good = good && give(fd, msg, 10) && take(fd, msg, 10) && msg[1] == 0;
    }
    if (!good) {
        int err = errno;
        close(fd);
        errno = err;
        return -1;
    }
    return fd;
}

void in_threads(int n, void *(*body)(void *), struct job *job)
{
    pthread_t threads[MOST_THREADS];
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], &attr, body, job))
            die("pthread_create");
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void report_times(struct job *job, double seconds)
{
    uint64_t n = job->good;
    qsort(job->times, n, sizeof *job->times, by_value);
    printf("{\"good\": %llu, \"bad\": %llu, \"seconds\": %.6f, \"min_us\": %.1f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"trouble\": \"%s\"}\n",
           (unsigned long long)n, (unsigned long long)job->bad, seconds,
           n ? job->times[0] / 1e3 : 0.0, n ? job->times[n / 2] / 1e3 : 0.0,
           n ? job->times[n * 99 / 100] / 1e3 : 0.0, n ? job->times[n - 1] / 1e3 : 0.0,
           trouble);
}

static void *connector(void *arg)
{
    struct job *job = arg;
    while (job->next++ < job->limit && now_ns() < job->deadline) {
        uint64_t start = now_ns();
        char byte = 'x';
        int fd = dial(&job->to, 0);
        if (fd < 0) {
            blame("connect");
            job->bad++;
            continue;
        }
        if (give(fd, &byte, 1) && take(fd, &byte, 1)) {
            job->times[job->good++] = now_ns() - start;
        } else {
            blame("echo");
            job->bad++;
        }
        close(fd);
    }
    return NULL;
}

static void ping(struct job *job)
{
    uint64_t begin = now_ns();
    int fd = dial(&job->to, 0);
    if (fd < 0)
        blame("connect");
    for (uint64_t i = 0; fd >= 0 && i < job->limit + 50 && now_ns() < job->deadline; i++) {
        uint64_t start = now_ns();
        char byte = 'x';
        if (!give(fd, &byte, 1) || !take(fd, &byte, 1)) {
            blame("echo");
            job->bad++;
            break;
        }
        if (i >= 50)
            job->times[job->good++] = now_ns() - start;
    }
    if (fd >= 0)
        close(fd);
    report_times(job, (now_ns() - begin) / 1e9);
}

static int *idle_fds, idle_count;

static void *opener(void *arg)
{
    struct job *job = arg;
    uint64_t i;
    while ((i = job->next++) < job->limit && now_ns() < job->deadline) {
        char byte = 'x';
        int fd = dial(&job->to, 0);
        if (fd >= 0 && give(fd, &byte, 1) && take(fd, &byte, 1)) {
            idle_fds[idle_count + i] = fd;
            job->good++;
        } else {
            blame(fd < 0 ? "connect" : "echo");
            if (fd >= 0)
                close(fd);
            /* a tool that takes no more connections would cost a timeout each */
            if (++job->bad > 20)
                job->limit = 0;
        }
    }
    return NULL;
}

static void hold_idle(struct job *job)
{
    uint64_t start = now_ns(), asked = job->limit;
    idle_fds = realloc(idle_fds, (idle_count + asked) * sizeof *idle_fds);
    for (uint64_t i = 0; i < asked; i++)
        idle_fds[idle_count + i] = -1;
    in_threads(job->streams, opener, job);
    uint64_t end = now_ns();
    idle_count += asked;
    int alive = 0, tried = 0;            /* are they still served? */
    for (int i = 0; i < idle_count && tried < 100; i += 1 + idle_count / 100) {
        char byte = 'y';
        if (idle_fds[i] < 0)
            continue;
        tried++;
        alive += give(idle_fds[i], &byte, 1) && take(idle_fds[i], &byte, 1);
    }
    int open = 0;
    for (int i = 0; i < idle_count; i++)
        open += idle_fds[i] >= 0;
    printf("{\"open\": %d, \"bad\": %llu, \"seconds\": %.3f, \"tried\": %d, "
           "\"alive\": %d, \"trouble\": \"%s\"}\n",
           open, (unsigned long long)job->bad, (end - start) / 1e9, tried, alive, trouble);
}

/* Commands: via IP PORT | down|up|vdown|vup IP PORT BYTES STREAMS CAP_MS [RCVBUF] (v:
 * check every byte; RCVBUF: of the first stream's socket) | connect|idle IP PORT COUNT THREADS CAP_MS | ping IP PORT COUNT 1
 * CAP_MS | dns IP|resolv.conf|libc 53 COUNT THREADS CAP_MS */
void agent(void)
{
    char line[256], verb[16], ip[64];
    prctl(PR_SET_NAME, "pb-agent");
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("{\"ready\": true}");
    while (fgets(line, sizeof line, stdin)) {
        int port = 0, streams = 1, cap_ms = 0, rcvbuf = 0;
        unsigned long long amount = 0;
        sscanf(line, "%15s %63s %d %llu %d %d %d", verb, ip, &port, &amount, &streams, &cap_ms,
               &rcvbuf);
        trouble[0] = 0;
        struct job job = {.streams = streams, .limit = amount};
        uint64_t start = now_ns();
        job.deadline = start + cap_ms * 1000000ull;
        if (streams > MOST_THREADS)
            die("too many streams");
        if (!strcmp(verb, "dns")) {
            if (!strcmp(ip, "resolv.conf"))
                job.to = own_resolver();
            else if (strcmp(ip, "libc"))
                job.to = address(ip, port);
        } else {
            job.to = address(ip, port);
        }
        if (!strcmp(verb, "via")) {
            via = job.to;
            puts("{}");
            continue;
        }
        if (strstr(verb, "down") || strstr(verb, "up")) {
            job.bytes = amount / streams;
            job.up = strstr(verb, "up");
            job.verify = verb[0] == 'v';
            bulk(&job, cap_ms, rcvbuf);
            continue;
        }
        if (!strcmp(verb, "idle")) {
            hold_idle(&job);
            continue;
        }
        job.times = malloc((amount + 1) * sizeof *job.times);
        if (!strcmp(verb, "ping")) {
            ping(&job);
        } else if (!strcmp(verb, "connect") || !strcmp(verb, "dns")) {
            in_threads(streams, verb[0] == 'c' ? connector : resolver, &job);
            report_times(&job, (now_ns() - start) / 1e9);
        } else {
            die(verb);
        }
        free(job.times);
    }
}
