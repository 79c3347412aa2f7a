/* The driver, backward: back-propagation through time of what forward.h saved.
 *
 * A chunk of steps goes backwards; its dgates are then used, while they are still in cache, for the gradients
 * of the weights and of the layer's input.
 */
#ifndef LSTMC_BACKWARD_H
#define LSTMC_BACKWARD_H

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

/* The gradients of a chunk's sums, each (steps of the chunk, B, G*H): of W x + b, and of R h_before + b,
 * which are one array unless the cell keeps them apart. */
typedef struct {
    real *input, *recurrent;
    const real *dy; /* beside them what arrives from above, (steps of the chunk, B, H), or NULL for zeros */
} chunk_gradients;

static chunk_gradients gradients_of(const backward_work *work, const layer_work *at, ptrdiff_t t0)
{
    const backward_plan *plan = work->plan;
    const lstmc_backward_layer *layer = at->layer;
    const real *dy = at->dy ? at->dy + gradients_before(work, t0) * layer->hidden : NULL;
    real *dsums = work->scratch + plan->dsums;
    if (layer->dgates)
        dsums = (real *)layer->dgates + gradients_before(work, t0) * plan->cell->gates * layer->hidden;
    if (at->dy && at->dy_order)
        dy = work->scratch + plan->edge;
    return (chunk_gradients){dsums, plan->cell->apart ? work->scratch + plan->drecurrent : dsums, dy};
}

/* Step t, from the `row`-th row of the chunk's gradients on. */
static backward_step step_back(const backward_work *work, const layer_work *at, chunk_gradients d,
                               ptrdiff_t row, ptrdiff_t t)
{
    const backward_plan *plan = work->plan;
    const cell *cell = plan->cell;
    const lstmc_backward_layer *layer = at->layer;
    const rows_of_steps *of = &work->rows;
    const ptrdiff_t hidden = layer->hidden, arriving = gradients_before(work, t) * hidden;
    const ptrdiff_t state = rows_before(of, t) * hidden, before = t ? rows_at(of, t - 1) : of->batch;
    backward_step step = {.hidden = hidden, .batch = work->call->batch, .repeat = plan->repeat};
    step.state = before * hidden;
    step.dsums = d.input + row * cell->gates * hidden;
    step.drecurrent = d.recurrent + row * cell->gates * hidden;
    step.dh = work->scratch + plan->dh;
    step.dc = work->scratch + plan->dc;
    step.doperand = work->scratch + plan->doperand;
    step.dh_later = layer->dh ? (real *)layer->dh + arriving : NULL;
    step.dc_later = layer->dc ? (real *)layer->dc + arriving : NULL;
    step.dy = d.dy ? d.dy + row * hidden : NULL;
    step.h = (const real *)layer->h + of->batch * hidden + state;
    step.c = cell->has_c ? (const real *)layer->c + of->batch * hidden + state : NULL;
    step.saved = cell->saved ? (const real *)layer->gates + cell->saved * state : NULL;
    step.earlier = t ? -step.state : 0;
    return step;
}

/* A member's rows of step t: all, or a share of them. */
static void share_rows(const backward_work *work, ptrdiff_t t, part *mine, const team *member)
{
    mine->from = 0;
    mine->to = gradients_at(work, t);
    if (work->plan->split == BY_ROWS)
        team_share(member, mine->to, &mine->from, &mine->to);
}

/* Of one phase, what carries the gradients of its sums on, the same at every step for a member's units:
 * sums = W x + R operand, so doperand = dsums R. Where that is h_before, it is added to what h carries on by
 * itself. */
typedef struct {
    real *to;        /* the member's panels of dh or doperand */
    const real *r;   /* and of the phase's rows of R */
    ptrdiff_t first; /* its sums among all of a row */
    ptrdiff_t count;
    int adds;
} phase_product;

static phase_product product_of(const backward_work *work, const phase *phase, ptrdiff_t hidden,
                                const part *mine)
{
    const backward_plan *plan = work->plan;
    const int to_h = phase->operand == H_BEFORE;
    phase_product product = {.first = phase->first * hidden, .count = phase->gates * hidden};
    product.to = work->scratch + (to_h ? plan->dh : plan->doperand) + mine->first * work->call->batch * PANEL;
    product.r =
        work->scratch + plan->r + (panels_of(hidden) * product.first + mine->first * product.count) * PANEL;
    product.adds = to_h && plan->cell->carries_h;
    return product;
}

/* Steps [t0, t1), backwards: the gradients of their sums, and dh, dc of the step before them. */
static void backward_steps(const backward_work *work, const layer_work *at, chunk_gradients d, ptrdiff_t t0,
                           ptrdiff_t t1, part mine, const team *member)
{
    const backward_plan *plan = work->plan;
    const cell *cell = plan->cell;
    const ptrdiff_t batch = work->call->batch, hidden = at->layer->hidden, sums = cell->gates * hidden;
    const ptrdiff_t columns = min_of(mine.last * PANEL, hidden) - mine.first * PANEL;
    const ptrdiff_t before = gradients_before(work, t0);
    phase_product products[MOST_PHASES];
    for (int p = 0; p < cell->num_phases; p++)
        products[p] = product_of(work, cell->phases[p], hidden, &mine);
    for (ptrdiff_t t = t1 - 1; t >= t0; t--) {
        const backward_step step = step_back(work, at, d, gradients_before(work, t) - before, t);
        if (rows_end(&work->rows)) {
            share_rows(work, t, &mine, member);
            if (plan->split == BY_ROWS && t + 1 < work->rows.steps)
                team_barrier(member); /* rows of the step after may have been another member's */
        }
        for (int p = cell->num_phases - 1; p >= 0; p--) {
            const phase_product *by = &products[p];
            cell->phases[p]->differentiate(&step, &mine);
            if (plan->split == BY_UNITS)
                team_barrier(member);
            NAME(product)(by->to + mine.from * PANEL, PANEL, batch * PANEL,
                          row_major(step.drecurrent + mine.from * sums + by->first, sums), by->r,
                          mine.to - mine.from, columns, by->count, by->adds);
        }
    }
    team_barrier(member);
}

/* The first step of the chunk that ends before t1: of as many as there is room for the gradients of. */
static ptrdiff_t chunk_start(const backward_work *work, ptrdiff_t t1)
{
    ptrdiff_t room = work->plan->chunk * work->call->batch, t0 = t1;
    if (!rows_end(&work->rows))
        return max_of(0, t1 - work->plan->chunk);
    while (t0 > 0 && (room -= gradients_at(work, t0 - 1)) >= 0)
        t0--;
    return t0;
}

/* The gradients of a phase's rows of W and R from `rows` rows of dsums, `before` rows from the start:
 * sums = W x + R operand, so dW = dsums' x, dR = dsums' operand. */
static void weight_gradients(const backward_work *work, const layer_work *at, const phase *phase,
                             chunk_gradients d, ptrdiff_t before, ptrdiff_t rows, const team *member)
{
    const cell *cell = work->plan->cell;
    const lstmc_backward_layer *layer = at->layer;
    const ptrdiff_t hidden = layer->hidden, inputs = layer->inputs, first = phase->first * hidden;
    const ptrdiff_t sums = cell->gates * hidden, outputs = phase->gates * hidden;
    real *scratch = work->scratch + work->plan->for_weights;
    NAME(weight_gradient)
    weights[] = {
        {(real *)layer->dweight_ih + first * inputs, at->x + before * inputs, inputs, inputs, NULL},
        {(real *)layer->dweight_hh + first * hidden, NULL, hidden, hidden, NULL},
    };
    if (phase->operand == H_BEFORE) {
        weights[1].rows = work->call->before ? work->call->before + before : NULL; /* rows of h */
        weights[1].in = (const real *)layer->h + (weights[1].rows ? 0 : before) * hidden;
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

/* A member's share of the weights' panels: R's phase by phase, and W's where a gradient goes on to x. */
static void pack_stored(const backward_work *work, const layer_work *at, const team *member)
{
    const cell *cell = work->plan->cell;
    const lstmc_backward_layer *layer = at->layer;
    const ptrdiff_t hidden = layer->hidden, inputs = layer->inputs, sums = cell->gates * hidden;
    real *w = work->scratch + work->plan->w, *r = work->scratch + work->plan->r;
    ptrdiff_t first, last;
    team_share(member, panels_of(hidden), &first, &last);
    for (int p = 0; p < cell->num_phases; p++) {
        const ptrdiff_t k = cell->phases[p]->gates * hidden, above = cell->phases[p]->first * hidden;
        NAME(pack_rows)(r + (panels_of(hidden) * above + first * k) * PANEL,
                        (const real *)layer->weight_hh + above * hidden, hidden, NULL, k, hidden, first,
                        last);
    }
    team_share(member, panels_of(inputs), &first, &last);
    if (at->dx)
        NAME(pack_rows)(w + first * sums * PANEL, layer->weight_ih, inputs, NULL, sums, inputs, first, last);
}

/* All steps of one layer, chunk by chunk from the end: their gradients, then the products with those. */
static void backward_layer(const backward_work *work, const layer_work *at, const team *member)
{
    const backward_plan *plan = work->plan;
    const lstmc_backward_layer *layer = at->layer;
    const ptrdiff_t batch = work->call->batch, hidden = layer->hidden, inputs = layer->inputs;
    const ptrdiff_t sums = plan->cell->gates * hidden;
    part mine = {0, batch, 0, panels_of(hidden)};
    ptrdiff_t from, to;
    if (plan->split == BY_ROWS)
        team_share(member, batch, &mine.from, &mine.to);
    else
        team_share(member, panels_of(hidden), &mine.first, &mine.last);
    pack_stored(work, at, member);
    start_backward(work, layer, mine);
    team_barrier(member);
    for (ptrdiff_t t1 = work->rows.steps, t0; t1 > 0; t1 = t0) {
        t0 = chunk_start(work, t1);
        const ptrdiff_t before = gradients_before(work, t0), rows = gradients_before(work, t1) - before;
        const chunk_gradients d = gradients_of(work, at, t0);
        team_share(member, rows, &from, &to);
        if (d.dy && at->dy_order) {
            gather_chunk((real *)d.dy + from * hidden, at->dy, at->dy_order + before + from, to - from,
                         hidden);
            team_barrier(member);
        }
        backward_steps(work, at, d, t0, t1, mine, member);
        if (layer->dweight_ih) {
            bias_gradients(work, layer, d, rows, member);
            for (int p = 0; p < plan->cell->num_phases; p++)
                weight_gradients(work, at, plan->cell->phases[p], d, before, rows, member);
        }
        if (at->dx) { /* = dsums W. It may be x: of these rows that is not read again */
            real *dx = at->dx_order ? work->scratch + plan->edge : at->dx + before * inputs;
            NAME(product)(dx + from * inputs, inputs, PANEL, row_major(d.input + from * sums, sums),
                          work->scratch + plan->w, to - from, inputs, sums, 0);
            if (at->dx_order)
                scatter_chunk(at->dx, at->dx_order + before + from, dx + from * inputs, to - from, inputs);
        }
        team_barrier(member); /* the next chunk writes over dsums */
    }
    finish_backward(work, layer, mine);
    team_barrier(member);
}

/* The layers from the top down: dx of one is dy of the next. */
static void backward_member(void *given, const team *member)
{
    const backward_work *work = given;
    const lstmc_backward *call = work->call;
    const real *dy = call->dy;
    for (int l = call->num_layers - 1; l >= 0; l--) {
        const lstmc_backward_layer *layer = &call->layers[l], *below = layer - 1;
        layer_work at = {.layer = layer, .dy = dy};
        at.dy_order = l == call->num_layers - 1 ? call->order : NULL;
        at.dx_order = l == 0 ? call->order : NULL;
        at.x = l ? (const real *)below->h + call->batch * below->hidden : (const real *)call->x;
        at.dx = !l ? (real *)call->dx : layer->dx ? (real *)layer->dx : work->scratch + work->plan->between;
        backward_layer(work, &at, member);
        dy = at.dx;
    }
}

static backward_work backward_work_of(const void *plan, const lstmc_backward *call)
{
    return (backward_work){plan, call, forward_rows(call), call->scratch};
}

static void NAME(backward)(const void *plan, const lstmc_backward *call)
{
    backward_work work = backward_work_of(plan, call);
    lstmc_team_run(work.plan->threads, backward_member, &work);
}

/* The first half of a team runs the first of two works, the second half the second; one thread, both. */
static void backward_both_member(void *given, const team *member)
{
    backward_work *works = given;
    const team half = member->size > 1 ? team_half(member) : *member;
    for (int i = 0; i < 2; i++)
        if (member->size == 1 || i == half.half - 1)
            backward_member(&works[i], &half);
}

static void NAME(backward_both)(const void *plan, const lstmc_backward *call, const void *other_plan,
                                const lstmc_backward *other)
{
    backward_work works[] = {backward_work_of(plan, call), backward_work_of(other_plan, other)};
    const backward_plan *one = works[0].plan, *two = works[1].plan;
    const int pays = one->worth_sharing && two->worth_sharing;
    lstmc_team_run(pays ? 2 * (int)min_of(one->threads, two->threads) : 1, backward_both_member, works);
}

#endif
