/* The two loops over rows and units, made for one cell: CELL, its counts, and CELL_forward() and
 * CELL_backward().
 *
 * Included by each cell's file after its equations (cell_lstm.h says what those are). Nothing here knows an
 * equation; nothing in a cell knows about rows, panels or tails.
 */
#define OF_CELL_(a, b) a##_##b
#define OF_CELL2(a, b) OF_CELL_(a, b)
#define OF_CELL(stem) OF_CELL2(CELL, stem)
#define STRING_(a) #a
#define STRING(a) STRING_(a)
#define CELL_GROUPS (PANEL_VECTORS / CELL_GATES) /* vectors of units in a panel of forward weights */

/* From the sums of one row, a group of units, to their states. Lanes from width on are not stored. */
INLINE void OF_CELL(activate_units)(const forward_step *step, const real *add, const real *sum, ptrdiff_t row,
                                    ptrdiff_t unit, ptrdiff_t width, ptrdiff_t n)
{
    const ptrdiff_t here = row * step->hidden + unit;
    forward_units u;
    for (int g = 0; g < CELL_GATES; g++)
        u.gates[g] = load(sum + g * width) + load(add + g * width);
    if (CELL_HAS_C)
        u.c = load_n(step->c_before + here, n);
    OF_CELL(forward)(&u);
    store_n(step->h + here, u.h, n);
    if (step->y)
        store_n(step->y + here, u.h, n);
    if (CELL_HAS_C)
        store_n(step->c + here, u.c, n);
    if (CELL_SAVES_GATES && step->gates) {
        real *gates = step->gates + row * CELL_GATES * step->hidden + unit;
        for (int g = 0; g < CELL_GATES; g++) {
            store_n(gates + g * step->hidden, u.gates[g], n);
            __builtin_prefetch(gates + CELL_GATES * step->ahead + g * step->hidden, 1);
        }
        __builtin_prefetch(step->c + step->ahead + here, 1);
        __builtin_prefetch(step->h + step->ahead + here, 1);
    }
}

static void OF_CELL(activate)(const forward_step *given, part mine)
{
    const forward_step step = *given; /* a copy stays in registers: no store can change it */
    /* By units: their bias is at hand. But rows of gates a power of two apart would drive one another out of
     * the cache, all units of a row do not. */
    const int collide = CELL_SAVES_GATES && step.gates && CELL_GATES * step.hidden * sizeof(real) % 2048 == 0;
    const ptrdiff_t at_once = collide ? 1 : mine.to - mine.from;
    for (ptrdiff_t top = mine.from; top < mine.to; top += at_once)
        for (ptrdiff_t p = mine.first; p < mine.last; p++)
            for (int u = 0; u < CELL_GROUPS; u++) {
                const ptrdiff_t unit = (p * CELL_GROUPS + u) * VL, n = min_of(VL, step.hidden - unit);
                const ptrdiff_t width = group_width(step.hidden, unit, CELL_GATES);
                const real *sum =
                    step.sums + p * step.sums_panel + (top - mine.from) * PANEL + u * CELL_GATES * VL;
                const real *add = step.bias + p * PANEL + u * CELL_GATES * VL;
                if (n <= 0)
                    break;
                for (ptrdiff_t row = top; row < top + at_once; row++, sum += PANEL)
                    OF_CELL(activate_units)(&step, add, sum, row, unit, width, n);
            }
}

/* Of one row, VL units. */
INLINE void OF_CELL(differentiate_units)(const backward_step *step, ptrdiff_t row, ptrdiff_t row_before,
                                         ptrdiff_t unit)
{
    const ptrdiff_t hidden = step->hidden, n = min_of(VL, hidden - unit), here = row * hidden + unit;
    const ptrdiff_t carried = (unit / PANEL * step->batch + row) * PANEL + unit % PANEL;
    const ptrdiff_t there = row_before * hidden + unit;
    backward_units u;
    u.dh = load(step->dh + carried);
    if (step->dh_later)
        store_n(step->dh_later + here, u.dh, n);
    if (step->dy)
        u.dh += load_n(step->dy + here, n);
    if (CELL_HAS_C) {
        u.dc = load(step->dc + carried);
        if (step->dc_later)
            store_n(step->dc_later + here, u.dc, n);
        u.c = load_n(step->c + there, n);
        u.c_before = load_n(step->c - step->state + there, n);
    }
    for (int g = 0; CELL_SAVES_GATES && g < CELL_GATES; g++) {
        const real *gate = step->gates + (row_before * CELL_GATES + g) * hidden + unit;
        u.gates[g] = load_n(gate, n);
        __builtin_prefetch(gate + CELL_GATES * step->earlier);
    }
    if (CELL_HAS_C)
        __builtin_prefetch(step->c - step->state + step->earlier + there);
    if (step->dy)
        __builtin_prefetch(step->dy - (step->earlier ? step->batch * hidden : 0) + here);
    u.h = load_n(step->h + there, n);
    OF_CELL(backward)(&u);
    if (CELL_HAS_C)
        store(step->dc + carried, u.dc);
    for (int g = 0; g < CELL_GATES; g++)
        store_n(step->dgates + (row * CELL_GATES + g) * hidden + unit, u.dgates[g], n);
}

static void OF_CELL(differentiate)(const backward_step *given, part mine)
{
    const backward_step step = *given;
    for (ptrdiff_t row = mine.from; row < mine.to; row++) {
        const ptrdiff_t row_before = step.repeat == 1 ? row : row / step.repeat;
        for (ptrdiff_t unit = mine.first * PANEL; unit < min_of(mine.last * PANEL, step.hidden); unit += VL)
            OF_CELL(differentiate_units)(&step, row, row_before, unit);
    }
}

static const cell CELL = {
    .name = STRING(CELL),
    .gates = CELL_GATES,
    .has_c = CELL_HAS_C,
    .saves_gates = CELL_SAVES_GATES,
    .activate = OF_CELL(activate),
    .differentiate = OF_CELL(differentiate),
};

#undef CELL_GROUPS
#undef OF_CELL
#undef OF_CELL2
#undef OF_CELL_
#undef STRING
#undef STRING_
#undef CELL
#undef CELL_GATES
#undef CELL_HAS_C
#undef CELL_SAVES_GATES
