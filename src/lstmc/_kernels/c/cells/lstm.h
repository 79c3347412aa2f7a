/* The LSTM cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), no peepholes.
 *
 * A cell's file holds two pointwise functions over VL units of one row, and says in counts what cell.h asks;
 * where it says nothing there is none, and a bias for each gate. The products are the driver's.
 */

INLINE void lstm_forward(forward_units *u)
{
    const vec i = v_sigmoid(u->sums[0]);
    const vec f = v_sigmoid(u->sums[1]);
    const vec g = v_tanh(u->sums[2]);
    const vec o = v_sigmoid(u->sums[3]);
    u->c = f * u->c + i * g;
    u->h = o * v_tanh(u->c);
    u->saved[0] = i;
    u->saved[1] = f;
    u->saved[2] = g;
    u->saved[3] = o;
}

/* tanh(c) is computed again: that is cheaper than to have stored it. */
INLINE void lstm_backward(backward_units *u)
{
    const vec i = u->saved[0], f = u->saved[1], g = u->saved[2], o = u->saved[3];
    const vec tanh_c = v_tanh(u->c);
    /* h = o * tanh(c) */
    const vec d_o = u->dh * tanh_c;
    const vec d_c = u->dc + (u->dh * o) * (1 - tanh_c * tanh_c);
    /* c = f * c_before + i * g */
    const vec d_i = d_c * g;
    const vec d_f = d_c * u->c_before;
    const vec d_g = d_c * i;
    u->dc = d_c * f;
    /* i, f, o = sigmoid(sum), g = tanh(sum) */
    u->dsums[0] = d_i * (i * (1 - i));
    u->dsums[1] = d_f * (f * (1 - f));
    u->dsums[2] = d_g * (1 - g * g);
    u->dsums[3] = d_o * (o * (1 - o));
}

#define CELL lstm
#define CELL_GATES 4 /* i, f, g, o: the order of the weight rows */
#define CELL_SAVED 4 /* the activated gates */
#define CELL_HAS_C 1
#include "pointwise.h"
