/* What takes rows of one matrix to another: rows of sequences from one order to another, rows of a table by
 * token. */
#ifndef LSTMC_ROWS_H
#define LSTMC_ROWS_H

#include "flat.h"

/* ---- rows ---------------------------------------------------------------------------------------- */

typedef struct {
    real *to;
    const real *from;
    const ptrdiff_t *index;
    ptrdiff_t to_stride, from_stride, rows, columns;
    int adds;
} NAME(gather_work);

/* Rows lie anywhere, so a later one is asked for while this one is copied. */
static void NAME(gather_member)(void *work, const team *member)
{
    const NAME(gather_work) *w = work;
    const ptrdiff_t ahead = 4, line = 64 / sizeof(real);
    ptrdiff_t first, last;
    team_share(member, w->rows, &first, &last);
    for (ptrdiff_t row = first; row < last; row++) {
        real *to = w->to + row * w->to_stride;
        if (row + ahead < last && w->index[row + ahead] >= 0)
            for (ptrdiff_t i = 0; i < w->columns; i += line)
                __builtin_prefetch(w->from + w->index[row + ahead] * w->from_stride + i);
        if (w->index[row] < 0) {
            if (!w->adds)
                memset(to, 0, w->columns * sizeof(real));
            continue;
        }
        const real *from = w->from + w->index[row] * w->from_stride;
        for (ptrdiff_t i = 0; i < w->columns; i += VL) {
            const ptrdiff_t n = min_of(VL, w->columns - i);
            const vec one = load_n(from + i, n);
            store_n(to + i, w->adds ? load_n(to + i, n) + one : one, n);
        }
    }
}

static void NAME(gather_rows)(lstmc_real *to, ptrdiff_t to_stride, const lstmc_real *from,
                              ptrdiff_t from_stride, const ptrdiff_t *index, int adds, ptrdiff_t rows,
                              ptrdiff_t columns, int threads)
{
    NAME(gather_work) work = {to, from, index, to_stride, from_stride, rows, columns, adds};
    lstmc_team_run(flat_threads(threads, rows * columns), NAME(gather_member), &work);
}

/* ---- embedding ----------------------------------------------------------------------------------- */

/* y (rows, columns) = rows of weight (V, columns): copies, which memory bounds on one thread already. */
static void NAME(embedding_forward)(lstmc_real *y, const int64_t *tokens, const lstmc_real *weight,
                                    ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t row = 0; row < rows; row++)
        memcpy((real *)y + row * columns, (const real *)weight + tokens[row] * columns,
               columns * sizeof(real));
}

typedef struct {
    real *dweight;         /* (V, columns), added to */
    const real *dy;        /* (rows, columns) */
    const int64_t *tokens; /* (rows,) */
    ptrdiff_t rows, columns;
} NAME(embedding_work);

/* Members own columns: rows of one token are added in their order, whoever does it. */
static void NAME(embedding_backward_member)(void *work, const team *member)
{
    const NAME(embedding_work) *w = work;
    ptrdiff_t from, to;
    share_vectors(member, w->columns, &from, &to);
    for (ptrdiff_t row = 0; row < w->rows; row++) {
        real *out = w->dweight + w->tokens[row] * w->columns;
        const real *in = w->dy + row * w->columns;
        for (ptrdiff_t i = from; i < to; i += VL) {
            const ptrdiff_t n = min_of(VL, to - i);
            store_n(out + i, load_n(out + i, n) + load_n(in + i, n), n);
        }
    }
}

static void NAME(embedding_backward)(lstmc_real *dweight, const lstmc_real *dy, const int64_t *tokens,
                                     ptrdiff_t rows, ptrdiff_t columns, int threads)
{
    NAME(embedding_work) work = {dweight, dy, tokens, rows, columns};
    lstmc_team_run(flat_threads(threads, rows * columns), NAME(embedding_backward_member), &work);
}

#endif
