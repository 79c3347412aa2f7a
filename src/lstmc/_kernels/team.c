/* The thread team: see team.h. Compiled once, with OpenMP where the build found it. */
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
        had_threads = 1;
#pragma omp parallel num_threads(threads)
        {
            team member = {&shared, omp_get_thread_num(), omp_get_num_threads()};
            run_member(body, work, &member);
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
