/* The simple recurrent cell (Elman 1990): h = activation(W x + R h_before + b).
 *
 * The same equations as in ../c/cells/rnn.h, for one hidden unit. sequence.cuh says what a cell must define.
 * The only gate is h itself. Compiled for one activation: -DACTIVATION=TANH, RELU or IDENTITY.
 */
#include "real.cuh"

#define CELL_GATES 1
#define CELL_HAS_C 0
#define CELL_SAVES_GATES 0 /* all three derivatives follow from h */

enum { TANH, RELU, IDENTITY };

static_assert(ACTIVATION == TANH || ACTIVATION == RELU || ACTIVATION == IDENTITY, "an unknown activation");

template <typename real>
DEVICE void forward_unit(real gates[CELL_GATES], real *h, real *c)
{
    (void)c;
    if (ACTIVATION == TANH)
        gates[0] = tanh(gates[0]);
    if (ACTIVATION == RELU) /* NaN < 0 is false: a NaN stays */
        gates[0] = gates[0] < 0 ? real(0) : gates[0];
    *h = gates[0]; /* IDENTITY: the sum as it is */
}

template <typename real>
DEVICE void backward_unit(real dgates[CELL_GATES], real *dc, real dh, const real gates[CELL_GATES], real h,
                          real c, real c_before)
{
    (void)gates;
    (void)c;
    (void)c_before;
    (void)dc;
    if (ACTIVATION == TANH)
        dgates[0] = dh * (1 - h * h);
    if (ACTIVATION == RELU)
        dgates[0] = h > 0 ? dh : real(0);
    if (ACTIVATION == IDENTITY)
        dgates[0] = dh;
}

#include "sequence.cuh"
#include "persistent.cuh"
#include "cooperative.cuh"
#include "stepper.cuh"
