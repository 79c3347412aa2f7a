/* What a cell is to the driver, and what a cell's equations see.
 *
 * A step of a cell is one phase or more, one after another: a product of rows of R with a left operand, and a
 * pointwise function of the sums. A cell's file (lstm.h; gru_before.h has two phases) defines its counts and
 * two functions over VL units of one row for each phase, and includes pointwise.h, which makes of them the
 * two loops over rows and units. record.h then makes the record below. The driver (forward.h, backward.h) is
 * compiled once and asks the record; list.h is the list of all.
 */
#ifndef LSTMC_CELL_H
#define LSTMC_CELL_H

#include "../gemm.h"
#include "../kernels.h"
#include "../vmath.h"

enum {
    MOST = 4, /* sums or saved values of a unit; biases are up to twice as many as sums */
    MOST_PHASES = 2,
    MOST_PEEPHOLES = 3,
    H_BEFORE = -1, /* the left operand of a phase that is no saved value */
};

/* VL units of one row at one step, forward. */
typedef struct {
    vec sums[MOST]; /* in: W x + R h_before + b, of the phase; of a cell that keeps them apart, W x + b */
    vec recurrent[MOST]; /* in, where they are apart: R h_before, with biases of its own where there are */
    vec h_before;        /* in, where the cell carries h */
    vec c;               /* in: of the step before; out: of this step */
    vec h;               /* out, of the last phase */
    vec saved[MOST];     /* out: what backward reads beside the states; in: those of the phases before */
    vec peepholes[MOST_PEEPHOLES]; /* in: their weights */
    real clip;                     /* in, where the cell clips: the limit of sums */
} forward_units;

/* The same, backward. */
typedef struct {
    vec saved[MOST], h, c, c_before; /* in */
    vec h_before;                    /* in, where the cell carries h */
    vec dh;               /* in: all that arrives at h; out, where the cell carries h: what goes on to
                             h_before by itself. Of several phases each is handed that of the one after */
    vec doperand;         /* in, of a phase but the last: what arrives at the saved value that it made to be
                             the next one's left operand */
    vec dc;               /* in: what arrives at c from the step after; out: of the step before */
    vec dsums[MOST];      /* out: the gradients of the phase's sums */
    vec drecurrent[MOST]; /* out, where they are apart: those of R h_before */
    vec peepholes[MOST_PEEPHOLES]; /* in: their weights */
    vec low, high, bound; /* in, where the cell clips: a sigmoid's values and a tanh's at the limits */
} backward_units;

/* What gates are at the limits of their sums. */
typedef struct {
    vec low, high; /* a sigmoid */
    vec bound;     /* a tanh at the upper one */
} clip_values;

INLINE clip_values values_at(real clip)
{
    return (clip_values){v_sigmoid(splat(-clip)), v_sigmoid(splat(clip)), v_tanh(splat(clip))};
}

/* A row of units that takes whole vectors. */
INLINE ptrdiff_t whole_vectors(ptrdiff_t units) { return ceil_div(units, VL) * VL; }

/* Which rows of the batch; which vectors of units (forward), or panels of units (backward). It is passed by
 * pointer: a copy for every step would be read back before its stores are done, and wait for them. */
typedef struct {
    ptrdiff_t from, to, first, last;
} part;

/* Of one phase, in panels, what is a member's of a chunk of steps. */
typedef struct {
    const real *w, *r;                     /* its panels of the weights */
    const real *bias;                      /* all panels, and so of the sums */
    const real *peepholes;                 /* rows of whole vectors of units */
    real *sums;                            /* its rows of the steps that are not done yet */
    real *recurrent;                       /* its rows of one step, where R's sums are apart */
    ptrdiff_t first;                       /* the panel that its units begin with */
    ptrdiff_t columns;                     /* of its sums, from there on */
    ptrdiff_t sums_panel, recurrent_panel; /* from one panel to the next */
} phase_share;

/* One step, forward: from the sums of a phase to states. */
typedef struct {
    real *h;              /* (B, H) what the cell makes: the state or, before a projection, m */
    real *y;              /* (B, H) where h is written a second time, or NULL */
    real *c;              /* (B, H), where the cell has a c */
    real *saved;          /* (B, saved*H), or NULL: nothing is saved, and the cell has one phase */
    const real *h_before; /* (B, P): P is H without a projection */
    const real *c_before; /* (B, H) */
    ptrdiff_t hidden;
    ptrdiff_t ahead; /* to the next step's states, fetched meanwhile; 0 after the last step */
    real clip;       /* the limit of sums, where the cell clips */
} forward_step;

/* One step, backward: from the gradients at the states to those at the sums. */
typedef struct {
    real *dsums;               /* (B, G*H), written */
    real *drecurrent;          /* (B, G*H), written, where sums are apart */
    real *dh;                  /* what arrives at h from the step after: units in panels of B rows */
    real *doperand;            /* likewise at the left operand of the phase after */
    real *dc;                  /* likewise at c; becomes what goes to the step before */
    real *dh_later, *dc_later; /* (B, H) copies of what arrives, or NULL */
    const real *dy;            /* (B, H), or NULL for zeros */
    const real *h, *c;     /* states after the step, B / repeat rows; those before it lie `state` before */
    const real *saved;     /* (B / repeat, saved*H) */
    const real *peepholes; /* (peepholes, H) */
    ptrdiff_t hidden, batch, repeat;
    ptrdiff_t state;   /* elements of the state before: rows of the step before, of all at step 0 */
    ptrdiff_t earlier; /* to the states that the next call reads: -state, or 0 at step 0 */
    real clip;         /* as forward had it */
} backward_step;

/* One phase of a step: sums += R times its left operand, then the pointwise function. Backward, that comes
 * first, and the product carries its gradients to the operand. */
typedef struct {
    int first, gates; /* row blocks of W and of R that make its sums: [first, first + gates) */
    int biases;       /* row blocks of the bias, from `first` on */
    int operand;      /* H_BEFORE, or which of the saved values: one that the phase before makes */
    void (*activate)(const forward_step *step, const phase_share *share, const part *mine);
    void (*differentiate)(const backward_step *step, const part *mine);
} phase;

/* A weight for each unit by which a gate sees c: that of the step before, or of this one. */
typedef struct {
    int gate, sees_c; /* of this step */
} peephole;

typedef struct {
    const char *name;
    int gates;  /* G: row blocks of W and of R, each of which makes a sum for each */
    int apart;  /* W's and R's sums stay apart; otherwise they are one chain, input first */
    int biases; /* S: row blocks of the bias: G, then those of R's last sums where they have their own */
    int saved;  /* values of a unit that backward reads beside the states: row blocks of `gates` in calls */
    int has_c;  /* a cell state beside h */
    int carries_h; /* h depends on h_before, and its gradient reaches that, by another way than R */
    int num_peepholes;
    peephole peepholes[MOST_PEEPHOLES];
    int num_phases;
    const phase *phases[MOST_PHASES];
} cell;

#endif
