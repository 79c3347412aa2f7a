/* The driver, forward: a stack of layers of one cell over time.
 *
 * Nothing here knows an equation: the products are here, the rest of a step is the cell's. What follows from
 * sizes alone is laid down once, in a plan, and a call reads it: a stepper plans once for all its steps.
 */
#ifndef LSTMC_FORWARD_H
#define LSTMC_FORWARD_H

#include "backward.h"
#include "cells/list.h"
#include "split.h"

/* ---- packed weights: W, R and b in panels, one after another ------------------------------------- */

typedef struct {
    real *w; /* panels of G sums a unit, I rows each */
    real *r; /* the same, H rows each */
    real *b; /* panels of S biases a unit, one row */
} packed_weights;

static ptrdiff_t packed_elements(const cell *cell, ptrdiff_t inputs, ptrdiff_t hidden)
{
    const ptrdiff_t panels = panels_of_units(hidden, cell->gates);
    return (panels * (inputs + hidden) + panels_of_units(hidden, cell->biases)) * PANEL;
}

static packed_weights weights_in(const void *packed, const cell *cell, const lstmc_forward_layer *layer)
{
    const ptrdiff_t panels = panels_of_units(layer->hidden, cell->gates);
    real *w = (real *)packed, *r = w + panels * layer->inputs * PANEL;
    return (packed_weights){w, r, r + panels * layer->hidden * PANEL};
}

/* A member's share of the panels; each is packed by itself. */
static void pack_share(packed_weights to, const cell *cell, const lstmc_forward_layer *layer,
                       const team *member)
{
    const ptrdiff_t hidden = layer->hidden, inputs = layer->inputs;
    ptrdiff_t first, last;
    team_share(member, panels_of_units(hidden, cell->gates), &first, &last);
    NAME(pack_transposed)(to.w + first * inputs * PANEL, layer->weight_ih, inputs, hidden, cell->gates, first,
                          last);
    NAME(pack_transposed)(to.r + first * hidden * PANEL, layer->weight_hh, hidden, hidden, cell->gates, first,
                          last);
    team_share(member, panels_of_units(hidden, cell->biases), &first, &last);
    NAME(pack_transposed)(to.b + first * PANEL, layer->bias, 1, hidden, cell->biases, first, last);
}

static int NAME(pack_layer)(lstmc_real *packed, const lstmc_forward_layer *layer, int number)
{
    const cell *cell = cell_of(number);
    const team alone = {NULL, 0, 1};
    if (!cell)
        return LSTMC_UNKNOWN;
    pack_share(weights_in(packed, cell, layer), cell, layer, &alone);
    return 0;
}

static ptrdiff_t NAME(packed_size)(const lstmc_forward_layer *layer, int number)
{
    const cell *cell = cell_of(number);
    return cell ? packed_elements(cell, layer->inputs, layer->hidden) * (ptrdiff_t)sizeof(real)
                : LSTMC_UNKNOWN;
}

/* ---- the plan ------------------------------------------------------------------------------------ */

/* Of one layer. */
typedef struct {
    ptrdiff_t panels;  /* of its sums */
    ptrdiff_t columns; /* of its sums, up to the last */
    /* Where it has its own in the scratch, in elements from its start: */
    ptrdiff_t packed; /* its weights, where the caller has not packed them */
    ptrdiff_t states; /* one chunk of h, where nothing is saved and a layer above reads it */
} forward_place;

typedef struct {
    const cell *cell;
    split_kind split;
    int threads;
    int group;       /* layers that go through time together: one where all its states are saved, else all */
    int together;    /* vectors of units whose sums fill whole panels: a split by units cuts between such */
    ptrdiff_t chunk; /* steps whose input products are made at once, just before they are used */
    /* In the scratch, in elements from its start: */
    ptrdiff_t sums;      /* (chunk, B) rows in panels of the widest layer */
    ptrdiff_t recurrent; /* (B) rows in such panels, where R's sums are apart */
    forward_place places[];
} forward_plan;

static size_t NAME(forward_plan_size)(int num_layers)
{
    return sizeof(forward_plan) + (size_t)num_layers * sizeof(forward_place);
}

static ptrdiff_t NAME(plan_forward)(void *memory, const lstmc_forward *call)
{
    /* The sums of a chunk stay in the second-level cache; but so many rows share each reading of weights. */
    enum { SUMS_BYTES = 256 * 1024, LEAST_ROWS = 256 };
    forward_plan *plan = memory;
    const cell *cell = plan->cell = cell_of(call->cell);
    const ptrdiff_t batch = max_of(1, call->batch);
    ptrdiff_t widest = 0, inputs = 0, cursor = 0, most = 0;
    if (!cell)
        return LSTMC_UNKNOWN;
    for (int l = 0; l < call->num_layers; l++) {
        widest = max_of(widest, call->layers[l].hidden);
        inputs = max_of(inputs, call->layers[l].inputs);
    }
    const ptrdiff_t row = panels_of_units(widest, cell->gates) * PANEL;
    const int saves = call->layers[0].h != NULL;
    plan->group = saves ? 1 : call->num_layers;
    plan->chunk = max_of(SUMS_BYTES / (batch * row * (ptrdiff_t)sizeof(real)), ceil_div(LEAST_ROWS, batch));
    /* Where a chunk of h is used again, a step must not write where it reads: a chunk has two steps or more.
     */
    plan->chunk = max_of(plan->chunk, saves || call->num_layers == 1 ? 1 : 2);
    plan->chunk = max_of(1, min_of(call->steps, plan->chunk));
    plan->threads = call->threads;
    plan->split = choose_split(&plan->threads, call->steps, call->batch, inputs, widest, cell->gates);

    plan->together = PANEL_VECTORS;
    while (plan->together % 2 == 0 && plan->together / 2 * cell->gates % PANEL_VECTORS == 0)
        plan->together /= 2;

    for (int l = 0; l < call->num_layers; l++) {
        const lstmc_forward_layer *layer = &call->layers[l];
        plan->places[l].panels = panels_of_units(layer->hidden, cell->gates);
        plan->places[l].columns = grouped_columns(layer->hidden, cell->gates);
        if (l % plan->group == 0) /* a group's place is the next one's too */
            cursor = 0;
        plan->places[l].packed = cursor;
        if (!layer->packed)
            cursor += packed_elements(cell, layer->inputs, layer->hidden);
        plan->places[l].states = cursor;
        if (!saves && l < call->num_layers - 1)
            cursor += aligned(plan->chunk * call->batch * layer->hidden);
        most = max_of(most, cursor);
    }
    plan->sums = most;
    plan->recurrent = plan->sums + plan->chunk * call->batch * row;
    const ptrdiff_t end = plan->recurrent + (cell->apart ? call->batch * row : 0);
    const ptrdiff_t over = PANEL_VECTORS % cell->gates ? VL : 0; /* a sum may begin within its last vector */
    const ptrdiff_t size = (end + over) * (ptrdiff_t)sizeof(real);
    return saves ? max_of(size, scratch_after(call)) : size;
}

/* ---- one call ------------------------------------------------------------------------------------ */

typedef struct {
    const forward_plan *plan;
    const lstmc_forward *call;
} forward_work;

/* Where one layer's weights and states are. The states after step t are at h + (t - h_first) * B * H. */
typedef struct {
    packed_weights weights;
    real *h, *c, *y; /* y: where h is written a second time, or NULL */
    ptrdiff_t h_first, c_step;
} layer_place;

/* For the chunk of steps that begins with t0. */
static layer_place place_of(const forward_work *work, int l, ptrdiff_t t0)
{
    const lstmc_forward *call = work->call;
    const lstmc_forward_layer *layer = &call->layers[l];
    const forward_place *planned = &work->plan->places[l];
    const ptrdiff_t state = call->batch * layer->hidden;
    const int is_last = l == call->num_layers - 1;
    real *scratch = call->scratch;
    layer_place at = {.c = layer->c_n};
    at.weights =
        weights_in(layer->packed ? layer->packed : scratch + planned->packed, work->plan->cell, layer);
    if (layer->h) { /* what is saved is not the caller's to write to; y is */
        at.h = (real *)layer->h + state;
        at.y = is_last ? call->y : NULL;
    } else if (is_last) {
        at.h = call->y;
    } else { /* one chunk of states, used again and again */
        at.h = scratch + planned->states;
        at.h_first = t0;
    }
    if (layer->c) {
        at.c = (real *)layer->c + state;
        at.c_step = state;
    }
    return at;
}

/* Where step t reads and writes. Its h_before is at the other end of the chunk where a chunk of h is used
 * again. */
static forward_step step_at(const forward_work *work, const lstmc_forward_layer *layer, const layer_place *at,
                            ptrdiff_t t)
{
    const lstmc_forward *call = work->call;
    const ptrdiff_t state = call->batch * layer->hidden;
    forward_step step = {.h = at->h + (t - at->h_first) * state, .c = at->c + t * at->c_step};
    step.y = at->y ? at->y + t * state : NULL;
    step.saved = layer->gates ? (real *)layer->gates + t * work->plan->cell->saved * state : NULL;
    step.h_before = t != at->h_first ? step.h - state
                    : t              ? at->h + (work->plan->chunk - 1) * state
                                     : layer->h0;
    step.c_before = t ? step.c - at->c_step : layer->c0;
    step.ahead = t + 1 < call->steps ? state : 0;
    step.hidden = layer->hidden;
    step.bias = at->weights.b;
    return step;
}

/* A member's rows and vectors of units. */
static part part_of(const forward_work *work, ptrdiff_t hidden, const team *member)
{
    const ptrdiff_t vectors = ceil_div(hidden, VL), together = work->plan->together;
    part mine = {0, work->call->batch, 0, vectors};
    if (work->plan->split == BY_ROWS) {
        team_share(member, work->call->batch, &mine.from, &mine.to);
    } else {
        team_share(member, ceil_div(vectors, together), &mine.first, &mine.last);
        mine.first *= together;
        mine.last = min_of(mine.last * together, vectors);
    }
    return mine;
}

/* Steps [t0, t1) of one layer: x is its input at step t0. */
static void forward_chunk(const forward_work *work, int l, const layer_place *at, const real *x, ptrdiff_t t0,
                          ptrdiff_t t1, const team *member)
{
    const forward_plan *plan = work->plan;
    const cell *cell = plan->cell;
    const lstmc_forward_layer *layer = &work->call->layers[l];
    const ptrdiff_t batch = work->call->batch, hidden = layer->hidden, inputs = layer->inputs;
    const forward_place *planned = &plan->places[l];
    const part mine = part_of(work, hidden, member);
    /* Of the sums, this member's: rows of each step in panels from `first` on, of all steps of the chunk, and
     * where R's are apart, of one step. */
    const ptrdiff_t rows = mine.to - mine.from, sums_panel = plan->chunk * rows * PANEL;
    const ptrdiff_t first = mine.first * cell->gates / PANEL_VECTORS;
    const ptrdiff_t columns = min_of(mine.last * cell->gates * VL, planned->columns) - first * PANEL;
    const ptrdiff_t recurrent_panel = cell->apart ? rows * PANEL : sums_panel;
    real *scratch = work->call->scratch;
    real *sums = scratch + plan->sums + planned->panels * plan->chunk * mine.from * PANEL;
    real *recurrent = scratch + plan->recurrent + planned->panels * mine.from * PANEL;

    /* sums = x W: over time at once where a thread's rows of successive steps follow one another */
    const ptrdiff_t runs = rows == batch ? 1 : t1 - t0, run = rows == batch ? (t1 - t0) * rows : rows;
    for (ptrdiff_t i = 0; i < runs; i++)
        NAME(product)(sums + first * sums_panel + i * rows * PANEL, PANEL, sums_panel,
                      row_major(x + (i * batch + mine.from) * inputs, inputs),
                      at->weights.w + first * inputs * PANEL, run, columns, inputs, 0);

    for (ptrdiff_t t = t0; t < t1; t++, sums += rows * PANEL) {
        forward_step step = step_at(work, layer, at, t);
        real *onto = cell->apart ? recurrent : sums;
        step.sums = sums;
        step.sums_panel = sums_panel;
        step.recurrent = onto;
        step.recurrent_panel = recurrent_panel;
        /* sums += h_before R; where they are apart, R's are made anew */
        NAME(product)(onto + first * recurrent_panel, PANEL, recurrent_panel,
                      row_major(step.h_before + mine.from * hidden, hidden),
                      at->weights.r + first * hidden * PANEL, rows, columns, hidden, !cell->apart);
        cell->activate(&step, &mine);
        if (plan->split == BY_UNITS)
            team_barrier(member);
    }
}

/* The states that every call hands back, and slot 0 of what is saved; each member some of the rows. h_n may
 * be h0 itself, which is read until here. */
static void final_states(const forward_work *work, const team *member)
{
    const lstmc_forward *call = work->call;
    const ptrdiff_t steps = call->steps, batch = call->batch, chunk = work->plan->chunk;
    const ptrdiff_t last_chunk = steps ? (steps - 1) / chunk * chunk : 0;
    const int has_c = work->plan->cell->has_c;
    ptrdiff_t from, to;
    team_share(member, batch, &from, &to);
    for (int l = 0; l < call->num_layers; l++) {
        const lstmc_forward_layer *layer = &call->layers[l];
        const ptrdiff_t hidden = layer->hidden, offset = from * hidden;
        const ptrdiff_t size = (to - from) * hidden * sizeof(real);
        const layer_place at = place_of(work, l, last_chunk);
        const real *h = steps ? at.h + (steps - 1 - at.h_first) * batch * hidden : layer->h0;
        if (layer->h) /* before h_n, which may be h0 itself */
            memcpy((real *)layer->h + offset, (const real *)layer->h0 + offset, size);
        memmove((real *)layer->h_n + offset, h + offset, size);
        if (has_c && layer->c)
            memcpy((real *)layer->c + offset, (const real *)layer->c0 + offset, size);
        const real *c = !steps ? layer->c0 : at.c + (steps - 1) * at.c_step;
        if (has_c)
            memmove((real *)layer->c_n + offset, c + offset, size);
    }
}

/* Layers [from, to), together through time: a chunk of steps of the first, then of the next, whose input is
 * that chunk's h. */
static void forward_group(const forward_work *work, int from, int to, const team *member)
{
    const lstmc_forward *call = work->call;
    const ptrdiff_t chunk = work->plan->chunk;
    for (int l = from; l < to; l++)
        if (!call->layers[l].packed)
            pack_share(place_of(work, l, 0).weights, work->plan->cell, &call->layers[l], member);
    team_barrier(member);
    for (ptrdiff_t t0 = 0; t0 < call->steps; t0 += chunk) {
        const ptrdiff_t t1 = min_of(call->steps, t0 + chunk);
        const lstmc_forward_layer *below = &call->layers[from] - 1;
        const real *x = (const real *)call->x + t0 * call->batch * call->layers[0].inputs;
        if (from)
            x = (const real *)below->h + (t0 + 1) * call->batch * below->hidden;
        for (int l = from; l < to; l++) {
            const layer_place at = place_of(work, l, t0);
            forward_chunk(work, l, &at, x, t0, t1, member);
            x = at.h + (t0 - at.h_first) * call->batch * call->layers[l].hidden;
        }
    }
    team_barrier(member); /* the next group packs its weights over these */
}

static void forward_member(void *given, const team *member)
{
    const forward_work *work = given;
    for (int l = 0; l < work->call->num_layers; l += work->plan->group)
        forward_group(work, l, l + work->plan->group, member);
    final_states(work, member);
}

static void NAME(forward)(const void *plan, const lstmc_forward *call)
{
    forward_work work = {plan, call};
    lstmc_team_run(work.plan->threads, forward_member, &work);
}

#endif
