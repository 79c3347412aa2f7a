/* A team of threads for the length of one call, and its barrier.
 *
 * Not a thread pool: the threads are OpenMP's where the build has it, and there is one thread elsewhere.
 * Work is shared out by outputs, never by terms of a sum, so that a result has the same bits for every
 * number of threads.
 */
#ifndef LSTMC_TEAM_H
#define LSTMC_TEAM_H

#include <stdatomic.h>
#include <stddef.h>
#if defined(_WIN32)
#include <windows.h>
#define YIELD_THREAD() SwitchToThread()
#else
#include <sched.h>
#define YIELD_THREAD() sched_yield()
#endif

typedef struct {
    atomic_int arrived;
    atomic_int phase;
} team_barrier_state;

typedef struct {
    team_barrier_state *shared;
    int rank, size;
} team;

/* Calls body(work, member) on up to `threads` threads at once, with denormals flushed to zero in each of
 * them, and returns when all have returned. In a child forked from a process that had threads: one. */
void lstmc_team_run(int threads, void (*body)(void *work, const team *member), void *work);
int lstmc_openmp_version(void); /* of the build, as yyyymm; 0 without OpenMP */

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* Everything written by any member before it is seen by every member after it. It spins for some
 * microseconds (a step of a small layer is shorter than a sleep), then lets others have the core. */
static inline void team_barrier(const team *member)
{
    if (member->size == 1)
        return;
    team_barrier_state *s = member->shared;
    int phase = atomic_load_explicit(&s->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&s->arrived, 1, memory_order_acq_rel) == member->size - 1) {
        atomic_store_explicit(&s->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&s->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&s->phase, memory_order_acquire) == phase; spins++) {
        if (spins < 1000)
            PAUSE();
        else
            YIELD_THREAD();
    }
}

/* Member's part [*from, *to) of n units of work: contiguous, sizes differing by one at most. */
static inline void team_share(const team *member, ptrdiff_t n, ptrdiff_t *from, ptrdiff_t *to)
{
    *from = 0;
    *to = n;
    if (member->size == 1) /* a step of a small layer would notice two divisions */
        return;
    *from = n * member->rank / member->size;
    *to = n * (member->rank + 1) / member->size;
}

#endif
