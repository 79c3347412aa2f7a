/* The linear layer: y = x weight' + bias and its gradients, as products of gemm.h.
 *
 * rows are all rows that x has, T*B of a sequence; weight (outputs, inputs) as Python keeps it. Forward,
 * members of a team own panels of outputs; backward, rows of dx and then rows of dweight: no sum is ever
 * shared.
 */
#ifndef LSTMC_LINEAR_H
#define LSTMC_LINEAR_H

#include "gemm.h"
#include "kernels.h"

/* Below a million multiply-adds, some 10 microseconds, waking a second thread does not pay. */
static int linear_threads(int threads, ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t outputs)
{
    return 2.0 * rows * inputs * outputs > 1e6 ? threads : 1;
}

/* Bytes of the panels of weight': (inputs, outputs), one sum a unit. */
static size_t NAME(packed_linear_size)(ptrdiff_t inputs, ptrdiff_t outputs)
{
    return panels_of(outputs) * inputs * PANEL * sizeof(real);
}

static void NAME(pack_linear)(lstmc_real *packed, const lstmc_real *weight, ptrdiff_t inputs,
                              ptrdiff_t outputs)
{
    NAME(pack_transposed)(packed, weight, inputs, outputs, 1, 0, panels_of(outputs));
}

typedef struct {
    real *y;            /* (rows, outputs) */
    const real *x;      /* (rows, inputs) */
    const real *weight; /* (outputs, inputs) */
    const real *bias;   /* (outputs,), or NULL */
    const real *packed; /* panels of all outputs, or NULL: then they are packed into `panels` on the way */
    ptrdiff_t rows, inputs, outputs;
    real *panels; /* a few panels for each member */
} NAME(linear_forward_work);

/* Panels that are packed at once, just before they are used: they stay in the second-level cache. */
INLINE ptrdiff_t linear_panels_at_once(ptrdiff_t inputs, ptrdiff_t outputs)
{
    enum { AT_ONCE_BYTES = 256 * 1024 };
    const ptrdiff_t panel_bytes = max_of(1, inputs) * PANEL * sizeof(real);
    return max_of(1, min_of(panels_of(outputs), AT_ONCE_BYTES / panel_bytes));
}

/* Panels [first, last) of the outputs: packed some at a time, multiplied with some rows after others, and the
 * bias added while what was written is still in cache. */
static void NAME(linear_forward_member)(void *work, const team *member)
{
    const NAME(linear_forward_work) *w = work;
    const ptrdiff_t inputs = w->inputs, outputs = w->outputs;
    ptrdiff_t first, last;
    team_share(member, panels_of(outputs), &first, &last);
    const ptrdiff_t at_once = w->packed ? last - first : linear_panels_at_once(inputs, outputs);
    for (ptrdiff_t p = first, end; p < last; p = end) {
        end = min_of(last, p + at_once);
        const ptrdiff_t column = p * PANEL, columns = min_of(end * PANEL, outputs) - column;
        real *mine = w->panels + (w->packed ? 0 : member->rank * at_once * inputs * PANEL);
        if (!w->packed)
            NAME(pack_transposed)(mine, w->weight, inputs, outputs, 1, p, end);
        const real *panels = w->packed ? w->packed + p * inputs * PANEL : mine;
        for (ptrdiff_t top = 0, rows; top < w->rows; top += rows) {
            rows = min_of(ROW_BLOCK, w->rows - top);
            NAME(product)(w->y + top * outputs + column, outputs, PANEL,
                          row_major(w->x + top * inputs, inputs), panels, rows, columns, inputs, 0);
            for (ptrdiff_t row = top; w->bias && row < top + rows; row++)
                for (ptrdiff_t i = column; i < column + columns; i += VL) {
                    const ptrdiff_t n = min_of(VL, column + columns - i);
                    real *y = w->y + row * outputs + i;
                    store_n(y, load_n(y, n) + load_n(w->bias + i, n), n);
                }
        }
    }
}

/* As if nothing were packed; with packed weights none of it is used. */
static size_t NAME(linear_forward_scratch)(ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t outputs, int threads)
{
    const int members = linear_threads(threads, rows, inputs, outputs);
    return members * linear_panels_at_once(inputs, outputs) * inputs * PANEL * sizeof(real);
}

static void NAME(linear_forward)(lstmc_real *y, const lstmc_real *x, const lstmc_real *weight,
                                 const lstmc_real *bias, const lstmc_real *packed, ptrdiff_t rows,
                                 ptrdiff_t inputs, ptrdiff_t outputs, int threads, void *scratch)
{
    NAME(linear_forward_work) work = {y, x, weight, bias, packed, rows, inputs, outputs, scratch};
    lstmc_team_run(linear_threads(threads, rows, inputs, outputs), NAME(linear_forward_member), &work);
}

typedef struct {
    real *dx;      /* (rows, inputs), written, or NULL */
    real *dweight; /* (outputs, inputs), added to, or NULL */
    real *dbias;   /* (outputs,), added to, or NULL */
    const real *dy, *x, *weight;
    ptrdiff_t rows, inputs, outputs;
    real *panels;  /* of K_BLOCK rows of weight, shared by all members */
    real *scratch; /* of the weight's gradient */
} NAME(linear_backward_work);

static void NAME(linear_backward_member)(void *work, const team *member)
{
    const NAME(linear_backward_work) *w = work;
    const ptrdiff_t inputs = w->inputs, outputs = w->outputs;
    ptrdiff_t from, to;
    /* y = x weight': dx = dy weight, a block of outputs at a time, packed by all and used by all */
    for (ptrdiff_t k0 = 0; w->dx && k0 < outputs; k0 += K_BLOCK) {
        const ptrdiff_t depth = min_of(K_BLOCK, outputs - k0);
        team_share(member, panels_of(inputs), &from, &to);
        NAME(pack_rows)(w->panels + from * depth * PANEL, w->weight + k0 * inputs, inputs, NULL, depth,
                        inputs, from, to);
        team_barrier(member);
        team_share(member, w->rows, &from, &to);
        NAME(product)(w->dx + from * inputs, inputs, PANEL, row_major(w->dy + from * outputs + k0, outputs),
                      w->panels, to - from, inputs, depth, k0 > 0);
        team_barrier(member);
    }
    /* dbias = dy' 1 and dweight = dy' x: each member its outputs */
    team_share(member, outputs, &from, &to);
    if (w->dbias)
        NAME(add_rows)(w->dbias, w->dy, outputs, w->rows, from, to);
    if (!w->dweight)
        return;
    const NAME(weight_gradient) gradient = {w->dweight, w->x, inputs, inputs, NULL};
    NAME(add_weight_gradients)(&gradient, 1, w->dy, outputs, w->rows, outputs, w->scratch, member);
}

/* Elements of the panels of one block of outputs. */
static ptrdiff_t NAME(linear_backward_panels)(ptrdiff_t inputs, ptrdiff_t outputs)
{
    return panels_of(inputs) * min_of(K_BLOCK, outputs) * PANEL;
}

static size_t NAME(linear_backward_scratch)(ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t outputs, int threads)
{
    const NAME(weight_gradient) gradient = {.columns = inputs};
    return NAME(linear_backward_panels)(inputs, outputs) * sizeof(real) +
           NAME(weight_gradients_scratch)(linear_threads(threads, rows, inputs, outputs), rows, &gradient, 1);
}

static void NAME(linear_backward)(lstmc_real *dx, lstmc_real *dweight, lstmc_real *dbias,
                                  const lstmc_real *dy, const lstmc_real *x, const lstmc_real *weight,
                                  ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t outputs, int threads,
                                  void *scratch)
{
    real *panels = scratch;
    NAME(linear_backward_work)
    work = {dx,
            dweight,
            dbias,
            dy,
            x,
            weight,
            rows,
            inputs,
            outputs,
            panels,
            panels + NAME(linear_backward_panels)(inputs, outputs)};
    lstmc_team_run(linear_threads(threads, rows, inputs, outputs), NAME(linear_backward_member), &work);
}

#endif
