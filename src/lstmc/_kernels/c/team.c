/* What a team is, whatever its threads: see team.h. Compiled once. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* affinities */
#endif
#include "team.h"

#include <limits.h>

#include "team/backend.h"
#include "team/system.h"

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

/* One member's part, with denormals flushed while it lasts. */
static void run_member(team_body body, void *work, const team *member)
{
    control before = flush_denormals();
    body(work, member);
    restore(before);
}

/* ---- cores --------------------------------------------------------------------------------------- */

/* A thread that was asleep may wake on the core of the one that woke it, and they would take turns there for
 * some milliseconds while another core is idle. So each member takes a core that no other has taken, and
 * one that finds its own taken goes to a free one. It may leave it again, for any that the caller may use. */
#if defined(__linux__)

/* How many cores the caller may use, and with it its team. */
static int cores_at_hand(struct team_shared *shared)
{
    if (sched_getaffinity(0, sizeof(shared->allowed), &shared->allowed)) {
        CPU_ZERO(&shared->allowed);
        return INT_MAX; /* more than a set can tell */
    }
    return CPU_COUNT(&shared->allowed);
}

/* Whether a core was free, which it is not any more. */
static int take(struct team_shared *shared, int core)
{
    if (core < 0 || core >= CPU_SETSIZE)
        return 1; /* not known: it stays */
    const uint64_t bit = UINT64_C(1) << core % 64;
    return !(atomic_fetch_or(&shared->taken[core / 64], bit) & bit);
}

static void keep_apart(struct team_shared *shared)
{
    cpu_set_t free_ones = shared->allowed;
    if (take(shared, sched_getcpu()))
        return;
    for (int core = 0; core < CPU_SETSIZE; core++)
        if (atomic_load(&shared->taken[core / 64]) >> core % 64 & 1)
            CPU_CLR(core, &free_ones);
    if (CPU_COUNT(&free_ones) && !sched_setaffinity(0, sizeof(free_ones), &free_ones)) {
        take(shared, sched_getcpu());
        sched_setaffinity(0, sizeof(shared->allowed), &shared->allowed);
    }
}

#else

static int cores_at_hand(struct team_shared *shared)
{
    (void)shared;
    return cores_online();
}
static void keep_apart(struct team_shared *shared) { (void)shared; }

#endif

/* ---- running ------------------------------------------------------------------------------------- */

static int crowding;

int lstmc_team_crowd(int allowed)
{
    const int before = crowding;
    crowding = allowed;
    return before;
}

int lstmc_team_cores(void)
{
    struct team_shared shared;
    return crowding ? INT_MAX : cores_at_hand(&shared);
}

static int run_together(int threads, team_body body, void *work)
{
    struct team_shared shared = {0};
    const int cores = cores_at_hand(&shared);
    if (threads > cores && !crowding)
        threads = cores;
    return threads > 1 && lstmc_team_together(threads, body, work, &shared);
}

void lstmc_team_run(int threads, team_body body, void *work)
{
    const team alone = {NULL, 0, 1, 0};
    if (threads < 2 || !run_together(threads, body, work))
        run_member(body, work, &alone);
}

void lstmc_team_join(team_body body, void *work, const team *member)
{
    keep_apart(member->shared);
    lstmc_team_barrier(member); /* a member that woke on the caller's core gets to run, and leaves it */
    run_member(body, work, member);
}

/* ---- waiting ------------------------------------------------------------------------------------- */

/* A step of a small layer is shorter than a sleep: pauses, of 40 cycles or more, and then microseconds. */
enum { SPINS = 1000, AT_A_BARRIER = 100 };

void lstmc_team_yield(void) { YIELD(); }

static int changed(team_word *word, int value)
{
    return atomic_load_explicit(&word->value, memory_order_acquire) != value;
}

void lstmc_team_await(team_word *word, int value, int awake)
{
    for (int i = 0; i < SPINS; i++) {
        if (changed(word, value))
            return;
        PAUSE();
    }
    for (const double end = microseconds() + awake; microseconds() < end;) {
        if (changed(word, value))
            return;
        YIELD();
    }
    atomic_fetch_add(&word->sleepers, 1);
    while (atomic_load(&word->value) == value)
        sleep_while(&word->value, value);
    atomic_fetch_sub(&word->sleepers, 1);
}

/* The value first: a thread that counts itself among the sleepers after these are read sees it changed. */
void lstmc_team_change(team_word *word, int value)
{
    atomic_exchange(&word->value, value);
    if (atomic_load(&word->sleepers))
        wake(&word->value);
}

void lstmc_team_barrier(const team *member)
{
    team_meeting *at = &member->shared->meetings[member->half];
    const int phase = atomic_load_explicit(&at->phase.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&at->arrived, 1, memory_order_acq_rel) == member->size - 1) {
        atomic_store_explicit(&at->arrived, 0, memory_order_relaxed);
        lstmc_team_change(&at->phase, phase + 1);
        return;
    }
    lstmc_team_await(&at->phase, phase, AT_A_BARRIER);
}
