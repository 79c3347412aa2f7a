/* A team of threads for the length of one call, and its barrier.
 *
 * Where the threads come from is for a back end in team/, which is chosen when building: plain threads or
 * OpenMP's. Work is shared out by outputs, never by terms of a sum, so that a result has the same bits for
 * every number of threads.
 */
#ifndef LSTMC_TEAM_H
#define LSTMC_TEAM_H

#include <stddef.h>

typedef struct {
    struct team_shared *shared;
    int rank, size;
    int half; /* 0: a whole team; 1, 2: the first or the second half of one */
} team;

/* Calls body(work, member) on up to `threads` threads at once, with denormals flushed to zero in each of
 * them, and returns when all have returned. There are fewer where the caller may use fewer cores: members
 * that take turns on a core wait for one another at every barrier. There are fewer, too, where the system
 * refuses a thread. Several threads may call it at once: each has a team of its own. */
void lstmc_team_run(int threads, void (*body)(void *work, const team *member), void *work);
/* The largest team that the caller may have now. */
int lstmc_team_cores(void);
/* For tests, whether teams may be larger than the number of cores. Returns what was true before. */
int lstmc_team_crowd(int allowed);
const char *lstmc_team_kind(void); /* of the back end: "plain threads" or "OpenMP" */

void lstmc_team_barrier(const team *member);

/* Cuts a team of two or more in two, each with barriers of its own: returns the member's half as a team. */
static inline team team_half(const team *member)
{
    const int first = member->size / 2, second = member->rank >= first;
    return (team){member->shared, member->rank - second * first, second ? member->size - first : first,
                  1 + second};
}

/* The case whose code the compiler is to lay together: a step of a small layer has no others. */
static inline int is_alone(const team *member) { return __builtin_expect(member->size == 1, 1); }

/* Everything written by any member before it is seen by every member after it. */
static inline void team_barrier(const team *member)
{
    if (!is_alone(member))
        lstmc_team_barrier(member);
}

/* Member's part [*from, *to) of n units of work: contiguous, sizes differing by one at most. */
static inline void team_share(const team *member, ptrdiff_t n, ptrdiff_t *from, ptrdiff_t *to)
{
    *from = 0;
    *to = n;
    if (is_alone(member)) /* a step of a small layer would notice two divisions */
        return;
    *from = n * member->rank / member->size;
    *to = n * (member->rank + 1) / member->size;
}

#endif
