/* The two loops over rows and units, made for one phase of a cell: CELL, its counts, CELL_forward() and
 * CELL_backward(). Of a cell of several phases: PHASE and what it makes, PHASE_forward() and
 * PHASE_backward(), and once for each.
 *
 * Included by each cell's file after its equations (lstm.h says what those are). Nothing here knows an
 * equation; nothing in a cell knows about rows, panels or tails. What a cell does not have is a condition on
 * constants, and costs nothing.
 */
#if !defined(CELL_APART) /* what a cell does not say */
#define CELL_APART 0
#endif
#if !defined(CELL_BIASES)
#define CELL_BIASES CELL_GATES
#endif
#if !defined(CELL_SAVED)
#define CELL_SAVED 0
#endif
#if !defined(CELL_HAS_C)
#define CELL_HAS_C 0
#endif
#if !defined(CELL_CARRIES_H)
#define CELL_CARRIES_H 0
#endif
#if !defined(CELL_PEEPHOLES)
#define CELL_PEEPHOLES 0
#define CELL_SEES
#endif
#if !defined(CELL_CLIPS)
#define CELL_CLIPS 0
#endif

#if !defined(PHASE) /* the cell has one, which does it all */
#define ONE_PHASE 1
#define PHASE CELL
#define PHASE_FIRST 0
#define PHASE_GATES CELL_GATES
#define PHASE_BIASES CELL_BIASES
#define PHASE_SAVES_FROM 0
#define PHASE_SAVES_TO CELL_SAVED
#define PHASE_OPERAND H_BEFORE
#define PHASE_IS_LAST 1
#else
#define ONE_PHASE 0
#define PHASE_BIASES PHASE_GATES
#endif

_Static_assert(CELL_GATES <= MOST && CELL_SAVED <= MOST && CELL_PEEPHOLES <= MOST_PEEPHOLES &&
                   CELL_BIASES >= CELL_GATES && CELL_BIASES <= 2 * CELL_GATES,
               "counts of a cell that cell.h has room for");
/* A call may write dgates over what is saved if that is of their size: it would lose the left operand. */
_Static_assert(ONE_PHASE || (CELL_BIASES == CELL_GATES && CELL_SAVED > CELL_GATES && !CELL_HAS_C),
               "what a cell of several phases may have");

#define OF_PHASE_(a, b) a##_##b
#define OF_PHASE2(a, b) OF_PHASE_(a, b)
#define OF_PHASE(stem) OF_PHASE2(PHASE, stem)

/* Where the sums of the group-th vector of units begin, gate by gate. Within one panel, if a whole number of
 * groups fills it; else the gates of a group may lie in two. */
INLINE void OF_PHASE(find_sums)(const real *at[PHASE_GATES], const real *panels, ptrdiff_t stride,
                                ptrdiff_t group, ptrdiff_t width)
{
    enum { WHOLE = PANEL_VECTORS % PHASE_GATES == 0 };
    const size_t first = (size_t)group * (PHASE_GATES * VL);
    for (int g = 0; g < PHASE_GATES; g++) {
        const size_t column = first + g * width, panel = (WHOLE ? first : column) / PANEL;
        at[g] = panels + (ptrdiff_t)panel * (stride - PANEL) + column;
    }
}

/* One row, VL units from `unit` on, of which n exist. row_sums: the row's place in the sums; lanes of a sum
 * from `width` on are another's, and not stored. */
INLINE void OF_PHASE(activate_units)(const forward_step *step, const real *bias, const real *peepholes,
                                     const real *const sums[PHASE_GATES],
                                     const real *const recurrent[PHASE_GATES], ptrdiff_t row_sums,
                                     ptrdiff_t row, ptrdiff_t unit, ptrdiff_t width, ptrdiff_t n)
{
    enum { OWN = PHASE_BIASES - PHASE_GATES }; /* biases that R's last sums have for themselves */
    const ptrdiff_t here = row * step->hidden + unit;
    real *saved = CELL_SAVED && step->saved ? step->saved + row * CELL_SAVED * step->hidden + unit : NULL;
    forward_units u;
    /* in: the sums, and the states before, where the cell reads them */
    for (int g = 0; g < PHASE_GATES; g++)
        u.sums[g] = load(sums[g] + row_sums) + load(bias + g * width);
    for (int g = 0; CELL_APART && g < PHASE_GATES; g++) {
        u.recurrent[g] = load(recurrent[g] + row_sums);
        if (g >= PHASE_GATES - OWN)
            u.recurrent[g] += load(bias + (g + OWN) * width);
    }
    if (CELL_CARRIES_H)
        u.h_before = load_n(step->h_before + here, n);
    if (CELL_HAS_C)
        u.c = load_n(step->c_before + here, n);
    for (int s = 0; s < PHASE_SAVES_FROM; s++)
        u.saved[s] = load_n(saved + s * step->hidden, n);
    for (int k = 0; k < CELL_PEEPHOLES; k++)
        u.peepholes[k] = load(peepholes + k * whole_vectors(step->hidden) + unit);
    if (CELL_CLIPS)
        u.clip = step->clip;
    OF_PHASE(forward)(&u);
    /* out: the states, and what is saved; the places of the next step are fetched, to be written to then */
    if (PHASE_IS_LAST)
        store_n(step->h + here, u.h, n);
    if (PHASE_IS_LAST && step->y)
        store_n(step->y + here, u.h, n);
    if (CELL_HAS_C)
        store_n(step->c + here, u.c, n);
    if (CELL_SAVED && step->saved) {
        for (int s = PHASE_SAVES_FROM; s < PHASE_SAVES_TO; s++) {
            store_n(saved + s * step->hidden, u.saved[s], n);
            __builtin_prefetch(saved + CELL_SAVED * step->ahead + s * step->hidden, 1);
        }
        if (CELL_HAS_C)
            __builtin_prefetch(step->c + step->ahead + here, 1);
        if (PHASE_IS_LAST)
            __builtin_prefetch(step->h + step->ahead + here, 1);
    }
}

/* Rows and vectors of units of one step, from their sums to their states. No store reaches the step itself,
 * so what it holds stays in registers. */
static void OF_PHASE(activate)(const forward_step *restrict step, const phase_share *restrict share,
                               const part *restrict mine)
{
    /* By units: their bias is at hand. But many saved rows a power of two apart would drive one another out
     * of the cache. A few do not, and of the sums, which come from beyond it, each panel gives whole lines.
     */
    enum { FEW = 4 };
    const int collide = CELL_SAVED && step->saved && CELL_SAVED * step->hidden * sizeof(real) % 2048 == 0;
    const ptrdiff_t at_once = collide ? FEW : mine->to - mine->from;
    /* `at_once` rows of one vector of units after another */
    for (ptrdiff_t top = mine->from; top < mine->to; top += at_once)
        for (ptrdiff_t group = mine->first; group < mine->last; group++) {
            const ptrdiff_t unit = group * VL, n = min_of(VL, step->hidden - unit);
            const ptrdiff_t width = group_width(step->hidden, unit, PHASE_GATES);
            const real *bias = share->bias + group * PHASE_BIASES * VL;
            const real *sums[PHASE_GATES], *recurrent[PHASE_GATES];
            OF_PHASE(find_sums)(sums, share->sums, share->sums_panel, group, width);
            if (CELL_APART)
                OF_PHASE(find_sums)(recurrent, share->recurrent, share->recurrent_panel, group, width);
            for (ptrdiff_t row = top; row < min_of(mine->to, top + at_once); row++)
                OF_PHASE(activate_units)(step, bias, share->peepholes, sums, recurrent,
                                         (row - mine->from) * PANEL, row, unit, width, n);
        }
}

/* One row, VL units from `unit` on, of which n exist. row_before: its row in what forward saved. */
INLINE void OF_PHASE(differentiate_units)(const backward_step *step, const clip_values *clips, ptrdiff_t row,
                                          ptrdiff_t row_before, ptrdiff_t unit, ptrdiff_t n)
{
    const ptrdiff_t hidden = step->hidden, here = row * hidden + unit;
    const ptrdiff_t carried = (unit / PANEL * step->batch + row) * PANEL + unit % PANEL;
    const ptrdiff_t there = row_before * hidden + unit;
    backward_units u;
    /* what arrives at h: from the step after and, here, from the layer above */
    u.dh = load(step->dh + carried);
    if (PHASE_IS_LAST && step->dh_later)
        store_n(step->dh_later + here, u.dh, n);
    if (PHASE_IS_LAST && step->dy)
        u.dh += load_n(step->dy + here, n);
    if (!PHASE_IS_LAST)
        u.doperand = load(step->doperand + carried);
    if (CELL_HAS_C) {
        u.dc = load(step->dc + carried);
        if (step->dc_later)
            store_n(step->dc_later + here, u.dc, n);
        u.c = load_n(step->c + there, n);
        u.c_before = load_n(step->c - step->state + there, n);
    }
    /* what forward saved of this step; that of the step before comes from memory meanwhile */
    for (int s = 0; s < CELL_SAVED; s++) {
        const real *saved = step->saved + (row_before * CELL_SAVED + s) * hidden + unit;
        u.saved[s] = load_n(saved, n);
        if (PHASE_IS_LAST)
            __builtin_prefetch(saved + CELL_SAVED * step->earlier);
    }
    if (CELL_HAS_C)
        __builtin_prefetch(step->c - step->state + step->earlier + there);
    if (PHASE_IS_LAST && step->dy)
        __builtin_prefetch(step->dy + step->repeat * step->earlier + here);
    u.h = load_n(step->h + there, n);
    if (CELL_CARRIES_H)
        u.h_before = load_n(step->h - step->state + there, n);
    for (int k = 0; k < CELL_PEEPHOLES; k++)
        u.peepholes[k] = load_n(step->peepholes + k * hidden + unit, n);
    if (CELL_CLIPS)
        u.low = clips->low, u.high = clips->high, u.bound = clips->bound;
    OF_PHASE(backward)(&u);
    /* what goes on to the step before by itself; the rest goes through the sums, by the product with R */
    if (CELL_HAS_C)
        store(step->dc + carried, u.dc);
    if (CELL_CARRIES_H)
        store(step->dh + carried, u.dh);
    for (int g = 0; g < PHASE_GATES; g++)
        store_n(step->dsums + (row * CELL_GATES + PHASE_FIRST + g) * hidden + unit, u.dsums[g], n);
    for (int g = 0; CELL_APART && g < PHASE_GATES; g++)
        store_n(step->drecurrent + (row * CELL_GATES + PHASE_FIRST + g) * hidden + unit, u.drecurrent[g], n);
}

/* By rows: of each all units, whose gradients of the sums lie side by side. Whole vectors need no test
 * of n. */
static void OF_PHASE(differentiate)(const backward_step *restrict step, const part *restrict mine)
{
    const ptrdiff_t end = min_of(mine->last * PANEL, step->hidden);
    clip_values clips;
    if (CELL_CLIPS)
        clips = values_at(step->clip);
    for (ptrdiff_t row = mine->from; row < mine->to; row++) {
        const ptrdiff_t row_before = step->repeat == 1 ? row : row / step->repeat;
        ptrdiff_t unit = mine->first * PANEL;
        for (; unit <= end - VL; unit += VL)
            OF_PHASE(differentiate_units)(step, &clips, row, row_before, unit, VL);
        if (unit < end)
            OF_PHASE(differentiate_units)(step, &clips, row, row_before, unit, end - unit);
    }
}

static const phase OF_PHASE(phase) = {
    .first = PHASE_FIRST,
    .gates = PHASE_GATES,
    .biases = PHASE_BIASES,
    .operand = PHASE_OPERAND,
    .activate = OF_PHASE(activate),
    .differentiate = OF_PHASE(differentiate),
};

#if ONE_PHASE
#define PHASES &OF_PHASE(phase)
#include "record.h"
#endif

#undef OF_PHASE
#undef OF_PHASE2
#undef OF_PHASE_
#undef ONE_PHASE
#undef PHASE
#undef PHASE_FIRST
#undef PHASE_GATES
#undef PHASE_BIASES
#undef PHASE_SAVES_FROM
#undef PHASE_SAVES_TO
#undef PHASE_OPERAND
#undef PHASE_IS_LAST
