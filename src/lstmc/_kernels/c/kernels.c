/* Every kernel of one element type and one instruction set, and the table that names them.
 *
 * Compiled once for each: see real.h for the macros that say which, dispatch.c for who chooses.
 */
#include "kernels.h"
#include "real.h"
#include "vmath.h"
#include "gemm.h"
#include "split.h"

#include "cell_lstm.h"
#include "sequence.h"

#include "cell_rnn.h"
#include "sequence.h"

#include "linear.h"
#include "flat.h"

static void NAME(forward)(const lstmc_forward *call)
{
    if (call->cell == LSTMC_LSTM)
        lstm_forward(call);
    else
        rnn_forward(call);
}

static size_t NAME(forward_scratch)(const lstmc_forward *call)
{
    return call->cell == LSTMC_LSTM ? lstm_forward_scratch(call) : rnn_forward_scratch(call);
}

static void NAME(backward)(const lstmc_backward *call)
{
    if (call->cell == LSTMC_LSTM)
        lstm_backward(call);
    else
        rnn_backward(call);
}

static size_t NAME(backward_scratch)(const lstmc_backward *call)
{
    return call->cell == LSTMC_LSTM ? lstm_backward_scratch(call) : rnn_backward_scratch(call);
}

static void NAME(pack_layer)(lstmc_real *packed, const lstmc_forward_layer *layer, int cell)
{
    if (cell == LSTMC_LSTM)
        lstm_pack_alone(packed, layer);
    else
        rnn_pack_alone(packed, layer);
}

static size_t NAME(packed_size)(const lstmc_forward_layer *layer, int cell)
{
    return cell == LSTMC_LSTM ? lstm_packed_size(layer) : rnn_packed_size(layer);
}

typedef struct {
    real *out;
    const real *a;
    int function;
    ptrdiff_t n;
} NAME(map_work);

/* By a team of one, for its flushing of denormals. */
static void NAME(map_member)(void *work, const team *member)
{
    const NAME(map_work) *w = work;
    (void)member;
    for (ptrdiff_t i = 0; i < w->n; i += VL) {
        const ptrdiff_t n = min_of(VL, w->n - i);
        vec x = load_n(w->a + i, n);
        store_n(w->out + i, w->function == LSTMC_EXP ? v_exp(x) : w->function == LSTMC_VTANH ? v_tanh(x) : v_sigmoid(x),
                n);
    }
}

static void NAME(map)(lstmc_real *out, const lstmc_real *a, int function, ptrdiff_t n)
{
    NAME(map_work) work = {out, a, function, n};
    lstmc_team_run(1, NAME(map_member), &work);
}

#define STRING_(a) #a
#define STRING(a) STRING_(a)

const lstmc_kernels NAME(lstmc_kernels) = {
    .isa = STRING(LSTMC_ISA_NAME),
    .real_size = sizeof(real),
    .vector_bytes = VECTOR_BYTES,
    .forward = NAME(forward),
    .forward_scratch = NAME(forward_scratch),
    .backward = NAME(backward),
    .backward_scratch = NAME(backward_scratch),
    .pack_layer = NAME(pack_layer),
    .packed_size = NAME(packed_size),
    .linear_forward = NAME(linear_forward),
    .linear_forward_scratch = NAME(linear_forward_scratch),
    .pack_linear = NAME(pack_linear),
    .packed_linear_size = NAME(packed_linear_size),
    .linear_backward = NAME(linear_backward),
    .linear_backward_scratch = NAME(linear_backward_scratch),
    .embedding_forward = NAME(embedding_forward),
    .embedding_backward = NAME(embedding_backward),
    .softmax = NAME(softmax),
    .softmax_cross_entropy = NAME(softmax_cross_entropy),
    .squared_error = NAME(squared_error),
    .sum_of_squares = NAME(sum_of_squares),
    .scale = NAME(scale),
    .sgd = NAME(sgd),
    .adam = NAME(adam),
    .rmsprop = NAME(rmsprop),
    .map = NAME(map),
    .fingerprint = NAME(fingerprint),
};
