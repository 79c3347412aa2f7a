"""The gated recurrent unit (Cho et al. 2014), the reset gate after the product, as in PyTorch and cuDNN."""

import numpy as np

from .linear import linear_backward
from .lstm import limit, sigmoid

__all__ = ["gru_backward", "gru_forward", "gru_step"]


def _gru_cell(x, h, weight_ih, weight_hh, bias):
    """Take one step; return the new h, the activated gates, and what R makes of n's sum."""
    hidden = h.shape[-1]
    r, z, n = np.split(x @ weight_ih.T + bias[: 3 * hidden], 3, axis=-1)
    r_of_h, z_of_h, n_of_h = np.split(h @ weight_hh.T, 3, axis=-1)
    n_of_h = n_of_h + bias[3 * hidden :]
    r, z = sigmoid(r + r_of_h), sigmoid(z + z_of_h)
    n = np.tanh(n + r * n_of_h)
    return (1 - z) * n + z * h, np.concatenate([r, z, n], axis=-1), n_of_h


def gru_step(x, h, weight_ih, weight_hh, bias):
    """One step of a GRU.

    Parameters
    ----------
    x : (B, I) array
        The input of this step.
    h : (B, H) array
        The state before the step.
    weight_ih, weight_hh, bias : (3H, I), (3H, H) and (4H,) arrays
        Rows in gate order r, z, n; the bias ends with that of n's recurrent part.

    Returns
    -------
    h : (B, H) array
        The state after the step.

    Notes
    -----
    Cho et al. (2014), section 2.3, with the reset gate after the product of R.
    """
    return _gru_cell(x, h, weight_ih, weight_hh, bias)[0]


def gru_forward(x, h0, weight_ih, weight_hh, bias):
    """One GRU layer over a sequence.

    Parameters
    ----------
    x : (T, B, I) array
    h0 : (B, H) array
        Initial state.
    weight_ih, weight_hh, bias : (3H, I), (3H, H) and (4H,) arrays
        Rows in gate order r, z, n; the bias ends with that of n's recurrent part.

    Returns
    -------
    h : (T + 1, B, H) array
        States; slot 0 holds h0, so the output sequence is ``h[1:]``.
    gates : (T, B, 3H) array
        Activated gates, in order r, z, n.
    recurrent : (T, B, H) array
        What R and its bias make of n's sum, before r multiplies it.
    """
    steps, batch, hidden = len(x), *h0.shape
    h = np.empty((steps + 1, batch, hidden), x.dtype)
    gates = np.empty((steps, batch, 3 * hidden), x.dtype)
    recurrent = np.empty((steps, batch, hidden), x.dtype)
    h[0] = h0
    for t in range(steps):
        h[t + 1], gates[t], recurrent[t] = _gru_cell(x[t], h[t], weight_ih, weight_hh, bias)
    return h, gates, recurrent


def gru_backward(dh, dh_n, x, h, gates, recurrent, weight_ih, weight_hh, *, grad_clip=None):
    """Back-propagation through time of `gru_forward`: exact, over all T steps, unless it is limited.

    Parameters
    ----------
    dh : (T, B, H) array
        Gradient arriving at each output h_1 .. h_T.
    dh_n : (B, H) array
        Gradient arriving through the final state, on top of ``dh[-1]``.
    x, h, gates, recurrent, weight_ih, weight_hh
        What `gru_forward` took and returned.
    grad_clip : float, optional
        What the gradients of the sums, of W's and of R's, are limited to at each step, before anything is
        computed from them (Graves 2013).

    Returns
    -------
    dx : (T, B, I) array
    dh0 : (B, H) array
    dweight_ih : (3H, I) array
    dweight_hh : (3H, H) array
    dbias : (4H,) array
    """
    dsums, drecurrent = np.empty_like(gates), np.empty_like(gates)  # of W x + b, and of R h + b
    dh_next = dh_n
    for t in reversed(range(len(x))):  # gates[t] lead from state t to state t + 1
        r, z, n = np.split(gates[t], 3, axis=-1)
        # h = (1 - z) * n + z * h_before
        dh_t = dh[t] + dh_next
        dz, dn = dh_t * (h[t] - n), dh_t * (1 - z)
        # n = tanh(sum + r * recurrent), r, z = sigmoid(...)
        dn = dn * (1 - n**2)
        dr = dn * recurrent[t] * r * (1 - r)
        dz = dz * z * (1 - z)
        dsums[t] = limit(np.concatenate([dr, dz, dn], axis=-1), grad_clip)
        drecurrent[t] = limit(np.concatenate([dr, dz, dn * r], axis=-1), grad_clip)
        dh_next = dh_t * z + drecurrent[t] @ weight_hh
    dx, dweight_ih, dbias = linear_backward(dsums, x, weight_ih)
    _, dweight_hh, dbias_hh = linear_backward(drecurrent, h[:-1], weight_hh)
    dbias = np.concatenate([dbias, dbias_hh[2 * h.shape[-1] :]])
    return dx, dh_next, dweight_ih, dweight_hh, dbias
