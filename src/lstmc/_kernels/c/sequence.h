/* The driver: a stack of layers of one cell over time, forward and backward.
 *
 * Included once for each cell, after its equations (cell_lstm.h says what a cell is). Nothing here knows
 * an equation; nothing in a cell knows about time, layers, batch rows or threads.
 */
#define OF_CELL_(a, b) a##_##b
#define OF_CELL2(a, b) OF_CELL_(a, b)
#define OF_CELL(stem) OF_CELL2(CELL, stem)
#define CELL_GROUPS (PANEL_VECTORS / CELL_GATES) /* vectors of units in a panel of forward weights */
#define CELL_PANELS(hidden) ceil_div(hidden, CELL_GROUPS *VL)

/* ---- packed weights: W, R and b in panels, one after another ------------------------------------- */

static size_t OF_CELL(packed_size)(const lstmc_forward_layer *layer)
{
    return (size_t)CELL_PANELS(layer->hidden) * (layer->inputs + layer->hidden + 1) * PANEL * sizeof(real);
}

typedef struct {
    real *w, *r, *b;
} OF_CELL(weights);

static OF_CELL(weights) OF_CELL(weights_in)(const void *packed, const lstmc_forward_layer *layer)
{
    real *w = (real *)packed, *r = w + CELL_PANELS(layer->hidden) * layer->inputs * PANEL;
    return (OF_CELL(weights)){w, r, r + CELL_PANELS(layer->hidden) * layer->hidden * PANEL};
}

static void OF_CELL(pack_share)(void *packed, const lstmc_forward_layer *layer, const team *member)
{
    const ptrdiff_t hidden = layer->hidden;
    OF_CELL(weights) to = OF_CELL(weights_in)(packed, layer);
    ptrdiff_t first, last;
    team_share(member, CELL_PANELS(hidden), &first, &last);
    NAME(pack_transposed)(to.w + first * layer->inputs * PANEL, layer->weight_ih, layer->inputs, hidden, CELL_GATES,
                          first, last);
    NAME(pack_transposed)(to.r + first * hidden * PANEL, layer->weight_hh, hidden, hidden, CELL_GATES, first, last);
    NAME(pack_transposed)(to.b + first * PANEL, layer->bias, 1, hidden, CELL_GATES, first, last);
}

/* ---- forward ------------------------------------------------------------------------------------- */

typedef struct {
    const lstmc_forward *call;
    split_kind split;
    int threads;
    ptrdiff_t chunk; /* steps whose input products are made at once, just before they are used */
    int group;       /* layers that go through time together: one where all its states are saved, else all */
} OF_CELL(forward_plan);

static OF_CELL(forward_plan) OF_CELL(plan_forward)(const lstmc_forward *call)
{
    /* The sums of a chunk stay in the second-level cache; but so many rows share each reading of the weights. */
    enum { SUMS_BYTES = 256 * 1024, LEAST_ROWS = 256 };
    ptrdiff_t widest = 0, inputs = 0;
    for (int l = 0; l < call->num_layers; l++) {
        widest = max_of(widest, call->layers[l].hidden);
        inputs = max_of(inputs, call->layers[l].inputs);
    }
    ptrdiff_t row = max_of(1, call->batch) * CELL_PANELS(widest) * PANEL * sizeof(real);
    OF_CELL(forward_plan) plan = {.call = call, .threads = call->threads};
    plan.group = call->layers[0].h ? 1 : call->num_layers;
    plan.chunk = max_of(SUMS_BYTES / row, ceil_div(LEAST_ROWS, max_of(1, call->batch)));
    plan.chunk = max_of(1, min_of(call->steps, plan.chunk));
    plan.split = choose_split(&plan.threads, call->steps, call->batch, inputs, widest, CELL_GATES);
    return plan;
}

/* Where one layer's weights and states are. The states after step t are at h + (t - h_first) * B * H. */
typedef struct {
    OF_CELL(weights) weights;
    real *h, *c, *y; /* y: where h is written a second time, or NULL */
    ptrdiff_t h_first, c_step;
} OF_CELL(place);

/* *cursor walks through the scratch in the same way each time, from its start for each group. */
static OF_CELL(place) OF_CELL(layer_place)(const OF_CELL(forward_plan) *plan, int l, ptrdiff_t t0, real **cursor)
{
    const lstmc_forward_layer *layer = &plan->call->layers[l];
    const ptrdiff_t state = plan->call->batch * layer->hidden;
    OF_CELL(place) at = {.c = layer->c_n};
    if (l % plan->group == 0)
        *cursor = plan->call->scratch;
    if (layer->packed) {
        at.weights = OF_CELL(weights_in)(layer->packed, layer);
    } else {
        at.weights = OF_CELL(weights_in)(*cursor, layer);
        *cursor += OF_CELL(packed_size)(layer) / sizeof(real);
    }
    if (layer->h) { /* what is saved is not the caller's to write to; y is */
        at.h = (real *)layer->h + state;
        at.y = l == plan->call->num_layers - 1 ? plan->call->y : NULL;
    } else if (l == plan->call->num_layers - 1) {
        at.h = plan->call->y;
    } else { /* nothing is kept: one chunk of states, used again and again */
        at.h = *cursor;
        at.h_first = t0;
        *cursor += aligned(plan->chunk * state);
    }
    if (layer->c) {
        at.c = (real *)layer->c + state;
        at.c_step = state;
    }
    return at;
}

static size_t OF_CELL(forward_scratch)(const lstmc_forward *call)
{
    lstmc_forward sized = *call;
    sized.scratch = NULL;
    OF_CELL(forward_plan) plan = OF_CELL(plan_forward)(&sized);
    real *cursor = NULL;
    ptrdiff_t widest = 0;
    size_t most = 0;
    for (int l = 0; l < call->num_layers; l++) {
        OF_CELL(layer_place)(&plan, l, 0, &cursor);
        widest = max_of(widest, call->layers[l].hidden);
        most = (size_t)cursor > most ? (size_t)cursor : most;
    }
    return most + plan.chunk * call->batch * CELL_PANELS(widest) * PANEL * sizeof(real);
}

/* Where the states of one step are: y and gates may be NULL. ahead: from this step's to the next one's, which
 * is fetched while this one is computed; 0 after the last. */
typedef struct {
    real *h, *y, *c, *gates;
    const real *h_before, *c_before;
    ptrdiff_t ahead;
} OF_CELL(step);

static OF_CELL(step) OF_CELL(step_at)(const OF_CELL(forward_plan) *plan, const lstmc_forward_layer *layer,
                                      const OF_CELL(place) *at, ptrdiff_t t)
{
    const ptrdiff_t state = plan->call->batch * layer->hidden;
    OF_CELL(step) step = {.h = at->h + (t - at->h_first) * state, .c = at->c + t * at->c_step};
    step.y = at->y ? at->y + t * state : NULL;
    step.gates = layer->gates ? (real *)layer->gates + t * CELL_GATES * state : NULL;
    step.h_before = t != at->h_first ? step.h - state : t ? at->h + (plan->chunk - 1) * state : layer->h0;
    step.c_before = t ? step.c - at->c_step : layer->c0;
    step.ahead = t + 1 < plan->call->steps ? state : 0;
    return step;
}

/* From the sums of one row, a group of units, to their states. */
INLINE void OF_CELL(activate_units)(const OF_CELL(step) *step, const real *add, const real *sum, ptrdiff_t hidden,
                                    ptrdiff_t row, ptrdiff_t unit, ptrdiff_t width, ptrdiff_t n, int activation)
{
    const ptrdiff_t here = row * hidden + unit;
    vec gate[CELL_GATES], h_now, c_now = {0};
    for (int g = 0; g < CELL_GATES; g++) /* lanes from width on are not stored */
        gate[g] = load(sum + g * width) + load(add + g * width);
    if (CELL_HAS_C)
        c_now = load_n(step->c_before + here, n);
    OF_CELL(forward_units)(gate, &h_now, &c_now, activation);
    store_n(step->h + here, h_now, n);
    if (step->y)
        store_n(step->y + here, h_now, n);
    if (CELL_HAS_C)
        store_n(step->c + here, c_now, n);
    if (CELL_SAVES_GATES && step->gates) {
        real *gates = step->gates + row * CELL_GATES * hidden + unit;
        for (int g = 0; g < CELL_GATES; g++) {
            store_n(gates + g * hidden, gate[g], n);
            __builtin_prefetch(gates + CELL_GATES * step->ahead + g * hidden, 1);
        }
        __builtin_prefetch(step->c + step->ahead + here, 1);
        __builtin_prefetch(step->h + step->ahead + here, 1);
    }
}

/* From the sums of one step to its states. sums, in panels, are those of rows [from, to). */
static void OF_CELL(activate)(const OF_CELL(step) *step, const real *bias, const real *sums, ptrdiff_t sums_panel,
                              ptrdiff_t hidden, ptrdiff_t from, ptrdiff_t to, ptrdiff_t first, ptrdiff_t last,
                              int activation)
{
    /* By units: their bias is at hand. But rows of gates a power of two apart would drive one another out of
     * the cache, all units of a row do not. */
    const int collide = CELL_SAVES_GATES && step->gates && CELL_GATES * hidden * sizeof(real) % 2048 == 0;
    const ptrdiff_t at_once = collide ? 1 : to - from;
    for (ptrdiff_t top = from; top < to; top += at_once)
        for (ptrdiff_t p = first; p < last; p++)
            for (int u = 0; u < CELL_GROUPS; u++) {
                const ptrdiff_t unit = (p * CELL_GROUPS + u) * VL, n = min_of(VL, hidden - unit);
                const ptrdiff_t width = group_width(hidden, unit, CELL_GATES);
                const real *sum = sums + p * sums_panel + (top - from) * PANEL + u * CELL_GATES * VL;
                const real *add = bias + p * PANEL + u * CELL_GATES * VL;
                if (n <= 0)
                    break;
                for (ptrdiff_t row = top; row < top + at_once; row++, sum += PANEL)
                    OF_CELL(activate_units)(step, add, sum, hidden, row, unit, width, n, activation);
            }
}

/* Steps [t0, t1) of one layer: x is its input at step t0. */
static void OF_CELL(forward_chunk)(const OF_CELL(forward_plan) *plan, const lstmc_forward_layer *layer,
                                   const OF_CELL(place) *at, const real *x, real *sums, ptrdiff_t t0, ptrdiff_t t1,
                                   const team *member)
{
    const ptrdiff_t batch = plan->call->batch, hidden = layer->hidden, inputs = layer->inputs;
    const ptrdiff_t panels = CELL_PANELS(hidden);
    ptrdiff_t from = 0, to = batch, first = 0, last = panels;
    if (plan->split == BY_ROWS)
        team_share(member, batch, &from, &to);
    else
        team_share(member, panels, &first, &last);
    const ptrdiff_t rows = to - from, sums_panel = plan->chunk * rows * PANEL;
    const ptrdiff_t columns = min_of(last * PANEL, grouped_columns(hidden, CELL_GATES)) - first * PANEL;
    sums += panels * plan->chunk * from * PANEL;

    /* sums = x W: over time at once where a thread's rows of successive steps follow one another */
    const ptrdiff_t runs = rows == batch ? 1 : t1 - t0, run = rows == batch ? (t1 - t0) * rows : rows;
    for (ptrdiff_t i = 0; i < runs; i++)
        NAME(product)(sums + first * sums_panel + i * rows * PANEL, PANEL, sums_panel,
                      row_major(x + (i * batch + from) * inputs, inputs), at->weights.w + first * inputs * PANEL, run,
                      columns, inputs, 0);

    for (ptrdiff_t t = t0; t < t1; t++, sums += rows * PANEL) {
        const OF_CELL(step) step = OF_CELL(step_at)(plan, layer, at, t);
        NAME(product)(sums + first * sums_panel, PANEL, sums_panel, row_major(step.h_before + from * hidden, hidden),
                      at->weights.r + first * hidden * PANEL, rows, columns, hidden, 1);
        OF_CELL(activate)(&step, at->weights.b, sums, sums_panel, hidden, from, to, first, last,
                          plan->call->activation);
        if (plan->split == BY_UNITS)
            team_barrier(member);
    }
}

/* The states that every call hands back, each member some of the rows. */
static void OF_CELL(final_states)(const OF_CELL(forward_plan) *plan, const team *member)
{
    const ptrdiff_t steps = plan->call->steps, batch = plan->call->batch;
    const ptrdiff_t last_chunk = steps ? (steps - 1) / plan->chunk * plan->chunk : 0;
    real *cursor = NULL;
    ptrdiff_t from, to;
    team_share(member, batch, &from, &to);
    for (int l = 0; l < plan->call->num_layers; l++) {
        const lstmc_forward_layer *layer = &plan->call->layers[l];
        const ptrdiff_t hidden = layer->hidden, size = (to - from) * hidden * sizeof(real), offset = from * hidden;
        OF_CELL(place) at = OF_CELL(layer_place)(plan, l, last_chunk, &cursor);
        const real *h = steps ? at.h + (steps - 1 - at.h_first) * batch * hidden : layer->h0;
        memmove((real *)layer->h_n + offset, h + offset, size);
        if (layer->h)
            memcpy((real *)layer->h + offset, (const real *)layer->h0 + offset, size);
        if (CELL_HAS_C && layer->c)
            memcpy((real *)layer->c + offset, (const real *)layer->c0 + offset, size);
        const real *c = !steps ? layer->c0 : at.c + (steps - 1) * at.c_step;
        if (CELL_HAS_C)
            memmove((real *)layer->c_n + offset, c + offset, size);
    }
}

/* Layers [from, to), together through time. */
static void OF_CELL(forward_group)(const OF_CELL(forward_plan) *plan, int from, int to, const team *member)
{
    const lstmc_forward *call = plan->call;
    real *cursor = NULL;
    for (int l = from; l < to; l++) {
        OF_CELL(place) at = OF_CELL(layer_place)(plan, l, 0, &cursor);
        if (!call->layers[l].packed)
            OF_CELL(pack_share)(at.weights.w, &call->layers[l], member);
    }
    real *sums = cursor;
    team_barrier(member);
    for (ptrdiff_t t0 = 0; t0 < call->steps; t0 += plan->chunk) {
        const ptrdiff_t t1 = min_of(call->steps, t0 + plan->chunk);
        const lstmc_forward_layer *below = &call->layers[from] - 1;
        const real *x = (const real *)call->x + t0 * call->batch * call->layers[0].inputs;
        if (from)
            x = (const real *)below->h + (t0 + 1) * call->batch * below->hidden;
        for (int l = from; l < to; l++) {
            OF_CELL(place) at = OF_CELL(layer_place)(plan, l, t0, &cursor);
            OF_CELL(forward_chunk)(plan, &call->layers[l], &at, x, sums, t0, t1, member);
            x = at.h + (t0 - at.h_first) * call->batch * call->layers[l].hidden;
        }
    }
    team_barrier(member); /* the next group packs its weights over these */
}

static void OF_CELL(forward_member)(void *work, const team *member)
{
    const OF_CELL(forward_plan) *plan = work;
    for (int l = 0; l < plan->call->num_layers; l += plan->group)
        OF_CELL(forward_group)(plan, l, l + plan->group, member);
    OF_CELL(final_states)(plan, member);
}

static void OF_CELL(forward)(const lstmc_forward *call)
{
    OF_CELL(forward_plan) plan = OF_CELL(plan_forward)(call);
    lstmc_team_run(plan.threads, OF_CELL(forward_member), &plan);
}

static void OF_CELL(pack_alone)(void *packed, const lstmc_forward_layer *layer)
{
    const team alone = {NULL, 0, 1};
    OF_CELL(pack_share)(packed, layer, &alone);
}

/* ---- backward ------------------------------------------------------------------------------------ */

typedef struct {
    const lstmc_backward *call;
    split_kind split;
    int threads;
    ptrdiff_t chunk; /* steps whose dgates are made, then used while they are still in cache */
    ptrdiff_t repeat, forward_batch; /* rows of gradients for each row of h, c and gates; how many those are */
    /* scratch, each as large as the largest layer needs */
    real *w, *r;         /* panels of the weights as stored: K = G*H is already the leading axis */
    real *dgates;        /* (chunk, B, G*H) */
    real *dh, *dc;       /* the gradients arriving from the step after: units in panels of B rows */
    real *between;       /* (T, B, .) from a layer to the one below */
    real *for_weights;
    size_t scratch_size;
} OF_CELL(backward_plan);

static OF_CELL(backward_plan) OF_CELL(plan_backward)(const lstmc_backward *call)
{
    OF_CELL(backward_plan) plan = {.call = call, .threads = call->threads};
    plan.chunk = max_of(1, even_part(call->steps, max_of(1, K_BLOCK / max_of(1, call->batch))));
    plan.repeat = max_of(1, call->repeat);
    plan.forward_batch = call->batch / plan.repeat;
    ptrdiff_t widest = 0, inputs = 0, between = 0, dgates = 0;
    size_t for_weights = 0;
    for (int l = 0; l < call->num_layers; l++) {
        const lstmc_backward_layer *layer = &call->layers[l];
        widest = max_of(widest, layer->hidden);
        inputs = max_of(inputs, layer->inputs);
        between = max_of(between, l ? layer->inputs : 0);
        dgates = max_of(dgates, layer->dgates ? 0 : CELL_GATES * layer->hidden);
    }
    plan.split = choose_split(&plan.threads, call->steps, call->batch, inputs, widest, CELL_GATES);
    NAME(weight_gradient) widest_weights[] = {{.columns = inputs}, {.columns = widest}};
    for_weights = NAME(weight_gradients_scratch)(plan.threads, plan.chunk * call->batch, widest_weights, 2);

    real *cursor = call->scratch;
    const ptrdiff_t state = panels_of(widest) * call->batch * PANEL;
    plan.w = cursor;
    plan.r = plan.w + panels_of(inputs) * CELL_GATES * widest * PANEL;
    plan.dh = plan.r + panels_of(widest) * CELL_GATES * widest * PANEL;
    plan.dc = plan.dh + state;
    plan.dgates = plan.dc + state;
    plan.between = plan.dgates + aligned(plan.chunk * call->batch * dgates);
    plan.for_weights = plan.between + aligned(call->steps * call->batch * between);
    plan.scratch_size = (size_t)(plan.for_weights - cursor) * sizeof(real) + for_weights;
    return plan;
}

static size_t OF_CELL(backward_scratch)(const lstmc_backward *call)
{
    lstmc_backward sized = *call;
    sized.scratch = NULL;
    return OF_CELL(plan_backward)(&sized).scratch_size;
}

/* What one member does of one layer. */
typedef struct {
    ptrdiff_t from, to, first, last; /* batch rows, panels of units */
} OF_CELL(part);

/* dh, dc = what arrives through the final state. */
static void OF_CELL(start_backward)(const OF_CELL(backward_plan) *plan, const lstmc_backward_layer *layer,
                                    OF_CELL(part) mine)
{
    const ptrdiff_t hidden = layer->hidden, batch = plan->call->batch;
    for (ptrdiff_t p = mine.first; p < mine.last; p++) {
        const ptrdiff_t width = min_of(PANEL, hidden - p * PANEL) * sizeof(real);
        for (ptrdiff_t row = mine.from; row < mine.to; row++) {
            const ptrdiff_t to = (p * batch + row) * PANEL, source = row * hidden + p * PANEL;
            memset(plan->dh + to, 0, PANEL * sizeof(real));
            memset(plan->dc + to, 0, PANEL * sizeof(real));
            if (layer->dh_n)
                memcpy(plan->dh + to, (const real *)layer->dh_n + source, width);
            if (CELL_HAS_C && layer->dc_n)
                memcpy(plan->dc + to, (const real *)layer->dc_n + source, width);
        }
    }
}

/* dh0, dc0 = what has arrived at the initial state. */
static void OF_CELL(finish_backward)(const OF_CELL(backward_plan) *plan, const lstmc_backward_layer *layer,
                                     OF_CELL(part) mine)
{
    const ptrdiff_t hidden = layer->hidden, batch = plan->call->batch;
    for (ptrdiff_t p = mine.first; p < mine.last; p++) {
        const ptrdiff_t width = min_of(PANEL, hidden - p * PANEL) * sizeof(real);
        for (ptrdiff_t row = mine.from; row < mine.to; row++) {
            const ptrdiff_t source = (p * batch + row) * PANEL, to = row * hidden + p * PANEL;
            memcpy((real *)layer->dh0 + to, plan->dh + source, width);
            if (CELL_HAS_C)
                memcpy((real *)layer->dc0 + to, plan->dc + source, width);
        }
    }
}

/* From the gradients at the states of step t to those at its sums. */
static void OF_CELL(differentiate)(const OF_CELL(backward_plan) *plan, const lstmc_backward_layer *layer,
                                   real *dgates, const real *dy, ptrdiff_t t, OF_CELL(part) mine)
{
    const ptrdiff_t hidden = layer->hidden, batch = plan->call->batch, repeat = plan->repeat;
    const ptrdiff_t arriving = batch * hidden, state = plan->forward_batch * hidden;
    real *dh_later = layer->dh ? (real *)layer->dh + t * arriving : NULL;
    real *dc_later = layer->dc ? (real *)layer->dc + t * arriving : NULL;
    const real *h = (const real *)layer->h + (t + 1) * state, *gates = NULL, *c = NULL;
    if (CELL_HAS_C)
        c = (const real *)layer->c + (t + 1) * state;
    if (CELL_SAVES_GATES)
        gates = (const real *)layer->gates + t * CELL_GATES * state;
    dy = dy ? dy + t * arriving : NULL;
    const ptrdiff_t earlier = t ? -state : 0; /* what the next call reads comes from memory meanwhile */
    for (ptrdiff_t row = mine.from; row < mine.to; row++) {
        const ptrdiff_t row_before = repeat == 1 ? row : row / repeat;
        for (ptrdiff_t unit = mine.first * PANEL; unit < min_of(mine.last * PANEL, hidden); unit += VL) {
            const ptrdiff_t n = min_of(VL, hidden - unit), here = row * hidden + unit;
            const ptrdiff_t carried = (unit / PANEL * batch + row) * PANEL + unit % PANEL;
            const ptrdiff_t there = row_before * hidden + unit, gate_row = row_before * CELL_GATES * hidden + unit;
            vec dh = load(plan->dh + carried), dc = {0}, c_now = {0}, c_before = {0};
            vec gate[CELL_GATES] = {{0}}, dgate[CELL_GATES];
            if (dh_later)
                store_n(dh_later + here, dh, n);
            if (dy)
                dh += load_n(dy + here, n);
            if (CELL_HAS_C) {
                dc = load(plan->dc + carried);
                if (dc_later)
                    store_n(dc_later + here, dc, n);
                c_now = load_n(c + there, n);
                c_before = load_n(c - state + there, n);
            }
            for (int g = 0; CELL_SAVES_GATES && g < CELL_GATES; g++) {
                gate[g] = load_n(gates + gate_row + g * hidden, n);
                __builtin_prefetch(gates + CELL_GATES * earlier + gate_row + g * hidden);
            }
            if (CELL_HAS_C)
                __builtin_prefetch(c - state + earlier + there);
            if (dy)
                __builtin_prefetch(dy - (t ? arriving : 0) + here);
            OF_CELL(backward_units)(dgate, &dc, dh, gate, load_n(h + there, n), c_now, c_before,
                                    plan->call->activation);
            if (CELL_HAS_C)
                store(plan->dc + carried, dc);
            for (int g = 0; g < CELL_GATES; g++)
                store_n(dgates + (row * CELL_GATES + g) * hidden + unit, dgate[g], n);
        }
    }
}

/* Steps [t0, t1), backwards: their dgates, and dh, dc of the step before them. */
static void OF_CELL(backward_steps)(const OF_CELL(backward_plan) *plan, const lstmc_backward_layer *layer,
                                    real *dgates, const real *dy, ptrdiff_t t0, ptrdiff_t t1, OF_CELL(part) mine,
                                    const team *member)
{
    const ptrdiff_t batch = plan->call->batch, hidden = layer->hidden, sums = CELL_GATES * hidden;
    const ptrdiff_t columns = min_of(mine.last * PANEL, hidden) - mine.first * PANEL;
    for (ptrdiff_t t = t1 - 1; t >= t0; t--) {
        real *dgates_t = dgates + (t - t0) * batch * sums;
        OF_CELL(differentiate)(plan, layer, dgates_t, dy, t, mine);
        if (plan->split == BY_UNITS)
            team_barrier(member);
        /* sums = W x + R h_before: dh_before = dgates R */
        NAME(product)(plan->dh + (mine.first * batch + mine.from) * PANEL, PANEL, batch * PANEL,
                      row_major(dgates_t + mine.from * sums, sums), plan->r + mine.first * sums * PANEL,
                      mine.to - mine.from, columns, sums, 0);
    }
    team_barrier(member);
}

static void OF_CELL(backward_layer)(const OF_CELL(backward_plan) *plan, const lstmc_backward_layer *layer,
                                    const real *dy, const real *x, real *dx, const team *member)
{
    const ptrdiff_t batch = plan->call->batch, hidden = layer->hidden, inputs = layer->inputs;
    const ptrdiff_t sums = CELL_GATES * hidden;
    ptrdiff_t first, last, from, to;

    team_share(member, panels_of(hidden), &first, &last);
    NAME(pack_rows)(plan->r + first * sums * PANEL, layer->weight_hh, hidden, sums, hidden, first, last);
    OF_CELL(part) mine = {0, batch, first, last};
    if (plan->split == BY_ROWS) {
        mine = (OF_CELL(part)){0, 0, 0, panels_of(hidden)};
        team_share(member, batch, &mine.from, &mine.to);
    }
    if (dx) {
        team_share(member, panels_of(inputs), &first, &last);
        NAME(pack_rows)(plan->w + first * sums * PANEL, layer->weight_ih, inputs, sums, inputs, first, last);
    }
    OF_CELL(start_backward)(plan, layer, mine);
    team_barrier(member);

    for (ptrdiff_t t1 = plan->call->steps, t0; t1 > 0; t1 = t0) {
        t0 = max_of(0, t1 - plan->chunk);
        const ptrdiff_t rows = (t1 - t0) * batch, before = t0 * batch;
        real *dgates = layer->dgates ? (real *)layer->dgates + before * sums : plan->dgates;
        OF_CELL(backward_steps)(plan, layer, dgates, dy, t0, t1, mine, member);

        /* sums = W x + R h_before + b: dx = dgates W, dW = dgates' x, dR = dgates' h_before, db = dgates' 1 */
        if (layer->dweight_ih) {
            team_share(member, sums, &from, &to);
            NAME(add_rows)(layer->dbias, dgates, sums, rows, from, to);
            const NAME(weight_gradient) weights[] = {
                {layer->dweight_ih, x + before * inputs, inputs},
                {layer->dweight_hh, (const real *)layer->h + before * hidden, hidden}};
            NAME(add_weight_gradients)(weights, 2, dgates, rows, sums, plan->for_weights, member);
        }
        team_share(member, rows, &from, &to);
        if (dx) /* which may be x: of these rows it is not read again */
            NAME(product)(dx + (before + from) * inputs, inputs, PANEL, row_major(dgates + from * sums, sums),
                          plan->w, to - from, inputs, sums, 0);
        team_barrier(member); /* the next chunk writes over dgates */
    }
    OF_CELL(finish_backward)(plan, layer, mine);
    team_barrier(member);
}

static void OF_CELL(backward_member)(void *work, const team *member)
{
    const OF_CELL(backward_plan) *plan = work;
    const lstmc_backward *call = plan->call;
    const real *dy = call->dy;
    for (int l = call->num_layers - 1; l >= 0; l--) {
        const lstmc_backward_layer *layer = &call->layers[l], *below = layer - 1;
        const real *x = l ? (const real *)below->h + call->batch * below->hidden : (const real *)call->x;
        real *dx = !l ? (real *)call->dx : layer->dx ? (real *)layer->dx : plan->between;
        OF_CELL(backward_layer)(plan, layer, dy, x, dx, member);
        dy = dx;
    }
}

static void OF_CELL(backward)(const lstmc_backward *call)
{
    OF_CELL(backward_plan) plan = OF_CELL(plan_backward)(call);
    lstmc_team_run(plan.threads, OF_CELL(backward_member), &plan);
}

#undef OF_CELL_
#undef OF_CELL2
#undef OF_CELL
#undef CELL_GROUPS
#undef CELL_PANELS
#undef CELL
#undef CELL_GATES
#undef CELL_HAS_C
#undef CELL_SAVES_GATES
