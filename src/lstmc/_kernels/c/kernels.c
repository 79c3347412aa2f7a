/* Every kernel of one element type and one instruction set, and the table that names them.
 *
 * Compiled once for each: see real.h for the macros that say which, dispatch.c for who chooses.
 */
#include "kernels.h"
#include "real.h"
#include "vmath.h"
#include "gemm.h"
#include "plan.h"

#include "cells/list.h"
#include "backward.h"
#include "forward.h"

#include "linear.h"
#include "flat.h"
#include "flat/activations.h"
#include "rows.h"
#include "flat/optimisers.h"

#define STRING_(a) #a
#define STRING(a) STRING_(a)

const lstmc_kernels NAME(lstmc_kernels) = {
    .isa = STRING(LSTMC_ISA_NAME),
    .real_size = sizeof(real),
    .vector_bytes = VECTOR_BYTES,
    .cell = cell_number,
    .gates_of = gates_of,
    .biases_of = biases_of,
    .saved_of = saved_of,
    .peepholes_of = peepholes_of,
    .states_of = states_of,
    .forward_plan_size = NAME(forward_plan_size),
    .plan_forward = NAME(plan_forward),
    .backward_plan_size = NAME(backward_plan_size),
    .plan_backward = NAME(plan_backward),
    .forward = NAME(forward),
    .backward = NAME(backward),
    .forward_both = NAME(forward_both),
    .backward_both = NAME(backward_both),
    .gather_rows = NAME(gather_rows),
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
    .softmax_backward = NAME(softmax_backward),
    .activate = NAME(activate),
    .activate_backward = NAME(activate_backward),
    .softmax_cross_entropy = NAME(softmax_cross_entropy),
    .squared_error = NAME(squared_error),
    .huber = NAME(huber),
    .binary_cross_entropy = NAME(binary_cross_entropy),
    .norm = NAME(norm),
    .scale = NAME(scale),
    .clip_values = NAME(clip_values),
    .sgd = NAME(sgd),
    .adam = NAME(adam),
    .rmsprop = NAME(rmsprop),
    .fingerprint = NAME(fingerprint),
};
