"""Exact Jacobians of states over time, their spectra, and Lyapunov exponents.

A Jacobian is computed by backward sweeps in C: one gradient for each of its rows, all at once as rows of a
batch. Only a Lyapunov exponent is an approximation, as it is a limit.
"""

import math
from dataclasses import dataclass

import numpy as np

from .._kernels.devices import host
from .._kernels.messages import shape_text
from ..layer import check_size
from ..recurrent import Recurrent
from .plots import plot_spectrum
from .reports import plain

__all__ = [
    "JacobianSpectrum",
    "input_jacobian",
    "jacobian_spectrum",
    "lyapunov_exponents",
    "state_jacobian",
    "step_factors",
]

SWEEP_BYTES = 64 << 20  # of the gradients of one sweep over several steps
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def state_jacobian(layer, x=None, t0=0, t1=None, state=None, *, trace=None, num_threads=None):
    """Differentiate the state after t1 steps with respect to the state after t0 steps, exactly.

    Parameters
    ----------
    layer : recurrent layer
    x : ndarray (T, B, I) or (T, I)
        As for the layer's forward.
    t0, t1 : int
        States are counted as s_0, the initial one, to s_T: 0 <= t0 < t1 <= T. By default the whole way.
    state : optional
        The initial state.
    trace : Trace, instead of x and state
        From the layer's forward.
    num_threads : int, optional

    Returns
    -------
    ndarray (B, S, S), or (S, S) for an unbatched sequence
        ``[b, i, j]`` is d s_t1[i] / d s_t0[j] of row b. A state is one vector: h of all layers of the stack,
        the first one first, then c of all layers where the cell has it: S is L*H or 2*L*H.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the trace is another layer's.
    """
    trace = _trace_of(layer, x, state, trace, num_threads)
    t0, t1 = _check_span(t0, t1, len(trace.x))
    batch, size = trace.x.shape[1], _state_size(layer)
    arrays = layer.kernels.arrays
    jacobian = arrays.empty((batch, size, size), layer.dtype)
    for rows in _row_groups(layer, batch, size):
        seeds = arrays.broadcast_to(
            arrays.eye(size, dtype=layer.dtype)[rows], (batch, rows.stop - rows.start, size)
        )
        jacobian[:, rows] = _sweep(layer, trace, seeds, t1, t0, num_threads)
    return jacobian[0] if trace.unbatched else jacobian


def input_jacobian(layer, x=None, t=None, state=None, *, trace=None, num_threads=None):
    """Differentiate the output at one step with respect to the inputs up to it: saliency over time.

    Parameters
    ----------
    layer : recurrent layer
    x : ndarray (T, B, I) or (T, I)
    t : int
        The step, 0 to T-1; by default the last.
    state, trace, num_threads
        As for ``state_jacobian``.

    Returns
    -------
    ndarray (t+1, B, H, I), or (t+1, H, I) for an unbatched sequence
        ``[s, b, i, j]`` is d y_t[i] / d x_s[j] of row b.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the trace is another layer's.
    """
    trace = _trace_of(layer, x, state, trace, num_threads)
    steps, batch, inputs = trace.x.shape
    if not steps:
        raise ValueError("x must have at least one step, got none")
    t = steps - 1 if t is None else t
    if not _is_int(t) or not 0 <= t < steps:
        raise ValueError(f"t must be a step in [0, {steps}), got {t!r}")
    hidden = layer.hidden_size
    arrays = layer.kernels.arrays
    seeds = arrays.zeros((batch, hidden, _state_size(layer)), layer.dtype)
    top = (layer.num_layers - 1) * hidden
    seeds[:, :, top : top + hidden] = arrays.eye(hidden, dtype=layer.dtype)
    out = arrays.empty((t + 1, batch, hidden, inputs), layer.dtype)
    dx = out.reshape(t + 1, batch * hidden, inputs)
    _sweep(layer, trace, seeds, t + 1, 0, num_threads, dx)
    return out[:, 0] if trace.unbatched else out


def lyapunov_exponents(layer, x=None, state=None, *, count=None, every=1, trace=None,
                       num_threads=None):  # fmt: skip
    """Measure the rates at which small changes of the state grow or shrink along a sequence.

    Parameters
    ----------
    layer : recurrent layer
    x : ndarray (T, B, I) or (T, I)
        The longer, the closer to the limit that an exponent is.
    state, trace, num_threads
        As for ``state_jacobian``.
    count : int, optional
        How many exponents, the largest ones; by default all S of them.
    every : int
        Steps between two orthogonalisations (QR). More steps are faster, but lose the smaller exponents to
        rounding, in float32 from about three on.

    Returns
    -------
    ndarray (B, count) of float64, or (count,) for an unbatched sequence
        Nats per step, the largest first: changes grow above 0 and shrink below. -inf where a direction is
        lost altogether.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the trace is another layer's.

    Notes
    -----
    Benettin et al. (1980), on the transposed product, which has the same singular values: backward sweeps of
    `count` gradients from the last step to the first, with a QR after every few steps. The sweeps start from
    a random frame; its error in the leading directions fades as 1/T.
    """
    trace = _trace_of(layer, x, state, trace, num_threads)
    steps, batch, _ = trace.x.shape
    size, every = _state_size(layer), check_size("every", every)
    count = size if count is None else check_size("count", count)
    if count > size:
        raise ValueError(f"count must be at most {size}, the numbers of a state, got {count}")
    if not steps:
        raise ValueError("x must have at least one step, got none")
    first = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0][:count]
    rows = np.broadcast_to(first, (batch, count, size)).astype(layer.dtype)
    rows = layer.kernels.arrays.asarray(rows)
    sums = np.zeros((batch, count))
    for t1 in range(steps, 0, -every):
        rows = _sweep(layer, trace, rows, t1, max(0, t1 - every), num_threads)
        q, r = np.linalg.qr(host(rows).astype(np.float64).swapaxes(1, 2))
        with np.errstate(divide="ignore"):
            sums += np.log(np.abs(np.diagonal(r, axis1=1, axis2=2)))
        rows = layer.kernels.arrays.asarray(q.swapaxes(1, 2).astype(layer.dtype))
    exponents = -np.sort(-sums / steps, axis=1)
    return exponents[0] if trace.unbatched else exponents


# -- the spectrum over distance ---------------------------------------------------------------------


@dataclass
class JacobianSpectrum:
    """Singular values of d s_t1 / d s_(t1-k) over the distance k, and the factors of a step.

    Attributes
    ----------
    t1 : int
        The later state.
    distances : list of int
        The distances k, from 1 up.
    singular_values : ndarray (len(distances), B, S) of float64
        The largest first.
    factors : list of dict
        For each layer of the stack, as ``step_factors`` returns them.
    precision : float
        The machine epsilon of the layer's type: values below this share of the largest are rounding.
    """

    t1: int
    distances: list
    singular_values: np.ndarray
    factors: list
    precision: float

    @property
    def largest(self):
        """The largest singular value at each distance: its geometric mean over rows."""
        with np.errstate(divide="ignore"):
            return np.exp(np.log(self.singular_values[:, :, 0]).mean(1))

    @property
    def rate(self):
        """Mean change per step of the logarithm of the largest, from the first distance to the last."""
        first, last = self.largest[[0, -1]]
        span = self.distances[-1] - self.distances[0]
        if not span or not first or not last:
            return math.nan if not span else -math.inf
        return float(np.log(last / first) / span)

    def __str__(self):
        lines = [f"singular values of d s_{self.t1} / d s_({self.t1}-k)",
                 "      k    largest     median   smallest"]  # fmt: skip
        for k, values in zip(self.distances, self.singular_values):
            most = values[:, 0].max()
            shown = [most, np.median(values), values[:, -1].min()]
            lines.append(
                f"  {k:5}  " + "  ".join(self._text(v, self.precision * most) for v in shown)
            )
        for i, factors in enumerate(self.factors):
            norms = ", ".join(
                f"{name} {norm:.3g}" for name, norm in factors["spectral_norm"].items()
            )
            lines.append(f"  l{i}: spectral norm of the recurrent weights: {norms}")
            for name, quantiles in factors["derivatives"].items():
                median = np.median(quantiles[:, len(QUANTILES) // 2])
                low, high = quantiles[:, 0].min(), quantiles[:, -1].max()
                lines.append(
                    f"  l{i}: {name}: median {median:.3g}, 5 % to 95 %: {low:.3g} to {high:.3g}"
                )
        return "\n".join(lines)

    @staticmethod
    def _text(value, least):
        return f"{value:9.3e}" if value >= least else f"< {least:.1e}"

    def to_dict(self):
        """Return all numbers as plain lists and floats, for JSON."""
        factors = [
            {
                "spectral_norm": f["spectral_norm"],
                "spectral_radius": f["spectral_radius"],
                "derivatives": {name: plain(q) for name, q in f["derivatives"].items()},
            }
            for f in self.factors
        ]
        return {
            "t1": self.t1,
            "distances": list(self.distances),
            "singular_values": plain(self.singular_values),
            "rate": plain(self.rate),
            "precision": self.precision,
            "factors": factors,
        }

    def plot(self, path):
        """Draw it into a PNG file. Needs matplotlib."""
        plot_spectrum(path, self)


def jacobian_spectrum(layer, x=None, t1=None, distances=None, state=None, *, trace=None,
                      num_threads=None):  # fmt: skip
    """Compute the singular values of the state's Jacobian over growing distances.

    Parameters
    ----------
    layer : recurrent layer
    x : ndarray (T, B, I) or (T, I)
    t1 : int, optional
        The later state, 1 to T; by default the last.
    distances : list of int, optional
        1 to t1; by default 1, 2, 4, ... and t1.
    state, trace, num_threads
        As for ``state_jacobian``.

    Returns
    -------
    JacobianSpectrum

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the trace is another layer's.
    """
    trace = _trace_of(layer, x, state, trace, num_threads)
    _, t1 = _check_span(0, t1, len(trace.x))
    if distances is not None and not (np.ndim(distances) == 1 and len(distances)):
        raise ValueError(f"distances must be a list of steps, got {distances!r}")
    if distances is None:
        distances = sorted({2**i for i in range(64) if 2**i < t1} | {t1})
    distances = sorted(set(distances))
    for k in distances:
        if not _is_int(k) or not 1 <= k <= t1:
            raise ValueError(f"distances must be in [1, {t1}], got {k!r}")
    batch, size = trace.x.shape[1], _state_size(layer)
    arrays = layer.kernels.arrays
    rows = arrays.broadcast_to(arrays.eye(size, dtype=layer.dtype), (batch, size, size))
    singular_values, done = [], 0
    for k in distances:
        rows = _sweep(layer, trace, rows, t1 - done, t1 - k, num_threads)
        singular_values.append(np.linalg.svd(host(rows).astype(np.float64), compute_uv=False))
        done = k
    return JacobianSpectrum(
        t1,
        [int(k) for k in distances],
        np.array(singular_values),
        step_factors(layer, trace),
        float(np.finfo(layer.dtype).eps),
    )


def step_factors(layer, trace):
    """Return the factors by which one step multiplies a gradient: the weights' and the activations'.

    Parameters
    ----------
    layer : recurrent layer
    trace : Trace
        From its forward.

    Returns
    -------
    list of dict, one for each layer of the stack
        "spectral_norm" is a dict of gate to the largest singular value of its recurrent weights;
        "spectral_radius" is the largest absolute eigenvalue of the recurrent weights of a cell with one gate,
        else None; "derivatives" is a dict of name to ndarray (T, 5), the quantiles (5, 25, 50, 75, 95 %) over
        rows and units, at each step, of the derivative of every activation and of what else a gradient is
        multiplied by. For an LSTM that is "f", for c, and "o (1 - tanh(c)^2)", between h and c.

    Raises
    ------
    TypeError, ValueError
        It is not a recurrent layer, or the trace is another layer's or empty.
    """
    _check_layer(layer)
    layer.check_trace(trace)
    if not trace.x.shape[0] or not trace.x.shape[1]:
        raise ValueError(
            f"x must have at least one step and one row, got {shape_text(trace.x.shape)}"
        )
    return [_factors(layer[f"weight_hh_l{i}"], one) for i, one in enumerate(trace.layers)]


def _factors(weight_hh, trace):
    """Return the factors of one layer of a stack."""
    names = [gate.name for gate in trace.cell.gates]
    blocks = _in_float64(weight_hh).reshape(len(names), -1, weight_hh.shape[1])
    radius = None
    if len(blocks) == 1:
        radius = float(np.abs(np.linalg.eigvals(blocks[0])).max())
    derivatives = trace.cell.derivatives(
        _in_float64(trace.h),
        None if trace.c is None else _in_float64(trace.c),
        {name: _in_float64(saved) for name, saved in trace.saved.items()},
    )
    return {
        "spectral_norm": {n: float(np.linalg.norm(b, 2)) for n, b in zip(names, blocks)},
        "spectral_radius": radius,
        "derivatives": {
            name: np.quantile(d.reshape(len(d), -1), QUANTILES, axis=1).T
            for name, d in derivatives.items()
        },
    }


def _in_float64(array):
    return host(array).astype(np.float64)


# -- sweeps -----------------------------------------------------------------------------------------


def _sweep(layer, trace, rows, t1, t0, threads, dx=None):
    """Carry gradients back from state t1 to state t0.

    rows (B, R, S) holds R gradients for each row of the batch; the result has the same form. Where t0 is 0,
    the gradients of the inputs are written to dx (t1, B*R, I).
    """
    batch, repeat, size = rows.shape
    parts, hidden = len(layer.cell.states), layer.hidden_size
    shape = (batch * repeat, parts, layer.num_layers, hidden)
    # h, or h and c: each one contiguous array (L, B*R, H)
    contiguous = layer.kernels.arrays.ascontiguousarray
    carried = contiguous(rows.reshape(shape).transpose(1, 2, 0, 3))
    step_bytes = carried.itemsize * batch * repeat * hidden * max(1, layer.num_layers - 1)
    at_once = max(1, SWEEP_BYTES // max(1, step_bytes))
    while t1 > t0:
        middle = max(t0, t1 - at_once)
        out = None if dx is None else dx[middle:t1]
        carried = layer.carry_back(trace, carried, middle, t1, repeat, out, threads)
        t1 = middle
    return contiguous(carried.transpose(2, 0, 1, 3)).reshape(batch, repeat, size)


def _row_groups(layer, batch, size):
    """Yield slices of the rows of a Jacobian, so short that the gradients of one step stay small."""
    row_bytes = layer.dtype.itemsize * batch * layer.hidden_size * (len(layer.cell.gates) + 4)
    most = max(1, SWEEP_BYTES // max(1, row_bytes))
    for start in range(0, size, most):
        yield slice(start, min(size, start + most))


def _state_size(layer):
    return len(layer.cell.states) * layer.num_layers * layer.hidden_size


def _check_layer(layer):
    if not isinstance(layer, Recurrent):
        raise TypeError(
            f"layer must be a recurrent layer, got {type(layer).__name__}: of a network, "
            "take one of its layers, and trace=trace.layers[i] of the network's trace"
        )


def _trace_of(layer, x, state, trace, threads):
    _check_layer(layer)
    if trace is None:
        if x is None:
            raise ValueError("x must be given, or the trace of a forward call")
        return layer.forward(x, state, num_threads=threads)[2]
    if x is not None or state is not None:
        raise ValueError("trace holds what forward saw: x and state must not be given")
    layer.check_trace(trace)
    return trace


def _is_int(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_span(t0, t1, steps):
    t1 = steps if t1 is None else t1
    if not _is_int(t0) or not _is_int(t1) or not 0 <= t0 < t1 <= steps:
        raise ValueError(
            f"t0 and t1 must be states with 0 <= t0 < t1 <= {steps}, got {shape_text((t0, t1))}"
        )
    return int(t0), int(t1)
