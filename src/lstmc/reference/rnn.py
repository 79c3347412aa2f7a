"""The simple recurrent cell (Elman 1990)."""

import numpy as np

from .linear import linear_backward
from .lstm import limit

__all__ = ["rnn_backward", "rnn_forward", "rnn_step"]

# Each nonlinearity, and its derivative written in terms of its result.
_NONLINEARITIES = {
    "tanh": (np.tanh, lambda h: 1 - h**2),
    "relu": (lambda a: np.maximum(a, 0), lambda h: (h > 0).astype(h.dtype)),
    "identity": (lambda a: a, np.ones_like),
}


def rnn_step(x, h, weight_ih, weight_hh, bias, nonlinearity="tanh"):
    """One step of a simple recurrent network.

    Parameters
    ----------
    x : (B, I) array
        The input of this step.
    h : (B, H) array
        Hidden state before the step.
    weight_ih, weight_hh, bias : (H, I), (H, H) and (H,) arrays
    nonlinearity : {"tanh", "relu", "identity"}

    Returns
    -------
    h : (B, H) array
        Hidden state after the step.

    Notes
    -----
    Elman (1990), whose units are logistic; tanh is today's custom.
    """
    activate, _ = _NONLINEARITIES[nonlinearity]
    return activate(x @ weight_ih.T + h @ weight_hh.T + bias)


def rnn_forward(x, h0, weight_ih, weight_hh, bias, nonlinearity="tanh"):
    """One layer of a simple recurrent network over a sequence; Elman (1990).

    Parameters
    ----------
    x : (T, B, I) array
    h0 : (B, H) array
        Initial hidden state.
    weight_ih, weight_hh, bias : (H, I), (H, H) and (H,) arrays
    nonlinearity : {"tanh", "relu", "identity"}

    Returns
    -------
    h : (T + 1, B, H) array
        States; slot 0 holds h0, so the output sequence is ``h[1:]``.
    """
    h = np.empty((len(x) + 1, *h0.shape), x.dtype)
    h[0] = h0
    for t in range(len(x)):
        h[t + 1] = rnn_step(x[t], h[t], weight_ih, weight_hh, bias, nonlinearity)
    return h


def rnn_backward(dh, dh_n, x, h, weight_ih, weight_hh, nonlinearity="tanh", *, grad_clip=None):
    """Back-propagation through time of `rnn_forward`: exact, over all T steps, unless it is limited.

    Parameters
    ----------
    dh : (T, B, H) array
        Gradient arriving at each output h_1 .. h_T.
    dh_n : (B, H) array
        Gradient arriving through the final state, on top of ``dh[-1]``.
    x, h, weight_ih, weight_hh, nonlinearity
        What `rnn_forward` took and returned. The slope of relu at 0 is 0.
    grad_clip : float, optional
        What the gradients of the sums are limited to at each step, before anything is computed
        from them (Graves 2013).

    Returns
    -------
    dx : (T, B, I) array
    dh0 : (B, H) array
    dweight_ih : (H, I) array
    dweight_hh : (H, H) array
    dbias : (H,) array

    Notes
    -----
    The network of Elman (1990), who cuts the gradient after one step; here nothing is cut.
    """
    _, slope = _NONLINEARITIES[nonlinearity]
    da = np.empty_like(h[1:])  # with respect to the sums before the nonlinearity
    dh_next = dh_n
    for t in reversed(range(len(x))):  # da[t] belongs to the step from state t to state t + 1
        da[t] = limit((dh[t] + dh_next) * slope(h[t + 1]), grad_clip)
        dh_next = da[t] @ weight_hh
    dx, dweight_ih, dbias = linear_backward(da, x, weight_ih)
    _, dweight_hh, _ = linear_backward(da, h[:-1], weight_hh)
    return dx, dh_next, dweight_ih, dweight_hh, dbias
