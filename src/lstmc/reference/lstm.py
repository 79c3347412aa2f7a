"""The LSTM cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), and its variants.

One step from h and c, each product with a peephole p being one of single units:

    i = sigmoid(W_i x + R_i h + p_i c + b_i)        input gate
    f = sigmoid(W_f x + R_f h + p_f c + b_f)        forget gate; 1 - i with coupled gates
    g = tanh(W_g x + R_g h + b_g)                   candidate
    c' = f c + i g
    o = sigmoid(W_o x + R_o h + p_o c' + b_o)       output gate
    h' = o tanh(c')                                 W_hr (o tanh(c')) with projection

Peepholes are those of Gers & Schmidhuber (2000), coupled gates those of Greff et al. (2017; CIFG there and
input_forget in ONNX), the projection is the recurrent one of Sak et al. (2014; proj_size in PyTorch). With a
clip, each sum is limited to +-clip before its activation, as by ONNX's operator LSTM; c itself is not.
"""

import numpy as np

from .linear import linear_backward

__all__ = ["limit", "lstm_backward", "lstm_forward", "lstm_step", "sigmoid"]


def sigmoid(x):
    """Logistic function 1 / (1 + exp(-x)), of any shape, without overflow at either end."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + decay), decay / (1 + decay))


def limit(a, bound):
    """Limit each element of an array to +-bound; None is no bound."""
    return a if bound is None else np.clip(a, -bound, bound)


def _by_gate(array, coupled, names="ifgo"):
    """Return the blocks of the last axis by the names of their gates; coupled gates have none of f."""
    names = names.replace("f", "") if coupled else names
    return dict(zip(names, np.split(array, len(names), axis=-1), strict=True))


def _peepholes(peephole, coupled):
    """Return the vectors p by gate; without peepholes, none."""
    return {} if peephole is None else _by_gate(peephole, coupled, "ifo")


def _lstm_cell(x, h, c, weight_ih, weight_hh, bias, weight_hr, peephole, coupled, clip):
    """Take one step; return the new h and c, the activated gates, and the sums before they are limited."""
    p = _peepholes(peephole, coupled)
    sums = _by_gate(x @ weight_ih.T + h @ weight_hh.T + bias, coupled)
    for gate in [gate for gate in p if gate != "o"]:
        sums[gate] = sums[gate] + p[gate] * c
    i, g = sigmoid(limit(sums["i"], clip)), np.tanh(limit(sums["g"], clip))
    f = 1 - i if coupled else sigmoid(limit(sums["f"], clip))
    c = f * c + i * g
    if p:
        sums["o"] = sums["o"] + p["o"] * c
    o = sigmoid(limit(sums["o"], clip))
    h = o * np.tanh(c)
    if weight_hr is not None:
        h = h @ weight_hr.T
    gates = [i, g, o] if coupled else [i, f, g, o]
    return h, c, np.concatenate(gates, axis=-1), np.concatenate([*sums.values()], axis=-1)


def lstm_step(
    x, h, c, weight_ih, weight_hh, bias, weight_hr=None, peephole=None, *, coupled=False, clip=None
):
    """One step of an LSTM with forget gates.

    Parameters
    ----------
    x : (B, I) array
        The input of this step.
    h, c : (B, P) and (B, H) arrays
        Hidden state and cell state before the step.
    weight_ih, weight_hh, bias, weight_hr, peephole, coupled, clip
        As for `lstm_forward`.

    Returns
    -------
    h, c : (B, P) and (B, H) arrays
        Hidden state and cell state after the step.

    Notes
    -----
    Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
    """
    weights = weight_ih, weight_hh, bias, weight_hr, peephole
    return _lstm_cell(x, h, c, *weights, coupled, clip)[:2]


def lstm_forward(
    x, h0, c0, weight_ih, weight_hh, bias, weight_hr=None, peephole=None, *, coupled=False, clip=None
):  # fmt: skip
    """One LSTM layer over a sequence.

    Parameters
    ----------
    x : (T, B, I) array
    h0, c0 : (B, P) and (B, H) arrays
        Initial hidden state and cell state. P is H without projection.
    weight_ih, weight_hh, bias : (G*H, I), (G*H, P) and (G*H,) arrays
        Rows in gate order i, f, g, o; with coupled gates i, g, o.
    weight_hr : (P, H) array, optional
        The projection.
    peephole : (3H,) array, optional
        In gate order i, f, o; with coupled gates (2H,) for i, o.
    coupled : bool
        Whether f is 1 - i.
    clip : float, optional
        What the sums are limited to, biases and peepholes included.

    Returns
    -------
    h, c : (T + 1, B, P) and (T + 1, B, H) arrays
        States; slot 0 holds h0 and c0, so the output sequence is ``h[1:]``.
    gates : (T, B, G*H) array
        Activated gates, in the order of the weights' rows.
    inside : (T, B, G*H) boolean array
        Only with a clip: where a sum is less than it, on either side of zero.

    Notes
    -----
    Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000). Peepholes: Gers &
    Schmidhuber (2000). Coupled gates: Greff et al. (2017), section 3. Projection: Sak et al. (2014),
    section 2, without the part that does not recur.
    """
    steps, shape = len(x), (len(x), len(h0), len(bias))
    h = np.empty((steps + 1, *h0.shape), x.dtype)
    c = np.empty((steps + 1, *c0.shape), x.dtype)
    gates, inside = np.empty(shape, x.dtype), np.empty(shape, bool)
    h[0], c[0] = h0, c0
    weights = weight_ih, weight_hh, bias, weight_hr, peephole
    for t in range(steps):
        h[t + 1], c[t + 1], gates[t], sums = _lstm_cell(x[t], h[t], c[t], *weights, coupled, clip)
        inside[t] = clip is None or np.abs(sums) < clip
    return (h, c, gates) if clip is None else (h, c, gates, inside)


def lstm_backward(
    dh, dh_n, dc_n, x, h, c, gates, weight_ih, weight_hh, weight_hr=None, peephole=None, *,
    coupled=False, inside=None, grad_clip=None,
):  # fmt: skip
    """Back-propagation through time of `lstm_forward`: exact, over all T steps, unless it is limited.

    Parameters
    ----------
    dh : (T, B, P) array
        Gradient arriving at each output h_1 .. h_T.
    dh_n, dc_n : (B, P) and (B, H) arrays
        Gradient arriving through the final state, on top of ``dh[-1]``.
    x, h, c, gates, weight_ih, weight_hh, weight_hr, peephole, coupled, inside
        What `lstm_forward` took and returned. The derivative of a sum at its limit is 0.
    grad_clip : float, optional
        What the gradients of the sums are limited to at each step, before R, and all that is computed after
        the last step, see them (Graves 2013). Within a step c gets the whole ones, through peepholes too.

    Returns
    -------
    dx : (T, B, I) array
    dh0, dc0 : (B, P) and (B, H) arrays
    dweight_ih : (G*H, I) array
    dweight_hh : (G*H, P) array
    dbias : (G*H,) array
    dweight_hr : (P, H) array
        Only with a projection.
    dpeephole : (3H,) or (2H,) array
        Only with peepholes.

    Notes
    -----
    Hochreiter & Schmidhuber (1997) truncate this gradient; here nothing is cut.
    """
    p, m = _peepholes(peephole, coupled), np.empty_like(c[1:])  # m: what is projected
    dh_all, dsums = np.empty_like(h[1:]), np.empty_like(gates)
    dh_next, dc_next = dh_n, dc_n
    for t in reversed(range(len(x))):  # gates[t] lead from state t to state t + 1
        of, tanh_c = _by_gate(gates[t], coupled), np.tanh(c[t + 1])
        i, g, o = (of[gate] for gate in "igo")
        f = 1 - i if coupled else of["f"]
        # A sum that is limited has no influence.
        free = _by_gate(np.ones_like(gates[t]) if inside is None else inside[t], coupled)
        # h = W_hr m, m = o * tanh(c)
        dh_all[t], m[t] = dh[t] + dh_next, o * tanh_c
        dm = dh_all[t] if weight_hr is None else dh_all[t] @ weight_hr
        # o = sigmoid(... + p_o * c)
        do = dm * tanh_c * o * (1 - o) * free["o"]
        dc = dc_next + dm * o * (1 - tanh_c**2) + p.get("o", 0) * do
        # c = f * c_before + i * g, g = tanh(...), i, f = sigmoid(... + p_i, p_f * c_before)
        dg = dc * i * (1 - g**2) * free["g"]
        dc_next = dc * f
        if coupled:
            of_sums = {"i": dc * (g - c[t]) * i * (1 - i) * free["i"], "g": dg, "o": do}
        else:
            df = dc * c[t] * f * (1 - f) * free["f"]
            of_sums = {"i": dc * g * i * (1 - i) * free["i"], "f": df, "g": dg, "o": do}
        for gate in [gate for gate in p if gate != "o"]:
            dc_next = dc_next + p[gate] * of_sums[gate]
        dsums[t] = limit(np.concatenate([*of_sums.values()], axis=-1), grad_clip)
        dh_next = dsums[t] @ weight_hh
    dx, dweight_ih, dbias = linear_backward(dsums, x, weight_ih)
    _, dweight_hh, _ = linear_backward(dsums, h[:-1], weight_hh)
    dweights = [dweight_ih, dweight_hh, dbias]
    if weight_hr is not None:
        dweights.append(linear_backward(dh_all, m, weight_hr)[1])
    if p:
        by_gate, looked_at = _by_gate(dsums, coupled), {"i": c[:-1], "f": c[:-1], "o": c[1:]}
        dweights.append(np.concatenate([(by_gate[k] * looked_at[k]).sum((0, 1)) for k in p]))
    return dx, dh_next, dc_next, *dweights
