/* The thread team: see team.h. Compiled once, with OpenMP where the build found it. */
#if defined(__linux__)
#define _GNU_SOURCE /* sched_getcpu */
#endif
#include "team.h"

#include <stdint.h>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

/* libgomp's threads do not survive a fork, and it does not notice: a region in the child would wait for
 * them for ever. */
static int forked_with_threads, had_threads;

#if !defined(_WIN32)
static void in_child(void) { forked_with_threads = had_threads; }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }
#endif

/* A decaying state ends in denormals, which cost some hundred cycles an operation: they are flushed, in
 * results and in operands, for the length of a kernel and on its threads alone. */
#if defined(__x86_64__)
typedef unsigned control;
enum { FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x0040 };
static control flush_denormals(void)
{
    control before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
    return before;
}
static void restore(control before) { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
typedef uint64_t control;
static control flush_denormals(void)
{
    control before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (1u << 24)));
    return before;
}
static void restore(control before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
typedef int control;
static control flush_denormals(void) { return 0; }
static void restore(control before) { (void)before; }
#endif

/* A thread that was asleep may wake on the core of the one that woke it, and they would take turns there for
 * some milliseconds while another core is idle. So each member takes a core that no other has taken, and
 * one that finds its own taken goes to a free one. It may leave it again: its affinity stays as it was. */
#if defined(__linux__) && defined(_OPENMP)
enum { CORES = CPU_SETSIZE, WORD = 64 };
typedef struct {
    _Atomic uint64_t taken[CORES / WORD];
} cores;

/* Whether a core was free, which it is not any more. */
static int take(cores *c, int core)
{
    const uint64_t bit = UINT64_C(1) << core % WORD;
    return core < 0 || core >= CORES || !(atomic_fetch_or(&c->taken[core / WORD], bit) & bit);
}

static void keep_apart(cores *c)
{
    cpu_set_t allowed, free_ones;
    if (take(c, sched_getcpu()) || sched_getaffinity(0, sizeof(allowed), &allowed))
        return;
    free_ones = allowed;
    for (int core = 0; core < CORES; core++)
        if (atomic_load(&c->taken[core / WORD]) >> core % WORD & 1)
            CPU_CLR(core, &free_ones);
    if (CPU_COUNT(&free_ones) && !sched_setaffinity(0, sizeof(free_ones), &free_ones)) {
        take(c, sched_getcpu());
        sched_setaffinity(0, sizeof(allowed), &allowed);
    }
}
#else
typedef char cores;
static void keep_apart(cores *c) { (void)c; }
#endif

/* One member's part, with denormals flushed while it lasts. */
static void run_member(void (*body)(void *, const team *), void *work, const team *member)
{
    control before = flush_denormals();
    body(work, member);
    restore(before);
}

void lstmc_team_run(int threads, void (*body)(void *work, const team *member), void *work)
{
#if defined(_OPENMP)
    if (threads > 1 && !forked_with_threads) {
        team_barrier_state shared = {0};
        cores used = {0};
        had_threads = 1;
#pragma omp parallel num_threads(threads)
        {
            team member = {&shared, omp_get_thread_num(), omp_get_num_threads()};
            keep_apart(&used);
            team_barrier(
                &member); /* here and at the end: OpenMP's would keep the core that another waits for */
            run_member(body, work, &member);
            team_barrier(&member);
        }
        return;
    }
#endif
    (void)threads;
    team alone = {NULL, 0, 1};
    run_member(body, work, &alone);
}

int lstmc_openmp_version(void)
{
#if defined(_OPENMP)
    return _OPENMP;
#else
    return 0;
#endif
}
