/* What the team asks of the system: cores, time, yielding, sleeping, waking. Included by team.c alone. */
#ifndef LSTMC_TEAM_SYSTEM_H
#define LSTMC_TEAM_SYSTEM_H

#include <stdatomic.h>
#include <time.h>
#if defined(_WIN32)
#include <windows.h>
#else
#include <sched.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

#if defined(_WIN32)

#define YIELD() SwitchToThread()

static int cores_online(void) { return (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS); }

static double microseconds(void)
{
    LARGE_INTEGER now, a_second;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&a_second);
    return 1e6 * now.QuadPart / a_second.QuadPart;
}

#else

#define YIELD() sched_yield()

#if !defined(__linux__)
static int cores_online(void) { return (int)sysconf(_SC_NPROCESSORS_ONLN); }
#endif

static double microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e6 * now.tv_sec + 1e-3 * now.tv_nsec;
}

#endif

/* sleep_while may return early; wake wakes all that sleep for this word, even if none of them does so yet
 * but has found it unchanged. */
#if defined(_WIN32)

static void sleep_while(atomic_int *word, int value)
{
    WaitOnAddress((volatile VOID *)word, &value, sizeof(value), INFINITE);
}
static void wake(atomic_int *word) { WakeByAddressAll((PVOID)word); }

#elif defined(__linux__) && !defined(LSTMC_NO_FUTEX)

#include <linux/futex.h>
#include <sys/syscall.h>

static void sleep_while(atomic_int *word, int value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void wake(atomic_int *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

#else

#include <pthread.h>

/* One for all words. A forked child begins with new ones: another thread may have held them. */
static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t awake = PTHREAD_COND_INITIALIZER;

static void forget_sleepers(void)
{
    sleeping = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    awake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}
__attribute__((constructor)) static void watch_sleepers(void) { pthread_atfork(NULL, NULL, forget_sleepers); }

static void sleep_while(atomic_int *word, int value)
{
    pthread_mutex_lock(&sleeping);
    if (atomic_load(word) == value)
        pthread_cond_wait(&awake, &sleeping);
    pthread_mutex_unlock(&sleeping);
}
static void wake(atomic_int *word)
{
    (void)word;
    pthread_mutex_lock(&sleeping);
    pthread_cond_broadcast(&awake);
    pthread_mutex_unlock(&sleeping);
}

#endif

#endif
