/* The LSTM cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), and its variants:
 * with peepholes, by which gates see c (Gers & Schmidhuber 2000); with coupled gates, f = 1 - i (Greff et al.
 * 2017); with sums within a limit (ONNX). Each is a cell of its own. A projection of h is the driver's.
 *
 * A cell's file holds two pointwise functions over VL units of one row, and says in counts what cell.h asks;
 * where it says nothing there is none, and a bias for each gate. The products are the driver's.
 */

/* What a variant has, a constant wherever it is used. */
enum { PEEPHOLES = 1, COUPLED = 2, CLIPS = 4, NO_PEEPHOLE = -1 };

/* The sum of a gate as its activation sees it. */
INLINE vec lstm_sum(const int variant, const forward_units *u, int gate, int peephole, vec c)
{
    vec sum = u->sums[gate];
    if (variant & PEEPHOLES && peephole != NO_PEEPHOLE)
        sum += u->peepholes[peephole] * c;
    if (variant & CLIPS)
        sum = at_most(at_least(sum, -u->clip), u->clip);
    return sum;
}

INLINE void lstm_variant_forward(const int variant, forward_units *u)
{
    /* f has neither a sum nor a peephole where it is coupled: o's peephole is the last of two or three */
    const int coupled = variant & COUPLED, of_g = coupled ? 1 : 2, of_o = of_g + 1, last = of_g;
    const vec i = v_sigmoid(lstm_sum(variant, u, 0, 0, u->c));
    const vec f = coupled ? 1 - i : v_sigmoid(lstm_sum(variant, u, 1, 1, u->c));
    const vec g = v_tanh(lstm_sum(variant, u, of_g, NO_PEEPHOLE, u->c));
    u->c = f * u->c + i * g;
    const vec o = v_sigmoid(lstm_sum(variant, u, of_o, last, u->c));
    u->h = o * v_tanh(u->c);
    u->saved[0] = i;
    if (!coupled)
        u->saved[1] = f;
    u->saved[of_g] = g;
    u->saved[of_o] = o;
}

/* The gradient of a sum, from that of its gate: none beyond the clip, where the gate has its value there. */
INLINE vec lstm_dsum(const int variant, vec dsum, vec gate, vec low, vec high)
{
    return variant & CLIPS ? choose((ivec)(gate > low) & (ivec)(gate < high), dsum, (vec){0}) : dsum;
}

/* tanh(c) is computed again: that is cheaper than to have stored it. */
INLINE void lstm_variant_backward(const int variant, backward_units *u)
{
    const int coupled = variant & COUPLED, of_g = coupled ? 1 : 2, of_o = of_g + 1, last = of_g;
    const vec i = u->saved[0], f = coupled ? 1 - i : u->saved[1], g = u->saved[of_g], o = u->saved[of_o];
    const vec tanh_c = v_tanh(u->c);
    /* h = o * tanh(c), o = sigmoid(sum), which sees c */
    const vec d_o = u->dh * tanh_c;
    u->dsums[of_o] = lstm_dsum(variant, d_o * (o * (1 - o)), o, u->low, u->high);
    vec d_c = u->dc + (u->dh * o) * (1 - tanh_c * tanh_c);
    if (variant & PEEPHOLES)
        d_c += u->dsums[of_o] * u->peepholes[last];
    /* c = f * c_before + i * g */
    const vec d_i = d_c * (coupled ? g - u->c_before : g);
    const vec d_f = d_c * u->c_before;
    const vec d_g = d_c * i;
    /* i, f = sigmoid(sum), which see c_before, g = tanh(sum) */
    u->dsums[0] = lstm_dsum(variant, d_i * (i * (1 - i)), i, u->low, u->high);
    if (!coupled)
        u->dsums[1] = lstm_dsum(variant, d_f * (f * (1 - f)), f, u->low, u->high);
    u->dsums[of_g] = lstm_dsum(variant, d_g * (1 - g * g), g, -u->bound, u->bound);
    u->dc = d_c * f;
    if (variant & PEEPHOLES)
        u->dc += u->dsums[0] * u->peepholes[0];
    if (variant & PEEPHOLES && !coupled)
        u->dc += u->dsums[1] * u->peepholes[1];
}

#define CELL lstm
#define VARIANT 0
#include "lstm_variant.h"
#define CELL lstm_peephole
#define VARIANT PEEPHOLES
#include "lstm_variant.h"
#define CELL lstm_coupled
#define VARIANT COUPLED
#include "lstm_variant.h"
#define CELL lstm_coupled_peephole
#define VARIANT (COUPLED | PEEPHOLES)
#include "lstm_variant.h"
#define CELL lstm_clipped
#define VARIANT CLIPS
#include "lstm_variant.h"
#define CELL lstm_peephole_clipped
#define VARIANT (PEEPHOLES | CLIPS)
#include "lstm_variant.h"
#define CELL lstm_coupled_clipped
#define VARIANT (COUPLED | CLIPS)
#include "lstm_variant.h"
#define CELL lstm_coupled_peephole_clipped
#define VARIANT (COUPLED | PEEPHOLES | CLIPS)
#include "lstm_variant.h"
