/* The gated recurrent unit (Cho et al. 2014), with the reset gate after the product, as in PyTorch and cuDNN:
 *
 *     r, z = sigmoid(W x + R h_before + b)
 *     n    = tanh(W_n x + b_n + r * (R_n h_before + b_R))
 *     h    = (1 - z) * n + z * h_before
 *
 * What a cell's file holds is said in lstm.h. As r multiplies what R makes of n's sum, and not what W makes,
 * W's and R's sums stay apart, and R's part of n has a bias for itself.
 */

INLINE void gru_forward(forward_units *u)
{
    const vec r = v_sigmoid(u->sums[0] + u->recurrent[0]);
    const vec z = v_sigmoid(u->sums[1] + u->recurrent[1]);
    const vec n = v_tanh(u->sums[2] + r * u->recurrent[2]);
    u->h = n + z * (u->h_before - n);
    u->saved[0] = r;
    u->saved[1] = z;
    u->saved[2] = n;
    u->saved[3] = u->recurrent[2];
}

INLINE void gru_backward(backward_units *u)
{
    const vec r = u->saved[0], z = u->saved[1], n = u->saved[2], of_h = u->saved[3];
    /* h = (1 - z) * n + z * h_before */
    const vec d_n = (u->dh * (1 - z)) * (1 - n * n);
    const vec d_z = u->dh * (u->h_before - n);
    u->dh = u->dh * z;
    /* n = tanh(sum + r * of_h); r, z = sigmoid(sum) */
    const vec d_r = d_n * of_h;
    u->dsums[0] = u->drecurrent[0] = d_r * (r * (1 - r));
    u->dsums[1] = u->drecurrent[1] = d_z * (z * (1 - z));
    u->dsums[2] = d_n;
    u->drecurrent[2] = d_n * r;
}

#define CELL gru
#define CELL_GATES 3 /* r, z, n: the order of the weight rows */
#define CELL_APART 1
#define CELL_BIASES 4 /* r, z, n, and of R's part of n */
#define CELL_SAVED 4  /* the activated gates, and R's part of n's sum */
#define CELL_CARRIES_H 1
#include "pointwise.h"
