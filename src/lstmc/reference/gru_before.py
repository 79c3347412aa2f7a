"""The gated recurrent unit as first published (Cho et al. 2014), the reset gate before the product."""

import numpy as np

from .linear import linear_backward
from .lstm import limit, sigmoid

__all__ = ["gru_before_backward", "gru_before_forward", "gru_before_step"]


def _gru_before_cell(x, h, weight_ih, weight_hh, bias):
    """Take one step; return the new h and the activated gates."""
    rows = 2 * h.shape[-1]  # of r and z
    sums = x @ weight_ih.T + bias
    r, z = np.split(sigmoid(sums[..., :rows] + h @ weight_hh[:rows].T), 2, axis=-1)
    n = np.tanh(sums[..., rows:] + (r * h) @ weight_hh[rows:].T)
    return (1 - z) * n + z * h, np.concatenate([r, z, n], axis=-1)


def gru_before_step(x, h, weight_ih, weight_hh, bias):
    """One step of a GRU whose reset gate is before the product.

    Parameters
    ----------
    x : (B, I) array
        The input of this step.
    h : (B, H) array
        The state before the step.
    weight_ih, weight_hh, bias : (3H, I), (3H, H) and (3H,) arrays
        Rows in gate order r, z, n.

    Returns
    -------
    h : (B, H) array
        The state after the step.

    Notes
    -----
    Cho et al. (2014), section 2.3; ONNX's GRU with linear_before_reset=0.
    """
    return _gru_before_cell(x, h, weight_ih, weight_hh, bias)[0]


def gru_before_forward(x, h0, weight_ih, weight_hh, bias):
    """One layer over a sequence.

    Parameters
    ----------
    x : (T, B, I) array
    h0 : (B, H) array
        Initial state.
    weight_ih, weight_hh, bias : (3H, I), (3H, H) and (3H,) arrays
        Rows in gate order r, z, n.

    Returns
    -------
    h : (T + 1, B, H) array
        States; slot 0 holds h0, so the output sequence is ``h[1:]``.
    gates : (T, B, 3H) array
        Activated gates, in order r, z, n.
    """
    steps, batch, hidden = len(x), *h0.shape
    h = np.empty((steps + 1, batch, hidden), x.dtype)
    gates = np.empty((steps, batch, 3 * hidden), x.dtype)
    h[0] = h0
    for t in range(steps):
        h[t + 1], gates[t] = _gru_before_cell(x[t], h[t], weight_ih, weight_hh, bias)
    return h, gates


def gru_before_backward(dh, dh_n, x, h, gates, weight_ih, weight_hh, *, grad_clip=None):
    """Back-propagation through time of `gru_before_forward`: exact, over all T steps, unless it is limited.

    Parameters
    ----------
    dh : (T, B, H) array
        Gradient arriving at each output h_1 .. h_T.
    dh_n : (B, H) array
        Gradient arriving through the final state, on top of ``dh[-1]``.
    x, h, gates, weight_ih, weight_hh
        What `gru_before_forward` took and returned.
    grad_clip : float, optional
        What the gradients of the sums are limited to at each step, before anything is computed
        from them (Graves 2013).

    Returns
    -------
    dx : (T, B, I) array
    dh0 : (B, H) array
    dweight_ih : (3H, I) array
    dweight_hh : (3H, H) array
    dbias : (3H,) array
    """
    rows = 2 * h.shape[-1]  # of r and z
    dsums = np.empty_like(gates)
    dh_next = dh_n
    for t in reversed(range(len(x))):  # gates[t] lead from state t to state t + 1
        r, z, n = np.split(gates[t], 3, axis=-1)
        # h = (1 - z) * n + z * h_before
        dh_t = dh[t] + dh_next
        dz, dn = dh_t * (h[t] - n), dh_t * (1 - z)
        # n = tanh(W x + R (r * h_before) + b), r, z = sigmoid(...)
        dn = limit(dn * (1 - n**2), grad_clip)
        dlet = dn @ weight_hh[rows:]  # at r * h_before
        dr = dlet * h[t] * r * (1 - r)
        dz = dz * z * (1 - z)
        dsums[t] = limit(np.concatenate([dr, dz, dn], axis=-1), grad_clip)
        dh_next = dh_t * z + dlet * r + dsums[t, :, :rows] @ weight_hh[:rows]
    dx, dweight_ih, dbias = linear_backward(dsums, x, weight_ih)
    let = gates[..., : rows // 2] * h[:-1]
    _, dgates_hh, _ = linear_backward(dsums[..., :rows], h[:-1], weight_hh[:rows])
    _, dn_hh, _ = linear_backward(dsums[..., rows:], let, weight_hh[rows:])
    return dx, dh_next, dweight_ih, np.concatenate([dgates_hh, dn_hh]), dbias
