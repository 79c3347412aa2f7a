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
from .plots import plot_spectrum
from .reports import BEYOND, Report, layer_texts, numbers_text, plain
from .sweeps import (
    carry,
    check_layer,
    check_span,
    is_int,
    places_of_directions,
    row_groups,
    state_size,
    sweep,
    sweep_direction,
    trace_of,
)

__all__ = [
    "JacobianSpectrum",
    "input_jacobian",
    "jacobian_spectrum",
    "lyapunov_exponents",
    "state_jacobian",
    "step_factors",
]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def state_jacobian(layer, x=None, t0=0, t1=None, state=None, *, trace=None, num_threads=None,
                   lengths=None, resets=None):  # fmt: skip
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
    trace : Trace, instead of x, state, lengths and resets
        From the layer's forward.
    num_threads : int, optional
    lengths, resets
        As for the layer's forward. Beyond its end a row's state is its final one.

    Returns
    -------
    ndarray (B, S, S), or (S, S) for an unbatched sequence
        ``[b, i, j]`` is d s_t1[i] / d s_t0[j] of row b; zero where the row is reset between the two. A
        state is one vector: h of all layers of the stack, the first one first (of both directions, each in
        its own order), then c of all layers where the cell has it: S is L*D*P or L*D*(P + H).

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, the trace is another layer's, or the layer is a bidirectional stack of
        several.
    """
    trace = trace_of(layer, x, state, trace, num_threads, lengths, resets)
    t0, t1 = check_span(t0, t1, trace.steps)
    batch, size = trace.batch, state_size(layer)
    arrays = layer.kernels.arrays
    jacobian = arrays.empty((batch, size, size), layer.dtype)
    for rows in row_groups(layer, batch, size):
        seeds = arrays.broadcast_to(
            arrays.eye(size, dtype=layer.dtype)[rows], (batch, rows.stop - rows.start, size)
        )
        jacobian[:, rows] = sweep(layer, trace, seeds, t1, t0, num_threads)
    return jacobian[0] if trace.unbatched else jacobian


def input_jacobian(layer, x=None, t=None, state=None, *, trace=None, num_threads=None, lengths=None,
                   resets=None):  # fmt: skip
    """Differentiate the output at one step with respect to the inputs up to it: saliency over time.

    Parameters
    ----------
    layer : recurrent layer
    x : ndarray (T, B, I) or (T, I)
    t : int
        The step, 0 to T-1; by default the last.
    state, trace, num_threads, lengths, resets
        As for ``state_jacobian``.

    Returns
    -------
    ndarray (t+1, B, P, I), or (t+1, P, I) for an unbatched sequence
        ``[s, b, i, j]`` is d y_t[i] / d x_s[j] of row b. Of a bidirectional layer (T, B, 2 P, I).

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the trace is another layer's.
    """
    trace = trace_of(layer, x, state, trace, num_threads, lengths, resets)
    of, batch, inputs, outputs = trace.sequences, trace.batch, layer.input_size, layer.features_of_h
    if not of.steps:
        raise ValueError("x must have at least one step, got none")
    t = of.steps - 1 if t is None else t
    if not is_int(t) or not 0 <= t < of.steps:
        raise ValueError(f"t must be a step in [0, {of.steps}), got {t!r}")
    arrays, ends, parts = layer.kernels.arrays, of.ends, []
    for d in range(layer.num_directions):
        seeds = [
            arrays.zeros((layer.num_layers, batch * outputs, units), layer.dtype)
            for units in layer.state_sizes
        ]
        seeds[0][-1] = arrays.tile(arrays.eye(outputs, dtype=layer.dtype), (batch, 1))
        dx = arrays.zeros((of.steps, batch * outputs, inputs), layer.dtype)
        after = t + 1 if not d else of.steps - t if of.are_rows else np.maximum(ends - t, 0)
        sweep_direction(layer, trace, seeds, after, 0, outputs, num_threads, d, dx)
        parts.append(dx.reshape(of.steps, batch, outputs, inputs))
    out = parts[0][: t + 1] if len(parts) == 1 else arrays.concatenate(parts, axis=2)
    if not of.are_rows:
        out[:, ends <= t] = 0  # y is zero there, whatever x is
    return out[:, 0] if trace.unbatched else out


def lyapunov_exponents(layer, x=None, state=None, *, count=None, every=1, trace=None,
                       num_threads=None, lengths=None, resets=None):  # fmt: skip
    """Measure the rates at which small changes of the state grow or shrink along a sequence.

    Parameters
    ----------
    layer : recurrent layer
    x : ndarray (T, B, I) or (T, I)
        The longer, the closer to the limit that an exponent is.
    state, trace, num_threads, lengths, resets
        As for ``state_jacobian``.
    count : int, optional
        How many exponents, the largest ones; by default all S of them.
    every : int
        Steps between two orthogonalisations (QR). More steps are faster, but lose the smaller exponents to
        rounding, in float32 from about three on.

    Returns
    -------
    ndarray (B, count) of float64, or (count,) for an unbatched sequence
        Nats per step that a row has, the largest first: changes grow above 0 and shrink below. -inf where a
        direction is lost altogether, as at a reset, inf where a single step takes a row's changes beyond all
        numbers, NaN of a row without a step.

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
    trace = trace_of(layer, x, state, trace, num_threads, lengths, resets)
    steps, batch = trace.steps, trace.batch
    size, every = state_size(layer), check_size("every", every)
    count = size if count is None else check_size("count", count)
    if count > size:
        raise ValueError(f"count must be at most {size}, the numbers of a state, got {count}")
    if not steps:
        raise ValueError("x must have at least one step, got none")
    ends, all_sums, none = trace.sequences.ends, [], np.zeros(batch, int)
    for places in places_of_directions(layer):  # they do not mix
        own = min(count, len(places))
        first = np.linalg.qr(np.random.default_rng(0).standard_normal((len(places),) * 2))[0][:own]
        rows = np.zeros((batch, own, size), layer.dtype)
        rows[:, :, places] = first
        rows = layer.kernels.arrays.asarray(rows)
        sums, beyond = np.zeros((batch, own)), np.zeros(batch, bool)
        for t1 in range(steps, 0, -every):
            rows, powers = carry(layer, trace, rows, none, t1, max(0, t1 - every), num_threads)
            matrices, bad = _finite_matrices(rows)
            q, r = np.linalg.qr(matrices[:, :, places].swapaxes(1, 2))
            with np.errstate(divide="ignore"):
                sums += np.log(np.abs(np.diagonal(r, axis1=1, axis2=2)))
            sums, beyond = sums + powers[:, None] * math.log(2), beyond | bad
            rows = np.zeros((batch, own, size), layer.dtype)
            rows[:, :, places] = q.swapaxes(1, 2)
            rows = layer.kernels.arrays.asarray(rows)
        sums[beyond], sums[ends == 0] = math.inf, math.nan
        all_sums.append(sums / np.maximum(ends, 1)[:, None])
    exponents = -np.sort(-np.concatenate(all_sums, axis=1), axis=1)[:, :count]
    return exponents[0] if trace.unbatched else exponents


# -- the spectrum over distance ---------------------------------------------------------------------


@dataclass(repr=False)
class JacobianSpectrum(Report):
    """Singular values of d s_t1 / d s_(t1-k) over the distance k, and the factors of a step.

    Attributes
    ----------
    t1 : int
        The later state.
    distances : list of int
        The distances k, from 1 up.
    singular_values : ndarray (len(distances), B, S) of float64
        The largest first. Infinite where they are beyond all numbers: all those of a row whose Jacobian is.
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
        values = self.singular_values[:, :, 0]
        with np.errstate(all="ignore"):
            means = np.exp(np.log(values).mean(1))
        return np.where(np.isinf(values).any(1), math.inf, means)

    @property
    def rate(self):
        """Mean change per step of the logarithm of the largest, from the first distance to the last."""
        first, last = self.largest[[0, -1]]
        span = self.distances[-1] - self.distances[0]
        if not span or not first or not last:
            return math.nan if not span else -math.inf
        if math.isinf(last):
            return math.inf
        with np.errstate(all="ignore"):
            ratio = last / first
        change = np.log(ratio) if 0 < ratio < math.inf else np.log(last) - np.log(first)
        return float(change / span)

    def __str__(self):
        t1 = self.t1
        lines = [f"singular values of d s_{t1} / d s_({t1}-k): what changes k steps before are multiplied by",
                 "      k    largest     median   smallest"]  # fmt: skip
        for k, values in zip(self.distances, self.singular_values):
            most = values[:, 0].max()
            shown = (most, np.median(values), values[:, -1].min())
            numbers = "  ".join(self._text(v, self.precision * most) for v in shown)
            lines.append(f"  {k:5}  {numbers}")
        beyond = np.flatnonzero(np.isinf(self.singular_values).any((1, 2)))
        if len(beyond):
            lines.append(f"  {BEYOND} from k = {self.distances[beyond[0]]} on")
        texts = layer_texts(factors["name"] for factors in self.factors)
        for factors in self.factors:
            layer, steps = f"{texts[factors['name']]}: " if len(texts) > 1 else "", factors["steps"]
            norms = factors["spectral_norm"]
            lines.append(f"  {layer}spectral norm of the recurrent weights: {numbers_text(norms)}")
            text = "no row has a step"
            if steps.any():
                quantiles, middle = factors["derivatives"], len(QUANTILES) // 2
                text = numbers_text(
                    {name: np.median(q[steps, middle]) for name, q in quantiles.items()}
                )
            lines.append(f"  {layer}median of the factors of a step: {text}")
        return "\n".join(lines)

    @staticmethod
    def _text(value, least):
        return f"{value:9.3e}" if value >= least or math.isinf(least) else f"< {least:.1e}"

    def to_dict(self):
        """Return all numbers as plain lists and floats, for JSON."""
        factors = [
            {
                "spectral_norm": {name: plain(norm) for name, norm in f["spectral_norm"].items()},
                "spectral_radius": plain(f["spectral_radius"]),
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

    def plot(self, path=None):
        """Draw the singular values over the distance: see ``Report``."""
        return plot_spectrum(self, path)


def jacobian_spectrum(layer, x=None, t1=None, distances=None, state=None, *, trace=None,
                      num_threads=None, lengths=None, resets=None):  # fmt: skip
    """Compute the singular values of the state's Jacobian over growing distances.

    Parameters
    ----------
    layer : recurrent layer
    x : ndarray (T, B, I) or (T, I)
    t1 : int, optional
        The later state, 1 to T; by default the last.
    distances : list of int, optional
        1 to t1; by default 1, 2, 4, ... and t1.
    state, trace, num_threads, lengths, resets
        As for ``state_jacobian``.

    Returns
    -------
    JacobianSpectrum

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the trace is another layer's.
    """
    trace = trace_of(layer, x, state, trace, num_threads, lengths, resets)
    _, t1 = check_span(0, t1, trace.steps)
    if distances is not None and not (np.ndim(distances) == 1 and len(distances)):
        raise ValueError(f"distances must be a list of steps, got {distances!r}")
    if distances is None:
        distances = sorted({2**i for i in range(64) if 2**i < t1} | {t1})
    distances = sorted(set(distances))
    for k in distances:
        if not is_int(k) or not 1 <= k <= t1:
            raise ValueError(f"distances must be in [1, {t1}], got {k!r}")
    batch, size = trace.batch, state_size(layer)
    arrays = layer.kernels.arrays
    rows = arrays.broadcast_to(arrays.eye(size, dtype=layer.dtype), (batch, size, size))
    singular_values, done, powers = [], 0, np.zeros(batch, int)
    for k in distances:
        rows, powers = carry(layer, trace, rows, powers, t1 - done, t1 - k, num_threads)
        matrices, beyond = _finite_matrices(rows)
        with np.errstate(over="ignore"):
            values = np.ldexp(np.linalg.svd(matrices, compute_uv=False), powers[:, None])
        values[beyond] = math.inf
        singular_values.append(values)
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
    list of dict, one for each layer of the stack and each of its directions
        "name" is that of its weights, "l0_reverse"; "steps", (T,) booleans, says which steps a row has;
        "spectral_norm" is a dict of gate to the largest singular value of its recurrent weights;
        "spectral_radius" is the largest absolute eigenvalue of the recurrent weights of a cell with one
        gate, else None (either is infinite where a weight is not finite); "derivatives" is a dict of name
        to ndarray (T, 5), the quantiles (5, 25, 50, 75, 95 %) over rows and units, at each step that a row
        has, of the derivative of every activation and of what else a gradient is multiplied by. For an LSTM
        that is "f", for c, and "o (1 - tanh(c)^2)", between h and c.

    Raises
    ------
    TypeError, ValueError
        It is not a recurrent layer, or the trace is another layer's or empty.
    """
    check_layer(layer)
    layer.check_trace(trace)
    if not trace.steps or not trace.batch:
        raise ValueError(
            f"x must have at least one step and one row, got {shape_text(trace.x.shape)}"
        )
    return [
        {
            "name": layer.part_name(number),
            "steps": trace.sequences.have_steps,
            **_factors(layer[layer.named("weight_hh", number)], one),
        }
        for number, one in enumerate(trace.layers)
    ]


def _factors(weight_hh, trace):
    """Return the factors of one layer of a stack."""
    limit = {} if trace.clip is None else {"clip": trace.clip}
    names = [gate.name for gate in trace.cell.gates]
    blocks = _in_float64(weight_hh).reshape(len(names), -1, weight_hh.shape[1])
    norms, radius = [_finite_or_inf(b, lambda b: np.linalg.norm(b, 2)) for b in blocks], None
    if len(blocks) == 1:
        radius = _finite_or_inf(blocks[0], lambda b: np.abs(np.linalg.eigvals(b)).max())
    with np.errstate(all="ignore"):  # what is not finite stays, for the report to say
        derivatives = trace.cell.derivatives(
            _in_float64(trace.h),
            None if trace.c is None else _in_float64(trace.c),
            {name: _in_float64(saved) for name, saved in trace.saved.items()},
            **limit,
        )
        quantiles = {name: _quantiles(d, trace.sequences) for name, d in derivatives.items()}
    return {
        "spectral_norm": dict(zip(names, norms)),
        "spectral_radius": radius,
        "derivatives": quantiles,
    }


def _quantiles(values, of):
    """Return quantiles (T, 5) over the units, (T, B, H) or (T, H), of the rows that have the step."""
    if of.lengths is None:
        return np.quantile(values.reshape(len(values), -1), QUANTILES, axis=1).T
    values, out = (
        values.reshape(of.steps, of.batch, -1),
        np.full((of.steps, len(QUANTILES)), np.nan),
    )
    for t in range(int(of.ends.max())):
        out[t] = np.quantile(values[t, of.ends > t], QUANTILES)
    return out


def _finite_or_inf(matrix, measure):
    """Return a number measured of a matrix; infinity where that has elements that are not finite."""
    return float(measure(matrix)) if np.isfinite(matrix).all() else math.inf


def _finite_matrices(rows):
    """Return rows (B, R, S) in float64, zeros for matrices that are not finite, and which these are."""
    matrices = _in_float64(rows)
    beyond = ~np.isfinite(matrices).all((1, 2))
    return np.where(beyond[:, None, None], 0.0, matrices), beyond


def _in_float64(array):
    return host(array).astype(np.float64)
