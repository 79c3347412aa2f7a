/* The LSTM cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), no peepholes.
 *
 * The same equations as in ../c/cells/lstm.h, for one hidden unit. sequence.cuh says what a cell must define.
 */
#include "real.cuh"

#define CELL_GATES 4        /* i, f, g, o: the order of the weight rows */
#define CELL_HAS_C 1
#define CELL_SAVES_GATES 1  /* backward reads the activated gates */

/* gates: in, the sums W x + R h + b; out, the activated gates. c: in, that of the step before; out, this
 * step's. */
template <typename real>
DEVICE void forward_unit(real gates[CELL_GATES], real *h, real *c)
{
    real i = sigmoid(gates[0]);
    real f = sigmoid(gates[1]);
    real g = tanh(gates[2]);
    real o = sigmoid(gates[3]);
    *c = f * *c + i * g;
    *h = o * tanh(*c);
    gates[0] = i;
    gates[1] = f;
    gates[2] = g;
    gates[3] = o;
}

/* dh, *dc: in, the gradient arriving at this step's h and c. dgates: out, that of the four sums; *dc: out,
 * that of c of the step before. tanh(c) is computed again, which is cheaper than to store it. */
template <typename real>
DEVICE void backward_unit(real dgates[CELL_GATES], real *dc, real dh, const real gates[CELL_GATES], real h,
                          real c, real c_before)
{
    (void)h;
    const real i = gates[0], f = gates[1], g = gates[2], o = gates[3];
    const real tanh_c = tanh(c);
    /* h = o * tanh(c) */
    real d_o = dh * tanh_c;
    real d_c = *dc + (dh * o) * (1 - tanh_c * tanh_c);
    /* c = f * c_before + i * g */
    real d_i = d_c * g;
    real d_f = d_c * c_before;
    real d_g = d_c * i;
    *dc = d_c * f;
    /* i, f, o = sigmoid(sum), g = tanh(sum) */
    dgates[0] = d_i * (i * (1 - i));
    dgates[1] = d_f * (f * (1 - f));
    dgates[2] = d_g * (1 - g * g);
    dgates[3] = d_o * (o * (1 - o));
}

#include "sequence.cuh"
#include "persistent.cuh"
#include "cooperative.cuh"
#include "stepper.cuh"
