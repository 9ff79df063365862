/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Clocks that jump: a library that is loaded before libc into avne's processes, and the interpreter that
 * does so.  What is added to the machine's clocks is in a file that everybody maps before it locks itself
 * in.  Times until which something is waited for are the caller's, and go back to the machine's.
 *
 *   cc -shared -fPIC -DCLOCK='"FILE"' clock.c -o clock.so
 *   cc -DPYTHON='"/usr/bin/python3"' -DLIBRARY='"clock.so"' clock.c -o python
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef PYTHON

int main(int argc, char **argv)
{
    (void)argc;
    setenv("LD_PRELOAD", LIBRARY, 1);
    execv(PYTHON, argv); /* as the name it was called by: that is how Python finds its packages */
    return 127;
}

#else

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

#define SECOND 1000000000LL

struct offsets {
    volatile int64_t wall, monotonic; /* ns */
};

static const struct offsets none;
static const struct offsets *offsets = &none;
static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_clockwait)(sem_t *, clockid_t, const struct timespec *);
static int (*real_nanosleep)(clockid_t, int, const struct timespec *, struct timespec *);
static int (*real_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    *(void **)&real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    *(void **)&real_clockwait = dlsym(RTLD_NEXT, "sem_clockwait");
    *(void **)&real_nanosleep = dlsym(RTLD_NEXT, "clock_nanosleep");
    *(void **)&real_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (real_timedwait == NULL)
        *(void **)&real_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    int fd = open(CLOCK, O_RDONLY | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *offsets, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        _exit(126);
    close(fd);
    offsets = map;
    unsetenv("LD_PRELOAD"); /* which is for us, not for the program inside */
}

static int64_t offset(clockid_t clock)
{
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        return offsets->wall;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
        return offsets->monotonic;
    default:
        return 0; /* of processors */
    }
}

static void add(struct timespec *time, int64_t ns)
{
    int64_t sum = time->tv_sec * SECOND + time->tv_nsec + ns;
    time->tv_sec = sum / SECOND;
    time->tv_nsec = sum % SECOND;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = real_gettime(clock, time);
    if (result == 0)
        add(time, offset(clock));
    return result;
}

int gettimeofday(struct timeval *time, void *zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until)
{
    struct timespec machines = *until;
    add(&machines, -offset(clock));
    return real_clockwait(semaphore, clock, &machines);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *rest)
{
    struct timespec machines = *until;
    if (flags & TIMER_ABSTIME)
        add(&machines, -offset(clock));
    return real_nanosleep(clock, flags, &machines, rest);
}

/* Python's own, for its lock: by the monotonic clock. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
    struct timespec machines = *until;
    add(&machines, -offset(CLOCK_MONOTONIC));
    return real_timedwait(condition, mutex, &machines);
}

#endif
