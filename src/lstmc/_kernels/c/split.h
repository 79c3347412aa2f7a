/* Where the rows of a step are, and how a recurrent call is shared out among threads. The latter tells only
 * who computes which outputs: the results have the same bits for every choice.
 */
#ifndef LSTMC_SPLIT_H
#define LSTMC_SPLIT_H

#include "real.h"
#include "team.h"

/* A call's sequences, sorted by length: those alive at step t are its first rows. */
typedef struct {
    const ptrdiff_t *starts; /* (steps+1,) or NULL: all have one length */
    ptrdiff_t steps, batch;
} rows_of_steps;

/* Rows of all steps before t. */
INLINE ptrdiff_t rows_before(const rows_of_steps *of, ptrdiff_t t)
{
    return of->starts ? of->starts[t] : t * of->batch;
}
/* Rows of step t; none after the last. */
INLINE ptrdiff_t rows_at(const rows_of_steps *of, ptrdiff_t t)
{
    if (t >= of->steps)
        return 0;
    return of->starts ? of->starts[t + 1] - of->starts[t] : of->batch;
}

typedef enum {
    /* Each thread takes its batch rows through all of time: no barrier, but each reads all weights. Where
     * rows end, those of a step are shared out anew, and there is a barrier at every step. */
    BY_ROWS,
    BY_UNITS, /* each takes its hidden units: a barrier at every step, and each reads its part of the weights
               */
} split_kind;

/* What decides it: the sizes of the largest layer, and rows of a step on average. */
typedef struct {
    ptrdiff_t steps, batch, inputs, hidden;
    int gates;
} split_sizes;

static split_sizes sizes_to_split(const rows_of_steps *of, ptrdiff_t inputs, ptrdiff_t hidden, int gates)
{
    split_sizes sizes = {of->steps, of->batch, inputs, hidden, gates};
    if (of->starts && of->steps)
        sizes.batch = ceil_div(of->starts[of->steps], of->steps);
    return sizes;
}

/* Whether a call is long enough to wake a thread for, some 20 microseconds: that takes one to five. */
static int worth_sharing(const split_sizes *of)
{
    return of->steps * 2.0 * of->batch * of->gates * of->hidden * (double)(of->inputs + of->hidden) > 2e6;
}

/* Sets *threads to what pays. */
static split_kind choose_split(int *threads, const split_sizes *of)
{
    const double per_step = 2.0 * of->batch * of->gates * of->hidden * of->hidden; /* operations */
    const double weight_bytes = (double)of->gates * of->hidden * of->hidden * sizeof(real);
    const int n = *threads;
    if (n > 1 && worth_sharing(of)) {
        if (of->batch >= 8 * n && weight_bytes < 1e6)
            return BY_ROWS;
        if (per_step > 1e5 * n &&
            of->hidden >= PANEL / of->gates * n) /* a barrier takes 0.1 to 0.3 microseconds */
            return BY_UNITS;
        if (of->batch >= 2 * n)
            return BY_ROWS;
    }
    *threads = 1;
    return BY_ROWS;
}

#endif
