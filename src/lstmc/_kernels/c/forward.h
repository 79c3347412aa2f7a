/* The driver, forward: a stack of layers of one cell over time.
 *
 * Nothing here knows an equation: the products are here, the rest of a step is the cell's. A call reads what
 * its plan says: a stepper plans once for all its steps.
 */
#ifndef LSTMC_FORWARD_H
#define LSTMC_FORWARD_H

#include "plan.h"

typedef struct {
    const forward_plan *plan;
    const lstmc_forward *call;
    rows_of_steps rows;
} forward_work;

/* Where one layer's weights and states are. The states after step t are those of its rows from h on, or in a
 * chunk that is used again, of its rows among the chunk's. */
typedef struct {
    const real *packed;
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
    at.packed = layer->packed ? layer->packed : scratch + planned->packed;
    if (layer->h) { /* what is saved is not the caller's to write to; y is */
        at.h = (real *)layer->h + state;
        at.y = is_last && !call->order ? call->y : NULL;
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
INLINE forward_step step_at(const forward_work *work, const lstmc_forward_layer *layer, const layer_place *at,
                            ptrdiff_t t)
{
    const ptrdiff_t hidden = layer->hidden, row = rows_before(&work->rows, t);
    const ptrdiff_t back = t ? (row - rows_before(&work->rows, t - 1)) * hidden : 0; /* to the step before */
    forward_step step = {.h = at->h + (row - rows_before(&work->rows, at->h_first)) * hidden, .c = at->c};
    if (at->keeps_c)
        step.c += row * hidden;
    step.y = at->y ? at->y + row * hidden : NULL;
    const cell *cell = work->plan->cell;
    step.saved = layer->gates           ? (real *)layer->gates + row * cell->saved * hidden
                 : cell->num_phases > 1 ? (real *)work->call->scratch + work->plan->saved
                                        : NULL;
    step.h_before = !t                                 ? layer->h0
                    : at->reuses_h && t == at->h_first ? at->h + (work->plan->chunk - 1) * back
                                                       : step.h - back;
    step.c_before = t ? step.c - (at->keeps_c ? back : 0) : layer->c0;
    step.hidden = hidden;
    return step;
}

/* From one step, of `state` elements, to the next in the same chunk. saved: values of a unit that are kept.
 */
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
INLINE part part_of(const forward_work *work, ptrdiff_t hidden, ptrdiff_t t, const team *member)
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
    const int shared = work->plan->split == BY_ROWS && !is_alone(member);
    return shared ? ceil_div(work->rows.batch, member->size) : work->rows.batch;
}

/* The end of the chunk of steps that begins with t0: of as many as there is room for the sums of. */
static ptrdiff_t chunk_end(const forward_work *work, ptrdiff_t t0, const team *member)
{
    const forward_plan *plan = work->plan;
    const ptrdiff_t members = plan->split == BY_ROWS ? member->size : 1;
    ptrdiff_t room = plan->chunk * most_rows(work, member), t1 = t0;
    if (!rows_end(&work->rows))
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
    const ptrdiff_t hidden = layer->hidden, unit = mine->first * VL;
    const ptrdiff_t units = min_of(mine->last * VL, hidden) - unit;
    ptrdiff_t here = max_of(mine->from, first) * hidden + unit, size = units;
    if (units == hidden) /* rows side by side */
        size = mine->to * hidden - here;
    for (; here < mine->to * hidden; here += max_of(size, hidden)) {
        memcpy((real *)layer->h_n + here, step->h + here, size * sizeof(real));
        if (layer->c) /* otherwise c_n is where c is */
            memcpy((real *)layer->c_n + here, step->c + here, size * sizeof(real));
    }
}

/* Says it of a phase, in place: a copy would wait for its stores. place: rows of the members before; most: of
 * a step, of any member. */
static void lay_share(phase_share *share, const forward_work *work, int l, int p, const real *packed,
                      const part *mine, ptrdiff_t place, ptrdiff_t most)
{
    const forward_plan *plan = work->plan;
    const packed_phase *weights = &plan->places[l].weights[p];
    const forward_sums *sums = &plan->sums[p];
    const lstmc_forward_layer *layer = &work->call->layers[l];
    const int gates = plan->cell->phases[p]->gates;
    const ptrdiff_t first = mine->first * gates / PANEL_VECTORS, rows = sums->panels * place * PANEL;
    share->first = first;
    share->w = packed + weights->w + first * layer->inputs * PANEL;
    share->r = packed + weights->r + first * layer->hidden * PANEL;
    share->bias = packed + weights->b;
    share->sums = (real *)work->call->scratch + sums->sums + plan->chunk * rows;
    share->recurrent = (real *)work->call->scratch + sums->recurrent + rows;
    share->columns = min_of(mine->last * gates * VL, sums->columns) - first * PANEL;
    share->sums_panel = plan->chunk * most * PANEL;
    share->recurrent_panel = most * PANEL;
}

/* One step of a member's part, phase by phase. */
INLINE void forward_phases(const forward_work *work, const forward_step *step, phase_share *shares,
                           const part *mine, const team *member)
{
    const cell *cell = work->plan->cell;
    const ptrdiff_t hidden = step->hidden, rows = mine->to - mine->from;
    for (int p = 0; p < cell->num_phases; p++) {
        const phase *phase = cell->phases[p];
        phase_share *share = &shares[p];
        const real *left = step->h_before;
        ptrdiff_t stride = hidden;
        if (phase->operand != H_BEFORE) {
            left = step->saved + phase->operand * hidden;
            stride = cell->saved * hidden;
        }
        real *onto = cell->apart ? share->recurrent : share->sums;
        const ptrdiff_t panel = cell->apart ? share->recurrent_panel : share->sums_panel;
        if (p && work->plan->split == BY_UNITS)
            team_barrier(member); /* the left operand is of all units */
        /* sums += operand R; where they are apart, R's are made anew */
        NAME(product)(onto + share->first * panel, PANEL, panel,
                      row_major(left + mine->from * stride, stride), share->r, rows, share->columns, hidden,
                      !cell->apart);
        phase->activate(step, share, mine);
        share->sums += rows * PANEL;
    }
}

/* Writes h of steps [t0, t1) to y, in the caller's order: each member some rows. */
static void order_output(const forward_work *work, const layer_place *at, ptrdiff_t t0, ptrdiff_t t1,
                         const team *member)
{
    const lstmc_forward *call = work->call;
    const ptrdiff_t hidden = call->layers[0].hidden, start = rows_before(&work->rows, t0);
    ptrdiff_t from, to;
    team_share(member, rows_before(&work->rows, t1) - start, &from, &to);
    scatter_chunk(call->y, call->order + start + from, at->h + (start + from) * hidden, to - from, hidden);
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
    const ptrdiff_t whole = plan->split == BY_UNITS || is_alone(member);
    const ptrdiff_t most = most_rows(work, member), place = whole ? 0 : member->rank * most;
    part mine = part_of(work, hidden, t0, member);
    forward_step step = step_at(work, layer, at, t0);
    phase_share shares[MOST_PHASES];
    for (int p = 0; p < cell->num_phases; p++)
        lay_share(&shares[p], work, l, p, at->packed, &mine, place, most);

    /* sums = x W: over time at once where a thread's rows of successive steps follow one another */
    for (ptrdiff_t t = t0, row = 0; t < t1; t += whole ? t1 - t0 : 1) {
        const ptrdiff_t start = rows_before(of, t) - rows_before(of, t0);
        if (!whole && rows_end(of))
            mine = part_of(work, hidden, t, member);
        const ptrdiff_t from = start + (whole ? 0 : mine.from);
        const ptrdiff_t to = whole ? rows_before(of, t1) - rows_before(of, t0) : start + mine.to;
        for (int p = 0; p < cell->num_phases; p++)
            NAME(product)(shares[p].sums + shares[p].first * shares[p].sums_panel + row * PANEL, PANEL,
                          shares[p].sums_panel, row_major(x + from * inputs, inputs), shares[p].w, to - from,
                          shares[p].columns, inputs, 0);
        row += to - from;
    }
    for (ptrdiff_t t = t0, alive = rows_at(of, t0), next; t < t1; t++, alive = next) {
        if (rows_end(of))
            mine = part_of(work, hidden, t, member);
        next = rows_at(of, t + 1);
        step.ahead = next * hidden;
        forward_phases(work, &step, shares, &mine, member);
        if (plan->split == BY_UNITS || rows_end(of))
            team_barrier(member);
        if (next < mine.to)
            end_rows(layer, &step, next, &mine);
        next_step(&step, alive * hidden, layer->gates ? cell->saved : 0, at->keeps_c);
    }
    if (work->call->order && l == work->call->num_layers - 1)
        order_output(work, at, t0, t1, member);
}

/* What comes before the first step of a layer: its weights in panels, and slot 0 of what is saved. Where
 * there are no steps, the states that it hands back. Each member has a share. */
static void begin_layer(const forward_work *work, int l, const team *member)
{
    const lstmc_forward_layer *layer = &work->call->layers[l];
    ptrdiff_t from, to;
    if (!layer->packed)
        pack_share((real *)work->call->scratch + work->plan->places[l].packed, work->plan->cell, layer,
                   member);
    if (!layer->h && work->call->steps)
        return;
    const real *states[] = {layer->h0, layer->c0};
    real *saved[] = {layer->h, layer->c}, *last[] = {layer->h_n, layer->c_n};
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
