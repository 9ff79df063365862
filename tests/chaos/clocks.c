// SPDX-License-Identifier: GPL-3.0-or-later
/* Clocks that a test sets, for one program: LD_PRELOAD (ld.so(8)).
 *
 * OFFSETS names a file with two int64_t: nanoseconds to add to CLOCK_REALTIME and to CLOCK_MONOTONIC (and
 * CLOCK_BOOTTIME).  It is mapped before main(), so that a process that later has no files sees a jump as well.
 * Waits until a time of a clock (pthread_cond_timedwait(3), sem_clockwait(3)) are the kernel's, whose clock has
 * not jumped: the offset is taken off again.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { REAL, MONOTONIC, NONE };

static const int64_t second = 1000000000;
static const int64_t zero[2];
static const volatile int64_t *offsets = zero;
static int (*next_clock)(clockid_t, struct timespec *);
static int (*next_cond)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*next_sem)(sem_t *, clockid_t, const struct timespec *);

__attribute__((constructor)) static void load(void)
{
    int fd = open(OFFSETS, O_RDONLY | O_CLOEXEC);
    void *found = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof zero, PROT_READ, MAP_SHARED, fd, 0);

    if (found != MAP_FAILED)
        offsets = found;
    if (fd >= 0)
        (void)close(fd);
    *(void **)&next_clock = dlsym(RTLD_NEXT, "clock_gettime");
    *(void **)&next_cond = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    *(void **)&next_sem = dlsym(RTLD_NEXT, "sem_clockwait");
    (void)unsetenv("LD_PRELOAD");  // for this program alone, not for what it starts
}

static void add(struct timespec *time, int64_t more)
{
    int64_t all = (int64_t)time->tv_sec * second + time->tv_nsec + more;

    if (all < 0)
        all = 0;
    time->tv_sec = all / second;
    time->tv_nsec = all % second;
}

static int which(clockid_t clock)
{
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        return REAL;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
        return MONOTONIC;
    default:
        return NONE;
    }
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int done = next_clock ? next_clock(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);

    if (done == 0 && which(clock) != NONE)
        add(time, offsets[which(clock)]);
    return done;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    struct timespec now;

    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) < 0)
        return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds)
{
    struct timespec now;

    if (clock_gettime(CLOCK_REALTIME, &now) < 0)
        return -1;
    if (seconds)
        *seconds = now.tv_sec;
    return now.tv_sec;
}

/* CPython's conditions are CLOCK_MONOTONIC's. */
int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until)
{
    struct timespec kernels = *until;

    add(&kernels, -offsets[MONOTONIC]);
    return next_cond(cond, mutex, &kernels);
}

int sem_clockwait(sem_t *restrict sem, clockid_t clock, const struct timespec *restrict until)
{
    struct timespec kernels = *until;

    if (which(clock) != NONE)
        add(&kernels, -offsets[which(clock)]);
    return next_sem(sem, clock, &kernels);
}
