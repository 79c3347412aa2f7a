/* What a cell is to the driver, and what a cell's equations see.
 *
 * A cell's file (cell_lstm.h) defines its counts and two functions over VL units of one row, and includes
 * pointwise.h, which makes of them the two loops over rows and units and the record below. The driver
 * (forward.h, backward.h) is compiled once and asks the record; cells.h is the list of all.
 */
#ifndef LSTMC_CELL_H
#define LSTMC_CELL_H

#include "gemm.h"
#include "kernels.h"

enum { MOST_GATES = 4 };

/* VL units of one row at one step, forward. */
typedef struct {
    vec gates[MOST_GATES]; /* in: the sums W x + R h_before + b; out: the activated gates */
    vec h;                 /* out */
    vec c;                 /* in: of the step before; out: of this step */
} forward_units;

/* The same, backward. In: the states and gates of the step, and the gradients that arrive. */
typedef struct {
    vec gates[MOST_GATES];
    vec h, c, c_before;
    vec dh;                 /* in: all that arrives at h */
    vec dc;                 /* in: what arrives at c from the step after; out: of the step before */
    vec dgates[MOST_GATES]; /* out: the gradients of the sums */
} backward_units;

/* Which rows of the batch, and which panels of units. */
typedef struct {
    ptrdiff_t from, to, first, last;
} part;

/* One step, forward: from sums to states. */
typedef struct {
    real *h;              /* (B, H) */
    real *y;              /* (B, H) where h is written a second time, or NULL */
    real *c;              /* (B, H), where the cell has a c */
    real *gates;          /* (B, G*H), or NULL: not saved */
    const real *h_before; /* (B, H) */
    const real *c_before; /* (B, H) */
    const real *bias;     /* in panels */
    const real *sums;     /* of rows from `from` on, in panels `sums_panel` apart */
    ptrdiff_t sums_panel;
    ptrdiff_t hidden;
    ptrdiff_t ahead; /* to the next step's states, fetched meanwhile; 0 after the last step */
} forward_step;

/* One step, backward: from the gradients at the states to those at the sums. */
typedef struct {
    real *dgates;              /* (B, G*H), written */
    real *dh;                  /* what arrives at h from the step after: units in panels of B rows */
    real *dc;                  /* likewise at c; becomes what goes to the step before */
    real *dh_later, *dc_later; /* (B, H) copies of what arrives, or NULL */
    const real *dy;            /* (B, H), or NULL for zeros */
    const real *h, *c;         /* states after the step, B / repeat rows; c_before lies `state` before c */
    const real *gates;         /* (B / repeat, G*H) */
    ptrdiff_t hidden, batch, repeat;
    ptrdiff_t state;   /* elements of one state: B / repeat * H */
    ptrdiff_t earlier; /* to the states that the next call reads: -state, or 0 at step 0 */
} backward_step;

typedef struct {
    const char *name;
    int gates;       /* G: the sums of a unit, all of W x + R h_before + b */
    int has_c;       /* a cell state beside h */
    int saves_gates; /* backward reads the activated gates */
    void (*activate)(const forward_step *step, part mine);
    void (*differentiate)(const backward_step *step, part mine);
} cell;

#endif
