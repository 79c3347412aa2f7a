/* The driver, backward: back-propagation through time of what forward.h saved.
 *
 * A chunk of steps goes backwards; its dgates are then used, while they are still in cache, for the gradients
 * of the weights and of the layer's input.
 */
#ifndef LSTMC_BACKWARD_H
#define LSTMC_BACKWARD_H

#include "gradients.h"

/* A member's units of one layer in panels: of the cell, and of the state h, which are the same unless that is
 * projected. */
typedef struct {
    part units, state;
} layer_part;

/* panels (B rows each) = rows of `matrix` (B, columns), or zeros for NULL; of a member's. */
static void fill_panels(real *panels, const real *matrix, ptrdiff_t columns, ptrdiff_t batch,
                        const part *mine)
{
    for (ptrdiff_t p = mine->first; p < mine->last; p++) {
        const ptrdiff_t width = min_of(PANEL, columns - p * PANEL) * sizeof(real);
        for (ptrdiff_t row = mine->from; row < mine->to; row++) {
            real *to = panels + (p * batch + row) * PANEL;
            memset(to, 0, PANEL * sizeof(real));
            if (matrix)
                memcpy(to, matrix + row * columns + p * PANEL, width);
        }
    }
}

/* The other way round. */
static void empty_panels(real *matrix, const real *panels, ptrdiff_t columns, ptrdiff_t batch,
                         const part *mine)
{
    for (ptrdiff_t p = mine->first; p < mine->last; p++) {
        const ptrdiff_t width = min_of(PANEL, columns - p * PANEL) * sizeof(real);
        for (ptrdiff_t row = mine->from; row < mine->to; row++)
            memcpy(matrix + row * columns + p * PANEL, panels + (p * batch + row) * PANEL, width);
    }
}

/* dh, dc = what arrives through the final state. */
static void start_backward(const backward_work *work, const lstmc_backward_layer *layer,
                           const layer_part *mine)
{
    const ptrdiff_t batch = work->call->batch;
    fill_panels(work->scratch + work->plan->dh, layer->dh_n, layer->outputs, batch, &mine->state);
    if (work->plan->cell->has_c)
        fill_panels(work->scratch + work->plan->dc, layer->dc_n, layer->hidden, batch, &mine->units);
}

/* dh0, dc0 = what has arrived at the initial state. */
static void finish_backward(const backward_work *work, const lstmc_backward_layer *layer,
                            const layer_part *mine)
{
    const ptrdiff_t batch = work->call->batch;
    empty_panels(layer->dh0, work->scratch + work->plan->dh, layer->outputs, batch, &mine->state);
    if (work->plan->cell->has_c)
        empty_panels(layer->dc0, work->scratch + work->plan->dc, layer->hidden, batch, &mine->units);
}

static chunk_gradients gradients_of(const backward_work *work, const layer_work *at, ptrdiff_t t0)
{
    const backward_plan *plan = work->plan;
    const lstmc_backward_layer *layer = at->layer;
    const real *dy = at->dy ? at->dy + gradients_before(work, t0) * layer->outputs : NULL;
    real *dsums = work->scratch + plan->dsums;
    if (layer->dgates)
        dsums = (real *)layer->dgates + gradients_before(work, t0) * plan->cell->gates * layer->hidden;
    if (at->dy && at->dy_order)
        dy = work->scratch + plan->edge;
    return (chunk_gradients){dsums, plan->cell->apart ? work->scratch + plan->drecurrent : dsums,
                             work->scratch + plan->dprojected, dy};
}

/* Step t, from the `row`-th row of the chunk's gradients on: what the cell reads and writes. Before a
 * projection that is m and its gradient, which nothing but that reaches. */
static backward_step step_back(const backward_work *work, const layer_work *at, chunk_gradients d,
                               ptrdiff_t row, ptrdiff_t t)
{
    const backward_plan *plan = work->plan;
    const cell *cell = plan->cell;
    const lstmc_backward_layer *layer = at->layer;
    const rows_of_steps *of = &work->rows;
    const ptrdiff_t hidden = layer->hidden, arriving = gradients_before(work, t) * hidden;
    const ptrdiff_t state = rows_before(of, t) * hidden, before = t ? rows_at(of, t - 1) : of->batch;
    const int projected = layer->weight_hr != NULL;
    backward_step step = {.hidden = hidden, .batch = work->call->batch, .repeat = plan->repeat};
    step.state = before * hidden;
    step.dsums = d.input + row * cell->gates * hidden;
    step.drecurrent = d.recurrent + row * cell->gates * hidden;
    step.dh = work->scratch + (projected ? plan->doperand : plan->dh);
    step.dc = work->scratch + plan->dc;
    step.doperand = work->scratch + plan->doperand;
    step.dh_later = layer->dh && !projected ? (real *)layer->dh + arriving : NULL;
    step.dc_later = layer->dc ? (real *)layer->dc + arriving : NULL;
    step.dy = d.dy && !projected ? d.dy + row * hidden : NULL;
    step.h = projected ? (const real *)layer->m + state : (const real *)layer->h + of->batch * hidden + state;
    step.c = cell->has_c ? (const real *)layer->c + of->batch * hidden + state : NULL;
    step.saved = cell->saved ? (const real *)layer->gates + cell->saved * state : NULL;
    step.earlier = t ? -step.state : 0;
    step.peepholes = layer->peepholes;
    step.clip = (real)work->call->clip;
    return step;
}

/* A member's rows of step t: all, or a share of them. */
static void share_rows(const backward_work *work, ptrdiff_t t, layer_part *mine, const team *member)
{
    part *rows = &mine->units;
    rows->from = 0;
    rows->to = gradients_at(work, t);
    if (work->plan->split == BY_ROWS)
        team_share(member, rows->to, &rows->from, &rows->to);
    mine->state.from = rows->from, mine->state.to = rows->to;
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

static phase_product product_of(const backward_work *work, const phase *phase,
                                const lstmc_backward_layer *layer, const part *mine)
{
    const backward_plan *plan = work->plan;
    const ptrdiff_t hidden = layer->hidden;
    const int to_h = phase->operand == H_BEFORE;
    phase_product product = {.first = phase->first * hidden, .count = phase->gates * hidden};
    product.to = work->scratch + (to_h ? plan->dh : plan->doperand) + mine->first * work->call->batch * PANEL;
    product.r = work->scratch + plan->r +
                (panels_of(layer->outputs) * product.first + mine->first * product.count) * PANEL;
    product.adds = to_h && plan->cell->carries_h;
    return product;
}

/* dh of step t, which is projected, row by row, a member's; then dm = dh W_hr. */
static void project_back(const backward_work *work, const lstmc_backward_layer *layer, chunk_gradients d,
                         ptrdiff_t row, ptrdiff_t t, const layer_part *mine, const team *member)
{
    const backward_plan *plan = work->plan;
    const ptrdiff_t batch = work->call->batch, hidden = layer->hidden, outputs = layer->outputs;
    const real *arriving = work->scratch + plan->dh;
    real *dh = d.projected + row * outputs;
    const real *dy = d.dy ? d.dy + row * outputs : NULL;
    real *later = layer->dh ? (real *)layer->dh + gradients_before(work, t) * outputs : NULL;
    for (ptrdiff_t i = mine->state.from; i < mine->state.to; i++)
        for (ptrdiff_t unit = mine->state.first * PANEL; unit < min_of(mine->state.last * PANEL, outputs);
             unit += VL) {
            const ptrdiff_t n = min_of(VL, outputs - unit), here = i * outputs + unit;
            vec sum = load(arriving + (unit / PANEL * batch + i) * PANEL + unit % PANEL);
            if (later)
                store_n(later + here, sum, n);
            if (dy)
                sum += load_n(dy + here, n);
            store_n(dh + here, sum, n);
        }
    if (plan->split == BY_UNITS)
        team_barrier(member);
    const part *units = &mine->units;
    NAME(product)(work->scratch + plan->doperand + (units->first * batch + units->from) * PANEL, PANEL,
                  batch * PANEL, row_major(dh + units->from * outputs, outputs),
                  work->scratch + plan->projection + units->first * outputs * PANEL, units->to - units->from,
                  min_of(units->last * PANEL, hidden) - units->first * PANEL, outputs, 0);
}

/* Brings a member's gradients of a phase's sums at one step, rows of `sums` numbers, within the limit. */
static void clip_gradients(real *dsums, ptrdiff_t sums, const phase *phase, ptrdiff_t hidden, real limit,
                           const part *mine)
{
    for (ptrdiff_t row = mine->from; row < mine->to; row++)
        for (int g = 0; g < phase->gates; g++) {
            real *of_gate = dsums + row * sums + (phase->first + g) * hidden;
            for (ptrdiff_t unit = mine->first * PANEL; unit < min_of(mine->last * PANEL, hidden);
                 unit += VL) {
                const ptrdiff_t n = min_of(VL, hidden - unit);
                store_n(of_gate + unit, at_most(at_least(load_n(of_gate + unit, n), -limit), limit), n);
            }
        }
}

/* Steps [t0, t1), backwards: the gradients of their sums, and dh, dc of the step before them. */
static void backward_steps(const backward_work *work, const layer_work *at, chunk_gradients d, ptrdiff_t t0,
                           ptrdiff_t t1, layer_part mine, const team *member)
{
    const backward_plan *plan = work->plan;
    const cell *cell = plan->cell;
    const lstmc_backward_layer *layer = at->layer;
    const part *units = &mine.units;
    const ptrdiff_t batch = work->call->batch, hidden = layer->hidden, sums = cell->gates * hidden;
    const ptrdiff_t columns = min_of(mine.state.last * PANEL, layer->outputs) - mine.state.first * PANEL;
    const ptrdiff_t before = gradients_before(work, t0);
    const real limit = (real)work->call->grad_clip;
    phase_product products[MOST_PHASES];
    for (int p = 0; p < cell->num_phases; p++)
        products[p] = product_of(work, cell->phases[p], layer, &mine.state);
    for (ptrdiff_t t = t1 - 1; t >= t0; t--) {
        const ptrdiff_t row = gradients_before(work, t) - before;
        const backward_step step = step_back(work, at, d, row, t);
        if (rows_end(&work->rows)) {
            share_rows(work, t, &mine, member);
            if (plan->split == BY_ROWS && t + 1 < work->rows.steps)
                team_barrier(member); /* rows of the step after may have been another member's */
        }
        if (layer->weight_hr)
            project_back(work, layer, d, row, t, &mine, member);
        for (int p = cell->num_phases - 1; p >= 0; p--) {
            const phase_product *by = &products[p];
            const phase *phase = cell->phases[p];
            phase->differentiate(&step, units);
            if (limit > 0)
                clip_gradients(step.dsums, sums, phase, hidden, limit, units);
            if (limit > 0 && cell->apart)
                clip_gradients(step.drecurrent, sums, phase, hidden, limit, units);
            if (plan->split == BY_UNITS)
                team_barrier(member);
            NAME(product)(by->to + units->from * PANEL, PANEL, batch * PANEL,
                          row_major(step.drecurrent + units->from * sums + by->first, sums), by->r,
                          units->to - units->from, columns, by->count, by->adds);
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

/* A member's share of the weights' panels: R's phase by phase, and W's where a gradient goes on to x. */
static void pack_stored(const backward_work *work, const layer_work *at, const team *member)
{
    const cell *cell = work->plan->cell;
    const lstmc_backward_layer *layer = at->layer;
    const ptrdiff_t hidden = layer->hidden, inputs = layer->inputs, outputs = layer->outputs;
    const ptrdiff_t sums = cell->gates * hidden;
    real *w = work->scratch + work->plan->w, *r = work->scratch + work->plan->r;
    ptrdiff_t first, last;
    team_share(member, panels_of(outputs), &first, &last);
    for (int p = 0; p < cell->num_phases; p++) {
        const ptrdiff_t k = cell->phases[p]->gates * hidden, above = cell->phases[p]->first * hidden;
        NAME(pack_rows)(r + (panels_of(outputs) * above + first * k) * PANEL,
                        (const real *)layer->weight_hh + above * outputs, outputs, NULL, k, outputs, first,
                        last);
    }
    if (layer->weight_hr) {
        team_share(member, panels_of(hidden), &first, &last);
        NAME(pack_rows)(work->scratch + work->plan->projection + first * outputs * PANEL, layer->weight_hr,
                        hidden, NULL, outputs, hidden, first, last);
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
    const ptrdiff_t batch = work->call->batch, outputs = layer->outputs, inputs = layer->inputs;
    const ptrdiff_t sums = plan->cell->gates * layer->hidden;
    layer_part mine = {{0, batch, 0, panels_of(layer->hidden)}, {0, batch, 0, panels_of(outputs)}};
    ptrdiff_t from, to;
    for (int i = 0; i < 2; i++) {
        part *one = i ? &mine.state : &mine.units;
        if (plan->split == BY_ROWS)
            team_share(member, batch, &one->from, &one->to);
        else
            team_share(member, one->last, &one->first, &one->last);
    }
    pack_stored(work, at, member);
    start_backward(work, layer, &mine);
    team_barrier(member);
    for (ptrdiff_t t1 = work->rows.steps, t0; t1 > 0; t1 = t0) {
        t0 = chunk_start(work, t1);
        const ptrdiff_t before = gradients_before(work, t0), rows = gradients_before(work, t1) - before;
        const chunk_gradients d = gradients_of(work, at, t0);
        team_share(member, rows, &from, &to);
        if (d.dy && at->dy_order) {
            gather_chunk((real *)d.dy + from * outputs, at->dy, at->dy_order + before + from, to - from,
                         outputs);
            team_barrier(member);
        }
        backward_steps(work, at, d, t0, t1, mine, member);
        if (layer->dweight_ih) {
            bias_gradients(work, layer, d, rows, member);
            peephole_gradients(work, layer, d, before, rows, member);
            if (layer->weight_hr)
                projection_gradient(work, layer, d, before, rows, member);
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
    finish_backward(work, layer, &mine);
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
        at.x = l ? (const real *)below->h + call->batch * below->outputs : (const real *)call->x;
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
