/* The simple recurrent cell (Elman 1990): h = nonlinearity(W x + R h_before + b), a cell for each
 * nonlinearity.
 *
 * What a cell's file holds is said in cell_lstm.h. These have a single gate, which is h itself, so backward
 * needs no more than h.
 */

INLINE void rnn_tanh_forward(forward_units *u) { u->h = u->gates[0] = v_tanh(u->gates[0]); }
INLINE void rnn_tanh_backward(backward_units *u) { u->dgates[0] = u->dh * (1 - u->h * u->h); }

#define CELL rnn_tanh
#define CELL_GATES 1
#define CELL_HAS_C 0
#define CELL_SAVES_GATES 0
#include "pointwise.h"

/* NaN < 0 is false: a NaN stays. */
INLINE void rnn_relu_forward(forward_units *u)
{
    u->h = u->gates[0] = choose((ivec)(u->gates[0] < 0), (vec){0}, u->gates[0]);
}
INLINE void rnn_relu_backward(backward_units *u) { u->dgates[0] = choose((ivec)(u->h > 0), u->dh, (vec){0}); }

#define CELL rnn_relu
#define CELL_GATES 1
#define CELL_HAS_C 0
#define CELL_SAVES_GATES 0
#include "pointwise.h"

INLINE void rnn_identity_forward(forward_units *u) { u->h = u->gates[0]; }
INLINE void rnn_identity_backward(backward_units *u) { u->dgates[0] = u->dh; }

#define CELL rnn_identity
#define CELL_GATES 1
#define CELL_HAS_C 0
#define CELL_SAVES_GATES 0
#include "pointwise.h"
