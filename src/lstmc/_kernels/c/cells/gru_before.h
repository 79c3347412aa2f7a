/* The gated recurrent unit as it was first written down (Cho et al. 2014), with the reset gate before the
 * product, which is ONNX's default:
 *
 *     r, z = sigmoid(W x + R h_before + b)
 *     n    = tanh(W_n x + R_n (r * h_before) + b_n)
 *     h    = (1 - z) * n + z * h_before
 *
 * What a cell's file holds is said in lstm.h. R_n multiplies what r has let through, all of it: so there are
 * two phases, the gates and the candidate. The first makes the left operand of the second.
 */

INLINE void gru_gates_forward(forward_units *u)
{
    const vec r = v_sigmoid(u->sums[0]);
    u->saved[0] = r;
    u->saved[1] = v_sigmoid(u->sums[1]);
    u->saved[2] = r * u->h_before;
}

INLINE void gru_candidate_forward(forward_units *u)
{
    const vec z = u->saved[1];
    const vec n = v_tanh(u->sums[0]);
    u->h = n + z * (u->h_before - n);
    u->saved[3] = n;
}

/* It leaves dh as it is: the gates need all of it. */
INLINE void gru_candidate_backward(backward_units *u)
{
    const vec z = u->saved[1], n = u->saved[3];
    /* h = (1 - z) * n + z * h_before, n = tanh(sum) */
    u->dsums[0] = (u->dh * (1 - z)) * (1 - n * n);
}

INLINE void gru_gates_backward(backward_units *u)
{
    const vec r = u->saved[0], z = u->saved[1], n = u->saved[3];
    /* the operand is r * h_before */
    const vec d_r = u->doperand * u->h_before;
    const vec d_z = u->dh * (u->h_before - n);
    u->dh = u->dh * z + u->doperand * r;
    /* r, z = sigmoid(sum) */
    u->dsums[0] = d_r * (r * (1 - r));
    u->dsums[1] = d_z * (z * (1 - z));
}

#define CELL gru_before
#define CELL_GATES 3 /* r, z, n: the order of the weight rows */
#define CELL_SAVED 4 /* r, z, r * h_before, n */
#define CELL_CARRIES_H 1

#define PHASE gru_gates
#define PHASE_FIRST 0 /* r, z */
#define PHASE_GATES 2
#define PHASE_SAVES_FROM 0
#define PHASE_SAVES_TO 3
#define PHASE_OPERAND H_BEFORE
#define PHASE_IS_LAST 0
#include "pointwise.h"

#define PHASE gru_candidate
#define PHASE_FIRST 2 /* n */
#define PHASE_GATES 1
#define PHASE_SAVES_FROM 3
#define PHASE_SAVES_TO 4
#define PHASE_OPERAND 2 /* r * h_before */
#define PHASE_IS_LAST 1
#include "pointwise.h"

#define PHASES &gru_gates_phase, &gru_candidate_phase
#include "record.h"
