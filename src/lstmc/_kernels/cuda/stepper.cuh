/* A cell one step at a time: by one launch with its products, or by one after them.
 *
 * Letters: B batch rows, I inputs, H hidden units, G gates. x (B, I); weight_ih (G*H, I), weight_hh (G*H, H),
 * bias (G*H,). c (B, H): in and out, of a cell that has it. h (B, H): written, and once more to y unless that
 * is NULL. A kernel that makes the products reads h_before, which is not h: others still read it.
 */

/* What follows the sums of unit i of B*H. */
template <typename real>
DEVICE void step_unit(real gates[CELL_GATES], index_t i, real *h, real *c, real *y)
{
    real state = CELL_HAS_C ? c[i] : real(0), out;
    forward_unit(gates, &out, &state);
    if (CELL_HAS_C)
        c[i] = state;
    h[i] = out;
    if (y)
        y[i] = out;
}

/* Of a few rows: a warp for each row and unit. */
template <typename real>
__global__ void step_rows(real *h, real *c, real *y, const real *h_before, const real *x,
                          const real *weight_ih, const real *weight_hh, const real *bias, int batch,
                          int inputs, int hidden)
{
    const int lane = threadIdx.x % 32, i = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (i >= batch * hidden)
        return;
    const index_t b = i / hidden, u = i % hidden;
    real gates[CELL_GATES];
    UNROLL for (int k = 0; k < CELL_GATES; k++) {
        const real *w = weight_ih + (k * hidden + u) * inputs, *r = weight_hh + (k * hidden + u) * hidden;
        real sum = 0;
        for (int j = lane; j < inputs; j += 32)
            sum += w[j] * x[b * inputs + j];
        for (int j = lane; j < hidden; j += 32)
            sum += r[j] * h_before[b * hidden + j];
        for (int half = 16; half; half /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, half);
        gates[k] = sum + bias[k * hidden + u];
    }
    if (lane == 0)
        step_unit(gates, i, h, c, y);
}

/* A tile: the sums of TILE_UNITS units, all gates of each, of TILE_ROWS rows. A thread has one unit of
 * four rows; TILE_TERMS terms at a time are in shared memory. */
enum {
    TILE_TERMS = 16,
    TILE_UNITS = 16,
    TILE_ROWS = 64,
    TILE_OUTPUTS = CELL_GATES * TILE_UNITS,
    TILE_THREADS = TILE_UNITS * TILE_ROWS / 4,
    ROW_STRIDE = TILE_ROWS + 4,       /* numbers between terms in shared memory: */
    OUTPUT_STRIDE = TILE_OUTPUTS + 1, /* different banks */
};

/* sums[gate][row] += a (B, terms) @ weight (G*H, terms).T, of this thread. rows and outputs: shared memory,
 * TILE_TERMS * ROW_STRIDE and TILE_TERMS * OUTPUT_STRIDE numbers. The numbers of the next terms are fetched
 * while these are multiplied. */
template <typename real>
DEVICE void add_tile(real sums[CELL_GATES][4], const real *a, const real *weight, int terms, int first_row,
                     int first_unit, int batch, int hidden, real *rows, real *outputs)
{
    enum { AT_ONCE = TILE_THREADS / TILE_TERMS }; /* rows, or outputs, that are fetched by all threads */
    const int term = threadIdx.x % TILE_TERMS, of = threadIdx.x / TILE_TERMS;
    const int unit = threadIdx.x % TILE_UNITS, four_rows = threadIdx.x / TILE_UNITS * 4;
    real next_rows[TILE_ROWS / AT_ONCE], next_outputs[TILE_OUTPUTS / AT_ONCE];
    auto fetch = [&](int from) {
        const int at = from + term;
        UNROLL for (int n = 0; n < TILE_ROWS / AT_ONCE; n++) {
            const index_t b = first_row + of + n * AT_ONCE;
            next_rows[n] = at < terms && b < batch ? a[b * terms + at] : real(0);
        }
        UNROLL for (int n = 0; n < TILE_OUTPUTS / AT_ONCE; n++) {
            const int output = of + n * AT_ONCE;
            const index_t k = output / TILE_UNITS, u = first_unit + output % TILE_UNITS;
            next_outputs[n] = at < terms && u < hidden ? weight[(k * hidden + u) * terms + at] : real(0);
        }
    };
    fetch(0);
    for (int from = 0; from < terms; from += TILE_TERMS) {
        __syncthreads(); /* the terms before have been used */
        UNROLL for (int n = 0; n < TILE_ROWS / AT_ONCE; n++)
            rows[term * ROW_STRIDE + of + n * AT_ONCE] = next_rows[n];
        UNROLL for (int n = 0; n < TILE_OUTPUTS / AT_ONCE; n++)
            outputs[term * OUTPUT_STRIDE + of + n * AT_ONCE] = next_outputs[n];
        __syncthreads();
        fetch(from + TILE_TERMS);
        UNROLL for (int t = 0; t < TILE_TERMS; t++) {
            const four<real> v = *(const four<real> *)(rows + t * ROW_STRIDE + four_rows);
            UNROLL for (int k = 0; k < CELL_GATES; k++) {
                const real w = outputs[t * OUTPUT_STRIDE + k * TILE_UNITS + unit];
                sums[k][0] += w * v.x;
                sums[k][1] += w * v.y;
                sums[k][2] += w * v.z;
                sums[k][3] += w * v.w;
            }
        }
    }
}

/* Of many rows: a block for each tile, blockIdx.x of the rows and blockIdx.y of the units. Shared memory:
 * TILE_TERMS * (ROW_STRIDE + OUTPUT_STRIDE) numbers. */
template <typename real>
__global__ void __launch_bounds__(TILE_THREADS)
step_tiles(real *h, real *c, real *y, const real *h_before, const real *x, const real *weight_ih,
           const real *weight_hh, const real *bias, int batch, int inputs, int hidden)
{
    DYNAMIC_SHARED(real, shared);
    real *outputs = shared + TILE_TERMS * ROW_STRIDE, sums[CELL_GATES][4] = {};
    const int first_row = blockIdx.x * TILE_ROWS, first_unit = blockIdx.y * TILE_UNITS;
    add_tile(sums, x, weight_ih, inputs, first_row, first_unit, batch, hidden, shared, outputs);
    add_tile(sums, h_before, weight_hh, hidden, first_row, first_unit, batch, hidden, shared, outputs);
    const index_t u = first_unit + threadIdx.x % TILE_UNITS;
    UNROLL for (int row = 0; row < 4; row++) {
        const index_t b = first_row + threadIdx.x / TILE_UNITS * 4 + row;
        if (b >= batch || u >= hidden)
            break;
        real gates[CELL_GATES];
        UNROLL for (int k = 0; k < CELL_GATES; k++)
            gates[k] = sums[k][row] + bias[k * hidden + u];
        step_unit(gates, b * hidden + u, h, c, y);
    }
}

/* After the products of x and of h with their weights, sums and recurrent (B, G*H). */
template <typename real>
__global__ void step_sums(real *h, real *c, real *y, const real *sums, const real *recurrent,
                          const real *bias, int batch, int hidden)
{
    FOR_EACH(i, (index_t)batch * hidden) {
        const index_t b = (int)i / hidden, u = (int)i % hidden;
        real gates[CELL_GATES];
        UNROLL for (int k = 0; k < CELL_GATES; k++) {
            const index_t at = (b * CELL_GATES + k) * hidden + u;
            gates[k] = sums[at] + recurrent[at] + bias[k * hidden + u];
        }
        step_unit(gates, i, h, c, y);
    }
}
