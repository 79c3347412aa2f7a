/* The simple recurrent cell (Elman 1990): h = activation(W x + R h_before + b).
 *
 * What a cell is to sequence.h is said in cell_lstm.h. This one has a single gate, which is h itself.
 */
#define CELL rnn
#define CELL_GATES 1
#define CELL_HAS_C 0
#define CELL_SAVES_GATES 0 /* all three derivatives follow from h */

INLINE void rnn_forward_units(vec gates[CELL_GATES], vec *h, vec *c, int activation)
{
    (void)c;
    if (activation == LSTMC_TANH)
        gates[0] = v_tanh(gates[0]);
    else if (activation == LSTMC_RELU) /* NaN < 0 is false: a NaN stays */
        gates[0] = choose((ivec)(gates[0] < 0), (vec){0}, gates[0]);
    *h = gates[0];
}

INLINE void rnn_backward_units(vec dgates[CELL_GATES], vec *dc, vec dh, const vec gates[CELL_GATES], vec h, vec c,
                               vec c_before, int activation)
{
    (void)gates;
    (void)c;
    (void)c_before;
    (void)dc;
    /* h = tanh(sum) | max(sum, 0) | sum */
    if (activation == LSTMC_TANH)
        dgates[0] = dh * (1 - h * h);
    else if (activation == LSTMC_RELU)
        dgates[0] = choose((ivec)(h > 0), dh, (vec){0});
    else
        dgates[0] = dh;
}
