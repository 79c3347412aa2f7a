/* The driver, backward: back-propagation through time of what forward.h saved.
 *
 * A chunk of steps goes backwards; its dgates are then used, while they are still in cache, for the gradients
 * of the weights and of the layer's input.
 */
#ifndef LSTMC_BACKWARD_H
#define LSTMC_BACKWARD_H

#include "cells.h"
#include "split.h"

/* ---- the plan ------------------------------------------------------------------------------------ */

/* Of the scratch: where each part begins, in elements; each is as large as the largest layer needs. */
typedef struct {
    const cell *cell;
    split_kind split;
    int threads;
    ptrdiff_t chunk;         /* steps whose dgates are made, then used */
    ptrdiff_t repeat;        /* rows of gradients for each row of h, c and gates */
    ptrdiff_t forward_batch; /* rows of those: B / repeat */
    ptrdiff_t w, r;          /* panels of the weights as stored: K = G*H is already the leading axis */
    ptrdiff_t dh, dc;        /* what arrives from the step after: units in panels of B rows */
    ptrdiff_t dgates;        /* (chunk, B, G*H) */
    ptrdiff_t between;       /* (T, B, .) from a layer to the one below */
    ptrdiff_t for_weights;
} backward_plan;

/* What the sizes of a stack say, of either direction's call. */
typedef struct {
    ptrdiff_t steps, batch;
    ptrdiff_t widest, inputs; /* of all layers */
    ptrdiff_t between;        /* the widest input of a layer but the first */
    ptrdiff_t dgates;         /* the most sums of a layer whose dgates go nowhere else */
} backward_sizes;

/* Lays the plan down; returns the bytes of scratch. */
static ptrdiff_t lay_backward(backward_plan *plan, const cell *cell, const backward_sizes *of, int threads)
{
    const ptrdiff_t state = panels_of(of->widest) * of->batch * PANEL, sums = cell->gates * of->widest;
    plan->cell = cell;
    plan->threads = threads;
    plan->chunk = max_of(1, even_part(of->steps, max_of(1, K_BLOCK / max_of(1, of->batch))));
    plan->split = choose_split(&plan->threads, of->steps, of->batch, of->inputs, of->widest, cell->gates);
    const NAME(weight_gradient) weights[] = {{.columns = of->inputs}, {.columns = of->widest}};
    const size_t for_weights =
        NAME(weight_gradients_scratch)(plan->threads, plan->chunk * of->batch, weights, 2);
    plan->w = 0;
    plan->r = plan->w + panels_of(of->inputs) * sums * PANEL;
    plan->dh = plan->r + panels_of(of->widest) * sums * PANEL;
    plan->dc = plan->dh + state;
    plan->dgates = plan->dc + state;
    plan->between = plan->dgates + aligned(plan->chunk * of->batch * of->dgates);
    plan->for_weights = plan->between + aligned(of->steps * of->batch * of->between);
    return plan->for_weights * (ptrdiff_t)sizeof(real) + (ptrdiff_t)for_weights;
}

static void add_layer(backward_sizes *of, const cell *cell, int l, ptrdiff_t inputs, ptrdiff_t hidden,
                      int has_dgates)
{
    of->widest = max_of(of->widest, hidden);
    of->inputs = max_of(of->inputs, inputs);
    of->between = max_of(of->between, l ? inputs : 0);
    of->dgates = max_of(of->dgates, has_dgates ? 0 : cell->gates * hidden);
}

/* What the backward call after a forward call needs, if it writes its dgates over the saved gates: one block
 * of scratch that serves both is the least memory. */
static ptrdiff_t scratch_after(const lstmc_forward *call)
{
    const cell *cell = cell_of(call->cell);
    backward_sizes of = {.steps = call->steps, .batch = call->batch};
    backward_plan plan;
    for (int l = 0; l < call->num_layers; l++)
        add_layer(&of, cell, l, call->layers[l].inputs, call->layers[l].hidden,
                  call->layers[l].gates != NULL);
    return lay_backward(&plan, cell, &of, call->threads);
}

static size_t NAME(backward_plan_size)(void) { return sizeof(backward_plan); }

static ptrdiff_t NAME(plan_backward)(void *memory, const lstmc_backward *call)
{
    backward_plan *plan = memory;
    const cell *cell = cell_of(call->cell);
    backward_sizes of = {.steps = call->steps, .batch = call->batch};
    if (!cell)
        return LSTMC_UNKNOWN;
    for (int l = 0; l < call->num_layers; l++)
        add_layer(&of, cell, l, call->layers[l].inputs, call->layers[l].hidden,
                  call->layers[l].dgates != NULL);
    plan->repeat = max_of(1, call->repeat);
    plan->forward_batch = call->batch / plan->repeat;
    return lay_backward(plan, cell, &of, call->threads);
}

/* ---- one call ------------------------------------------------------------------------------------ */

typedef struct {
    const backward_plan *plan;
    const lstmc_backward *call;
    real *scratch;
} backward_work;

/* One layer on the way: what arrives at it from above, and where its own goes. */
typedef struct {
    const lstmc_backward_layer *layer;
    const real *dy, *x;
    real *dx;
} layer_work;

/* dh, dc = what arrives through the final state. */
static void start_backward(const backward_work *work, const lstmc_backward_layer *layer, part mine)
{
    const ptrdiff_t hidden = layer->hidden, batch = work->call->batch;
    real *dh = work->scratch + work->plan->dh, *dc = work->scratch + work->plan->dc;
    for (ptrdiff_t p = mine.first; p < mine.last; p++) {
        const ptrdiff_t width = min_of(PANEL, hidden - p * PANEL) * sizeof(real);
        for (ptrdiff_t row = mine.from; row < mine.to; row++) {
            const ptrdiff_t to = (p * batch + row) * PANEL, source = row * hidden + p * PANEL;
            memset(dh + to, 0, PANEL * sizeof(real));
            memset(dc + to, 0, PANEL * sizeof(real));
            if (layer->dh_n)
                memcpy(dh + to, (const real *)layer->dh_n + source, width);
            if (work->plan->cell->has_c && layer->dc_n)
                memcpy(dc + to, (const real *)layer->dc_n + source, width);
        }
    }
}

/* dh0, dc0 = what has arrived at the initial state. */
static void finish_backward(const backward_work *work, const lstmc_backward_layer *layer, part mine)
{
    const ptrdiff_t hidden = layer->hidden, batch = work->call->batch;
    const real *dh = work->scratch + work->plan->dh, *dc = work->scratch + work->plan->dc;
    for (ptrdiff_t p = mine.first; p < mine.last; p++) {
        const ptrdiff_t width = min_of(PANEL, hidden - p * PANEL) * sizeof(real);
        for (ptrdiff_t row = mine.from; row < mine.to; row++) {
            const ptrdiff_t source = (p * batch + row) * PANEL, to = row * hidden + p * PANEL;
            memcpy((real *)layer->dh0 + to, dh + source, width);
            if (work->plan->cell->has_c)
                memcpy((real *)layer->dc0 + to, dc + source, width);
        }
    }
}

static backward_step step_back(const backward_work *work, const layer_work *at, real *dgates, ptrdiff_t t)
{
    const backward_plan *plan = work->plan;
    const lstmc_backward_layer *layer = at->layer;
    const ptrdiff_t hidden = layer->hidden, batch = work->call->batch;
    const ptrdiff_t arriving = batch * hidden, state = plan->forward_batch * hidden;
    backward_step step = {
        .dgates = dgates, .hidden = hidden, .batch = batch, .repeat = plan->repeat, .state = state};
    step.dh = work->scratch + plan->dh;
    step.dc = work->scratch + plan->dc;
    step.dh_later = layer->dh ? (real *)layer->dh + t * arriving : NULL;
    step.dc_later = layer->dc ? (real *)layer->dc + t * arriving : NULL;
    step.dy = at->dy ? at->dy + t * arriving : NULL;
    step.h = (const real *)layer->h + (t + 1) * state;
    step.c = plan->cell->has_c ? (const real *)layer->c + (t + 1) * state : NULL;
    step.gates = plan->cell->saves_gates ? (const real *)layer->gates + t * plan->cell->gates * state : NULL;
    step.earlier = t ? -state : 0;
    return step;
}

/* Steps [t0, t1), backwards: their dgates, and dh, dc of the step before them. */
static void backward_steps(const backward_work *work, const layer_work *at, real *dgates, ptrdiff_t t0,
                           ptrdiff_t t1, part mine, const team *member)
{
    const backward_plan *plan = work->plan;
    const ptrdiff_t batch = work->call->batch, hidden = at->layer->hidden, sums = plan->cell->gates * hidden;
    const ptrdiff_t columns = min_of(mine.last * PANEL, hidden) - mine.first * PANEL;
    real *dh = work->scratch + plan->dh, *r = work->scratch + plan->r;
    for (ptrdiff_t t = t1 - 1; t >= t0; t--) {
        const backward_step step = step_back(work, at, dgates + (t - t0) * batch * sums, t);
        plan->cell->differentiate(&step, mine);
        if (plan->split == BY_UNITS)
            team_barrier(member);
        /* sums = W x + R h_before: dh_before = dgates R */
        NAME(product)(dh + (mine.first * batch + mine.from) * PANEL, PANEL, batch * PANEL,
                      row_major(step.dgates + mine.from * sums, sums), r + mine.first * sums * PANEL,
                      mine.to - mine.from, columns, sums, 0);
    }
    team_barrier(member);
}

/* sums = W x + R h_before + b: dx = dgates W, dW = dgates' x, dR = dgates' h_before, db = dgates' 1, of
 * `rows` rows of dgates, `before` rows from the start. */
static void backward_products(const backward_work *work, const layer_work *at, const real *dgates,
                              ptrdiff_t before, ptrdiff_t rows, const team *member)
{
    const lstmc_backward_layer *layer = at->layer;
    const ptrdiff_t hidden = layer->hidden, inputs = layer->inputs, sums = work->plan->cell->gates * hidden;
    ptrdiff_t from, to;
    if (layer->dweight_ih) {
        team_share(member, sums, &from, &to);
        NAME(add_rows)(layer->dbias, dgates, sums, rows, from, to);
        const NAME(weight_gradient) weights[] = {
            {layer->dweight_ih, at->x + before * inputs, inputs},
            {layer->dweight_hh, (const real *)layer->h + before * hidden, hidden},
        };
        NAME(add_weight_gradients)(weights, 2, dgates, rows, sums, work->scratch + work->plan->for_weights,
                                   member);
    }
    team_share(member, rows, &from, &to);
    if (at->dx) /* which may be x: of these rows it is not read again */
        NAME(product)(at->dx + (before + from) * inputs, inputs, PANEL, row_major(dgates + from * sums, sums),
                      work->scratch + work->plan->w, to - from, inputs, sums, 0);
    team_barrier(member); /* the next chunk writes over dgates */
}

static void backward_layer(const backward_work *work, const layer_work *at, const team *member)
{
    const backward_plan *plan = work->plan;
    const lstmc_backward_layer *layer = at->layer;
    const ptrdiff_t batch = work->call->batch, hidden = layer->hidden, inputs = layer->inputs;
    const ptrdiff_t sums = plan->cell->gates * hidden;
    ptrdiff_t first, last;

    team_share(member, panels_of(hidden), &first, &last);
    NAME(pack_rows)(work->scratch + plan->r + first * sums * PANEL, layer->weight_hh, hidden, sums, hidden,
                    first, last);
    part mine = {0, batch, first, last};
    if (plan->split == BY_ROWS) {
        mine = (part){0, 0, 0, panels_of(hidden)};
        team_share(member, batch, &mine.from, &mine.to);
    }
    if (at->dx) {
        team_share(member, panels_of(inputs), &first, &last);
        NAME(pack_rows)(work->scratch + plan->w + first * sums * PANEL, layer->weight_ih, inputs, sums,
                        inputs, first, last);
    }
    start_backward(work, layer, mine);
    team_barrier(member);
    for (ptrdiff_t t1 = work->call->steps, t0; t1 > 0; t1 = t0) {
        t0 = max_of(0, t1 - plan->chunk);
        real *dgates =
            layer->dgates ? (real *)layer->dgates + t0 * batch * sums : work->scratch + plan->dgates;
        backward_steps(work, at, dgates, t0, t1, mine, member);
        backward_products(work, at, dgates, t0 * batch, (t1 - t0) * batch, member);
    }
    finish_backward(work, layer, mine);
    team_barrier(member);
}

static void backward_member(void *given, const team *member)
{
    const backward_work *work = given;
    const lstmc_backward *call = work->call;
    const real *dy = call->dy;
    for (int l = call->num_layers - 1; l >= 0; l--) {
        const lstmc_backward_layer *layer = &call->layers[l], *below = layer - 1;
        layer_work at = {.layer = layer, .dy = dy};
        at.x = l ? (const real *)below->h + call->batch * below->hidden : (const real *)call->x;
        at.dx = !l ? (real *)call->dx : layer->dx ? (real *)layer->dx : work->scratch + work->plan->between;
        backward_layer(work, &at, member);
        dy = at.dx;
    }
}

static void NAME(backward)(const void *plan, const lstmc_backward *call)
{
    backward_work work = {plan, call, call->scratch};
    lstmc_team_run(work.plan->threads, backward_member, &work);
}

#endif
