/* A cell over time, one launch per step: what runs between two products with the recurrent weights.
 *
 * A cell's file defines CELL_GATES, CELL_HAS_C, CELL_SAVES_GATES and two functions of one hidden unit,
 * forward_unit and backward_unit, then includes this one. The products are not here: the one with all inputs
 * is made before the first step, and the one with the states of the step before between two launches.
 *
 * Letters: T steps, B batch rows, H hidden units, G gates. A step's launch may be part of a recorded graph,
 * so it takes no pointer of the call: those are in a record on the device, which the first launch of the
 * call fills. What the product between two steps reads has one address for all calls: h_now, and dgates_now
 * on the way back.
 */

/* The arrays of a forward call. */
template <typename real>
struct forward_call {
    const real *sums; /* (T, B, G*H) the products with the inputs; may be gates itself */
    const real *bias; /* (G*H,) */
    const real *c0;   /* (B, H) of a cell that has c */
    real *h;          /* written: the states (B, H) after step 0, 1, ..., h_step elements apart */
    real *c;          /* likewise, c_step apart, of a cell that has c; c_step 0: one (B, H) for all steps */
    real *gates;      /* written: (T, B, G*H) the activated gates, or NULL */
    real *y;          /* written: (T, B, H) h once more, or NULL */
    index_t h_step, c_step;
};

/* The arrays of a backward call. Row b of all gradients belongs to row b / repeat of h, c and gates. */
template <typename real>
struct backward_call {
    const real *dy;    /* (T, B, H), or NULL for zeros */
    const real *h, *c; /* (T+1, B/repeat, H) as forward saved them; c of a cell that has it */
    const real *gates; /* (T, B/repeat, G*H) as forward saved them, of a cell that saves them */
    real *dgates;      /* written: (T, B, G*H) the gradient of the sums; may be gates where repeat is 1 */
    real *dh, *dc;     /* written: (T, B, H) what arrives from the step after, or NULL */
    int repeat;
};

/* h_now (B, H): written, h0. size: B*H. */
template <typename real>
__global__ void begin_forward(forward_call<real> *call, real *h_now, const real *h0, const real *sums,
                              const real *bias, const real *c0, real *h, real *c, real *gates, real *y,
                              index_t h_step, index_t c_step, index_t size)
{
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        call->sums = sums;
        call->bias = bias;
        call->c0 = c0;
        call->h = h;
        call->c = c;
        call->gates = gates;
        call->y = y;
        call->h_step = h_step;
        call->c_step = c_step;
    }
    FOR_EACH(i, size)
        h_now[i] = h0[i];
}

/* One step of one unit of one row. recurrent: the G sums of products with the states before. */
template <typename real>
DEVICE void forward_at(const forward_call<real> &call, real recurrent[CELL_GATES], real *h, index_t t,
                       index_t b, index_t u, index_t batch, index_t hidden)
{
    const index_t row = t * batch + b, i = b * hidden + u;
    real gates[CELL_GATES], c = 0;
    UNROLL for (int k = 0; k < CELL_GATES; k++)
        gates[k] = call.sums[(row * CELL_GATES + k) * hidden + u] + recurrent[k] + call.bias[k * hidden + u];
    if (CELL_HAS_C)
        c = t ? call.c[(t - 1) * call.c_step + i] : call.c0[i];
    forward_unit(gates, h, &c);
    call.h[t * call.h_step + i] = *h;
    if (CELL_HAS_C)
        call.c[t * call.c_step + i] = c;
    if (CELL_SAVES_GATES && call.gates)
        UNROLL for (int k = 0; k < CELL_GATES; k++)
            call.gates[(row * CELL_GATES + k) * hidden + u] = gates[k];
    if (call.y)
        call.y[row * hidden + u] = *h;
}

/* recurrent (B, G*H): the product of h_now with the recurrent weights. h_now (B, H): written, h after this
 * step. */
template <typename real>
__global__ void forward_step(const forward_call<real> *call, real *h_now, const real *recurrent, index_t t,
                             int batch, int hidden)
{
    FOR_EACH(i, (index_t)batch * hidden) {
        const int b = (int)i / hidden, u = (int)i % hidden;
        real products[CELL_GATES];
        UNROLL for (int k = 0; k < CELL_GATES; k++)
            products[k] = recurrent[((index_t)b * CELL_GATES + k) * hidden + u];
        forward_at(*call, products, h_now + i, t, b, u, batch, hidden);
    }
}

/* dh_n and dc_n (B, H): what arrives through the final state, or NULL for zeros. dh_now and dc_now (B, H):
 * written, the same. size: B*H. */
template <typename real>
__global__ void begin_backward(backward_call<real> *call, real *dh_now, real *dc_now, const real *dh_n,
                               const real *dc_n, const real *dy, const real *h, const real *c,
                               const real *gates, real *dgates, real *dh, real *dc, int repeat, index_t size)
{
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        call->dy = dy;
        call->h = h;
        call->c = c;
        call->gates = gates;
        call->dgates = dgates;
        call->dh = dh;
        call->dc = dc;
        call->repeat = repeat;
    }
    FOR_EACH(i, size) {
        dh_now[i] = dh_n ? dh_n[i] : real(0);
        if (CELL_HAS_C)
            dc_now[i] = dc_n ? dc_n[i] : real(0);
    }
}

/* What backward of one step reads besides the gradients that it carries. */
template <typename real>
struct saved_unit {
    real gates[CELL_GATES], h, c, c_before, dy;
};

template <typename real>
DEVICE saved_unit<real> saved_at(const backward_call<real> &call, index_t t, index_t b, index_t u,
                                 index_t batch, index_t hidden)
{
    saved_unit<real> s;
    const index_t rows = (int)batch / call.repeat;
    const index_t before = t * rows + (int)b / call.repeat, now = before + rows;
    UNROLL for (int k = 0; k < CELL_GATES; k++)
        s.gates[k] = CELL_SAVES_GATES ? call.gates[(before * CELL_GATES + k) * hidden + u] : real(0);
    s.h = call.h[now * hidden + u];
    s.c = CELL_HAS_C ? call.c[now * hidden + u] : real(0);
    s.c_before = CELL_HAS_C ? call.c[before * hidden + u] : real(0);
    s.dy = call.dy ? call.dy[(t * batch + b) * hidden + u] : real(0);
    return s;
}

/* One step back of one unit of one row. dh: what arrives from the step after; *dc: of c, in and out. */
template <typename real>
DEVICE void backward_at(const backward_call<real> &call, const saved_unit<real> &s, real dgates[CELL_GATES],
                        real *dc, real dh, index_t t, index_t b, index_t u, index_t batch, index_t hidden)
{
    const index_t row = t * batch + b;
    if (call.dh)
        call.dh[row * hidden + u] = dh;
    if (CELL_HAS_C && call.dc)
        call.dc[row * hidden + u] = *dc;
    backward_unit(dgates, dc, s.dy + dh, s.gates, s.h, s.c, s.c_before);
    UNROLL for (int k = 0; k < CELL_GATES; k++)
        call.dgates[(row * CELL_GATES + k) * hidden + u] = dgates[k];
}

/* dh_now (B, H): the product of dgates of step t + 1 with the recurrent weights; dc_now (B, H): in and out.
 * dgates_now (B, G*H): written, dgates of step t. */
template <typename real>
__global__ void backward_step(const backward_call<real> *call, real *dgates_now, real *dc_now,
                              const real *dh_now, index_t t, int batch, int hidden)
{
    FOR_EACH(i, (index_t)batch * hidden) {
        const int b = (int)i / hidden, u = (int)i % hidden;
        const saved_unit<real> s = saved_at(*call, t, b, u, batch, hidden);
        real dgates[CELL_GATES], dc = CELL_HAS_C ? dc_now[i] : real(0);
        backward_at(*call, s, dgates, &dc, dh_now[i], t, b, u, batch, hidden);
        if (CELL_HAS_C)
            dc_now[i] = dc;
        UNROLL for (int k = 0; k < CELL_GATES; k++)
            dgates_now[((index_t)b * CELL_GATES + k) * hidden + u] = dgates[k];
    }
}
