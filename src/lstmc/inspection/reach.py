"""How far back the gradient of a loss at some steps reaches, and how fast it shrinks or grows on the way."""

import math
from dataclasses import dataclass

import numpy as np

from .._kernels import kernels_of
from .._kernels.devices import host

__all__ = [
    "Reach",
    "ends_of",
    "exponents_of",
    "norms_of_rows",
    "norms_over_time",
    "only_at",
    "reach_of",
]

VANISHED, EXPLODED = 1e-2, 1e2  # what is left of the gradient one step back, at the farthest state
STEADY = 0.5  # from this R squared on, the gradient changes at one rate


@dataclass(repr=False)
class Reach:
    """How far back the gradient of the loss at some steps reaches.

    Attributes
    ----------
    norms : ndarray (K+1,)
        ``norms[k]`` is the norm of the gradient with respect to the state (h, or h and c) k steps before, in
        each row from where its loss is. Where rows have fewer steps before, or a reset, the others stand for
        all: their norm, times what all have one step back over what they have there. For several steps it is
        the root mean square of theirs, each relative to its own one step back. The last is the farthest that
        a row reaches: without resets the initial state of the longest.
    rate : float
        Mean change of its logarithm per step, by least squares over k >= 1; NaN with fewer than three points.
    fit : float
        R squared of that line: 1 where the gradient changes by one factor per step.
    """

    norms: np.ndarray
    rate: float
    fit: float

    def __repr__(self):
        back = len(self.norms) - 1
        return f"Reach({self.verdict}, steps={back}, rate={self.rate:.3g}, fit={self.fit:.3g})"

    @property
    def half_life(self):
        """Steps after which half of the gradient is left; infinite if it does not shrink."""
        return (
            -math.log(2) / self.rate if self.rate < 0 else math.inf if self.rate >= 0 else math.nan
        )

    @property
    def kept(self):
        """The share of the gradient one step back that is left at the initial state."""
        with np.errstate(all="ignore"):
            return float(self.norms[-1] / self._first) if self._first else math.nan

    @property
    def is_steady(self):
        """Whether the gradient changes at one rate."""
        return self.fit >= STEADY

    @property
    def _first(self):
        """The norm one step back; if that is zero or not finite, the norm at the step itself."""
        one_back = self.norms[1]
        return one_back if one_back and math.isfinite(one_back) else self.norms[0]

    @property
    def verdict(self):
        """The verdict: "vanishing", "exploding", "healthy", or "none" where no gradient arrives."""
        if not np.isfinite(self.norms).all() or self.kept > EXPLODED:
            return "exploding"
        if not self.norms.any():
            return "none"
        return "vanishing" if not self.kept >= VANISHED else "healthy"

    @property
    def turn(self):
        """Steps back from which on the gradient stays beyond the limit of its verdict; None if healthy."""
        first, verdict = self._first, self.verdict
        if verdict == "vanishing":
            beyond = ~(self.norms >= VANISHED * first)
        elif verdict == "exploding":
            beyond = ~(self.norms <= EXPLODED * first)
        else:
            return None
        within = np.flatnonzero(~beyond)
        return int(within[-1]) + 1 if len(within) else 0


def ends_of(s, steps, lengths):
    """Return the state after step s: a number or, with lengths, one a row, 0 where it has no such step.

    Parameters
    ----------
    s : int
        Negative from the end, with lengths from each row's own.
    steps : int
        T.
    lengths : ndarray (B,), int or None
    """
    if lengths is None:
        return s % steps + 1
    lengths = np.atleast_1d(lengths)
    ends = lengths + s + 1 if s < 0 else np.full(lengths.shape, s + 1)
    return np.where((ends > 0) & (ends <= lengths), ends, 0)


def only_at(net, unbatched, dy, ends):
    """Return the part of dy that is at these states, as of ``ends_of``, and zero elsewhere.

    It is the whole dy if the network's output has no axis of time, as all of it is at the end then.
    """
    if not net.keeps_time:
        return dy
    only = np.zeros_like(dy)
    turned = net.batch_first and not unbatched
    to, source = (
        a[:, None] if unbatched else a.swapaxes(0, 1) if turned else a for a in (only, dy)
    )
    rows = None if isinstance(ends, int) else np.flatnonzero(ends)
    where = ends - 1 if rows is None else (ends[rows] - 1, rows)
    to[where] = source[where]
    return only


def norms_over_time(*arrays):
    """Return the norm over all but the first axis, of several arrays together, in float64, on the host."""
    arrays = [a for a in arrays if a is not None]
    squares = sum(np.square(a, dtype=np.float64).reshape(len(a), -1).sum(1) for a in arrays)
    norms = host(np.sqrt(squares))
    if arrays[0].dtype == np.float64:  # squares of float32 do not leave the range of float64
        odd = ~((norms > 1e-140) & (norms < math.inf))
        if odd.any():
            rows = [host(a).reshape(len(a), -1)[odd] for a in arrays]
            norms[odd] = norms_of_rows(np.concatenate(rows, axis=1))
    return norms


def exponents_of(array):
    """Return, for each entry of the first axis, the power of two that brings its largest element near 1.

    It is 0 where that element is zero or not finite.
    """
    largest = np.abs(array).max(tuple(range(1, array.ndim)), initial=0)
    usable = np.isfinite(largest) & (largest > 0)
    return np.where(usable, np.frexp(np.where(usable, largest, 1.0))[1], 0)


def norms_of_rows(rows, counts=1):
    """Return the norm of each row (n, m) of float64, of a sum of squares divided by `counts`.

    The squares are those of numbers scaled by a power of two, so that none overflows or vanishes.
    """
    exponents = exponents_of(rows)
    with np.errstate(all="ignore"):
        squares = np.square(np.ldexp(rows, -exponents[:, None])).sum(1)
        return np.ldexp(np.sqrt(squares / counts), exponents)


def reach_of(runs, keeps_time=True):
    """Return the Reach of one layer of a stack from the losses of single steps.

    Each of several losses counts relative to its own gradient one step back, so that a large one that ends
    sooner leaves no cliff behind.

    Parameters
    ----------
    runs : list of (states, Record, number in the stack)
        One for each loss; the states are those of ``ends_of``. Of a reverse direction, what is before them
        is what it has read by then, the later steps of x.
    keeps_time : bool
        Whether the output has an axis of time; if not, its loss is where each direction ends.
    """
    curves = []
    for ends, record, number in runs:
        g = record.stack[number]
        ends = g.own_state(ends, not keeps_time)
        initial = record.dstate if isinstance(record.dstate, tuple) else (record.dstate,)
        later = (g.dh,) if g.dc_later is None else (g.dh, g.dc_later)
        parts = zip((part[number] for part in initial), map(g.in_own_order, later))
        curves.append(_curve([_back_from(ends, *both) for both in parts], _connected(g, ends)))
    norms = curves[0]
    if len(curves) > 1:
        curves = [curve for curve in curves if curve[1]] or curves[:1]
        size = norms_of_rows(np.array([[curve[1] for curve in curves]]), len(curves))[0] or 1.0
        relative, counts = np.zeros((max(map(len, curves)), len(curves))), 0
        for i, curve in enumerate(curves):
            relative[: len(curve), i] = curve / (curve[1] or 1.0)
            counts = counts + (np.arange(len(relative)) < len(curve))
        norms = size * norms_of_rows(relative, counts)
    norms = np.where(np.isnan(norms), math.inf, norms)  # of infinite gradients that were added
    return Reach(norms, *_fit(norms))


def _back_from(ends, initial, later):
    """Return what arrives at the states from `ends` back to the initial one: (K+1, B, H).

    `initial` (B, H) arrives at state 0, `later` (T, B, H) at those after it. Of a row that has no state so
    far back it is zero.
    """
    concatenate = kernels_of(later).arrays.concatenate
    states = concatenate([initial.reshape(1, *later.shape[1:]), later])
    if isinstance(ends, int):
        return states[ends::-1]
    wanted = ends - np.arange(ends.max() + 1)[:, None]
    rows = states[np.maximum(wanted, 0), np.arange(len(ends))]
    rows[wanted < 0] = 0
    return rows


def _connected(g, ends):
    """Return which rows have a state k steps before, with no reset between, (K+1, B); None: all have all."""
    resets = g.sequences.resets
    if isinstance(ends, int) and resets is None:
        return None
    steps, batch = g.sequences.steps, g.sequences.batch
    ends = np.broadcast_to(ends, batch)
    wanted = ends - np.arange(ends.max() + 1)[:, None]
    there = (wanted >= 0) & (ends > 0)
    if resets is not None:
        # The number of the reset that a step follows; a state is that of the step before it, and before all
        # there is what the first one begins with.
        number = np.cumsum(resets, axis=0)[..., None]
        number = g.in_own_order(number)[..., 0]
        before = number[:1] if g.is_reverse else np.zeros((1, batch), int)
        number = np.concatenate([before, number])
        rows = np.arange(batch)
        there &= number[np.maximum(wanted, 0), rows] == number[np.minimum(ends, steps), rows]
    return there


def _curve(parts, there):
    """Return the norms of a Reach, from what arrives at the states k steps before: arrays (K+1, B, H)."""
    norms = norms_over_time(*parts)
    if there is None:
        return norms
    reached = max(1, np.flatnonzero(there.any(1)).max(initial=0))
    one_back = np.concatenate([part[1] for part in parts], axis=1, dtype=np.float64)
    sizes = norms_of_rows(one_back)
    of_these = norms_of_rows(np.where(there[1:], sizes, 0.0))
    norms[1:] *= np.where(of_these > 0, of_these[0] / of_these, 1.0)
    return norms[: reached + 1]


def _fit(norms):
    """Fit a line to the logarithm over k >= 1, without zeros: return its slope and R squared."""
    k = np.arange(len(norms))
    usable = (k >= 1) & np.isfinite(norms) & (norms > 0)
    if usable.sum() < 3:
        return math.nan, math.nan
    k, y = k[usable].astype(float), np.log(norms[usable])
    k, y = k - k.mean(), y - y.mean()
    slope = (k @ y) / (k @ k)
    spread = y @ y
    left = y - slope * k
    # A line that is flat but for rounding explains all that there is to explain.
    fit = 1.0 if spread <= 1e-20 * len(y) else 1 - (left @ left) / spread
    return float(slope), float(fit)
