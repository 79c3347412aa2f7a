/* The simple recurrent cell (Elman 1990): h = nonlinearity(W x + R h_before + b), a cell for each
 * nonlinearity.
 *
 * What a cell's file holds is said in lstm.h. Of these, backward needs no more than h.
 */

INLINE void rnn_tanh_forward(forward_units *u) { u->h = v_tanh(u->sums[0]); }
INLINE void rnn_tanh_backward(backward_units *u) { u->dsums[0] = u->dh * (1 - u->h * u->h); }

#define CELL rnn_tanh
#define CELL_GATES 1
#include "pointwise.h"

/* NaN < 0 is false: a NaN stays. */
INLINE void rnn_relu_forward(forward_units *u)
{
    u->h = choose((ivec)(u->sums[0] < 0), (vec){0}, u->sums[0]);
}
INLINE void rnn_relu_backward(backward_units *u) { u->dsums[0] = choose((ivec)(u->h > 0), u->dh, (vec){0}); }

#define CELL rnn_relu
#define CELL_GATES 1
#include "pointwise.h"

INLINE void rnn_identity_forward(forward_units *u) { u->h = u->sums[0]; }
INLINE void rnn_identity_backward(backward_units *u) { u->dsums[0] = u->dh; }

#define CELL rnn_identity
#define CELL_GATES 1
#include "pointwise.h"
