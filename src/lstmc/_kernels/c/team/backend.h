/* What the team's back ends share, and what each of them defines: threads.c and openmp.c. */
#ifndef LSTMC_TEAM_BACKEND_H
#define LSTMC_TEAM_BACKEND_H

#include <stdatomic.h>
#include <stdint.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include "../team.h"

typedef void (*team_body)(void *work, const team *member);

/* A number whose change threads wait for. */
typedef struct {
    atomic_int value;
    atomic_int sleepers;
} team_word;

enum { TEAM_LINE = 64 }; /* bytes that move between cores together */

/* Where members wait for one another. */
typedef struct {
    atomic_int arrived;
    char apart[TEAM_LINE];
    team_word phase; /* counts barriers */
    char apart_too[TEAM_LINE];
} team_meeting;

/* What the members of one team have in common; zeros to begin with. It lies on the caller's stack. */
struct team_shared {
    team_meeting meetings[3]; /* of all, and of each half */
#if defined(__linux__)
    _Atomic uint64_t taken[CPU_SETSIZE / 64]; /* bits: cores that a member began on */
    cpu_set_t allowed;                        /* those that the caller may use; none: not known */
#endif
};

/* Returns when *word is no longer `value`, and what was written before it changed is visible. The thread
 * spins for some microseconds, lets others have the core for up to `awake` more, and then sleeps. */
void lstmc_team_await(team_word *word, int value, int awake);
void lstmc_team_change(team_word *word, int value);
void lstmc_team_yield(void);

/* The body of one member, on the calling thread: on a core of its own if there is one, denormals flushed. */
void lstmc_team_join(team_body body, void *work, const team *member);

/* Of the back end. Runs a team of two or more and returns 1; or returns 0, having run nothing, because this
 * process has no second thread. */
int lstmc_team_together(int threads, team_body body, void *work, struct team_shared *shared);

#endif
