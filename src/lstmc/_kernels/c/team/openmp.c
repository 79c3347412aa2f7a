/* A team of OpenMP's threads: one parallel region for each call. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* affinities */
#endif
#include <omp.h>
#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "backend.h"

const char *lstmc_team_kind(void) { return "OpenMP"; }

/* libgomp's threads do not survive a fork, and it does not notice: a region in the child would wait for them
 * for ever, whoever started them. So a child has one thread. */
static int forked;

#if !defined(_WIN32)
static void in_child(void) { forked = 1; }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }
#endif

int lstmc_team_together(int threads, team_body body, void *work, struct team_shared *shared)
{
    if (forked)
        return 0;
#pragma omp parallel num_threads(threads)
    {
        const team member = {shared, omp_get_thread_num(), omp_get_num_threads(), 0};
        lstmc_team_join(body, work, &member);
        lstmc_team_barrier(&member); /* OpenMP's would keep the core that another waits for */
    }
    return 1;
}
