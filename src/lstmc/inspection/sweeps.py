"""Backward sweeps, of which Jacobians are made: gradients at one state carried back to an earlier one."""

import numpy as np

from .._kernels.devices import host
from .._kernels.messages import shape_text
from ..recurrent import Recurrent, carry_back
from .reach import exponents_of

__all__ = [
    "carry",
    "check_layer",
    "check_span",
    "is_int",
    "places_of_directions",
    "row_groups",
    "state_parts",
    "state_size",
    "sweep",
    "sweep_direction",
    "trace_of",
]

SWEEP_BYTES = 64 << 20  # of the gradients of one sweep over several steps


def sweep(layer, trace, rows, t1, t0, threads):
    """Carry gradients back from state t1 to state t0.

    rows (B, R, S) holds R gradients for each row of the batch; the result has the same form. States are
    counted in each direction's own order.
    """
    batch, repeat, size = rows.shape
    arrays, directions = layer.kernels.arrays, layer.num_directions
    count, start, parts = layer.num_layers * directions, 0, []
    for units in layer.state_sizes:  # h, or h and c: each one contiguous array (L*D, B*R, .)
        end = start + count * units
        part = rows[..., start:end].reshape(batch * repeat, count, units)
        parts.append(part.transpose(1, 0, 2).copy())
        start = end
    for d in range(directions):
        own = [arrays.ascontiguousarray(part[d::directions]) for part in parts]
        own = sweep_direction(layer, trace, own, t1, t0, repeat, threads, d)
        for part, carried in zip(parts, own):
            part[d::directions] = carried
    flat = [part.transpose(1, 0, 2).reshape(batch * repeat, -1) for part in parts]
    return arrays.concatenate(flat, axis=1).reshape(batch, repeat, size)


def sweep_direction(layer, trace, carried, t1, t0, repeat, threads, direction, dx=None):
    """Carry gradients of one direction back, as ``recurrent.carry_back`` does, some steps at a time."""
    _, rows, units = carried[-1].shape
    step_bytes = layer.dtype.itemsize * rows * units * max(1, layer.num_layers - 1)
    at_once = max(1, SWEEP_BYTES // max(1, step_bytes))
    for last in range(int(np.max(t1, initial=t0)), t0, -at_once):
        first, until = max(t0, last - at_once), np.minimum(t1, last) if np.ndim(t1) else last
        carried = carry_back(layer, trace, carried, first, until, repeat, dx, threads, direction)
    return carried


def carry(layer, trace, rows, exponents, t1, t0, threads):
    """Carry gradients back from state t1 to state t0, however much they grow on the way.

    Parameters
    ----------
    rows : ndarray (B, R, S)
    exponents : ndarray (B,) of integers
        The gradients are rows times 2**exponents.

    Returns
    -------
    rows, exponents
        What overflows is carried in shorter spans and scaled in between. Rows that are not finite are those
        that a single step makes so.
    """
    out = sweep(layer, trace, rows, t1, t0, threads)
    if not (_is_finite(rows) & ~_is_finite(out)).any():
        return out, exponents
    rows, shifts = _scaled(layer, rows)
    exponents = exponents + shifts
    if t1 - t0 == 1:
        return sweep(layer, trace, rows, t1, t0, threads), exponents
    middle = (t0 + t1) // 2
    half = carry(layer, trace, rows, exponents, t1, middle, threads)
    return carry(layer, trace, *half, middle, t0, threads)


def _is_finite(rows):
    """Return for each row of the batch whether all its gradients are finite."""
    return host(np.isfinite(rows).all((1, 2)))


def _scaled(layer, rows):
    """Return rows (B, R, S) divided by powers of two that bring the largest of each b near 1, and these."""
    wide = host(rows).astype(np.float64)
    exponents = exponents_of(wide)
    wide = np.ldexp(wide, -exponents[:, None, None])
    return layer.kernels.arrays.asarray(wide.astype(layer.dtype)), exponents


def row_groups(layer, batch, size):
    """Yield slices of the rows of a Jacobian, so short that the gradients of one step stay small."""
    row_bytes = layer.dtype.itemsize * batch * layer.hidden_size * (len(layer.cell.gates) + 4)
    most = max(1, SWEEP_BYTES // max(1, row_bytes))
    for start in range(0, size, most):
        yield slice(start, min(size, start + most))


def state_size(layer):
    """Return the numbers of a state: h of all layers and directions, then c where the cell has it."""
    return layer.num_layers * layer.num_directions * sum(layer.state_sizes)


def state_parts(layer, first=0):
    """Return what the parts of a state are and their sizes: ("layer 0 h", H), ("layer 0, reverse, h", H), ...

    `first` is the number of the layer's first, if there are stacks below it in its network.
    """
    parts = []
    for state, units in zip(layer.cell.states, layer.state_sizes):
        for number in range(layer.num_layers * layer.num_directions):
            above, reverse = divmod(number, layer.num_directions)
            parts.append((f"layer {first + above}{', reverse,' * reverse} {state}", units))
    return parts


def places_of_directions(layer):
    """Return for each direction where its numbers are in a state."""
    numbers, places = layer.num_layers * layer.num_directions, np.arange(state_size(layer))
    parts, start = [], 0
    for units in layer.state_sizes:
        end = start + numbers * units
        parts.append(places[start:end].reshape(numbers, units))
        start = end
    return [
        np.concatenate([part[d :: layer.num_directions].reshape(-1) for part in parts])
        for d in range(layer.num_directions)
    ]


def check_layer(layer):
    """Refuse anything but a recurrent layer."""
    if not isinstance(layer, Recurrent):
        raise TypeError(
            f"layer must be a recurrent layer, got {type(layer).__name__}: of a network, "
            "take one of its layers, and trace=trace.layers[i] of the network's trace"
        )
    if layer.bidirectional and layer.num_layers > 1:
        raise ValueError(
            "layer must have one layer or one direction: what a bidirectional layer above another reads at a "
            "step is of states from either end, so that the stack has no one state there"
        )


def trace_of(layer, x, state, trace, threads, lengths=None, resets=None):
    """Return the trace of x and state, or the one that is there instead, checked."""
    check_layer(layer)
    if trace is None:
        if x is None:
            raise ValueError("x must be given, or the trace of a forward call")
        return layer.forward(x, state, True, threads, lengths, resets, drop=False)[2]
    if any(one is not None for one in (x, state, lengths, resets)):
        raise ValueError(
            "trace holds what forward saw: x, state, lengths and resets must not be given"
        )
    layer.check_trace(trace)
    return trace


def is_int(value):
    """Return whether a value is an integer, and no boolean."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_span(t0, t1, steps):
    """Return two states, the later by default the last one, as integers; refuse them in another order."""
    if not steps:
        raise ValueError("x must have at least one step, got none")
    t1 = steps if t1 is None else t1
    if not is_int(t0) or not is_int(t1) or not 0 <= t0 < t1 <= steps:
        raise ValueError(
            f"t0 and t1 must be states with 0 <= t0 < t1 <= {steps}, got {shape_text((t0, t1))}"
        )
    return int(t0), int(t1)
