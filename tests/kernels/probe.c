/* A cell that the library does not have, so that test_driver.py can hold the driver to all that a record may
 * say: three sums a unit, those of W and of R apart, a bias more than gates, saved values that are no gates,
 * a gradient that reaches h_before by itself. The equations are those of a gated unit with the reset gate
 * after the product.
 */
#define LSTMC_CELLS_H /* the list below takes the place of cells/list.h */
#include "cells/cell.h"
#include "vmath.h"

INLINE void probe_forward(forward_units *u)
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

INLINE void probe_backward(backward_units *u)
{
    const vec r = u->saved[0], z = u->saved[1], n = u->saved[2], recurrent = u->saved[3];
    const vec d_n = u->dh * (1 - z) * (1 - n * n);
    const vec d_z = u->dh * (u->h_before - n) * (z * (1 - z));
    const vec d_r = d_n * recurrent * (r * (1 - r));
    u->dsums[0] = u->drecurrent[0] = d_r;
    u->dsums[1] = u->drecurrent[1] = d_z;
    u->dsums[2] = d_n;
    u->drecurrent[2] = d_n * r;
    u->dh = u->dh * z;
}

#define CELL probe
#define CELL_GATES 3
#define CELL_APART 1
#define CELL_BIASES 4
#define CELL_SAVED 4
#define CELL_HAS_C 0
#define CELL_CARRIES_H 1
#include "cells/pointwise.h"

static const cell *cell_of(int number) { return number == 0 ? &probe : NULL; }

#include "backward.h"
#include "forward.h"

size_t probe_forward_plan_size(int layers) { return NAME(forward_plan_size)(layers); }
size_t probe_backward_plan_size(void) { return NAME(backward_plan_size)(); }
ptrdiff_t probe_plan_forward(void *plan, const lstmc_forward *call) { return NAME(plan_forward)(plan, call); }
ptrdiff_t probe_plan_backward(void *plan, const lstmc_backward *call)
{
    return NAME(plan_backward)(plan, call);
}
void probe_run_forward(const void *plan, const lstmc_forward *call) { NAME(forward)(plan, call); }
void probe_run_backward(const void *plan, const lstmc_backward *call) { NAME(backward)(plan, call); }
ptrdiff_t probe_packed_size(const lstmc_forward_layer *layer) { return NAME(packed_size)(layer, 0); }
int probe_pack(void *packed, const lstmc_forward_layer *layer) { return NAME(pack_layer)(packed, layer, 0); }
