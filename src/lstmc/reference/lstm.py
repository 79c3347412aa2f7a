"""The LSTM cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""

import numpy as np

from .linear import linear_backward

__all__ = ["lstm_backward", "lstm_forward", "lstm_step", "sigmoid"]


def sigmoid(x):
    """Logistic function 1 / (1 + exp(-x)), of any shape, without overflow at either end."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + decay), decay / (1 + decay))


def _lstm_cell(x, h, c, weight_ih, weight_hh, bias):
    """Take one step; return the new h and c and the activated gates."""
    i, f, g, o = np.split(x @ weight_ih.T + h @ weight_hh.T + bias, 4, axis=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    h = o * np.tanh(c)
    return h, c, np.concatenate([i, f, g, o], axis=-1)


def lstm_step(x, h, c, weight_ih, weight_hh, bias):
    """One step of an LSTM with forget gates.

    Parameters
    ----------
    x : (B, I) array
        The input of this step.
    h, c : (B, H) arrays
        Hidden state and cell state before the step.
    weight_ih, weight_hh, bias : (4H, I), (4H, H) and (4H,) arrays
        Rows in gate order i, f, g, o.

    Returns
    -------
    h, c : (B, H) arrays
        Hidden state and cell state after the step.

    Notes
    -----
    Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
    """
    h, c, _ = _lstm_cell(x, h, c, weight_ih, weight_hh, bias)
    return h, c


def lstm_forward(x, h0, c0, weight_ih, weight_hh, bias):
    """One LSTM layer over a sequence.

    Parameters
    ----------
    x : (T, B, I) array
    h0, c0 : (B, H) arrays
        Initial hidden state and cell state.
    weight_ih, weight_hh, bias : (4H, I), (4H, H) and (4H,) arrays
        Rows in gate order i, f, g, o.

    Returns
    -------
    h, c : (T + 1, B, H) arrays
        States; slot 0 holds h0 and c0, so the output sequence is ``h[1:]``.
    gates : (T, B, 4H) array
        Activated gates, in order i, f, g, o.

    Notes
    -----
    Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
    """
    steps, batch, hidden = len(x), *h0.shape
    h = np.empty((steps + 1, batch, hidden), x.dtype)
    c = np.empty((steps + 1, batch, hidden), x.dtype)
    gates = np.empty((steps, batch, 4 * hidden), x.dtype)
    h[0], c[0] = h0, c0
    for t in range(steps):
        h[t + 1], c[t + 1], gates[t] = _lstm_cell(x[t], h[t], c[t], weight_ih, weight_hh, bias)
    return h, c, gates


def lstm_backward(dh, dh_n, dc_n, x, h, c, gates, weight_ih, weight_hh):
    """Back-propagation through time of `lstm_forward`: exact, over all T steps.

    Parameters
    ----------
    dh : (T, B, H) array
        Gradient arriving at each output h_1 .. h_T.
    dh_n, dc_n : (B, H) arrays
        Gradient arriving through the final state, on top of ``dh[-1]``.
    x, h, c, gates, weight_ih, weight_hh
        What `lstm_forward` took and returned.

    Returns
    -------
    dx : (T, B, I) array
    dh0, dc0 : (B, H) arrays
    dweight_ih : (4H, I) array
    dweight_hh : (4H, H) array
    dbias : (4H,) array

    Notes
    -----
    Hochreiter & Schmidhuber (1997) truncate this gradient; here nothing is cut.
    """
    dgates = np.empty_like(gates)  # with respect to the gates before their activation
    dh_next, dc_next = dh_n, dc_n
    for t in reversed(range(len(x))):  # gates[t] lead from state t to state t + 1
        i, f, g, o = np.split(gates[t], 4, axis=-1)
        tanh_c = np.tanh(c[t + 1])
        # h = o * tanh(c)
        dh_t = dh[t] + dh_next
        do = dh_t * tanh_c
        dc_t = dc_next + dh_t * o * (1 - tanh_c**2)
        # c = f * c_previous + i * g
        di, df, dg = dc_t * g, dc_t * c[t], dc_t * i
        dc_next = dc_t * f
        # i, f, o = sigmoid(...), g = tanh(...)
        dgates[t] = np.concatenate(
            [di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], axis=-1
        )
        dh_next = dgates[t] @ weight_hh
    dx, dweight_ih, dbias = linear_backward(dgates, x, weight_ih)
    _, dweight_hh, _ = linear_backward(dgates, h[:-1], weight_hh)
    return dx, dh_next, dc_next, dweight_ih, dweight_hh, dbias
