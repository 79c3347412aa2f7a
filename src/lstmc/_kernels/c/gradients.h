/* Backward, what follows from the gradients of the sums: those of the weights, from rows of many steps at
 * once.
 */
#ifndef LSTMC_GRADIENTS_H
#define LSTMC_GRADIENTS_H

#include "plan.h"

typedef struct {
    const backward_plan *plan;
    const lstmc_backward *call;
    rows_of_steps rows; /* of h, c and gates: of gradients there are `repeat` for each */
    real *scratch;
} backward_work;

/* Rows of gradients of all steps before t, and of step t. */
static ptrdiff_t gradients_before(const backward_work *work, ptrdiff_t t)
{
    return rows_before(&work->rows, t) * work->plan->repeat;
}
static ptrdiff_t gradients_at(const backward_work *work, ptrdiff_t t)
{
    return rows_at(&work->rows, t) * work->plan->repeat;
}

/* One layer on the way: what arrives at it from above, and where its own goes. */
typedef struct {
    const lstmc_backward_layer *layer;
    const real *dy, *x;
    real *dx;
    const ptrdiff_t *dy_order, *dx_order; /* of those that are the caller's, if he has one; or NULL */
} layer_work;

/* The gradients of a chunk's sums, each (steps of the chunk, B, G*H): of W x + b, and of R h_before + b,
 * which are one array unless the cell keeps them apart. */
typedef struct {
    real *input, *recurrent;
    real *projected; /* beside them what arrives at a projected h, (steps of the chunk, B, P) */
    const real *dy;  /* and what arrives from above, likewise, or NULL for zeros */
} chunk_gradients;

/* The gradients of a phase's rows of W and R from `rows` rows of dsums, `before` rows from the start:
 * sums = W x + R operand, so dW = dsums' x, dR = dsums' operand. */
static void weight_gradients(const backward_work *work, const layer_work *at, const phase *phase,
                             chunk_gradients d, ptrdiff_t before, ptrdiff_t rows, const team *member)
{
    const cell *cell = work->plan->cell;
    const lstmc_backward_layer *layer = at->layer;
    const ptrdiff_t hidden = layer->hidden, inputs = layer->inputs, state = layer->outputs;
    const ptrdiff_t first = phase->first * hidden;
    const ptrdiff_t sums = cell->gates * hidden, outputs = phase->gates * hidden;
    real *scratch = work->scratch + work->plan->for_weights;
    NAME(weight_gradient)
    weights[] = {
        {(real *)layer->dweight_ih + first * inputs, at->x + before * inputs, inputs, inputs, NULL},
        {(real *)layer->dweight_hh + first * state, NULL, state, state, NULL},
    };
    if (phase->operand == H_BEFORE) {
        weights[1].rows = work->call->before ? work->call->before + before : NULL; /* rows of h */
        weights[1].in = (const real *)layer->h + (weights[1].rows ? 0 : before) * state;
    } else {
        weights[1].stride = cell->saved * hidden;
        weights[1].in = (const real *)layer->gates + before * weights[1].stride + phase->operand * hidden;
    }
    if (cell->apart) {
        NAME(add_weight_gradients)(weights, 1, d.input + first, sums, rows, outputs, scratch, member);
        NAME(add_weight_gradients)(weights + 1, 1, d.recurrent + first, sums, rows, outputs, scratch, member);
    } else {
        NAME(add_weight_gradients)(weights, 2, d.input + first, sums, rows, outputs, scratch, member);
    }
}

/* The gradients of the biases, likewise: db = dsums' 1. */
static void bias_gradients(const backward_work *work, const lstmc_backward_layer *layer, chunk_gradients d,
                           ptrdiff_t rows, const team *member)
{
    const cell *cell = work->plan->cell;
    const ptrdiff_t sums = cell->gates * layer->hidden;
    /* biases that R's last sums have for themselves */
    const ptrdiff_t own = (cell->biases - cell->gates) * layer->hidden;
    ptrdiff_t from, to;
    team_share(member, sums, &from, &to);
    NAME(add_rows)(layer->dbias, d.input, sums, rows, from, to);
    team_share(member, own, &from, &to);
    NAME(add_rows)((real *)layer->dbias + sums, d.recurrent + sums - own, sums, rows, from, to);
}

/* The gradients of the peepholes, likewise: each a sum over rows of a gate's dsums times the c it sees. */
static void peephole_gradients(const backward_work *work, const lstmc_backward_layer *layer,
                               chunk_gradients d, ptrdiff_t before, ptrdiff_t rows, const team *member)
{
    const cell *cell = work->plan->cell;
    const ptrdiff_t hidden = layer->hidden;
    ptrdiff_t from, to;
    team_share(member, ceil_div(hidden, VL), &from, &to);
    from *= VL, to = min_of(to * VL, hidden);
    for (int k = 0; k < cell->num_peepholes; k++) {
        const peephole *peephole = &cell->peepholes[k];
        const ptrdiff_t *index = peephole->sees_c || !work->call->before ? NULL : work->call->before + before;
        const ptrdiff_t skipped = index ? 0 : before + (peephole->sees_c ? work->rows.batch : 0);
        NAME(add_products)((real *)layer->dpeepholes + k * hidden, d.input + peephole->gate * hidden,
                           cell->gates * hidden, (const real *)layer->c + skipped * hidden, hidden, index,
                           rows, from, to);
    }
}

/* That of a projection, likewise: h = W_hr m, so dW_hr = dh' m. */
static void projection_gradient(const backward_work *work, const lstmc_backward_layer *layer,
                                chunk_gradients d, ptrdiff_t before, ptrdiff_t rows, const team *member)
{
    const ptrdiff_t hidden = layer->hidden;
    const NAME(weight_gradient)
        weight = {layer->dweight_hr, (const real *)layer->m + before * hidden, hidden, hidden, NULL};
    NAME(add_weight_gradients)(&weight, 1, d.projected, layer->outputs, rows, layer->outputs,
                               work->scratch + work->plan->for_weights, member);
}

#endif
