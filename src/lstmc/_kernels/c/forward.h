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
    const team alone = {NULL, 0, 1, 0};
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
    ptrdiff_t
        states; /* h, where nothing is saved and a layer above reads it: one chunk, or all where rows end */
} forward_place;

typedef struct {
    const cell *cell;
    split_kind split;
    int threads, worth_sharing;
    int group;       /* layers that go through time together: one where all its states are kept, else all */
    int together;    /* vectors of units whose sums fill whole panels: a split by units cuts between such */
    ptrdiff_t chunk; /* steps of all rows whose input products are made at once, just before they are used */
    /* In the scratch, in elements from its start: */
    ptrdiff_t sums;      /* for each member (chunk, its rows) in panels of the widest layer */
    ptrdiff_t recurrent; /* its rows of one step in such panels, where R's sums are apart */
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
    const rows_of_steps rows = {call->starts, call->steps, call->batch};
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
    plan->group = saves || call->starts ? 1 : call->num_layers;
    plan->chunk = max_of(SUMS_BYTES / (batch * row * (ptrdiff_t)sizeof(real)), ceil_div(LEAST_ROWS, batch));
    /* Where a chunk of h is used again, a step must not write where it reads: a chunk has two steps or more.
     */
    plan->chunk = max_of(plan->chunk, plan->group == 1 ? 1 : 2);
    plan->chunk = max_of(1, min_of(call->steps, plan->chunk));
    plan->threads = call->threads;
    const split_sizes sizes = sizes_to_split(&rows, inputs, widest, cell->gates);
    plan->split = choose_split(&plan->threads, &sizes);
    plan->worth_sharing = worth_sharing(&sizes);

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
        if (!saves && !call->starts && l < call->num_layers - 1)
            cursor += aligned(plan->chunk * call->batch * layer->hidden);
        most = max_of(most, cursor);
    }
    if (!saves && call->starts) /* one layer reads what the other writes: the layers take turns */
        for (int l = 0; l < call->num_layers - 1; l++) {
            plan->places[l].states = most + l % 2 * aligned(call->starts[call->steps] * widest);
            cursor = max_of(cursor, plan->places[l].states + aligned(call->starts[call->steps] * widest));
        }
    plan->sums = max_of(most, cursor);
    /* Members have as many rows each as the one that has most. */
    const ptrdiff_t most_rows = batch + (plan->split == BY_ROWS ? plan->threads - 1 : 0);
    plan->recurrent = plan->sums + plan->chunk * most_rows * row;
    const ptrdiff_t end = plan->recurrent + (cell->apart ? most_rows * row : 0);
    const ptrdiff_t over = PANEL_VECTORS % cell->gates ? VL : 0; /* a sum may begin within its last vector */
    const ptrdiff_t size = (end + over) * (ptrdiff_t)sizeof(real);
    return saves ? max_of(size, scratch_after(call)) : size;
}

/* ---- one call ------------------------------------------------------------------------------------ */

typedef struct {
    const forward_plan *plan;
    const lstmc_forward *call;
    rows_of_steps rows;
} forward_work;

/* Where one layer's weights and states are. The states after step t are those of its rows from h on, or in a
 * chunk that is used again, of its rows among the chunk's. */
typedef struct {
    packed_weights weights;
    real *h, *c, *y;   /* y: where h is written a second time, or NULL */
    ptrdiff_t h_first; /* the step that h begins with */
    int reuses_h;      /* h is one chunk, used again and again */
    int keeps_c;       /* c has a place for every step, not one for all */
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
    } else {
        at.h = scratch + planned->states;
        at.reuses_h = !call->starts;
        at.h_first = at.reuses_h ? t0 : 0;
    }
    if (layer->c) {
        at.c = (real *)layer->c + state;
        at.keeps_c = 1;
    }
    return at;
}

/* Where step t reads and writes. Its h_before is at the other end of the chunk where a chunk of h is used
 * again. */
static forward_step step_at(const forward_work *work, const lstmc_forward_layer *layer, const layer_place *at,
                            ptrdiff_t t)
{
    const ptrdiff_t hidden = layer->hidden, row = rows_before(&work->rows, t);
    const ptrdiff_t back = t ? (row - rows_before(&work->rows, t - 1)) * hidden : 0; /* to the step before */
    forward_step step = {.h = at->h + (row - rows_before(&work->rows, at->h_first)) * hidden, .c = at->c};
    if (at->keeps_c)
        step.c += row * hidden;
    step.y = at->y ? at->y + row * hidden : NULL;
    step.saved = layer->gates ? (real *)layer->gates + row * work->plan->cell->saved * hidden : NULL;
    step.h_before = !t                                 ? layer->h0
                    : at->reuses_h && t == at->h_first ? at->h + (work->plan->chunk - 1) * back
                                                       : step.h - back;
    step.c_before = t ? step.c - (at->keeps_c ? back : 0) : layer->c0;
    step.hidden = hidden;
    step.bias = at->weights.b;
    return step;
}

/* From one step, of `state` elements, to the next in the same chunk. */
static void next_step(forward_step *step, ptrdiff_t state, int saved, int keeps_c)
{
    step->h_before = step->h;
    step->h += state;
    step->c_before = step->c;
    if (keeps_c)
        step->c += state;
    if (step->y)
        step->y += state;
    if (step->saved)
        step->saved += saved * state;
}

/* A member's vectors of units, and its rows of step t. */
static part part_of(const forward_work *work, ptrdiff_t hidden, ptrdiff_t t, const team *member)
{
    const ptrdiff_t vectors = ceil_div(hidden, VL), together = work->plan->together;
    part mine = {0, rows_at(&work->rows, t), 0, vectors};
    if (work->plan->split == BY_ROWS) {
        team_share(member, mine.to, &mine.from, &mine.to);
    } else {
        team_share(member, ceil_div(vectors, together), &mine.first, &mine.last);
        mine.first *= together;
        mine.last = min_of(mine.last * together, vectors);
    }
    return mine;
}

/* The most rows of a step that are one member's. */
static ptrdiff_t most_rows(const forward_work *work, const team *member)
{
    const int shared = work->plan->split == BY_ROWS && member->size > 1;
    return shared ? ceil_div(work->rows.batch, member->size) : work->rows.batch;
}

/* The end of the chunk of steps that begins with t0: of as many as there is room for the sums of. */
static ptrdiff_t chunk_end(const forward_work *work, ptrdiff_t t0, const team *member)
{
    const forward_plan *plan = work->plan;
    const ptrdiff_t members = plan->split == BY_ROWS ? member->size : 1;
    ptrdiff_t room = plan->chunk * most_rows(work, member), t1 = t0;
    if (!work->rows.starts)
        return min_of(work->rows.steps, t0 + plan->chunk);
    while (t1 < work->rows.steps && (room -= ceil_div(rows_at(&work->rows, t1), members)) >= 0)
        t1++;
    return t1;
}

/* Hands back the states of the rows that end with a step, those from `first` on. Nobody reads h0 any more,
 * which h_n may be. */
static void end_rows(const lstmc_forward_layer *layer, const forward_step *step, ptrdiff_t first,
                     const part *mine)
{
    const ptrdiff_t hidden = layer->hidden, unit = mine->first * VL,
                    units = min_of(mine->last * VL, hidden) - unit;
    first = max_of(mine->from, first);
    const ptrdiff_t at_once = units == hidden ? max_of(1, mine->to - first) : 1; /* rows side by side */
    for (ptrdiff_t row = first; row < mine->to; row += at_once) {
        const ptrdiff_t here = row * hidden + unit, size = at_once * units * sizeof(real);
        memcpy((real *)layer->h_n + here, step->h + here, size);
        if (layer->c) /* otherwise c_n is where c is */
            memcpy((real *)layer->c_n + here, step->c + here, size);
    }
}

/* Steps [t0, t1) of one layer: x is its input at step t0. */
static void forward_chunk(const forward_work *work, int l, const layer_place *at, const real *x, ptrdiff_t t0,
                          ptrdiff_t t1, const team *member)
{
    const forward_plan *plan = work->plan;
    const cell *cell = plan->cell;
    const lstmc_forward_layer *layer = &work->call->layers[l];
    const rows_of_steps *of = &work->rows;
    const ptrdiff_t hidden = layer->hidden, inputs = layer->inputs;
    const ptrdiff_t panels = plan->places[l].panels, whole = plan->split == BY_UNITS || member->size == 1;
    const ptrdiff_t share = most_rows(work, member), place = whole ? 0 : member->rank * share;
    part mine = part_of(work, hidden, t0, member);
    /* Of the sums, this member's: rows of each step in panels from `first` on, of all steps of the chunk, and
     * where R's are apart, of one step. */
    const ptrdiff_t sums_panel = plan->chunk * share * PANEL;
    const ptrdiff_t first = mine.first * cell->gates / PANEL_VECTORS;
    const ptrdiff_t columns = min_of(mine.last * cell->gates * VL, plan->places[l].columns) - first * PANEL;
    const ptrdiff_t recurrent_panel = cell->apart ? share * PANEL : sums_panel;
    real *scratch = work->call->scratch;
    real *sums = scratch + plan->sums + panels * plan->chunk * place * PANEL;
    real *recurrent = scratch + plan->recurrent + panels * place * PANEL;

    /* sums = x W: over time at once where a thread's rows of successive steps follow one another */
    for (ptrdiff_t t = t0, row = 0; t < t1; t += whole ? t1 - t0 : 1) {
        const ptrdiff_t start = rows_before(of, t) - rows_before(of, t0);
        if (!whole && of->starts)
            mine = part_of(work, hidden, t, member);
        const ptrdiff_t from = start + (whole ? 0 : mine.from);
        const ptrdiff_t to = whole ? rows_before(of, t1) - rows_before(of, t0) : start + mine.to;
        NAME(product)(sums + first * sums_panel + row * PANEL, PANEL, sums_panel,
                      row_major(x + from * inputs, inputs), at->weights.w + first * inputs * PANEL, to - from,
                      columns, inputs, 0);
        row += to - from;
    }
    forward_step step = step_at(work, layer, at, t0);
    step.sums_panel = sums_panel;
    step.recurrent_panel = recurrent_panel;
    for (ptrdiff_t t = t0, alive = rows_at(of, t0), next; t < t1; t++, alive = next) {
        real *onto = cell->apart ? recurrent : sums;
        if (of->starts)
            mine = part_of(work, hidden, t, member);
        const ptrdiff_t rows = mine.to - mine.from;
        next = rows_at(of, t + 1);
        step.ahead = next * hidden;
        step.sums = sums;
        step.recurrent = onto;
        /* sums += h_before R; where they are apart, R's are made anew */
        NAME(product)(onto + first * recurrent_panel, PANEL, recurrent_panel,
                      row_major(step.h_before + mine.from * hidden, hidden),
                      at->weights.r + first * hidden * PANEL, rows, columns, hidden, !cell->apart);
        cell->activate(&step, &mine);
        if (plan->split == BY_UNITS || of->starts)
            team_barrier(member);
        if (next < mine.to)
            end_rows(layer, &step, next, &mine);
        next_step(&step, alive * hidden, cell->saved, at->keeps_c);
        sums += rows * PANEL;
    }
}

/* What comes before the first step of a layer: its weights in panels, and slot 0 of what is saved. Where
 * there are no steps, the states that it hands back. Each member has a share. */
static void begin_layer(const forward_work *work, int l, const team *member)
{
    const lstmc_forward_layer *layer = &work->call->layers[l];
    const real *states[] = {layer->h0, layer->c0};
    real *saved[] = {layer->h, layer->c}, *last[] = {layer->h_n, layer->c_n};
    ptrdiff_t from, to;
    if (!layer->packed)
        pack_share(place_of(work, l, 0).weights, work->plan->cell, layer, member);
    team_share(member, work->call->batch, &from, &to);
    from *= layer->hidden, to *= layer->hidden;
    for (int s = 0; s < 1 + work->plan->cell->has_c; s++) {
        if (saved[s])
            memcpy(saved[s] + from, states[s] + from, (to - from) * sizeof(real));
        if (!work->call->steps)
            memmove(last[s] + from, states[s] + from, (to - from) * sizeof(real));
    }
}

/* Layers [from, to), together through time: a chunk of steps of the first, then of the next, whose input is
 * that chunk's h. */
static void forward_group(const forward_work *work, int from, int to, const team *member)
{
    const lstmc_forward *call = work->call;
    for (int l = from; l < to; l++)
        begin_layer(work, l, member);
    team_barrier(member);
    for (ptrdiff_t t0 = 0, t1; t0 < call->steps; t0 = t1) {
        t1 = chunk_end(work, t0, member);
        const ptrdiff_t row = rows_before(&work->rows, t0);
        const real *x = (const real *)call->x + row * call->layers[0].inputs;
        if (from)
            x = place_of(work, from - 1, 0).h + row * call->layers[from - 1].hidden;
        for (int l = from; l < to; l++) {
            const layer_place at = place_of(work, l, t0);
            forward_chunk(work, l, &at, x, t0, t1, member);
            x = at.h + (row - rows_before(&work->rows, at.h_first)) * call->layers[l].hidden;
        }
    }
    team_barrier(member); /* the next group packs its weights over these */
}

static void forward_member(void *given, const team *member)
{
    const forward_work *work = given;
    for (int l = 0; l < work->call->num_layers; l += work->plan->group)
        forward_group(work, l, l + work->plan->group, member);
}

static forward_work forward_work_of(const void *plan, const lstmc_forward *call)
{
    return (forward_work){plan, call, {call->starts, call->steps, call->batch}};
}

static void NAME(forward)(const void *plan, const lstmc_forward *call)
{
    forward_work work = forward_work_of(plan, call);
    lstmc_team_run(work.plan->threads, forward_member, &work);
}

/* The first half of a team runs the first of two works, the second half the second; one thread, both. */
static void forward_both_member(void *given, const team *member)
{
    forward_work *works = given;
    const team half = member->size > 1 ? team_half(member) : *member;
    for (int i = 0; i < 2; i++)
        if (member->size == 1 || i == half.half - 1)
            forward_member(&works[i], &half);
}

static void NAME(forward_both)(const void *plan, const lstmc_forward *call, const void *other_plan,
                               const lstmc_forward *other)
{
    forward_work works[] = {forward_work_of(plan, call), forward_work_of(other_plan, other)};
    const forward_plan *one = works[0].plan, *two = works[1].plan;
    const int pays = one->worth_sharing && two->worth_sharing;
    lstmc_team_run(pays ? 2 * (int)min_of(one->threads, two->threads) : 1, forward_both_member, works);
}

#endif
