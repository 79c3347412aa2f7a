/* What works on flat arrays: softmax and losses, norms. Activations and optimisers are in flat/.
 *
 * Sums over an array go over fixed blocks in a fixed order, so that they do not depend on threads.
 */
#ifndef LSTMC_FLAT_H
#define LSTMC_FLAT_H

#include <math.h>

#include "kernels.h"
#include "team.h"
#include "vmath.h"

/* Memory-bound loops over less than this many numbers are not worth a second thread. */
static int flat_threads(int threads, ptrdiff_t n) { return n > 64 * 1024 ? threads : 1; }

/* A member's part of n elements, cut between vectors so that every element is computed alike. */
INLINE void share_vectors(const team *member, ptrdiff_t n, ptrdiff_t *from, ptrdiff_t *to)
{
    team_share(member, ceil_div(n, VL), from, to);
    *from *= VL;
    *to = min_of(*to * VL, n);
}

/* ---- softmax and losses -------------------------------------------------------------------------- */

/* out = exp(logits - their largest) of one row, which may be out itself. Returns the sum of out; *largest is
 * set. The largest comes off first, so that no exponential overflows. Its search goes by whole vectors and
 * then element by element: a masked load would bring zeros in. */
INLINE real exponentials(real *out, const real *logits, ptrdiff_t columns, real *largest)
{
    const ptrdiff_t whole = columns / VL * VL;
    vec most = splat(-(real)INFINITY), sum = {0};
    for (ptrdiff_t i = 0; i < whole; i += VL) {
        vec x = load(logits + i);
        most = choose((ivec)(x > most), x, most);
    }
    real top = -(real)INFINITY, total = 0;
    for (int i = 0; i < VL; i++)
        top = most[i] > top ? most[i] : top;
    for (ptrdiff_t i = whole; i < columns; i++)
        top = logits[i] > top ? logits[i] : top;
    for (ptrdiff_t i = 0; i < columns; i += VL) {
        const ptrdiff_t n = min_of(VL, columns - i);
        vec e = v_exp(load_n(logits + i, n) - top);
        store_n(out + i, e, n);
        sum += n == VL ? e : load_n(out + i, n);
    }
    for (int i = 0; i < VL; i++)
        total += sum[i];
    *largest = top;
    return total;
}

/* a (n,) *= factor */
INLINE void multiply(real *a, real factor, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += VL)
        store_n(a + i, load_n(a + i, min_of(VL, n - i)) * factor, min_of(VL, n - i));
}

typedef struct {
    real *out;              /* (rows, columns) probabilities, or the gradient of the loss */
    const real *logits;     /* (rows, columns), may be out itself */
    const int64_t *targets; /* (rows,), or NULL: softmax alone */
    double *losses;         /* (rows,) written; summed in order of rows afterwards, whoever computed them */
    int64_t ignored;
    double weight; /* of a row in the mean */
    ptrdiff_t rows, columns;
} NAME(softmax_work);

/* Members own rows. */
static void NAME(softmax_member)(void *work, const team *member)
{
    const NAME(softmax_work) *w = work;
    ptrdiff_t from, to;
    team_share(member, w->rows, &from, &to);
    for (ptrdiff_t row = from; row < to; row++) {
        const real *logits = w->logits + row * w->columns;
        real *out = w->out + row * w->columns, largest;
        const int64_t target = w->targets ? w->targets[row] : 0;
        if (w->targets && target == w->ignored) {
            w->losses[row] = 0;
            memset(out, 0, w->columns * sizeof(real));
            continue;
        }
        const real chosen = w->targets ? logits[target] : 0; /* before out, which may be logits, is written */
        const real sum = exponentials(out, logits, w->columns, &largest);
        multiply(out, (real)(w->weight / sum), w->columns);
        if (w->targets) {
            /* loss = log(sum) + largest - chosen: d loss / d logits = softmax - (1 at the target) */
            w->losses[row] = log((double)sum) + ((double)largest - chosen);
            out[target] -= (real)w->weight;
        }
    }
}

static void NAME(softmax)(lstmc_real *out, const lstmc_real *logits, ptrdiff_t rows, ptrdiff_t columns,
                          int threads)
{
    NAME(softmax_work) work = {out, logits, NULL, NULL, 0, 1, rows, columns};
    lstmc_team_run(flat_threads(threads, rows * columns * 8), NAME(softmax_member), &work);
}

/* The mean over the targets that count: their number is needed before the first gradient is written. */
static double NAME(softmax_cross_entropy)(lstmc_real *dlogits, double *losses, const lstmc_real *logits,
                                          const int64_t *targets, int64_t ignored, ptrdiff_t rows,
                                          ptrdiff_t columns, int threads)
{
    ptrdiff_t counted = 0;
    for (ptrdiff_t row = 0; row < rows; row++)
        counted += targets[row] != ignored;
    const double weight = counted ? 1.0 / counted : 0;
    NAME(softmax_work) work = {dlogits, logits, targets, losses, ignored, weight, rows, columns};
    lstmc_team_run(flat_threads(threads, rows * columns * 8), NAME(softmax_member), &work);
    double sum = 0;
    for (ptrdiff_t row = 0; row < rows; row++)
        sum += losses[row];
    return sum * weight;
}

/* ---- losses of single elements, and sums of squares ------------------------------------------------ */

/* Elements that one sum in double is made of; the sums of blocks are added in order. */
enum { SUM_BLOCK = 4096 };

typedef struct {
    double *sums; /* one a block */
    real *dy;
    const real *a, *target; /* target NULL: zeros */
    const uint8_t *mask;    /* 0: the element does not count. NULL: all do */
    double weight;          /* of an element in the mean */
    double scale; /* of what is squared, a power of two: its squares then neither overflow nor vanish */
    double delta; /* where Huber's loss becomes a line */
    ptrdiff_t n;
} NAME(sums_work);

/* What counts, and 0 for what does not. No branch: which elements count may be as good as random. */
INLINE real if_counted(uint8_t counts, real x)
{
    bits lane;
    memcpy(&lane, &x, sizeof(lane));
    lane &= -(bits)(counts != 0);
    memcpy(&x, &lane, sizeof(lane));
    return x;
}

/* The same of n lanes. */
INLINE vec if_counted_n(const uint8_t *counts, vec x, ptrdiff_t n)
{
    typedef int8_t bytes __attribute__((vector_size(VL)));
    bytes some = {0};
    if (n == VL)
        memcpy(&some, counts, VL);
    else
        memcpy(&some, counts, n);
    return (vec)((ivec)x & (__builtin_convertvector(some, ivec) != 0));
}

/* Members own blocks. Within one, eight chains, so that an addition need not wait for the one before. What
 * does not count has a difference of 0, whatever is there: it adds nothing to a sum, and its gradient is 0.
 */
INLINE void differences(const NAME(sums_work) * w, const team *member, int masked, int huber)
{
    enum { CHAINS = 8 };
    ptrdiff_t from, to;
    team_share(member, ceil_div(w->n, SUM_BLOCK), &from, &to);
    for (ptrdiff_t block = from; block < to; block++) {
        double sums[CHAINS] = {0};
        const ptrdiff_t end = min_of(w->n, (block + 1) * SUM_BLOCK);
        for (ptrdiff_t i = block * SUM_BLOCK; i < end; i += CHAINS)
            for (ptrdiff_t j = 0; j < min_of(CHAINS, end - i); j++) {
                real difference = w->target ? w->a[i + j] - w->target[i + j] : w->a[i + j];
                if (masked)
                    difference = if_counted(w->mask[i + j], difference);
                if (huber) { /* loss = weight * slope * (difference - slope / 2) */
                    double slope = difference > w->delta ? w->delta : (double)difference;
                    slope = slope < -w->delta ? -w->delta : slope;
                    sums[j] += slope * (difference - slope / 2);
                    if (w->dy)
                        w->dy[i + j] = (real)(w->weight * slope);
                } else { /* loss = weight * difference^2 */
                    double scaled = difference * w->scale;
                    sums[j] += scaled * scaled;
                    if (w->dy)
                        w->dy[i + j] = (real)(2 * w->weight * difference);
                }
            }
        w->sums[block] = 0;
        for (int j = 0; j < CHAINS; j++)
            w->sums[block] += sums[j];
    }
}

static void NAME(squares_member)(void *work, const team *member)
{
    const NAME(sums_work) *w = work;
    if (w->mask)
        differences(w, member, 1, 0);
    else
        differences(w, member, 0, 0);
}

static void NAME(huber_member)(void *work, const team *member)
{
    const NAME(sums_work) *w = work;
    if (w->mask)
        differences(w, member, 1, 1);
    else
        differences(w, member, 0, 1);
}

/* The loss of each of a vector of logits, and its derivative in *slope. With q = sigmoid(-|x|), what the
 * wrong side is believed, and f = how far the target lies there: loss = -log(1 - q) + |x| f, both terms at
 * least 0, and slope = q - f, turned round where x is on the side of 1. No difference of large numbers is
 * taken. */
INLINE vec cross_entropies(vec x, vec target, vec *slope)
{
    const ivec sign = (ivec)splat((real)-0.0), positive = (ivec)(x > 0);
    const vec size = (vec)((ivec)x & ~sign), e = v_exp(-size);
    const vec f = choose(positive, 1 - target, target);
    *slope = (vec)((ivec)(e / (1 + e) - f) ^ (positive & sign));
    return v_log1p(e) + choose((ivec)(f == 0), f, size * f); /* an infinite logit may be right */
}

static void NAME(binary_cross_entropy_member)(void *work, const team *member)
{
    const NAME(sums_work) *w = work;
    ptrdiff_t from, to;
    team_share(member, ceil_div(w->n, SUM_BLOCK), &from, &to);
    for (ptrdiff_t block = from; block < to; block++) {
        double sums[VL] = {0};
        const ptrdiff_t end = min_of(w->n, (block + 1) * SUM_BLOCK);
        for (ptrdiff_t i = block * SUM_BLOCK; i < end; i += VL) {
            const ptrdiff_t n = min_of(VL, end - i);
            vec slope, loss = cross_entropies(load_n(w->a + i, n), load_n(w->target + i, n), &slope);
            real losses[VL];
            if (w->mask) {
                loss = if_counted_n(w->mask + i, loss, n);
                slope = if_counted_n(w->mask + i, slope, n);
            }
            store(losses, loss);
            for (ptrdiff_t j = 0; j < n; j++)
                sums[j] += losses[j];
            if (w->dy)
                store_n(w->dy + i, slope * (real)w->weight, n);
        }
        w->sums[block] = 0;
        for (int j = 0; j < VL; j++)
            w->sums[block] += sums[j];
    }
}

/* Runs the work and adds the sums of blocks. */
static double NAME(add_sums)(NAME(sums_work) * work, void (*member)(void *, const team *), int threads)
{
    lstmc_team_run(threads, member, work);
    double sum = 0;
    for (ptrdiff_t block = 0; block < ceil_div(work->n, SUM_BLOCK); block++)
        sum += work->sums[block];
    return sum;
}

/* An element's weight in a mean over those that count; 0 if none does. */
static double mean_weight(const uint8_t *mask, ptrdiff_t n)
{
    ptrdiff_t counted = mask ? 0 : n;
    for (ptrdiff_t i = 0; mask && i < n; i++)
        counted += mask[i] != 0;
    return counted ? 1.0 / counted : 0;
}

static double NAME(squared_error)(lstmc_real *dy, double *sums, const lstmc_real *y, const lstmc_real *target,
                                  const uint8_t *mask, ptrdiff_t n, int threads)
{
    NAME(sums_work) work = {sums, dy, y, target, mask, mean_weight(mask, n), .scale = 1, .n = n};
    return NAME(add_sums)(&work, NAME(squares_member), flat_threads(threads, n)) * work.weight;
}

static double NAME(huber)(lstmc_real *dy, double *sums, const lstmc_real *y, const lstmc_real *target,
                          const uint8_t *mask, double delta, ptrdiff_t n, int threads)
{
    NAME(sums_work) work = {sums, dy, y, target, mask, mean_weight(mask, n), .delta = delta, .n = n};
    return NAME(add_sums)(&work, NAME(huber_member), flat_threads(threads, n)) * work.weight;
}

static double NAME(binary_cross_entropy)(lstmc_real *dlogits, double *sums, const lstmc_real *logits,
                                         const lstmc_real *targets, const uint8_t *mask, ptrdiff_t n,
                                         int threads)
{
    NAME(sums_work) work = {sums, dlogits, logits, targets, mask, mean_weight(mask, n), .n = n};
    const int most = flat_threads(threads, n * 8);
    return NAME(add_sums)(&work, NAME(binary_cross_entropy_member), most) * work.weight;
}

/* sums[block] = the largest |a| of the block. */
static void NAME(largest_member)(void *work, const team *member)
{
    const NAME(sums_work) *w = work;
    ptrdiff_t from, to;
    team_share(member, ceil_div(w->n, SUM_BLOCK), &from, &to);
    for (ptrdiff_t block = from; block < to; block++) {
        double largest = 0;
        for (ptrdiff_t i = block * SUM_BLOCK; i < min_of(w->n, (block + 1) * SUM_BLOCK); i++)
            largest = fabs((double)w->a[i]) > largest ? fabs((double)w->a[i]) : largest;
        w->sums[block] = largest;
    }
}

/* Where the squares as they are overflow, or are so small that some may have been flushed to zero, they are
 * taken again, of a times a power of two that brings the largest near 1. */
static double NAME(norm)(double *sums, const lstmc_real *a, ptrdiff_t n, int threads)
{
    NAME(sums_work) work = {sums, .a = a, .scale = 1, .n = n};
    threads = flat_threads(threads, n);
    const double sum = NAME(add_sums)(&work, NAME(squares_member), threads);
    if (isnan(sum) || (sum >= 0x1p-900 && sum < INFINITY))
        return sqrt(sum);
    lstmc_team_run(threads, NAME(largest_member), &work);
    double largest = 0;
    for (ptrdiff_t block = 0; block < ceil_div(n, SUM_BLOCK); block++)
        largest = sums[block] > largest ? sums[block] : largest;
    if (largest == 0 || largest == INFINITY)
        return largest;
    int exponent;
    frexp(largest, &exponent);
    exponent = exponent < 1000 ? exponent : 1000; /* its inverse is not denormal */
    work.scale = ldexp(1, -exponent);
    return ldexp(sqrt(NAME(add_sums)(&work, NAME(squares_member), threads)), exponent);
}

/* ---- fingerprint --------------------------------------------------------------------------------- */

typedef uint32_t words __attribute__((vector_size(VECTOR_BYTES)));

/* Bijective in the lane and in the word: a change in one word changes the lane for certain. The shift brings
 * high bits down again; without it, two changes of sign would undo each other. */
INLINE words mixed(words lane, words word)
{
    lane = (lane ^ word) * 0x9e3779b1u;
    return lane ^ lane >> 15;
}

/* 64 lanes run side by side, so that a multiplication need not wait for the one before. */
static uint64_t NAME(fingerprint)(const void *bytes, size_t size)
{
    enum { LANES = 64, VECTORS = LANES * 4 / VECTOR_BYTES };
    words lane[VECTORS], word[VECTORS];
    uint32_t lanes[LANES];
    const unsigned char *p = bytes;
    for (int i = 0; i < LANES; i++)
        lanes[i] = 0x9e3779b9u * (uint32_t)(i + 1);
    memcpy(lane, lanes, sizeof(lane));
    for (; size >= sizeof(word); p += sizeof(word), size -= sizeof(word))
        UNROLLED(int v = 0; v < VECTORS; v++) {
            memcpy(&word[v], p + v * VECTOR_BYTES, VECTOR_BYTES);
            lane[v] = mixed(lane[v], word[v]);
        }
    memset(word, 0, sizeof(word));
    memcpy(word, p, size);
    for (int v = 0; v < VECTORS; v++)
        lane[v] = mixed(lane[v], word[v]);
    memcpy(lanes, lane, sizeof(lanes));
    uint64_t all = size;
    for (int i = 0; i < LANES; i++) {
        all = (all ^ lanes[i]) * 0x9e3779b97f4a7c15u;
        all ^= all >> 29;
    }
    return all;
}

#endif
