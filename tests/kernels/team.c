/* Runs teams whose members wait for one another in turn, some of them until they sleep. For test_team.py. */
#define _DEFAULT_SOURCE /* usleep */
#include "team.h"

#include <unistd.h>

enum { MOST = 64 };

typedef struct {
    int barriers, pause, slots[MOST], size, wrong[MOST];
} rounds;

/* Between two barriers every member has written its slot, and none writes the next. */
static void take_part(void *work, const team *member)
{
    rounds *r = work;
    if (member->rank == 0)
        r->size = member->size;
    for (int i = 1; i <= r->barriers; i++) {
        if (i % member->size == member->rank && r->pause)
            usleep(r->pause);
        r->slots[member->rank] = i;
        team_barrier(member);
        for (int other = 0; other < member->size; other++)
            r->wrong[member->rank] += r->slots[other] != i;
        team_barrier(member);
    }
}

/* Returns the size of the team, or -1 if a member was seen ahead or behind. `pause` is in microseconds. */
int run_team(int threads, int barriers, int pause)
{
    rounds r = {.barriers = barriers, .pause = pause};
    lstmc_team_run(threads, take_part, &r);
    for (int i = 0; i < MOST; i++)
        if (r.wrong[i] || r.slots[i] != (i < r.size ? barriers : 0))
            return -1;
    return r.size;
}
