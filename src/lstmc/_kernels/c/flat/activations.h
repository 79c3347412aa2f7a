/* Activations of plain arrays, forward and backward.
 *
 * Elements go through the functions of vmath.h, as in the cells: their values have the same bits. Every
 * derivative is taken from the value itself, which is what forward saves.
 */
#ifndef LSTMC_ACTIVATIONS_H
#define LSTMC_ACTIVATIONS_H

#include "../flat.h"
#include "../kernels.h"
#include "../team.h"
#include "../vmath.h"

/* NaN < 0 is false: a NaN stays. Where x may be passed on as it is, 0 is added: to flush a denormal one. */
INLINE vec activated(vec x, int function, real slope)
{
    const ivec negative = (ivec)(x < 0);
    switch (function) {
    case LSTMC_EXP: return v_exp(x);
    case LSTMC_VTANH: return v_tanh(x);
    case LSTMC_SIGMOID: return v_sigmoid(x);
    case LSTMC_LOG1P: return v_log1p(x);
    case LSTMC_RELU: return choose(negative, (vec){0}, x + 0);
    case LSTMC_ELU: return choose(negative, v_expm1(x) * slope, x + 0);
    default: return choose(negative, x * slope, x + 0); /* LSTMC_LEAKY_RELU */
    }
}

/* The derivative times dy. Where a slope is at least 0, y is above 0 just where x is. */
INLINE vec differentiated(vec dy, vec y, int function, real slope)
{
    const ivec positive = (ivec)(y > 0);
    switch (function) {
    case LSTMC_VTANH: return dy * (1 - y * y);
    case LSTMC_SIGMOID: return dy * (y * (1 - y));
    case LSTMC_RELU: return choose(positive, dy + 0, (vec){0});
    case LSTMC_ELU: return choose(positive, dy + 0, dy * (y + slope));
    default: return choose(positive, dy + 0, dy * slope); /* LSTMC_LEAKY_RELU */
    }
}

typedef struct {
    real *out;
    const real *dy; /* backward alone */
    const real *in; /* x, or backward y */
    int function;
    real slope;
    ptrdiff_t n; /* elements; rows of softmax */
    ptrdiff_t columns;
} NAME(activation_work);

/* A member's share of the elements; a loop of its own for each function, as that is a constant where this is
 * called. */
INLINE void activate_share(const NAME(activation_work) * w, const team *member, int function)
{
    ptrdiff_t from, to;
    share_vectors(member, w->n, &from, &to);
    for (ptrdiff_t i = from; i < to; i += VL) {
        const ptrdiff_t n = min_of(VL, to - i);
        store_n(w->out + i, activated(load_n(w->in + i, n), function, w->slope), n);
    }
}

INLINE void differentiate_share(const NAME(activation_work) * w, const team *member, int function)
{
    ptrdiff_t from, to;
    share_vectors(member, w->n, &from, &to);
    for (ptrdiff_t i = from; i < to; i += VL) {
        const ptrdiff_t n = min_of(VL, to - i);
        const vec dy = load_n(w->dy + i, n), y = load_n(w->in + i, n);
        store_n(w->out + i, differentiated(dy, y, function, w->slope), n);
    }
}

static void NAME(activate_member)(void *work, const team *member)
{
    const NAME(activation_work) *w = work;
    switch (w->function) {
    case LSTMC_EXP: activate_share(w, member, LSTMC_EXP); break;
    case LSTMC_VTANH: activate_share(w, member, LSTMC_VTANH); break;
    case LSTMC_SIGMOID: activate_share(w, member, LSTMC_SIGMOID); break;
    case LSTMC_LOG1P: activate_share(w, member, LSTMC_LOG1P); break;
    case LSTMC_RELU: activate_share(w, member, LSTMC_RELU); break;
    case LSTMC_ELU: activate_share(w, member, LSTMC_ELU); break;
    case LSTMC_LEAKY_RELU: activate_share(w, member, LSTMC_LEAKY_RELU); break;
    }
}

static void NAME(activate_backward_member)(void *work, const team *member)
{
    const NAME(activation_work) *w = work;
    switch (w->function) {
    case LSTMC_VTANH: differentiate_share(w, member, LSTMC_VTANH); break;
    case LSTMC_SIGMOID: differentiate_share(w, member, LSTMC_SIGMOID); break;
    case LSTMC_RELU: differentiate_share(w, member, LSTMC_RELU); break;
    case LSTMC_ELU: differentiate_share(w, member, LSTMC_ELU); break;
    case LSTMC_LEAKY_RELU: differentiate_share(w, member, LSTMC_LEAKY_RELU); break;
    }
}

static int NAME(activate)(lstmc_real *y, const lstmc_real *x, int function, double slope, ptrdiff_t n,
                          int threads)
{
    if (function < LSTMC_EXP || function > LSTMC_LEAKY_RELU)
        return LSTMC_UNKNOWN;
    const int cheap = function == LSTMC_RELU || function == LSTMC_LEAKY_RELU;
    NAME(activation_work) work = {y, NULL, x, function, (real)slope, n, 0};
    lstmc_team_run(flat_threads(threads, cheap ? n : n * 8), NAME(activate_member), &work);
    return 0;
}

static int NAME(activate_backward)(lstmc_real *dx, const lstmc_real *dy, const lstmc_real *y, int function,
                                   double slope, ptrdiff_t n, int threads)
{
    if (function < LSTMC_VTANH || function > LSTMC_LEAKY_RELU || function == LSTMC_LOG1P)
        return LSTMC_UNKNOWN;
    NAME(activation_work) work = {dx, dy, y, function, (real)slope, n, 0};
    lstmc_team_run(flat_threads(threads, n), NAME(activate_backward_member), &work);
    return 0;
}

/* Members own rows. dx = y (dy - sum(dy y)) */
static void NAME(softmax_backward_member)(void *work, const team *member)
{
    const NAME(activation_work) *w = work;
    ptrdiff_t from, to;
    team_share(member, w->n, &from, &to);
    for (ptrdiff_t row = from; row < to; row++) {
        const real *dy = w->dy + row * w->columns, *y = w->in + row * w->columns;
        real *dx = w->out + row * w->columns, total = 0;
        vec sum = {0};
        for (ptrdiff_t i = 0; i < w->columns; i += VL) {
            const ptrdiff_t n = min_of(VL, w->columns - i);
            sum += load_n(dy + i, n) * load_n(y + i, n);
        }
        for (int i = 0; i < VL; i++)
            total += sum[i];
        for (ptrdiff_t i = 0; i < w->columns; i += VL) {
            const ptrdiff_t n = min_of(VL, w->columns - i);
            store_n(dx + i, load_n(y + i, n) * (load_n(dy + i, n) - total), n);
        }
    }
}

static void NAME(softmax_backward)(lstmc_real *dx, const lstmc_real *dy, const lstmc_real *y, ptrdiff_t rows,
                                   ptrdiff_t columns, int threads)
{
    NAME(activation_work) work = {dx, dy, y, 0, 0, rows, columns};
    lstmc_team_run(flat_threads(threads, rows * columns), NAME(softmax_backward_member), &work);
}

#endif
