/* The simple recurrent cell (Elman 1990): h = activation(W x + R h_before + b).
 *
 * The same words as ../cell_rnn.h, for one hidden unit at once. What a cell is to the kernels that run it over
 * time is said in sequence.cuh. This one has a single gate, which is h itself.
 */
#include "real.cuh"

#define CELL_GATES 1
#define CELL_HAS_C 0
#define CELL_SAVES_GATES 0 /* all three derivatives follow from h */

enum { LSTMC_TANH = 0, LSTMC_RELU = 1, LSTMC_IDENTITY = 2 }; /* activation */

template <typename real>
DEVICE void forward_unit(real gates[CELL_GATES], real *h, real *c, int activation)
{
    (void)c;
    if (activation == LSTMC_TANH)
        gates[0] = tanh(gates[0]);
    else if (activation == LSTMC_RELU) /* NaN < 0 is false: a NaN stays */
        gates[0] = gates[0] < 0 ? real(0) : gates[0];
    *h = gates[0];
}

template <typename real>
DEVICE void backward_unit(real dgates[CELL_GATES], real *dc, real dh, const real gates[CELL_GATES], real h, real c,
                          real c_before, int activation)
{
    (void)gates;
    (void)c;
    (void)c_before;
    (void)dc;
    /* h = tanh(sum) | max(sum, 0) | sum */
    if (activation == LSTMC_TANH)
        dgates[0] = dh * (1 - h * h);
    else if (activation == LSTMC_RELU)
        dgates[0] = h > 0 ? dh : real(0);
    else
        dgates[0] = dh;
}

#include "sequence.cuh"
#include "persistent.cuh"
#include "cooperative.cuh"
