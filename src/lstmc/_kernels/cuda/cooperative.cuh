/* A cell over time in one launch, for more hidden units than one multiprocessor can hold: each block has the
 * recurrent weights of some units on chip, for some rows of the batch. The blocks of the same rows exchange
 * h, on the way back the parts of its gradient, through L2, with one barrier among them per step.
 *
 * Forward, a thread sums for four rows and four outputs over one of `parts` of the terms; the parts are
 * added in order. Shared memory of a block, in numbers: weights (terms, outputs); the values of `chunk`
 * terms (rows, chunk + 4: so that rows lie in other banks); sums of the parts (parts, rows, outputs); c
 * (rows, units). rows, outputs and chunk are multiples of 4, and so, padded with zeros, are the terms.
 */

/* How a grid is cut: block x has `units` units from x % unit_blocks * units on and `rows` rows from
 * x / unit_blocks * rows on. */
struct cut {
    int units, unit_blocks, rows, outputs, chunk, parts;
};

#define FOURS(n) (((n) + 3) / 4 * 4)

/* Four numbers that other blocks wrote, read past the first-level cache; on a 16-byte boundary. */
DEVICE four<float> written_four(const float *a)
{
    const float4 v = __ldcg((const float4 *)a);
    return {v.x, v.y, v.z, v.w};
}

DEVICE four<double> written_four(const double *a)
{
    const double2 v = __ldcg((const double2 *)a), w = __ldcg((const double2 *)a + 1);
    return {v.x, v.y, w.x, w.y};
}

/* sums[part][row][output] of this block: values (batch, terms) times weights (terms, outputs). values were
 * written by other blocks before the last barrier. */
template <typename real>
DEVICE void block_product(real *sums, real *staged, const real *weights, const real *values,
                          index_t first_row, index_t batch, int terms, const cut &a)
{
    const int tiles = a.rows / 4 * (a.outputs / 4), part = threadIdx.x / tiles, tile = threadIdx.x % tiles;
    const int row = tile / (a.outputs / 4) * 4, output = tile % (a.outputs / 4) * 4, stride = a.chunk + 4;
    const bool in_fours = terms % 4 == 0 && (unsigned long long)values % 16 == 0;
    real s[4][4] = {};
    for (int from = 0; from < terms; from += a.chunk) {
        const int count = terms - from < a.chunk ? terms - from : a.chunk, fours = FOURS(count) / 4;
        __syncthreads(); /* the chunk before has been used */
        _Pragma("unroll 4") for (int i = threadIdx.x; i < a.rows * fours; i += blockDim.x) {
            const int r = i / fours, k = i % fours * 4;
            const real *from_row = values + (first_row + r) * terms + from + k;
            four<real> v = {};
            if (first_row + r < batch) {
                if (in_fours)
                    v = written_four(from_row);
                else {
                    v.x = __ldcg(from_row);
                    v.y = k + 1 < count ? __ldcg(from_row + 1) : real(0);
                    v.z = k + 2 < count ? __ldcg(from_row + 2) : real(0);
                    v.w = k + 3 < count ? __ldcg(from_row + 3) : real(0);
                }
            }
            *(four<real> *)(staged + r * stride + k) = v;
        }
        __syncthreads();
        if (part < a.parts)
            for (int k = part * 4; k < count; k += a.parts * 4) {
                four<real> v[4], w[4];
                UNROLL for (int i = 0; i < 4; i++) {
                    v[i] = *(const four<real> *)(staged + (row + i) * stride + k);
                    w[i] = *(const four<real> *)(weights + (index_t)(from + k + i) * a.outputs + output);
                }
                UNROLL for (int i = 0; i < 4; i++) {
                    const real vs[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
                    UNROLL for (int n = 0; n < 4; n++) {
                        s[i][0] += vs[n] * w[n].x;
                        s[i][1] += vs[n] * w[n].y;
                        s[i][2] += vs[n] * w[n].z;
                        s[i][3] += vs[n] * w[n].w;
                    }
                }
            }
    }
    if (part < a.parts)
        UNROLL for (int i = 0; i < 4; i++)
            UNROLL for (int j = 0; j < 4; j++)
                sums[(part * a.rows + row + i) * a.outputs + output + j] = s[i][j];
    __syncthreads();
}

template <typename real>
DEVICE real add_parts(const real *sums, int row, int output, const cut &a)
{
    real sum = 0;
    for (int part = 0; part < a.parts; part++)
        sum += sums[(part * a.rows + row) * a.outputs + output];
    return sum;
}

/* h0 (B, H); weight_hh (G*H, H); arrived: a counter for each block of rows, all 0. Outputs of a block are
 * its units' gates, those of one unit side by side. */
template <typename real>
__global__ void __launch_bounds__(256)
cooperative_forward(const forward_call<real> *where, const real *h0, const real *weight_hh, unsigned *arrived,
                    index_t steps, index_t batch, int hidden, int units, int unit_blocks, int rows,
                    int outputs, int chunk, int parts)
{
    DYNAMIC_SHARED(real, shared);
    const cut a = {units, unit_blocks, rows, outputs, chunk, parts};
    const forward_call<real> call = *where;
    const int first_unit = blockIdx.x % unit_blocks * units, row_block = blockIdx.x / unit_blocks;
    const index_t first_row = (index_t)row_block * rows;
    const int terms = FOURS(hidden);
    real *weights = shared, *staged = weights + (index_t)terms * outputs;
    real *sums = staged + (chunk + 4) * rows, *c = sums + parts * rows * outputs;
    for (int i = threadIdx.x; i < terms * outputs; i += blockDim.x) {
        const int k = i % terms, output = i / terms, u = first_unit + output / CELL_GATES;
        const bool mine = output < units * CELL_GATES && u < hidden && k < hidden;
        weights[k * outputs + output] =
            mine ? weight_hh[((index_t)(output % CELL_GATES) * hidden + u) * hidden + k] : real(0);
    }
    for (int i = threadIdx.x; i < rows * units; i += blockDim.x) {
        const index_t b = first_row + i / units, u = first_unit + i % units;
        c[i] = CELL_HAS_C && b < batch && u < hidden ? call.c0[b * hidden + u] : real(0);
    }
    for (index_t t = 0; t < steps; t++) {
        const real *before = t ? call.h + (t - 1) * call.h_step : h0;
        /* the inputs' part of the sums, of the thread's first row and unit: fetched ahead of the product */
        real inputs[CELL_GATES] = {};
        const index_t first_b = first_row + threadIdx.x / units, first_u = first_unit + threadIdx.x % units;
        if ((int)threadIdx.x < rows * units && first_b < batch && first_u < hidden)
            UNROLL for (int k = 0; k < CELL_GATES; k++)
                inputs[k] = call.sums[((t * batch + first_b) * CELL_GATES + k) * hidden + first_u];
        block_product(sums, staged, weights, before, first_row, batch, hidden, a);
        for (int i = threadIdx.x; i < rows * units; i += blockDim.x) {
            const int row = i / units, unit = i % units;
            const index_t b = first_row + row, u = first_unit + unit;
            const index_t at = (t * batch + b) * CELL_GATES * hidden + u;
            if (b >= batch || u >= hidden)
                continue;
            real gates[CELL_GATES], out;
            UNROLL for (int k = 0; k < CELL_GATES; k++) {
                const real input = i == (int)threadIdx.x ? inputs[k] : call.sums[at + (index_t)k * hidden];
                const real recurrent = add_parts(sums, row, unit * CELL_GATES + k, a);
                gates[k] = input + recurrent + call.bias[(index_t)k * hidden + u];
            }
            forward_unit(gates, &out, &c[i]);
            call.h[t * call.h_step + b * hidden + u] = out;
            if (CELL_HAS_C)
                call.c[t * call.c_step + b * hidden + u] = c[i];
            if (CELL_SAVES_GATES && call.gates)
                UNROLL for (int k = 0; k < CELL_GATES; k++)
                    call.gates[at + (index_t)k * hidden] = gates[k];
            if (call.y)
                call.y[(t * batch + b) * hidden + u] = out;
        }
        if (t + 1 < steps)
            wait_for_blocks(arrived + row_block, (unsigned)(t + 1) * unit_blocks);
    }
}

/* dh_now, dc_now (B, H): in, what arrives through the final state; out, what leaves through the initial one.
 *
 * A block multiplies its own units' dgates, which it has on chip, by their rows of the weights: that is its
 * part of the gradient at h of all units before. The blocks exchange these parts and add up those of their
 * own units, in the order of blocks. So h's gradient goes through L2, not dgates, which are G times as many.
 *
 * exchange (2, blocks, rows, H rounded up to 4): two turns, so that one barrier per step is enough. Shared
 * memory: weights (G*units, H rounded up), dgates (G*units, rows), dh and dc (2, rows, units). */
template <typename real>
__global__ void __launch_bounds__(256)
cooperative_backward(const backward_call<real> *where, real *dh_now, real *dc_now, const real *weight_hh,
                     real *exchange, unsigned *arrived, index_t steps, index_t batch, int hidden, int units,
                     int unit_blocks, int rows)
{
    DYNAMIC_SHARED(real, shared);
    const backward_call<real> call = *where;
    const int first_unit = blockIdx.x % unit_blocks * units, row_block = blockIdx.x / unit_blocks;
    const int columns = FOURS(hidden), terms = units * CELL_GATES, tiles = rows / 4 * (columns / 4);
    const index_t first_row = (index_t)row_block * rows, room = (index_t)rows * columns;
    real *weights = shared, *dgates = weights + (index_t)terms * columns, *dh = dgates + terms * rows;
    real *dc = dh + rows * units;
    for (int i = threadIdx.x; i < terms * columns; i += blockDim.x) {
        const int term = i / columns, v = i % columns, u = first_unit + term / CELL_GATES;
        const index_t j = (index_t)(term % CELL_GATES) * hidden + u;
        weights[i] = u < hidden && v < hidden ? weight_hh[j * hidden + v] : real(0);
    }
    for (int i = threadIdx.x; i < terms * rows; i += blockDim.x)
        dgates[i] = 0; /* and so it stays in rows past the last and units past the last */
    for (int i = threadIdx.x; i < rows * units; i += blockDim.x) {
        const index_t b = first_row + i / units, u = first_unit + i % units;
        const bool mine = b < batch && u < hidden;
        dh[i] = mine ? dh_now[b * hidden + u] : real(0);
        dc[i] = CELL_HAS_C && mine ? dc_now[b * hidden + u] : real(0);
    }
    const index_t first_b = first_row + threadIdx.x / units, first_u = first_unit + threadIdx.x % units;
    const bool has_first = (int)threadIdx.x < rows * units && first_b < batch && first_u < hidden;
    saved_unit<real> next = {}; /* of the thread's first row and unit: fetched one step ahead */
    if (has_first && steps)
        next = saved_at(call, steps - 1, first_b, first_u, batch, hidden);
    __syncthreads();
    for (index_t t = steps - 1; t >= 0; t--) {
        for (int i = threadIdx.x; i < rows * units; i += blockDim.x) {
            const int row = i / units, unit = i % units;
            const index_t b = first_row + row, u = first_unit + unit;
            if (b >= batch || u >= hidden)
                continue;
            const bool is_first = i == (int)threadIdx.x;
            const saved_unit<real> saved = is_first ? next : saved_at(call, t, b, u, batch, hidden);
            real out[CELL_GATES];
            backward_at(call, saved, out, &dc[i], dh[i], t, b, u, batch, hidden);
            UNROLL for (int k = 0; k < CELL_GATES; k++)
                dgates[(unit * CELL_GATES + k) * rows + row] = out[k];
        }
        if (has_first && t)
            next = saved_at(call, t - 1, first_b, first_u, batch, hidden);
        __syncthreads();
        real *turn = exchange + (t & 1) * gridDim.x * room;
        for (int tile = threadIdx.x; tile < tiles; tile += blockDim.x) {
            const int row = tile / (columns / 4) * 4, column = tile % (columns / 4) * 4;
            real s[4][4] = {};
            for (int k = 0; k < terms; k++) {
                const four<real> v = *(const four<real> *)(dgates + k * rows + row);
                const four<real> w = *(const four<real> *)(weights + (index_t)k * columns + column);
                const real vs[4] = {v.x, v.y, v.z, v.w}, ws[4] = {w.x, w.y, w.z, w.w};
                UNROLL for (int i = 0; i < 4; i++)
                    UNROLL for (int j = 0; j < 4; j++)
                        s[i][j] += vs[i] * ws[j];
            }
            real *to = turn + blockIdx.x * room + row * columns + column;
            UNROLL for (int i = 0; i < 4; i++)
                *(four<real> *)(to + i * columns) = {s[i][0], s[i][1], s[i][2], s[i][3]};
        }
        wait_for_blocks(arrived + row_block, (unsigned)(steps - t) * unit_blocks);
        turn += (index_t)row_block * unit_blocks * room;
        for (int i = threadIdx.x; i < rows * units; i += blockDim.x) {
            const int row = i / units, u = first_unit + i % units;
            if (u >= hidden)
                continue;
            real sum = 0;
            _Pragma("unroll 16") for (int block = 0; block < unit_blocks; block++)
                sum += __ldcg(turn + block * room + row * columns + u);
            dh[i] = sum;
        }
    }
    for (int i = threadIdx.x; i < rows * units; i += blockDim.x) {
        const index_t b = first_row + i / units, u = first_unit + i % units;
        if (b >= batch || u >= hidden)
            continue;
        dh_now[b * hidden + u] = dh[i];
        if (CELL_HAS_C)
            dc_now[b * hidden + u] = dc[i];
    }
}
