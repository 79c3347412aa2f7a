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
    real *m;           /* of a projected layer: of all steps, or of one */
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
    const int is_last = l == call->num_layers - 1;
    real *scratch = call->scratch;
    layer_place at = {.c = layer->c_n};
    at.packed = layer->packed ? layer->packed : scratch + planned->packed;
    if (layer->h) { /* what is saved is not the caller's to write to; y is */
        at.h = (real *)layer->h + call->batch * layer->outputs;
        at.y = is_last && !call->order ? call->y : NULL;
    } else if (is_last) {
        at.h = call->y;
    } else {
        at.h = scratch + planned->states;
        at.reuses_h = !call->starts;
        at.h_first = at.reuses_h ? t0 : 0;
    }
    if (layer->c) {
        at.c = (real *)layer->c + call->batch * layer->hidden;
        at.keeps_c = 1;
    }
    if (layer->weight_hr)
        at.m = layer->m ? layer->m : scratch + work->plan->m;
    return at;
}

/* One step: what the cell reads and writes, and the state h, (B, P), which that makes or a projection does.
 */
typedef struct {
    forward_step of_cell;
    real *h;
    real *y; /* where a projection writes h a second time, or NULL */
} layer_step;

/* Where step t reads and writes. Its h_before is at the other end of the chunk where a chunk of h is used
 * again. */
INLINE layer_step step_at(const forward_work *work, const lstmc_forward_layer *layer, const layer_place *at,
                          ptrdiff_t t)
{
    const cell *cell = work->plan->cell;
    const ptrdiff_t hidden = layer->hidden, outputs = layer->outputs, row = rows_before(&work->rows, t);
    const ptrdiff_t back = t ? row - rows_before(&work->rows, t - 1) : 0; /* rows of the step before */
    layer_step step = {.h = at->h + (row - rows_before(&work->rows, at->h_first)) * outputs};
    forward_step *of_cell = &step.of_cell;
    of_cell->c = at->keeps_c ? at->c + row * hidden : at->c;
    of_cell->saved = layer->gates           ? (real *)layer->gates + row * cell->saved * hidden
                     : cell->num_phases > 1 ? (real *)work->call->scratch + work->plan->saved
                                            : NULL;
    of_cell->h_before = !t                                 ? layer->h0
                        : at->reuses_h && t == at->h_first ? at->h + (work->plan->chunk - 1) * back * outputs
                                                           : step.h - back * outputs;
    of_cell->c_before = t ? of_cell->c - (at->keeps_c ? back * hidden : 0) : layer->c0;
    of_cell->hidden = hidden;
    of_cell->clip = (real)work->call->clip;
    real *y = at->y ? at->y + row * outputs : NULL;
    if (at->m) {
        of_cell->h = layer->m ? at->m + row * hidden : at->m;
        step.y = y;
    } else {
        of_cell->h = step.h;
        of_cell->y = y;
    }
    return step;
}

/* From one step, of so many rows, to the next in the same chunk. */
static void next_step(layer_step *step, ptrdiff_t rows, const cell *cell, const lstmc_forward_layer *layer,
                      const layer_place *at)
{
    const ptrdiff_t states = rows * layer->outputs, units = rows * layer->hidden;
    forward_step *of_cell = &step->of_cell;
    of_cell->h_before = step->h;
    step->h += states;
    of_cell->c_before = of_cell->c;
    if (at->keeps_c)
        of_cell->c += units;
    if (layer->gates)
        of_cell->saved += cell->saved * units;
    if (!at->m)
        of_cell->h = step->h;
    else if (layer->m)
        of_cell->h += units;
    if (of_cell->y)
        of_cell->y += states;
    if (step->y)
        step->y += states;
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

/* Copies units [unit, end) of the rows from `first` on, of `width` units, that are a member's. */
static void copy_rows(real *to, const real *from, ptrdiff_t width, ptrdiff_t unit, ptrdiff_t end,
                      ptrdiff_t first, const part *mine)
{
    ptrdiff_t here = max_of(mine->from, first) * width + unit, size = end - unit;
    if (size == width) /* rows side by side */
        size = mine->to * width - here;
    for (; size > 0 && here < mine->to * width; here += max_of(size, width))
        memcpy(to + here, from + here, size * sizeof(real));
}

/* The panels of a projected h that are a member's, who has these rows. */
INLINE void share_projection(const forward_work *work, ptrdiff_t outputs, ptrdiff_t *first, ptrdiff_t *last,
                             const team *member)
{
    *first = 0, *last = panels_of(outputs);
    if (work->plan->split == BY_UNITS)
        team_share(member, *last, first, last);
}

/* Hands back the states of the rows that end with a step, those from `first` on. Nobody reads h0 any more,
 * which h_n may be. */
static void end_rows(const forward_work *work, const lstmc_forward_layer *layer, const layer_step *step,
                     ptrdiff_t first, const part *mine, const team *member)
{
    const ptrdiff_t hidden = layer->hidden, outputs = layer->outputs;
    ptrdiff_t unit = mine->first * VL, end = min_of(mine->last * VL, hidden);
    if (layer->c) /* otherwise c_n is where c is */
        copy_rows(layer->c_n, step->of_cell.c, hidden, unit, end, first, mine);
    if (layer->weight_hr) {
        share_projection(work, outputs, &unit, &end, member);
        unit *= PANEL, end = min_of(end * PANEL, outputs);
    }
    copy_rows(layer->h_n, step->h, outputs, unit, end, first, mine);
}

/* Says it of a phase, in place: a copy would wait for its stores. place: rows of the members before; most: of
 * a step, of any member. */
static void lay_share(phase_share *share, const forward_work *work, int l, int p, const real *packed,
                      const part *mine, ptrdiff_t place, ptrdiff_t most)
{
    const forward_plan *plan = work->plan;
    const packed_phase *weights = &plan->places[l].weights.phases[p];
    const forward_sums *sums = &plan->sums[p];
    const lstmc_forward_layer *layer = &work->call->layers[l];
    const int gates = plan->cell->phases[p]->gates;
    const ptrdiff_t first = mine->first * gates / PANEL_VECTORS, rows = sums->panels * place * PANEL;
    share->first = first;
    share->w = packed + weights->w + first * layer->inputs * PANEL;
    share->r = packed + weights->r + first * layer->outputs * PANEL;
    share->bias = packed + weights->b;
    share->peepholes = packed + plan->places[l].weights.peepholes;
    share->sums = (real *)work->call->scratch + sums->sums + plan->chunk * rows;
    share->recurrent = (real *)work->call->scratch + sums->recurrent + rows;
    share->columns = min_of(mine->last * gates * VL, sums->columns) - first * PANEL;
    share->sums_panel = plan->chunk * most * PANEL;
    share->recurrent_panel = most * PANEL;
}

/* One step of a member's part, phase by phase. */
INLINE void forward_phases(const forward_work *work, const forward_step *step, ptrdiff_t outputs,
                           phase_share *shares, const part *mine, const team *member)
{
    const cell *cell = work->plan->cell;
    const ptrdiff_t hidden = step->hidden, rows = mine->to - mine->from;
    for (int p = 0; p < cell->num_phases; p++) {
        const phase *phase = cell->phases[p];
        phase_share *share = &shares[p];
        const real *left = step->h_before;
        ptrdiff_t stride = outputs, k = outputs;
        if (phase->operand != H_BEFORE) {
            left = step->saved + phase->operand * hidden;
            stride = cell->saved * hidden, k = hidden;
        }
        real *onto = cell->apart ? share->recurrent : share->sums;
        const ptrdiff_t panel = cell->apart ? share->recurrent_panel : share->sums_panel;
        if (p && work->plan->split == BY_UNITS)
            team_barrier(member); /* the left operand is of all units */
        /* sums += operand R; where they are apart, R's are made anew */
        NAME(product)(onto + share->first * panel, PANEL, panel,
                      row_major(left + mine->from * stride, stride), share->r, rows, share->columns, k,
                      !cell->apart);
        phase->activate(step, share, mine);
        share->sums += rows * PANEL;
    }
}

/* h = m W_hr, of a member's rows and units. */
static void project(const forward_work *work, const lstmc_forward_layer *layer, const layer_step *step,
                    const real *panels, const part *mine, const team *member)
{
    const ptrdiff_t hidden = layer->hidden, outputs = layer->outputs;
    ptrdiff_t first, last;
    if (work->plan->split == BY_UNITS)
        team_barrier(member); /* m is of all units */
    share_projection(work, outputs, &first, &last, member);
    const ptrdiff_t unit = first * PANEL, end = min_of(last * PANEL, outputs);
    NAME(product)(step->h + mine->from * outputs + unit, outputs, PANEL,
                  row_major(step->of_cell.h + mine->from * hidden, hidden), panels + first * hidden * PANEL,
                  mine->to - mine->from, end - unit, hidden, 0);
    if (step->y)
        copy_rows(step->y, step->h, outputs, unit, end, 0, mine);
}

/* Writes h of steps [t0, t1) to y, in the caller's order: each member some rows. */
static void order_output(const forward_work *work, const layer_place *at, ptrdiff_t t0, ptrdiff_t t1,
                         const team *member)
{
    const lstmc_forward *call = work->call;
    const ptrdiff_t outputs = call->layers[0].outputs, start = rows_before(&work->rows, t0);
    ptrdiff_t from, to;
    team_share(member, rows_before(&work->rows, t1) - start, &from, &to);
    scatter_chunk(call->y, call->order + start + from, at->h + (start + from) * outputs, to - from, outputs);
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
    layer_step step = step_at(work, layer, at, t0);
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
        step.of_cell.ahead = next * hidden;
        forward_phases(work, &step.of_cell, layer->outputs, shares, &mine, member);
        if (at->m)
            project(work, layer, &step, at->packed + plan->places[l].weights.projection, &mine, member);
        if (plan->split == BY_UNITS || rows_end(of))
            team_barrier(member);
        if (next < mine.to)
            end_rows(work, layer, &step, next, &mine, member);
        next_step(&step, alive, cell, layer, at);
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
    const ptrdiff_t widths[] = {layer->outputs, layer->hidden};
    team_share(member, work->call->batch, &from, &to);
    for (int s = 0; s < 1 + work->plan->cell->has_c; s++) {
        const ptrdiff_t start = from * widths[s], size = (to - from) * widths[s] * sizeof(real);
        if (saved[s])
            memcpy(saved[s] + start, states[s] + start, size);
        if (!work->call->steps)
            memmove(last[s] + start, states[s] + start, size);
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
            x = place_of(work, from - 1, 0).h + row * call->layers[from - 1].outputs;
        for (int l = from; l < to; l++) {
            const layer_place at = place_of(work, l, t0);
            forward_chunk(work, l, &at, x, t0, t1, member);
            x = at.h + (row - rows_before(&work->rows, at.h_first)) * call->layers[l].outputs;
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
