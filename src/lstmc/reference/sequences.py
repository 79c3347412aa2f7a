"""Time, whatever the cell: rows of unequal length, resets on the way, two directions, stacked layers.

Each row is cut by hand into pieces, which the cell's own reference runs one by one, knowing nothing of
lengths, resets or directions.
"""

import numpy as np

__all__ = ["layer_backward", "layer_forward", "stack_backward", "stack_forward"]


def _pieces(steps, batch, lengths, resets, reverse):
    """Return the pieces of all rows, each row's in the order in which the direction reads them.

    A piece is (rows, steps, how it begins, whether it is the row's last): slices of the batch and of
    time, and "state" or "initial". Rows without an end or a reset of their own are one piece together.
    """
    if lengths is None and resets is None:
        return [(slice(0, batch), slice(0, steps), "state", True)] if steps else []
    pieces = []
    for b in range(batch):
        end = steps if lengths is None else int(lengths[b])
        cuts = [] if resets is None else [t for t in range(1, end) if resets[t, b]]
        spans = [slice(t0, t1) for t0, t1 in zip([0, *cuts], [*cuts, end], strict=True) if t1 > t0]
        if reverse:
            spans.reverse()
        for i, span in enumerate(spans):
            discarded = resets is not None and not reverse and resets[0, b]
            begin = "state" if i == 0 and not discarded else "initial"
            pieces.append((slice(b, b + 1), span, begin, i == len(spans) - 1))
    return pieces


def _read(array, rows, span, reverse):
    """Return a piece of an array (T, B, .) in the direction's order."""
    piece = array[span, rows]
    return piece[::-1] if reverse else piece


def layer_forward(
    forward, x, states, weights, lengths=None, resets=None, reverse=False, initial=None
):
    """One direction of one layer over rows that may end early and begin anew.

    Parameters
    ----------
    forward : function
        The cell's: `rnn_forward`, `lstm_forward`, `gru_forward`, or one like them, which takes x, the
        parts of the state and the weights, and returns the parts of the states first.
    x : (T, B, I) array
        Beyond a row's end it is not read.
    states : sequence of (B, P) or (B, H) arrays
        The parts of the initial state: h, or h and c. The reverse direction begins with it at the row's
        end.
    weights : sequence
        weight_ih, weight_hh, bias and those that the cell has beside them, as `forward` takes them.
    lengths : (B,) integer array, optional
        The steps of each row.
    resets : (T, B) boolean array, optional
        Where a row is cut: a direction that comes to step t from step t - 1, or the other way round, goes
        on from `initial`. At step 0 the forward direction begins with that, and the reverse one has no cut.
    reverse : bool
    initial : sequence of (H,) arrays, optional
        The parts of the state after a reset; zeros by default.

    Returns
    -------
    y : (T, B, P) array
        h after each step, at that step of x; zeros beyond a row's end.
    last : list of (B, H) arrays
        The state after the last step in the direction's order; the initial one of a row without steps.
    saved : list
        The pieces with what `forward` took and returned, for `layer_backward`.
    """
    steps, batch = x.shape[:2]
    y = np.zeros((steps, *states[0].shape), x.dtype)
    last, saved = [part.copy() for part in states], []
    for piece in _pieces(steps, batch, lengths, resets, reverse):
        rows, span, begin, is_last = piece
        first = [part[rows] for part in states]
        if begin == "initial":
            first = [np.zeros_like(part) for part in first]
            for part, value in zip(first, initial or (), strict=initial is not None):
                part[:] = value
        read = _read(x, rows, span, reverse)
        out = forward(read, *first, *weights)
        out = out if isinstance(out, tuple) else (out,)
        _read(y, rows, span, reverse)[...] = out[0][1:]
        for part, of_all_steps in zip(last, out, strict=False):
            if is_last:
                part[rows] = of_all_steps[-1]
        saved.append((piece, (read, *out)))
    return y, last, saved


def layer_backward(backward, dy, dlast, x, saved, weights, reverse=False, initial=None):
    """Back-propagation through time of `layer_forward`.

    Parameters
    ----------
    backward : function
        The cell's: `rnn_backward`, `lstm_backward`, `gru_backward`, or one like them, which takes the
        weights without the bias.
    dy : (T, B, P) array
        Gradient arriving at y; beyond a row's end it is not read.
    dlast : sequence of (B, H) arrays
        Gradient arriving through the parts of the last state.
    x, saved, weights, reverse, initial
        What `layer_forward` took and returned.

    Returns
    -------
    dx : (T, B, I) array
        Zeros beyond a row's end.
    dfirst : list of (B, H) arrays
        At the parts of the initial state: zeros where it was discarded, and what arrives through the last
        state where a row has no steps.
    dweights : list of arrays
        Of each of the weights, and of the parts of `initial` if there are: sums over the pieces.
    """
    dx = np.zeros_like(x)
    dfirst = [part.copy() for part in dlast]
    dweights = [np.zeros_like(weight) for weight in weights]
    without_bias = [*weights[:2], *weights[3:]]
    dinitial = [np.zeros_like(part) for part in initial or ()]
    for (rows, _, _, _), _ in saved:
        for part in dfirst:
            part[rows] = 0
    for (rows, span, begin, is_last), arrays in saved:
        arriving = [part[rows] if is_last else np.zeros_like(part[rows]) for part in dlast]
        out = backward(_read(dy, rows, span, reverse), *arriving, *arrays, *without_bias)
        _read(dx, rows, span, reverse)[...] = out[0]
        for part, gradient in zip(dfirst, out[1:], strict=False):
            if begin == "state":
                part[rows] = gradient
        for part, gradient in zip(dinitial, out[1:], strict=False):
            if begin == "initial":
                part += gradient.sum(axis=0)
        for total, gradient in zip(dweights, out[1 + len(dlast) :], strict=True):
            total += gradient
    return dx, dfirst, dweights + dinitial


def _dropped(y, masks, number, factor):
    """Return what the masks keep of what the layer of this number returns, or of the gradient there."""
    return y if masks is None or number >= len(masks) else y * masks[number] * factor


def stack_forward(
    forward, x, states, weights, directions=1, lengths=None, resets=None, initial=None, masks=None,
    factor=1.0,
):  # fmt: skip
    """Stacked layers, each of one direction or of two that are read side by side by the next.

    Parameters
    ----------
    forward, x, lengths, resets
        As for `layer_forward`.
    states : sequence of (L*D, B, H) arrays
        The parts of the initial state, the forward direction's of each layer before the reverse one's, as
        in PyTorch.
    weights : list of L*D sequences
        Those of each, as for `layer_forward`.
    directions : {1, 2}
        D.
    initial : list of L*D sequences, optional
        The parts of the state after a reset, of each.
    masks : list of L-1 (T, B, D*H) boolean arrays, optional
        What dropout keeps of what each layer but the last returns.
    factor : float
        By which that is multiplied.

    Returns
    -------
    y : (T, B, D*P) array
    last : list of (L*D, B, H) arrays
    saved : list of L*D tuples
        What each direction read, and what it saved, for `stack_backward`.
    """
    last, saved = [], []
    for number in range(0, len(weights), directions):
        parts = []
        for d in range(directions):
            first = [part[number + d] for part in states]
            y, end, pieces = layer_forward(
                forward, x, first, weights[number + d], lengths, resets, d == 1,
                initial and initial[number + d],
            )  # fmt: skip
            parts.append(y)
            last.append(end)
            saved.append((x, pieces))
        x = _dropped(np.concatenate(parts, axis=2), masks, number // directions, factor)
    return x, [np.stack(part) for part in zip(*last, strict=True)], saved


def stack_backward(
    backward, dy, dlast, saved, weights, directions=1, initial=None, masks=None, factor=1.0
):
    """Back-propagation through time of `stack_forward`.

    Parameters
    ----------
    backward : function
        As for `layer_backward`.
    dy : (T, B, D*P) array
    dlast : sequence of (L*D, B, H) arrays
    saved, weights, directions, initial, masks, factor
        What `stack_forward` took and returned.

    Returns
    -------
    dx : (T, B, I) array
    dfirst : list of (L*D, B, H) arrays
    dweights : list of L*D lists of arrays
    """
    dfirst, dweights = [None] * len(weights), [None] * len(weights)
    for number in reversed(range(0, len(weights), directions)):
        total, dy = 0, _dropped(dy, masks, number // directions, factor)
        for d, arriving in enumerate(np.split(dy, directions, axis=2)):
            x, pieces = saved[number + d]
            dx, dfirst[number + d], dweights[number + d] = layer_backward(
                backward, arriving, [part[number + d] for part in dlast], x, pieces,
                weights[number + d], d == 1, initial and initial[number + d],
            )  # fmt: skip
            total = total + dx
        dy = total
    return dy, [np.stack(part) for part in zip(*dfirst, strict=True)], dweights
