/* The LSTM cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), no peepholes.
 *
 * What a cell is to sequence.h: a name, its gates, whether it has a cell state beside h, and the two
 * pointwise functions below, for VL hidden units at once. The products are the driver's.
 */
#define CELL lstm
#define CELL_GATES 4        /* i, f, g, o: the order of the weight rows */
#define CELL_HAS_C 1
#define CELL_SAVES_GATES 1  /* backward reads the activated gates */

/* gates: in, the sums W x + R h + b; out, the activated gates. c: in, c of the step before; out, this step's. */
INLINE void lstm_forward_units(vec gates[CELL_GATES], vec *h, vec *c, int activation)
{
    (void)activation;
    vec i = v_sigmoid(gates[0]);
    vec f = v_sigmoid(gates[1]);
    vec g = v_tanh(gates[2]);
    vec o = v_sigmoid(gates[3]);
    *c = f * *c + i * g;
    *h = o * v_tanh(*c);
    gates[0] = i;
    gates[1] = f;
    gates[2] = g;
    gates[3] = o;
}

/* dh, *dc: the gradient arriving at this step's h and c. Out: that of the four sums, and *dc of the step
 * before. tanh(c) is computed again: that is cheaper than to have stored it. */
INLINE void lstm_backward_units(vec dgates[CELL_GATES], vec *dc, vec dh, const vec gates[CELL_GATES], vec h, vec c,
                                vec c_before, int activation)
{
    (void)h;
    (void)activation;
    const vec i = gates[0], f = gates[1], g = gates[2], o = gates[3];
    const vec tanh_c = v_tanh(c);
    /* h = o * tanh(c) */
    vec d_o = dh * tanh_c;
    vec d_c = *dc + (dh * o) * (1 - tanh_c * tanh_c);
    /* c = f * c_before + i * g */
    vec d_i = d_c * g;
    vec d_f = d_c * c_before;
    vec d_g = d_c * i;
    *dc = d_c * f;
    /* i, f, o = sigmoid(sum), g = tanh(sum) */
    dgates[0] = d_i * (i * (1 - i));
    dgates[1] = d_f * (f * (1 - f));
    dgates[2] = d_g * (1 - g * g);
    dgates[3] = d_o * (o * (1 - o));
}
