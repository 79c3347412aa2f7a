/* A cell over time in one launch, for few hidden units: each block runs its own rows from the first step to
 * the last with all recurrent weights in its registers and shared memory. No block waits for another.
 *
 * Compiled for one H: HIDDEN units; ROWS rows per block; BUDGET 4-byte registers per thread for weights, the
 * rest of which are in shared memory. Each sum is one chain over ascending units, the inputs' part first.
 */
#ifdef HIDDEN

#define ROUND_UP(n, to) (((n) + (to)-1) / (to) * (to))
#define LEAST(a, b) ((a) < (b) ? (a) : (b))
enum {
    OUTPUTS = CELL_GATES * HIDDEN,
    /* forward: a thread has WIDE of the G*H sums: thread, thread + OWNERS, ... over all units before */
    WIDE = (OUTPUTS + 255) / 256,
    OWNERS = (OUTPUTS + WIDE - 1) / WIDE,
    FORWARD_THREADS = ROUND_UP(OWNERS, 32),
    TERMS = ROUND_UP(HIDDEN, 4),
    /* backward: a thread has one of the H sums over one of PARTS of the G*H gradients */
    PARTS = HIDDEN >= 256 ? 1 : LEAST(256 / HIDDEN, OUTPUTS),
    BACKWARD_THREADS = ROUND_UP(PARTS * HIDDEN, 32),
    PART_TERMS = ROUND_UP((OUTPUTS + PARTS - 1) / PARTS, 4),
};

/* Weights of one thread: those of the first terms in registers, the others in shared memory, four terms of
 * all threads side by side. */
template <typename real, int COUNT, int ALL_TERMS, int THREADS>
struct thread_weights {
    enum {
        IN_REGISTERS = LEAST(ALL_TERMS, BUDGET * 4 / (int)sizeof(real) / COUNT / 4 * 4),
        SHARED = (ALL_TERMS - IN_REGISTERS) * COUNT * THREADS /* numbers of shared memory */
    };
    real first[COUNT][IN_REGISTERS];
    real *rest;

    DEVICE void put(int which, int term, real value)
    {
        const int t = term - IN_REGISTERS;
        rest[((t / 4 * COUNT + which) * THREADS + threadIdx.x) * 4 + t % 4] = value;
    }

    /* sums[which][row] += weights * values[row]; values: ROWS rows of ALL_TERMS numbers of shared memory */
    DEVICE void multiply(real sums[COUNT][ROWS], const real *values) const
    {
        UNROLL for (int t = 0; t < IN_REGISTERS; t += 4)
            UNROLL for (int row = 0; row < ROWS; row++) {
                const four<real> v = *(const four<real> *)(values + row * ALL_TERMS + t);
                UNROLL for (int n = 0; n < COUNT; n++)
                    sums[n][row] =
                        first[n][t + 3] * v.w +
                        (first[n][t + 2] * v.z +
                         (first[n][t + 1] * v.y + (first[n][t] * v.x + sums[n][row])));
            }
        for (int t = 0; t < ALL_TERMS - IN_REGISTERS; t += 4)
            UNROLL for (int n = 0; n < COUNT; n++) {
                const real *from = rest + ((t / 4 * COUNT + n) * THREADS + threadIdx.x) * 4;
                const four<real> w = *(const four<real> *)from;
                UNROLL for (int row = 0; row < ROWS; row++) {
                    const four<real> v = *(const four<real> *)(values + row * ALL_TERMS + IN_REGISTERS + t);
                    sums[n][row] = w.w * v.w + (w.z * v.z + (w.y * v.y + (w.x * v.x + sums[n][row])));
                }
            }
    }
};

/* weight_hh (G*H, H). h0 (B, H). The rest as forward_call has it.
 * Shared memory: ROWS * (TERMS + OUTPUTS + HIDDEN) numbers and the weights that are not in registers. */
template <typename real>
__global__ void __launch_bounds__(FORWARD_THREADS)
persistent_forward(const forward_call<real> *where, const real *h0, const real *weight_hh, index_t steps,
                   index_t batch)
{
    DYNAMIC_SHARED(real, shared);
    const forward_call<real> call = *where;
    const int thread = threadIdx.x;
    const index_t first_row = blockIdx.x * (index_t)ROWS;
    real *h = shared, *sums = h + ROWS * TERMS, *c = sums + ROWS * OUTPUTS;
    thread_weights<real, WIDE, TERMS, FORWARD_THREADS> weights;
    weights.rest = shared + ROUND_UP(ROWS * (TERMS + OUTPUTS + HIDDEN), 4);
    UNROLL for (int n = 0; n < WIDE; n++) {
        const int output = thread + n * OWNERS;
        const bool mine = thread < OWNERS && output < OUTPUTS;
        UNROLL for (int t = 0; t < TERMS; t++) {
            const real w = mine && t < HIDDEN ? weight_hh[output * HIDDEN + t] : real(0);
            if (t < weights.IN_REGISTERS)
                weights.first[n][t < weights.IN_REGISTERS ? t : 0] = w;
            else
                weights.put(n, t, w);
        }
    }
    for (int i = thread; i < ROWS * TERMS; i += FORWARD_THREADS) {
        const index_t b = first_row + i / TERMS, u = i % TERMS;
        h[i] = b < batch && u < HIDDEN ? h0[b * HIDDEN + u] : real(0);
    }
    for (int i = thread; i < ROWS * HIDDEN; i += FORWARD_THREADS) {
        const index_t b = first_row + i / HIDDEN;
        c[i] = CELL_HAS_C && b < batch ? call.c0[b * HIDDEN + i % HIDDEN] : real(0);
    }
    real next[WIDE][ROWS]; /* the inputs' part of the sums of the step to come: fetched one step ahead */
    auto fetch = [&](index_t t) {
        UNROLL for (int n = 0; n < WIDE; n++)
            UNROLL for (int row = 0; row < ROWS; row++) {
                const int output = thread + n * OWNERS;
                const bool mine = thread < OWNERS && output < OUTPUTS && t < steps && first_row + row < batch;
                next[n][row] = mine ? call.sums[(t * batch + first_row + row) * OUTPUTS + output] : real(0);
            }
    };
    fetch(0);
    __syncthreads();
    for (index_t t = 0; t < steps; t++) {
        real now[WIDE][ROWS];
        UNROLL for (int n = 0; n < WIDE; n++)
            UNROLL for (int row = 0; row < ROWS; row++)
                now[n][row] = next[n][row];
        fetch(t + 1);
        weights.multiply(now, h);
        UNROLL for (int n = 0; n < WIDE; n++) {
            const int output = thread + n * OWNERS;
            if (thread < OWNERS && output < OUTPUTS)
                UNROLL for (int row = 0; row < ROWS; row++)
                    sums[row * OUTPUTS + output] = now[n][row];
        }
        __syncthreads();
        for (int i = thread; i < ROWS * HIDDEN; i += FORWARD_THREADS) {
            const int row = i / HIDDEN, u = i % HIDDEN;
            const index_t b = first_row + row, at = (t * batch + b) * OUTPUTS + u;
            if (b >= batch)
                break;
            real gates[CELL_GATES], out;
            UNROLL for (int k = 0; k < CELL_GATES; k++)
                gates[k] = sums[row * OUTPUTS + k * HIDDEN + u] + call.bias[k * HIDDEN + u];
            forward_unit(gates, &out, &c[i]);
            h[row * TERMS + u] = out;
            call.h[t * call.h_step + b * HIDDEN + u] = out;
            if (CELL_HAS_C)
                call.c[t * call.c_step + b * HIDDEN + u] = c[i];
            if (CELL_SAVES_GATES && call.gates)
                UNROLL for (int k = 0; k < CELL_GATES; k++)
                    call.gates[at + k * HIDDEN] = gates[k];
            if (call.y)
                call.y[(t * batch + b) * HIDDEN + u] = out;
        }
        __syncthreads();
    }
}

/* dh_now, dc_now (B, H): in, what arrives through the final state; out, what leaves through the initial one.
 * Shared memory: ROWS * PARTS * (PART_TERMS + HIDDEN) numbers and the weights that are not in registers. */
template <typename real>
__global__ void __launch_bounds__(BACKWARD_THREADS)
persistent_backward(const backward_call<real> *where, real *dh_now, real *dc_now, const real *weight_hh,
                    index_t steps, index_t batch)
{
    /* rows and units of a thread */
    enum { ITEMS = (ROWS * HIDDEN + BACKWARD_THREADS - 1) / BACKWARD_THREADS };
    DYNAMIC_SHARED(real, shared);
    const backward_call<real> call = *where;
    const int thread = threadIdx.x, part = thread / HIDDEN, unit = thread % HIDDEN;
    const index_t first_row = blockIdx.x * (index_t)ROWS;
    /* dgates: PARTS times ROWS rows of PART_TERMS; sums: as many rows of HIDDEN */
    real *dgates = shared, *sums = dgates + PARTS * ROWS * PART_TERMS;
    thread_weights<real, 1, PART_TERMS, BACKWARD_THREADS> weights;
    weights.rest = shared + ROUND_UP(PARTS * ROWS * (PART_TERMS + HIDDEN), 4);
    UNROLL for (int t = 0; t < PART_TERMS; t++) {
        const int from = part * PART_TERMS + t;
        const real w = part < PARTS && from < OUTPUTS ? weight_hh[from * HIDDEN + unit] : real(0);
        if (t < weights.IN_REGISTERS)
            weights.first[0][t < weights.IN_REGISTERS ? t : 0] = w;
        else
            weights.put(0, t, w);
    }
    for (int i = thread; i < PARTS * ROWS * PART_TERMS; i += BACKWARD_THREADS)
        dgates[i] = 0; /* and so it stays in rows past the last and in terms past G*H */
    real dh[ITEMS], dc[ITEMS];
    saved_unit<real> next[ITEMS]; /* fetched one step ahead */
    UNROLL for (int n = 0; n < ITEMS; n++) {
        const int i = thread + n * BACKWARD_THREADS;
        const index_t b = first_row + i / HIDDEN, u = i % HIDDEN;
        const bool mine = i < ROWS * HIDDEN && b < batch;
        dh[n] = mine ? dh_now[b * HIDDEN + u] : real(0);
        dc[n] = CELL_HAS_C && mine ? dc_now[b * HIDDEN + u] : real(0);
        if (mine && steps)
            next[n] = saved_at(call, steps - 1, b, u, batch, HIDDEN);
    }
    __syncthreads();
    for (index_t t = steps - 1; t >= 0; t--) {
        UNROLL for (int n = 0; n < ITEMS; n++) {
            const int i = thread + n * BACKWARD_THREADS, row = i / HIDDEN, u = i % HIDDEN;
            const index_t b = first_row + row;
            if (i < ROWS * HIDDEN && b < batch) {
                const saved_unit<real> saved = next[n];
                real out[CELL_GATES];
                if (t)
                    next[n] = saved_at(call, t - 1, b, u, batch, HIDDEN);
                backward_at(call, saved, out, &dc[n], dh[n], t, b, u, batch, HIDDEN);
                UNROLL for (int k = 0; k < CELL_GATES; k++) {
                    const int j = k * HIDDEN + u;
                    dgates[(j / PART_TERMS * ROWS + row) * PART_TERMS + j % PART_TERMS] = out[k];
                }
            }
        }
        __syncthreads();
        if (part < PARTS) {
            real now[1][ROWS] = {};
            weights.multiply(now, dgates + part * ROWS * PART_TERMS);
            UNROLL for (int row = 0; row < ROWS; row++)
                sums[(part * ROWS + row) * HIDDEN + unit] = now[0][row];
        }
        __syncthreads();
        UNROLL for (int n = 0; n < ITEMS; n++) {
            const int i = thread + n * BACKWARD_THREADS;
            if (i < ROWS * HIDDEN) {
                dh[n] = 0;
                UNROLL for (int p = 0; p < PARTS; p++)
                    dh[n] += sums[p * ROWS * HIDDEN + i];
            }
        }
    }
    UNROLL for (int n = 0; n < ITEMS; n++) {
        const int i = thread + n * BACKWARD_THREADS;
        const index_t b = first_row + i / HIDDEN;
        if (i < ROWS * HIDDEN && b < batch) {
            dh_now[b * HIDDEN + i % HIDDEN] = dh[n];
            if (CELL_HAS_C)
                dc_now[b * HIDDEN + i % HIDDEN] = dc[n];
        }
    }
}

/* What a launch must know of this H: threads and bytes of shared memory, forward and backward. */
template <typename real>
__global__ void persistent_sizes(index_t *out)
{
    typedef thread_weights<real, WIDE, TERMS, FORWARD_THREADS> forward_weights;
    typedef thread_weights<real, 1, PART_TERMS, BACKWARD_THREADS> backward_weights;
    out[0] = FORWARD_THREADS;
    out[1] = (ROUND_UP(ROWS * (TERMS + OUTPUTS + HIDDEN), 4) + forward_weights::SHARED) * (int)sizeof(real);
    out[2] = BACKWARD_THREADS;
    out[3] = (ROUND_UP(PARTS * ROWS * (PART_TERMS + HIDDEN), 4) + backward_weights::SHARED) *
             (int)sizeof(real);
}

#endif
