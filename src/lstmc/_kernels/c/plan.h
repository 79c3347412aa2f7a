/* What follows from the sizes of a recurrent call alone, laid down before it in a plan: where the rows of a
 * step are, how the work is shared out among threads, and where everything is in the scratch.
 */
#ifndef LSTMC_PLAN_H
#define LSTMC_PLAN_H

#include "cells/packed.h"

/* ---- rows and threads ---------------------------------------------------------------------------- */

/* A call's sequences, sorted by length: those alive at step t are its first rows. */
typedef struct {
    const ptrdiff_t *starts; /* (steps+1,) or NULL: all have one length */
    ptrdiff_t steps, batch;
} rows_of_steps;

/* Whether some end before the last step. Said to be unlikely, so that the code of a plain step lies together:
 * one step of a small layer, called from Python, waits for every cache line of code that it goes through. */
INLINE int rows_end(const rows_of_steps *of) { return __builtin_expect(of->starts != NULL, 0); }

/* Rows of all steps before t. */
INLINE ptrdiff_t rows_before(const rows_of_steps *of, ptrdiff_t t)
{
    return rows_end(of) ? of->starts[t] : t * of->batch;
}
/* Rows of step t; none after the last. */
INLINE ptrdiff_t rows_at(const rows_of_steps *of, ptrdiff_t t)
{
    if (t >= of->steps)
        return 0;
    return rows_end(of) ? of->starts[t + 1] - of->starts[t] : of->batch;
}

/* The rows of y, dy and dx may be in the caller's order: those of a chunk go there, or come from there, while
 * the chunk is in cache. Row i is the order[i]-th of the caller's. */
static void scatter_chunk(real *to, const ptrdiff_t *order, const real *from, ptrdiff_t rows,
                          ptrdiff_t columns)
{
    for (ptrdiff_t i = 0; i < rows; i++)
        memcpy(to + order[i] * columns, from + i * columns, columns * sizeof(real));
}
static void gather_chunk(real *to, const real *from, const ptrdiff_t *order, ptrdiff_t rows,
                         ptrdiff_t columns)
{
    enum { AHEAD = 4 }; /* rows lie anywhere: one is asked for while others are copied */
    for (ptrdiff_t i = 0; i < rows; i++) {
        for (ptrdiff_t c = 0; i + AHEAD < rows && c < columns; c += LINE)
            __builtin_prefetch(from + order[i + AHEAD] * columns + c);
        memcpy(to + i * columns, from + order[i] * columns, columns * sizeof(real));
    }
}

/* Who computes which outputs: the results have the same bits for every choice. */
typedef enum {
    /* Each thread takes its batch rows through all of time: no barrier, but each reads all weights. Where
     * rows end, those of a step are shared out anew, and there is a barrier at every step. */
    BY_ROWS,
    BY_UNITS, /* each takes its hidden units: a barrier at every step, and each reads its part of the weights
               */
} split_kind;

/* What decides it: the sizes of the largest layer, and rows of a step on average. */
typedef struct {
    ptrdiff_t steps, batch, inputs, hidden;
    int gates;
} split_sizes;

static split_sizes sizes_to_split(const rows_of_steps *of, ptrdiff_t inputs, ptrdiff_t hidden, int gates)
{
    split_sizes sizes = {of->steps, of->batch, inputs, hidden, gates};
    if (of->starts && of->steps)
        sizes.batch = ceil_div(of->starts[of->steps], of->steps);
    return sizes;
}

/* Whether a call is long enough to wake a thread for, some 20 microseconds: that takes one to five. */
static int worth_sharing(const split_sizes *of)
{
    return of->steps * 2.0 * of->batch * of->gates * of->hidden * (double)(of->inputs + of->hidden) > 2e6;
}

/* Sets *threads to what pays. */
static split_kind choose_split(int *threads, const split_sizes *of)
{
    const double per_step = 2.0 * of->batch * of->gates * of->hidden * of->hidden; /* operations */
    const double weight_bytes = (double)of->gates * of->hidden * of->hidden * sizeof(real);
    const int n = *threads;
    if (n > 1 && worth_sharing(of)) {
        if (of->batch >= 8 * n && weight_bytes < 1e6)
            return BY_ROWS;
        if (per_step > 1e5 * n &&
            of->hidden >= PANEL / of->gates * n) /* a barrier takes 0.1 to 0.3 microseconds */
            return BY_UNITS;
        if (of->batch >= 2 * n)
            return BY_ROWS;
    }
    *threads = 1;
    return BY_ROWS;
}

/* ---- backward ------------------------------------------------------------------------------------ */

/* Of the scratch: where each part begins, in elements; each is as large as the largest layer needs. */
typedef struct {
    const cell *cell;
    split_kind split;
    int threads, worth_sharing;
    ptrdiff_t chunk;      /* steps of all rows whose dsums are made, then used */
    ptrdiff_t repeat;     /* rows of gradients for each row of h, c and gates */
    ptrdiff_t w, r;       /* panels of the weights as stored, R's phase by phase: K = G*H leads already */
    ptrdiff_t dh, dc;     /* what arrives from the step after: units in panels of B rows */
    ptrdiff_t doperand;   /* likewise at the left operand of a phase after the first, or at m */
    ptrdiff_t projection; /* panels of W_hr as stored */
    ptrdiff_t dprojected; /* (chunk, B, P) at h, where it is projected */
    ptrdiff_t dsums;      /* (chunk, B, G*H) */
    ptrdiff_t drecurrent; /* the same, where R's sums are apart */
    ptrdiff_t between;    /* (T, B, .) from a layer to the one below */
    ptrdiff_t edge;       /* (chunk, B, .) of dy and then of dx, where those have the caller's order */
    ptrdiff_t for_weights;
} backward_plan;

/* Of one layer. */
typedef struct {
    ptrdiff_t inputs, hidden, outputs;
    int projected;
} layer_sizes;

/* What the sizes of a stack say, of a forward call or a backward one. */
typedef struct {
    rows_of_steps rows;
    ptrdiff_t repeat;
    ptrdiff_t widest, inputs; /* of all layers */
    ptrdiff_t between;        /* the widest input of a layer but the first */
    ptrdiff_t dsums;          /* the most sums of a layer whose dgates go nowhere else */
    ptrdiff_t projected;      /* the widest projected h */
    int ordered;              /* dy and dx have the caller's order */
} backward_sizes;

/* Lays the plan down; returns the bytes of scratch. A chunk has as many rows as a block of the products for
 * the weights has terms. */
static ptrdiff_t lay_backward(backward_plan *plan, const cell *cell, const backward_sizes *of, int threads)
{
    const ptrdiff_t steps = of->rows.steps, batch = of->rows.batch * of->repeat;
    const ptrdiff_t state = panels_of(of->widest) * batch * PANEL, sums = cell->gates * of->widest;
    split_sizes sizes = sizes_to_split(&of->rows, of->inputs, of->widest, cell->gates);
    sizes.batch *= of->repeat;
    plan->cell = cell;
    plan->threads = threads;
    plan->repeat = of->repeat;
    plan->chunk = max_of(1, even_part(steps, max_of(1, K_BLOCK / max_of(1, batch))));
    plan->split = choose_split(&plan->threads, &sizes);
    plan->worth_sharing = worth_sharing(&sizes);
    const NAME(weight_gradient) weights[] = {{.columns = of->inputs}, {.columns = of->widest}};
    const size_t for_weights = NAME(weight_gradients_scratch)(plan->threads, plan->chunk * batch, weights, 2);
    plan->w = 0;
    plan->r = plan->w + panels_of(of->inputs) * sums * PANEL;
    plan->dh = plan->r + panels_of(of->widest) * sums * PANEL;
    plan->dc = plan->dh + state;
    plan->doperand = plan->dc + state;
    plan->projection = plan->doperand + (cell->num_phases > 1 || of->projected ? state : 0);
    plan->dprojected = plan->projection + (of->projected ? panels_of(of->widest) * of->projected * PANEL : 0);
    plan->dsums = plan->dprojected + aligned(plan->chunk * batch * of->projected);
    plan->drecurrent = plan->dsums + aligned(plan->chunk * batch * of->dsums);
    plan->between = plan->drecurrent + (cell->apart ? aligned(plan->chunk * batch * sums) : 0);
    plan->edge = plan->between + aligned(rows_before(&of->rows, steps) * of->repeat * of->between);
    plan->for_weights =
        plan->edge + (of->ordered ? aligned(plan->chunk * batch * max_of(of->widest, of->inputs)) : 0);
    return plan->for_weights * (ptrdiff_t)sizeof(real) + (ptrdiff_t)for_weights;
}

/* Takes the l-th layer into account. */
static void add_layer(backward_sizes *of, const cell *cell, int l, const layer_sizes *layer, int has_dgates)
{
    of->widest = max_of(of->widest, max_of(layer->hidden, layer->outputs));
    of->inputs = max_of(of->inputs, layer->inputs);
    of->between = max_of(of->between, l ? layer->inputs : 0);
    of->dsums = max_of(of->dsums, has_dgates ? 0 : cell->gates * layer->hidden);
    of->projected = max_of(of->projected, layer->projected ? layer->outputs : 0);
}

/* Whether kernels have a cell, and a projection of it if there is to be one. */
static int has_cell(const cell *cell, int projected)
{
    return cell && !(projected && (cell->num_phases > 1 || cell->carries_h));
}

/* What the backward call after a forward call needs, if it writes its dgates over the saved gates: one block
 * of scratch that serves both is the least memory. */
static ptrdiff_t scratch_after(const lstmc_forward *call)
{
    const cell *cell = cell_of(call->cell);
    backward_sizes of = {.rows = {call->starts, call->steps, call->batch}, .repeat = 1};
    of.ordered = call->order != NULL;
    backward_plan plan;
    for (int l = 0; l < call->num_layers; l++) {
        const lstmc_forward_layer *layer = &call->layers[l];
        const layer_sizes sizes = {layer->inputs, layer->hidden, layer->outputs, layer->weight_hr != NULL};
        add_layer(&of, cell, l, &sizes, layer->gates != NULL);
    }
    return lay_backward(&plan, cell, &of, call->threads);
}

/* The rows of h, c and gates. */
static rows_of_steps forward_rows(const lstmc_backward *call)
{
    return (rows_of_steps){call->starts, call->steps, call->batch / max_of(1, call->repeat)};
}

static size_t NAME(backward_plan_size)(void) { return sizeof(backward_plan); }

static ptrdiff_t NAME(plan_backward)(void *memory, const lstmc_backward *call)
{
    backward_plan *plan = memory;
    const cell *cell = cell_of(call->cell);
    backward_sizes of = {.rows = forward_rows(call), .repeat = max_of(1, call->repeat)};
    of.ordered = call->order != NULL;
    for (int l = 0; l < call->num_layers; l++) {
        const lstmc_backward_layer *layer = &call->layers[l];
        const layer_sizes sizes = {layer->inputs, layer->hidden, layer->outputs, layer->weight_hr != NULL};
        if (!has_cell(cell, sizes.projected))
            return LSTMC_UNKNOWN;
        add_layer(&of, cell, l, &sizes, layer->dgates != NULL);
    }
    return lay_backward(plan, cell, &of, call->threads);
}

/* ---- forward ------------------------------------------------------------------------------------- */

/* Of the sums of one phase, in panels of the widest layer. */
typedef struct {
    ptrdiff_t panels;
    ptrdiff_t columns; /* up to the last sum */
    /* In the scratch, in elements from its start: */
    ptrdiff_t sums;      /* for each member (chunk, its rows) */
    ptrdiff_t recurrent; /* its rows of one step, where R's sums are apart */
} forward_sums;

/* Of one layer. */
typedef struct {
    packed_layer weights; /* in its packed weights */
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
    ptrdiff_t saved; /* in the scratch (B, saved*H), where nothing is saved that a later phase reads */
    ptrdiff_t m;     /* likewise (B, H), before a projection */
    forward_sums sums[MOST_PHASES];
    forward_place places[];
} forward_plan;

static size_t NAME(forward_plan_size)(int num_layers)
{
    return sizeof(forward_plan) + (size_t)num_layers * sizeof(forward_place);
}

/* How many vectors of units have sums, of every phase, that fill whole panels. */
static int vectors_together(const cell *cell)
{
    int together = 1;
    for (int p = 0; p < cell->num_phases; p++)
        while (together * cell->phases[p]->gates % PANEL_VECTORS)
            together *= 2;
    return together;
}

/* Lays down, from `cursor` on, the sums of all phases of so many rows; returns their end. */
static ptrdiff_t lay_sums(forward_sums sums[MOST_PHASES], const cell *cell, ptrdiff_t hidden, ptrdiff_t chunk,
                          ptrdiff_t rows, ptrdiff_t cursor)
{
    for (int p = 0; p < cell->num_phases; p++) {
        const int gates = cell->phases[p]->gates;
        const ptrdiff_t panels = panels_of_units(hidden, gates), step = panels * rows * PANEL;
        sums[p] = (forward_sums){panels, grouped_columns(hidden, gates), cursor, cursor + chunk * step};
        cursor += (chunk + cell->apart) * step;
        if (PANEL_VECTORS % gates)
            cursor += LINE; /* a sum may begin within its last vector */
    }
    return cursor;
}

static ptrdiff_t NAME(plan_forward)(void *memory, const lstmc_forward *call)
{
    /* The sums of a chunk stay in the second-level cache; but so many rows share each reading of weights. */
    enum { SUMS_BYTES = 256 * 1024, LEAST_ROWS = 256 };
    forward_plan *plan = memory;
    const cell *cell = plan->cell = cell_of(call->cell);
    const rows_of_steps rows = {call->starts, call->steps, call->batch};
    const ptrdiff_t batch = max_of(1, call->batch);
    ptrdiff_t widest = 0, inputs = 0, cursor = 0, most = 0, row = 0;
    for (int l = 0; l < call->num_layers; l++) {
        if (!has_cell(cell, call->layers[l].weight_hr != NULL))
            return LSTMC_UNKNOWN;
        widest = max_of(widest, max_of(call->layers[l].hidden, call->layers[l].outputs));
        inputs = max_of(inputs, call->layers[l].inputs);
    }
    for (int p = 0; p < cell->num_phases; p++)
        row += panels_of_units(widest, cell->phases[p]->gates) * PANEL;
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
    plan->together = vectors_together(cell);

    for (int l = 0; l < call->num_layers; l++) {
        const lstmc_forward_layer *layer = &call->layers[l];
        const ptrdiff_t packed = lay_packed(&plan->places[l].weights, cell, layer);
        if (l % plan->group == 0) /* a group's place is the next one's too */
            cursor = 0;
        plan->places[l].packed = cursor;
        if (!layer->packed)
            cursor += packed;
        plan->places[l].states = cursor;
        if (!saves && !call->starts && l < call->num_layers - 1)
            cursor += aligned(plan->chunk * call->batch * layer->outputs);
        most = max_of(most, cursor);
    }
    if (!saves && call->starts) /* one layer reads what the other writes: the layers take turns */
        for (int l = 0; l < call->num_layers - 1; l++) {
            plan->places[l].states = most + l % 2 * aligned(call->starts[call->steps] * widest);
            cursor = max_of(cursor, plan->places[l].states + aligned(call->starts[call->steps] * widest));
        }
    plan->saved = max_of(most, cursor);
    plan->m = plan->saved + (saves || cell->num_phases == 1 ? 0 : aligned(batch * cell->saved * widest));
    cursor = plan->m + (saves || !call->layers[0].weight_hr ? 0 : aligned(batch * widest));
    /* Members have as many rows each as the one that has most. */
    const ptrdiff_t most_rows = batch + (plan->split == BY_ROWS ? plan->threads - 1 : 0);
    cursor = lay_sums(plan->sums, cell, widest, plan->chunk, most_rows, cursor);
    const ptrdiff_t size = cursor * (ptrdiff_t)sizeof(real);
    return saves ? max_of(size, scratch_after(call)) : size;
}

#endif
