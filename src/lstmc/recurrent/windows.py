"""Gradients at one state of a direction carried back to an earlier one: what Jacobians are made of.

States are counted in each direction's own order. Of rows that end early or are reset, what lies between the
two states is another set of sequences: it is gathered from what forward saved.
"""

import numpy as np

from .._kernels.calls import BackwardLayer, BackwardStack, Rows
from .sequences import Sequences

__all__ = ["carry_back"]


def carry_back(layer, trace, carried, t0, t1, repeat, dx=None, num_threads=None, direction=0):
    """Carry gradients at state t1 back to state t0, `repeat` of them for each row of the trace.

    Parameters
    ----------
    layer : Recurrent
        Of one direction, or of one layer.
    trace : RecurrentTrace
    carried : list of ndarray (L, B * repeat, P or H)
        The gradients of h, or of h and c, of all layers of this direction.
    t0 : int
    t1 : int or ndarray (B,)
        At least t0; an array where it differs from row to row. Beyond its end a row's state is its final one.
    repeat : int
    dx : ndarray (T, B * repeat, I), optional
        The gradients of the inputs are written to it, at the steps of x.
    num_threads : int, optional
    direction : int

    Returns
    -------
    list of ndarray, in the shapes of `carried`
        Zeros where a reset lies between.

    Raises
    ------
    ValueError
        Dropout took part in the trace.
    """
    if trace.masks is not None:
        raise ValueError("trace must be of a forward call with drop=False: this one dropped units")
    numbers = range(direction, len(trace.layers), layer.num_directions)
    of = trace.sequences
    if of.are_rows and np.ndim(t1) == 0:
        rows = Rows(t1 - t0, of.batch)
        saved = [_sliced(trace.layers[number], t0) for number in numbers]
        out, steps = _run(layer, numbers, saved, carried, rows, repeat, dx is not None, num_threads)
        if dx is not None:
            at = slice(of.steps - t1, of.steps - t0) if direction else slice(t0, t1)
            dx[at] = steps[::-1] if direction else steps
        return out
    window = _Window(of, direction, t0, t1)
    if not len(window.at):  # no row has a step between the two
        return [part.copy() for part in carried]
    saved = [window.of_layer(trace.layers[number]) for number in numbers]
    together = [part.reshape(len(part), of.batch, -1) for part in carried]
    arriving = [
        window.sequences.arriving(whole).reshape(len(part), -1, part.shape[2])
        for whole, part in zip(together, carried)
    ]
    out, steps = _run(
        layer, numbers, saved, arriving, window.sequences.rows, repeat, dx is not None, num_threads
    )
    if dx is not None:
        flat = dx.reshape(-1, repeat * dx.shape[2])
        flat[window.at] = steps.reshape(-1, flat.shape[1])
    departing = []
    for first, whole, part in zip(out, together, carried):
        first = first.reshape(len(part), -1, whole.shape[2])
        departed = window.sequences.departing(first, whole)
        departed[:, window.cut] = 0
        departing.append(departed.reshape(part.shape))
    return departing


def _run(layer, numbers, saved, carried, rows, repeat, wants_dx, num_threads):
    """Return the gradients at the first states, and those of the inputs of all steps or None."""
    arrays, weights = layer.kernels.arrays, layer.weights()
    out, calls = [arrays.empty_like(part) for part in carried], []
    for i, (number, (h, c, gates, m)) in enumerate(zip(numbers, saved)):
        dh_n, dh0 = carried[0][i], out[0][i]
        dc_n, dc0 = (carried[1][i], out[1][i]) if len(carried) == 2 else (None, None)
        calls.append(
            BackwardLayer(
                weights[number], h=h, c=c, gates=gates, m=m, dh0=dh0, dc0=dc0, dh_n=dh_n, dc_n=dc_n
            )
        )
    dx = None
    if wants_dx:
        shape = (rows.count * repeat, layer.features(numbers[0]))
        if rows.starts is None:
            shape = (rows.steps, rows.batch * repeat, shape[1])
        dx = arrays.empty(shape, layer.dtype)
    if rows.batch:
        stack = BackwardStack(calls, dx, None, None, layer.limits[0])
        layer.kernels.recurrent_backward(layer.handle, [stack], rows, num_threads, repeat)
    return out, dx


def _sliced(trace, t0):
    """Return h, c, gates and m from state t0 on."""
    arrays = trace.all_h, trace.all_c, trace.all_gates, trace.all_m
    return [None if a is None else a[t0:] for a in arrays]


class _Window:
    """The steps of each row between two states: after the last reset among them, and before its end.

    Attributes
    ----------
    sequences : Sequences
        Of these steps.
    at : ndarray (N,)
        Of each of their rows its row in the grid of x.
    cut : ndarray (B,) of bool
        Whether there is a reset.
    """

    def __init__(self, of, direction, t0, t1):
        steps, batch = of.steps, of.batch
        ends = of.ends
        own = np.arange(steps)[:, None]  # steps in the direction's own order
        resets = np.zeros((steps, batch), bool) if of.resets is None else of.resets
        if (
            direction and steps
        ):  # the step before which x is cut is the one after which it is cut from the end
            at = np.where((own > 0) & (own < ends), ends - own, 0)
            resets = np.take_along_axis(resets, at, 0) & (at > 0)
        within = resets & (own >= t0) & (own < np.minimum(t1, ends))
        self.cut = within.any(0)
        begins = np.where(self.cut, steps - 1 - within[::-1].argmax(0) if steps else 0, t0)
        lengths = np.maximum(np.minimum(t1, ends) - begins, 0)
        longest = int(lengths.max(initial=0))
        self.sequences = Sequences(longest, batch, lengths)
        order = self.sequences.order
        step, row = np.divmod(np.arange(longest * batch) if order is None else order, max(1, batch))
        step = begins[row] + step
        if direction:
            step = ends[row] - 1 - step
        self.at = step * batch + row
        grid = of.on_grid(direction)
        self._rows = self.at if grid is None else grid[self.at]

    def of_layer(self, trace):
        """Return h, c, gates and m of these steps, as kernels take them."""
        rows, first = self._rows, self._rows[: self.sequences.count]
        before = trace.sequences.rows.before
        first = first if before is None else before[first]
        states = [
            None
            if a is None
            else a.reshape(-1, a.shape[-1])[np.concatenate([first, trace.sequences.count + rows])]
            for a in (trace.all_h, trace.all_c)
        ]
        saved = [
            None if a is None else a.reshape(-1, a.shape[-1])[rows]
            for a in (trace.all_gates, trace.all_m)
        ]
        return [*states, *saved]
