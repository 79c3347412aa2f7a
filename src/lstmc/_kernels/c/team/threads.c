/* A team of plain threads: of the calling one, and of others that wait between calls.
 *
 * They are started when a call first needs them and never end. A call takes as many as it may have from those
 * that are idle, so that calls made at the same time have different ones, starts what is missing, and goes on
 * with fewer if the system refuses. A forked child has none of its parent's threads and starts its own.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* affinities */
#endif
#include <stdlib.h>
#if defined(_WIN32)
#include <windows.h>
#else
#include <pthread.h>
#include <signal.h>
#endif

#include "backend.h"

const char *lstmc_team_kind(void) { return "plain threads"; }

typedef struct {
    team_body body;
    void *work;
    struct team_shared *shared;
    int size;
} job;

typedef struct worker {
    struct worker *next; /* among the idle ones, or in one team */
    const job *job;
    int rank;
    team_word turn;
#if defined(__linux__)
    cpu_set_t allowed; /* where it may run; none: where the thread that started it might */
#endif
    char apart[TEAM_LINE];
} worker;

enum { IDLE, BUSY }; /* a worker's turn */

/* Microseconds. In training calls follow one another closely, and to wake takes 20 to 40. */
enum { BETWEEN_CALLS = 1000, FOR_THE_LAST = 100 };

static atomic_flag busy = ATOMIC_FLAG_INIT; /* of what follows */
static worker *idle;

/* A worker may run where its caller may, which need not be the one that it worked for before. */
static void follow(worker *self, const struct team_shared *team)
{
#if defined(__linux__)
    if (CPU_COUNT(&team->allowed) && !CPU_EQUAL(&self->allowed, &team->allowed) &&
        !sched_setaffinity(0, sizeof(team->allowed), &team->allowed))
        self->allowed = team->allowed;
#else
    (void)self, (void)team;
#endif
}

static void serve(worker *self)
{
    for (;;) {
        lstmc_team_await(&self->turn, IDLE, BETWEEN_CALLS);
        const job *job = self->job;
        const team member = {job->shared, self->rank, job->size, 0};
        follow(self, job->shared);
        lstmc_team_join(job->body, job->work, &member);
        lstmc_team_change(&self->turn, IDLE);
    }
}

/* ---- of the system ------------------------------------------------------------------------------- */

#if defined(_WIN32)

static DWORD WINAPI enter(void *self)
{
    serve(self);
    return 0;
}

static int start_thread(worker *self)
{
    HANDLE thread = CreateThread(NULL, 0, enter, self, 0, NULL);
    if (!thread)
        return 0;
    CloseHandle(thread);
    return 1;
}

#else

static void *enter(void *self)
{
    serve(self);
    return NULL;
}

/* Signals are for the threads of the program, but for those that tell of a fault of this one. */
static int start_thread(worker *self)
{
    const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    pthread_t thread;
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++)
        sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    const int error = pthread_create(&thread, NULL, enter, self);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return 0;
    pthread_detach(thread);
    return 1;
}

static void in_child(void)
{
    idle = NULL;
    atomic_flag_clear(&busy);
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

#endif

/* ---- a team -------------------------------------------------------------------------------------- */

static void lock(void)
{
    while (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire))
        lstmc_team_yield();
}
static void unlock(void) { atomic_flag_clear_explicit(&busy, memory_order_release); }

/* A new worker without a job, or NULL. */
static worker *hire(void)
{
    worker *one = calloc(1, sizeof(*one));
    if (one && !start_thread(one)) {
        free(one);
        return NULL;
    }
    return one;
}

/* Up to n workers, linked; *count says how many. Idle ones first, the latest to have worked before others. */
static worker *gather(int n, int *count)
{
    worker *crew = NULL, *one;
    lock();
    for (*count = 0; *count < n && (one = idle); ++*count) {
        idle = one->next;
        one->next = crew;
        crew = one;
    }
    unlock();
    for (; *count < n && (one = hire()); ++*count) {
        one->next = crew;
        crew = one;
    }
    return crew;
}

static void dismiss(worker *crew)
{
    lock();
    for (worker *one = crew, *next; one; one = next) {
        next = one->next;
        one->next = idle;
        idle = one;
    }
    unlock();
}

int lstmc_team_together(int threads, team_body body, void *work, struct team_shared *shared)
{
    int others, rank = 0;
    worker *crew = gather(threads - 1, &others);
    if (!others)
        return 0;
    const job job = {body, work, shared, others + 1};
    for (worker *one = crew; one; one = one->next) {
        one->job = &job;
        one->rank = ++rank;
        lstmc_team_change(&one->turn, BUSY);
    }
    const team member = {shared, 0, job.size, 0};
    lstmc_team_join(body, work, &member);
    for (worker *one = crew; one; one = one->next)
        lstmc_team_await(&one->turn, BUSY, FOR_THE_LAST);
    dismiss(crew);
    return 1;
}
