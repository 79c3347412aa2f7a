/* The LSTM cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), no peepholes.
 *
 * A cell's file says how many gates there are, whether there is a cell state beside h and whether backward
 * reads the activated gates, and holds two pointwise functions over VL units of one row. The products are the
 * driver's.
 */

INLINE void lstm_forward(forward_units *u)
{
    const vec i = v_sigmoid(u->gates[0]);
    const vec f = v_sigmoid(u->gates[1]);
    const vec g = v_tanh(u->gates[2]);
    const vec o = v_sigmoid(u->gates[3]);
    u->c = f * u->c + i * g;
    u->h = o * v_tanh(u->c);
    u->gates[0] = i;
    u->gates[1] = f;
    u->gates[2] = g;
    u->gates[3] = o;
}

/* tanh(c) is computed again: that is cheaper than to have stored it. */
INLINE void lstm_backward(backward_units *u)
{
    const vec i = u->gates[0], f = u->gates[1], g = u->gates[2], o = u->gates[3];
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
    u->dgates[0] = d_i * (i * (1 - i));
    u->dgates[1] = d_f * (f * (1 - f));
    u->dgates[2] = d_g * (1 - g * g);
    u->dgates[3] = d_o * (o * (1 - o));
}

#define CELL lstm
#define CELL_GATES 4 /* i, f, g, o: the order of the weight rows */
#define CELL_HAS_C 1
#define CELL_SAVES_GATES 1
#include "pointwise.h"
