/* What works on flat arrays: the embedding, dropout, softmax and losses, norms, optimisers.
 *
 * The same functions as ../c/flat.h, ../c/rows.h and ../c/flat/optimisers.h. Sums over an array go over fixed
 * blocks in a fixed order. Where one call takes several launches, numbers pass between them on the device:
 * nothing waits for the host.
 */
#include "real.cuh"

enum { BLOCK = 256, SUM_BLOCK = 4096 }; /* threads of a block that sums; numbers that it sums */

/* ---- tokens and the embedding -------------------------------------------------------------------- */

/* *bad: in, n or more; out, the least position of an id that is neither in [0, end) nor `ignored`. */
__global__ void check_tokens(unsigned long long *bad, const index_t *tokens, index_t n, index_t end,
                             index_t ignored, int may_ignore)
{
    FOR_EACH(i, n)
        if ((tokens[i] < 0 || tokens[i] >= end) && !(may_ignore && tokens[i] == ignored))
            atomicMin(bad, (unsigned long long)i);
}

/* y (rows, columns): rows of weight (V, columns) chosen by tokens (rows,). */
template <typename real>
__global__ void embedding_forward(real *y, const index_t *tokens, const real *weight, index_t rows,
                                  index_t columns)
{
    FOR_EACH(i, rows * columns)
        y[i] = weight[tokens[i / columns] * columns + i % columns];
}

/* dweight (V, columns), added to. keys (rows,): token * rows + row, ascending; so the rows of one token stand
 * side by side, in their order. A block adds those of the token that begins at its key. */
template <typename real>
__global__ void embedding_backward(real *dweight, const real *dy, const index_t *keys, index_t rows,
                                   index_t columns)
{
    const index_t first = blockIdx.x, token = keys[first] / rows, begin = token * rows, end = begin + rows;
    if (first && keys[first - 1] >= begin)
        return;
    for (index_t column = threadIdx.x; column < columns; column += blockDim.x) {
        real sum = dweight[token * columns + column];
        for (index_t k = first; k < rows && keys[k] < end; k += 8) {
            real terms[8]; /* read at once, added one after another */
            UNROLL for (int j = 0; j < 8; j++) {
                const bool is_tokens = k + j < rows && keys[k + j] < end;
                terms[j] = is_tokens ? dy[(keys[k + j] - begin) * columns + column] : real(0);
            }
            UNROLL for (int j = 0; j < 8; j++)
                sum += terms[j];
        }
        dweight[token * columns + column] = sum;
    }
}

/* ---- dropout ------------------------------------------------------------------------------------- */

/* Philox4x32-10 (Salmon et al. 2011): four random words of a counter and a key. */
DEVICE void philox(unsigned word[4], unsigned long long counter, unsigned long long key)
{
    unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
    word[0] = (unsigned)counter;
    word[1] = (unsigned)(counter >> 32);
    word[2] = word[3] = 0;
    for (int round = 0; round < 10; round++) {
        const unsigned long long a = 0xd2511f53ull * word[0], b = 0xcd9e8d57ull * word[2];
        const unsigned w1 = word[1], w3 = word[3];
        word[0] = (unsigned)(b >> 32) ^ w1 ^ k0;
        word[1] = (unsigned)b;
        word[2] = (unsigned)(a >> 32) ^ w3 ^ k1;
        word[3] = (unsigned)a;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

/* mask (n,): 1 with probability 1 - share, from 24 random bits each. */
__global__ void dropout_mask(bool *mask, unsigned long long key, double share, index_t n)
{
    FOR_EACH(i, (n + 3) / 4) {
        unsigned word[4];
        philox(word, i, key);
        for (int j = 0; j < 4; j++)
            if (4 * i + j < n)
                mask[4 * i + j] = (word[j] >> 8) * (1.0 / 16777216) >= share;
    }
}

/* y = x * mask * factor */
template <typename real>
__global__ void masked(real *y, const real *x, const bool *mask, double factor, index_t n)
{
    FOR_EACH(i, n)
        y[i] = mask[i] ? x[i] * (real)factor : x[i] * 0; /* NaN stays */
}

/* ---- rows ---------------------------------------------------------------------------------------- */

/* y (rows, columns) += bias (columns,) */
template <typename real>
__global__ void add_bias(real *y, const real *bias, index_t rows, index_t columns)
{
    FOR_EACH(i, rows * columns)
        y[i] += bias[i % columns];
}

/* part[block y] (columns,): the sum of `many` rows of a (rows, columns) */
template <typename real>
__global__ void sum_rows(real *part, const real *a, index_t rows, index_t columns, index_t many)
{
    const index_t column = blockIdx.x * (index_t)blockDim.x + threadIdx.x, from = blockIdx.y * many;
    if (column >= columns)
        return;
    real sum = 0;
    for (index_t row = from; row < rows && row < from + many; row++)
        sum += a[row * columns + column];
    part[blockIdx.y * columns + column] = sum;
}

/* out (columns,), added to: the sum of parts (count, columns) */
template <typename real>
__global__ void add_sums(real *out, const real *parts, index_t count, index_t columns)
{
    FOR_EACH(column, columns) {
        real sum = 0;
        for (index_t row = 0; row < count; row++)
            sum += parts[row * columns + column];
        out[column] += sum;
    }
}

/* ---- softmax and losses -------------------------------------------------------------------------- */

/* *weight = 1 / the number of targets that are not `ignored`; 0 if there is none. One block. */
__global__ void weight_of_targets(double *weight, const index_t *targets, index_t ignored, index_t rows)
{
    DYNAMIC_SHARED(index_t, room);
    index_t counted = 0;
    for (index_t row = threadIdx.x; row < rows; row += BLOCK)
        counted += targets[row] != ignored;
    counted = block_sum(counted, room);
    if (threadIdx.x == 0)
        *weight = counted ? 1.0 / counted : 0;
}

/* A block for each row. targets NULL: out is the softmax of logits alone. Else losses[row] is written, and
 * out, unless it is NULL, is d mean loss / d logits. out may be logits. */
template <typename real>
__global__ void softmax_rows(real *out, double *losses, const real *logits, const index_t *targets,
                             const double *weight, index_t ignored, index_t columns)
{
    DYNAMIC_SHARED(real, room);
    const index_t row = blockIdx.x, target = targets ? targets[row] : -1;
    const real *in = logits + row * columns;
    if (out)
        out += row * columns;
    if (targets && target == ignored) {
        if (threadIdx.x == 0)
            losses[row] = 0;
        for (index_t i = threadIdx.x; out && i < columns; i += BLOCK)
            out[i] = 0;
        return;
    }
    real largest = log(real(0)), sum = 0; /* -infinity */
    for (index_t i = threadIdx.x; i < columns; i += BLOCK)
        largest = in[i] > largest ? in[i] : largest;
    largest = block_most(largest, room);
    for (index_t i = threadIdx.x; i < columns; i += BLOCK)
        sum += exp(in[i] - largest);
    sum = block_sum(sum, room);
    if (targets && threadIdx.x == 0)
        losses[row] = log((double)sum) + ((double)largest - in[target]);
    __syncthreads(); /* in[target] has been read */
    const double one = targets ? *weight : 1;
    for (index_t i = threadIdx.x; out && i < columns; i += BLOCK) {
        /* loss = log(sum) + largest - chosen: d loss / d logits = softmax - (1 at the target) */
        const real p = exp(in[i] - largest) * (real)(one / sum);
        out[i] = i == target ? p - (real)one : p;
    }
}

/* sums[block] = the sum of squares of a - target (NULL: zeros) over a block of SUM_BLOCK; dy, unless it is
 * NULL, the gradient of their mean; it may be a. */
template <typename real>
__global__ void squares(double *sums, real *dy, const real *a, const real *target, index_t n)
{
    DYNAMIC_SHARED(double, room);
    double sum = 0;
    const index_t from = blockIdx.x * (index_t)SUM_BLOCK, end = from + SUM_BLOCK;
    for (index_t i = from + threadIdx.x; i < n && i < end; i += BLOCK) {
        const real difference = target ? a[i] - target[i] : a[i];
        sum += (double)difference * difference;
        if (dy) /* loss = difference^2 / n */
            dy[i] = (real)(2.0 / n * difference);
    }
    sum = block_sum(sum, room);
    if (threadIdx.x == 0)
        sums[blockIdx.x] = sum;
}

/* *out = the sum of sums (n,), times factor and, unless that is NULL, *weight; its root, if asked. One
 * block. */
__global__ void add_up(double *out, const double *sums, const double *weight, double factor, int root,
                       index_t n)
{
    DYNAMIC_SHARED(double, room);
    double sum = 0;
    for (index_t i = threadIdx.x; i < n; i += BLOCK)
        sum += sums[i];
    sum = block_sum(sum, room) * factor;
    if (threadIdx.x == 0) {
        if (weight)
            sum *= *weight;
        *out = root ? sqrt(sum) : sum;
    }
}

/* a *= factor */
template <typename real>
__global__ void scale(real *a, double factor, index_t n)
{
    FOR_EACH(i, n)
        a[i] *= (real)factor;
}

/* *norm, the root of the sum of squares of a (n,): where these overflowed or vanished, that of a relative to
 * its largest element. One block. */
template <typename real>
__global__ void scaled_norm(double *norm, const real *a, index_t n)
{
    DYNAMIC_SHARED(double, room);
    const double before = *norm;
    double largest = 0, sum = 0;
    if (!(before < 1e-135 || before > 1e300)) /* NaN too */
        return;
    for (index_t i = threadIdx.x; i < n; i += BLOCK)
        largest = fabs((double)a[i]) > largest ? fabs((double)a[i]) : largest;
    largest = block_most(largest, room);
    if (largest == 0 || !isfinite(largest))
        return;
    for (index_t i = threadIdx.x; i < n; i += BLOCK)
        sum += (a[i] / largest) * (a[i] / largest);
    sum = block_sum(sum, room);
    if (threadIdx.x == 0)
        *norm = largest * sqrt(sum);
}

/* a *= most / *norm, where the norm is finite and larger than most; least: the smallest normal number */
template <typename real>
__global__ void clip(real *a, const double *norm, double most, double least, index_t n)
{
    if (!(isfinite(*norm) && *norm > most))
        return;
    const double factor = most / *norm;
    FOR_EACH(i, n)
        a[i] = factor < least ? (real)(a[i] / *norm * most) : a[i] * (real)factor;
}

/* ---- fingerprint --------------------------------------------------------------------------------- */

/* *all += the sum over words (n,) of each one mixed with its place: bijective in the word, and whole numbers
 * add up to the same in any order. */
__global__ void fingerprint(unsigned long long *all, const unsigned *words, index_t n)
{
    DYNAMIC_SHARED(unsigned long long, room);
    unsigned long long sum = 0;
    FOR_EACH(i, n) {
        unsigned long long mixed = (i + 1) * 0x9e3779b97f4a7c15ull + words[i];
        mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9ull; /* splitmix64 (Steele et al. 2014) */
        mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebull;
        sum += mixed ^ mixed >> 31;
    }
    sum = block_sum(sum, room);
    if (threadIdx.x == 0)
        atomicAdd(all, sum);
}

/* ---- optimisers ---------------------------------------------------------------------------------- */

template <typename real>
__global__ void sgd(real *params, real *velocity, const real *grads, double lr, double momentum, int nesterov,
                    double weight_decay, index_t n)
{
    FOR_EACH(i, n) {
        const real p = params[i];
        real d = (real)weight_decay * p + grads[i];
        if (velocity) {
            velocity[i] = (real)momentum * velocity[i] + d;
            d = nesterov ? (real)momentum * velocity[i] + d : velocity[i];
        }
        params[i] = p - (real)lr * d;
    }
}

/* The running mean of squares after d. Where d * d overflows, its weight comes first, as in PyTorch. A mean
 * beyond all numbers is the largest one, most: infinity would never fade, and the weight would stand
 * still. */
template <typename real>
DEVICE real mean_of_squares(real mean, real d, double beta, double most)
{
    const real rest = (real)(1 - beta), square = d * d;
    mean = (real)beta * mean + (square > (real)most ? rest * d * d : rest * square);
    return mean > (real)most ? (real)most : mean;
}

/* d, which a step divides by the root of that mean: where the mean had to stop at the largest number, it
 * stops at the root of it. What is not finite stays, to be seen. */
template <typename real>
DEVICE real beside_root(real d, real mean, double most)
{
    const real root = (real)sqrt(most);
    return mean < (real)most || !isfinite(d) || fabs(d) < root ? d : d < 0 ? -root : root;
}

/* rate: lr / (1 - beta1^step); shrink: 1 - lr * weight_decay, where that is decoupled, else 1 */
template <typename real>
__global__ void adam(real *params, real *m, real *v, const real *grads, double rate, double beta1,
                     double beta2, double eps, double weight_decay, double shrink, double root_of_correction,
                     double most, index_t n)
{
    FOR_EACH(i, n) {
        const real p = params[i] * (real)shrink, d = (real)weight_decay * p + grads[i];
        v[i] = mean_of_squares(v[i], d, beta2, most);
        m[i] = beside_root((real)(1 - beta1) * (d - m[i]) + m[i], v[i], most);
        params[i] = p - (real)rate * m[i] / (sqrt(v[i]) / (real)root_of_correction + (real)eps);
    }
}

template <typename real>
__global__ void rmsprop(real *params, real *square_avg, real *velocity, const real *grads, double lr,
                        double alpha, double eps, double momentum, double weight_decay, double most,
                        index_t n)
{
    FOR_EACH(i, n) {
        const real p = params[i];
        real d = (real)weight_decay * p + grads[i];
        square_avg[i] = mean_of_squares(square_avg[i], d, alpha, most);
        d = beside_root(d, square_avg[i], most) / (sqrt(square_avg[i]) + (real)eps);
        if (velocity) {
            d = (real)momentum * velocity[i] + d;
            velocity[i] = d;
        }
        params[i] = p - (real)lr * d;
    }
}
