/* Optimisers, one step over flat arrays, and the scaling and clipping of one. */
#ifndef LSTMC_OPTIMISERS_H
#define LSTMC_OPTIMISERS_H

#include <float.h>

#include "../flat.h"

#if LSTMC_REAL == 32
#define REAL_MAX FLT_MAX
#define REAL_MIN FLT_MIN /* the smallest that is not denormal */
#define ROOT_OF_MAX 0x1.fffffep63f
#define LEAST_EPS 0x1p-43 /* 2^20 times the root of REAL_MIN */
#else
#define REAL_MAX DBL_MAX
#define REAL_MIN DBL_MIN
#define ROOT_OF_MAX 0x1.fffffffffffffp511
#define LEAST_EPS 0x1p-491
#endif

typedef struct {
    real *params, *first, *second; /* states: velocity; m, v; square_avg, velocity */
    const real *grads;
    real lr, momentum, decay, beta1, beta2, eps, shrink, root_of_correction;
    real rest1, rest2; /* 1 - beta, before it was rounded: of 1 - 0.999 a float would know four digits */
    int nesterov;
    ptrdiff_t n;
    void (*member)(void *, const team *); /* of with_denormals */
} NAME(optimiser_work);

/* A member's elements, a vector at a time: i is its start, n how many lanes of it count. Every element is
 * computed alike wherever the array is cut, so that results do not depend on threads. */
#define FOR_VECTORS(w)                         \
    ptrdiff_t from, to;                        \
    share_vectors(member, (w)->n, &from, &to); \
    for (ptrdiff_t i = from, n; n = min_of(VL, to - i), i < to; i += VL)

/* GCC makes one instruction of it. */
INLINE vec square_root(vec x)
{
    for (int i = 0; i < VL; i++)
        x[i] = LSTMC_REAL == 32 ? sqrtf(x[i]) : sqrt(x[i]);
    return x;
}

INLINE vec size_of(vec x) { return (vec)((ivec)x & ~(ivec)splat((real)-0.0)); }

/* Whether the square of any lane of a gradient may take a mean of squares beyond all numbers. Few do, and
 * what gets them right costs more than this question. */
INLINE int is_large(vec d) { return __builtin_expect(any((ivec)(size_of(d) > ROOT_OF_MAX / 2)), 0); }

/* The running mean of squares after d, whose share is `rest`, 1 - beta. Where the square of d overflows, the
 * share comes first, as in PyTorch. A mean beyond all numbers is the largest one: infinity would never fade,
 * and the weight would stand still for good. */
INLINE vec mean_of_squares(vec mean, vec d, real beta, real rest, int large)
{
    const vec square = d * d;
    if (large) {
        const ivec over = (ivec)(square > REAL_MAX);
        const vec share = choose(over, rest * d, splat(rest)) * choose(over, d, square);
        return at_most(beta * mean + share, REAL_MAX);
    }
    const vec share = rest * square;
    return beta * mean + share;
}

/* d, which a step divides by the root of that mean: where the mean had to stop at the largest number, it
 * stops at the root of it. What is not finite stays, to be seen. */
INLINE vec beside_root(vec d, vec mean)
{
    const vec size = size_of(d), limited = (vec)((ivec)splat(ROOT_OF_MAX) | ((ivec)d ^ (ivec)size));
    return choose((ivec)(mean >= REAL_MAX) & (ivec)(size > ROOT_OF_MAX) & (ivec)(size <= REAL_MAX), limited,
                  d);
}

/* Runs a member with denormals as the processor has them by default: an eps as small as the root of the
 * smallest normal number asks for squares that are denormal. */
static void NAME(with_denormals)(void *work, const team *member)
{
#if defined(__x86_64__)
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before & ~(_MM_FLUSH_ZERO_ON | 0x0040u)); /* ... nor are they zeros as operands */
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before & ~(uint64_t)(1u << 24)));
#endif
    ((const NAME(optimiser_work) *)work)->member(work, member);
#if defined(__x86_64__)
    _mm_setcsr(before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#endif
}

/* One step of Adam or RMSprop: a member that divides by a root plus eps, which is never zero. */
static void NAME(adaptive_step)(NAME(optimiser_work) * work, double eps, int threads)
{
    work->eps = (real)(eps > REAL_MIN ? eps : REAL_MIN);
    lstmc_team_run(flat_threads(threads, work->n), eps < LEAST_EPS ? NAME(with_denormals) : work->member,
                   work);
}

/* lr is the factor. */
static void NAME(scale_member)(void *work, const team *member)
{
    const NAME(optimiser_work) *w = work;
    FOR_VECTORS(w)
        store_n(w->params + i, load_n(w->params + i, n) * w->lr, n);
}

/* lr is the limit. */
static void NAME(clip_values_member)(void *work, const team *member)
{
    const NAME(optimiser_work) *w = work;
    FOR_VECTORS(w)
        store_n(w->params + i, at_most(at_least(load_n(w->params + i, n), -w->lr), w->lr), n);
}

/* PyTorch's form of momentum (Sutskever et al. 2013): velocity = momentum * velocity + d, without the rate.
 */
static void NAME(sgd_member)(void *work, const team *member)
{
    const NAME(optimiser_work) *w = work;
    FOR_VECTORS(w) {
        vec p = load_n(w->params + i, n), d = load_n(w->grads + i, n);
        d = w->decay * p + d;
        if (w->first) {
            vec velocity = w->momentum * load_n(w->first + i, n) + d;
            store_n(w->first + i, velocity, n);
            d = w->nesterov ? w->momentum * velocity + d : velocity;
        }
        store_n(w->params + i, p - w->lr * d, n);
    }
}

/* Kingma & Ba 2015; with shrink below 1 the decoupled decay of Loshchilov & Hutter 2019. The correction of m
 * is in lr, that of v in root_of_correction. */
INLINE void adam_part(const NAME(optimiser_work) * w, vec p, vec d, ptrdiff_t i, ptrdiff_t n, int large)
{
    vec m = load_n(w->first + i, n), v = load_n(w->second + i, n);
    m = w->rest1 * (d - m) + m;
    v = mean_of_squares(v, d, w->beta2, w->rest2, large);
    m = large ? beside_root(m, v) : m;
    store_n(w->first + i, m, n);
    store_n(w->second + i, v, n);
    store_n(w->params + i, p - w->lr * m / (square_root(v) / w->root_of_correction + w->eps), n);
}

static void NAME(adam_member)(void *work, const team *member)
{
    const NAME(optimiser_work) *w = work;
    FOR_VECTORS(w) {
        const vec p = load_n(w->params + i, n) * w->shrink, d = w->decay * p + load_n(w->grads + i, n);
        if (is_large(d))
            adam_part(w, p, d, i, n, 1);
        else
            adam_part(w, p, d, i, n, 0);
    }
}

/* Tieleman & Hinton 2012, eps outside the root as PyTorch has it. */
INLINE void rmsprop_part(const NAME(optimiser_work) * w, vec p, vec d, ptrdiff_t i, ptrdiff_t n, int large)
{
    const vec average = mean_of_squares(load_n(w->first + i, n), d, w->beta1, w->rest1, large);
    store_n(w->first + i, average, n);
    d = (large ? beside_root(d, average) : d) / (square_root(average) + w->eps);
    if (w->second) {
        d = w->momentum * load_n(w->second + i, n) + d;
        store_n(w->second + i, d, n);
    }
    store_n(w->params + i, p - w->lr * d, n);
}

static void NAME(rmsprop_member)(void *work, const team *member)
{
    const NAME(optimiser_work) *w = work;
    FOR_VECTORS(w) {
        const vec p = load_n(w->params + i, n), d = w->decay * p + load_n(w->grads + i, n);
        if (is_large(d))
            rmsprop_part(w, p, d, i, n, 1);
        else
            rmsprop_part(w, p, d, i, n, 0);
    }
}

static void NAME(scale)(lstmc_real *a, double factor, ptrdiff_t n, int threads)
{
    NAME(optimiser_work) work = {.params = a, .lr = (real)factor, .n = n};
    lstmc_team_run(flat_threads(threads, n), NAME(scale_member), &work);
}

static void NAME(clip_values)(lstmc_real *a, double limit, ptrdiff_t n, int threads)
{
    NAME(optimiser_work) work = {.params = a, .lr = (real)limit, .n = n};
    lstmc_team_run(flat_threads(threads, n), NAME(clip_values_member), &work);
}

static void NAME(sgd)(lstmc_real *params, lstmc_real *velocity, const lstmc_real *grads, double lr,
                      double momentum, int nesterov, double weight_decay, ptrdiff_t n, int threads)
{
    NAME(optimiser_work)
    work = {.params = params,
            .first = velocity,
            .grads = grads,
            .lr = (real)lr,
            .momentum = (real)momentum,
            .decay = (real)weight_decay,
            .nesterov = nesterov,
            .n = n};
    lstmc_team_run(flat_threads(threads, n), NAME(sgd_member), &work);
}

static void NAME(adam)(lstmc_real *params, lstmc_real *m, lstmc_real *v, const lstmc_real *grads,
                       int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay,
                       int decoupled, ptrdiff_t n, int threads)
{
    NAME(optimiser_work)
    work = {.params = params,
            .first = m,
            .second = v,
            .grads = grads,
            .lr = (real)(lr / (1 - pow(beta1, step))),
            .beta1 = (real)beta1,
            .beta2 = (real)beta2,
            .rest1 = (real)(1 - beta1),
            .rest2 = (real)(1 - beta2),
            .decay = (real)(decoupled ? 0 : weight_decay),
            .shrink = (real)(decoupled ? 1 - lr * weight_decay : 1),
            .root_of_correction = (real)sqrt(1 - pow(beta2, step)),
            .n = n,
            .member = NAME(adam_member)};
    NAME(adaptive_step)(&work, eps, threads);
}

static void NAME(rmsprop)(lstmc_real *params, lstmc_real *square_avg, lstmc_real *velocity,
                          const lstmc_real *grads, double lr, double alpha, double eps, double momentum,
                          double weight_decay, ptrdiff_t n, int threads)
{
    NAME(optimiser_work)
    work = {.params = params,
            .first = square_avg,
            .second = velocity,
            .grads = grads,
            .lr = (real)lr,
            .momentum = (real)momentum,
            .decay = (real)weight_decay,
            .beta1 = (real)alpha,
            .rest1 = (real)(1 - alpha),
            .n = n,
            .member = NAME(rmsprop_member)};
    NAME(adaptive_step)(&work, eps, threads);
}

#undef FOR_VECTORS

#endif
