/* How a recurrent call is shared out among threads. It tells only who computes which outputs: the results
 * have the same bits for every choice.
 */
#ifndef LSTMC_SPLIT_H
#define LSTMC_SPLIT_H

#include "real.h"
#include "team.h"

typedef enum {
    BY_ROWS,  /* each thread takes its batch rows through all of time: no barrier, but each reads all weights
               */
    BY_UNITS, /* each takes its hidden units: a barrier at every step, and each reads its part of the weights
               */
} split_kind;

/* Sets *threads to what pays. The sizes are those of the largest layer. */
static split_kind choose_split(int *threads, ptrdiff_t steps, ptrdiff_t batch, ptrdiff_t inputs,
                               ptrdiff_t hidden, int gates)
{
    const double per_step = 2.0 * batch * gates * hidden * hidden; /* operations */
    const double in_all = steps * 2.0 * batch * gates * hidden * (double)(inputs + hidden);
    const double weight_bytes = (double)gates * hidden * hidden * sizeof(real);
    const int n = *threads;
    if (n > 1 && in_all > 2e6) { /* some 20 microseconds: waking a thread takes one to five */
        if (batch >= 8 * n && weight_bytes < 1e6)
            return BY_ROWS;
        if (per_step > 1e5 * n && hidden >= PANEL / gates * n) /* a barrier takes 0.1 to 0.3 microseconds */
            return BY_UNITS;
        if (batch >= 2 * n)
            return BY_ROWS;
    }
    *threads = 1;
    return BY_ROWS;
}

#endif
