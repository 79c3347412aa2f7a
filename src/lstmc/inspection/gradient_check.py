"""Is backward right? Its gradients against central differences in float64."""

import math
from dataclasses import dataclass

import numpy as np

from .._kernels.devices import copy_into, host
from ..files import check_rng
from ..layer import Layer, check_size
from ..network import layout_of
from ..passes import differentiate, run
from .inputs import loss_and_trace, loss_at, network_of, real_steps
from .reports import Report, plain

__all__ = ["GradientReport", "TensorCheck", "check_gradients"]

EPSILON = float(np.finfo(np.float64).eps)
LEAST_STEP = 1e-12


@dataclass
class TensorCheck:
    """One tensor's gradient against central differences.

    Attributes
    ----------
    name : str
        The name of the parameter, "x", or a part of the initial state.
    size : int
        The number of its elements.
    checked : int
        How many of them were changed, one at a time.
    error : float
        The largest difference, relative to the largest element of the gradient.
    worst : tuple of int
        The index of that element.
    backward, differences : float
        Its gradient by backward, and by differences.
    measurable : bool
        Whether the gradient is large enough to be measured by differences. If not, its errors are relative to
        the smallest that would be: a gradient that is wrong by less is not found.
    direction_error : float
        The largest difference along random directions over the whole tensor, relative to the gradient's norm.
    """

    name: str
    size: int
    checked: int
    error: float
    worst: tuple
    backward: float
    differences: float
    direction_error: float
    measurable: bool = True


@dataclass(repr=False)
class GradientReport(Report):
    """The result of ``check_gradients``. As a boolean it is true if every gradient is right."""

    loss: float
    tolerance: float
    tensors: list

    @property
    def passed(self):
        """Whether no error exceeds the tolerance; NaN does."""
        return not self.failed

    @property
    def failed(self):
        """The names of the tensors whose gradient is wrong."""
        return [t.name for t in self.tensors if not max_error(t) <= self.tolerance]

    def __bool__(self):
        return self.passed

    def __str__(self):
        verdict = "right" if self.passed else f"WRONG: {', '.join(self.failed)}"
        lines = [
            f"gradients against central differences in float64, loss {self.loss:.6g}: {verdict}"
        ]
        width = max([len(t.name) for t in self.tensors] + [6])
        lines.append(f"  {'tensor':<{width}}  checked of     all    worst  along directions")
        for t in self.tensors:
            line = f"  {t.name:<{width}}  {t.checked:7} {t.size:10}  {t.error:7.1e}  {t.direction_error:7.1e}"
            if t.name in self.failed:
                at = ", ".join(map(str, t.worst))
                line += (
                    f"  at [{at}] backward says {t.backward:.6g}, differences {t.differences:.6g}"
                )
            if not t.measurable:
                line += "  too small to tell"
            lines.append(line)
        lines.append(f"  allowed: {self.tolerance:.0e}, of the largest element or of the norm")
        return "\n".join(lines)

    def to_dict(self):
        """Return all numbers as plain lists and floats, for JSON."""
        tensors = [
            {
                "name": t.name,
                "size": t.size,
                "checked": t.checked,
                "error": plain(t.error),
                "worst": list(t.worst),
                "backward": plain(t.backward),
                "differences": plain(t.differences),
                "direction_error": plain(t.direction_error),
                "measurable": t.measurable,
            }
            for t in self.tensors
        ]
        return {
            "passed": self.passed,
            "loss": self.loss,
            "tolerance": self.tolerance,
            "tensors": tensors,
        }


def max_error(tensor):
    """Return the larger of a tensor's two errors; NaN if either is."""
    return float(np.max([tensor.error, tensor.direction_error]))


def check_gradients(net, x, targets=None, state=None, *, lengths=None, resets=None, samples=100,
                    directions=3, tolerance=1e-6, step=1e-5, rng=0):  # fmt: skip
    """Compare backward with central differences, in float64.

    Parameters
    ----------
    net : recurrent layer, network or LanguageModel
        If it is float32, a copy in float64 is checked, which requires that all layers are lstmc's or define
        ``options()``. Nothing is dropped, and no gradient limited (``grad_clip``), which is not its
        derivative then. The network does not change.
    x : ndarray
        What the network takes. Its gradient is checked too, unless it holds tokens.
    targets : optional
        As for ``gradient_flow``: classes, numbers, a function of y, or None for a random gradient at y.
    state : optional
        The initial state. If there is one, its gradient is checked too.
    lengths, resets : optional
        As for the network's forward. What x holds beyond an end is changed too: its gradient is zero.
    samples : int or None
        How many elements of each tensor are changed, drawn at random. None means all.
    directions : int
        How many random directions over each whole tensor are checked as well: they detect an error in any
        element.
    tolerance : float
        The largest error allowed: for an element relative to the largest of its tensor's gradient, along a
        direction relative to the norm of that gradient.
    step : float
        By how much an element is changed; along a direction, the norm of the change. From 1e-12 to 1, and
        large enough that float64 tells an element from the changed one.
    rng : int or numpy Generator
        Draws the samples and the directions.

    Returns
    -------
    GradientReport
        ``assert report`` in a test; ``print(report)`` for a person.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, the loss is not finite, or a layer of a float32 network has no
        ``options()``.

    Notes
    -----
    Where a difference is off by more than the tolerance, a second one, over twice the step, tells the error
    of the method (Richardson), which is large beside the gradient near a minimum of the loss. It is taken
    off, and a sixteenth of it is allowed; so is the rounding of the loss, which is 16 machine epsilons of
    the sum of |y dy| (y the output), and in the cross-entropy, for its logarithm, of 1.
    """
    net = network_of(net)
    if not isinstance(net, Layer):
        raise TypeError(f"net must be a layer or a network of layers, got {type(net).__name__}")
    if net.dtype != np.float64 or not list(net.parameters()):
        net = _in_float64(net)
    x, state = _as_float64(x), _as_float64(state)
    if targets is not None and not callable(targets):
        targets = _as_float64(targets if hasattr(targets, "dtype") else np.asarray(targets))
    _check_positive("tolerance", tolerance)
    _check_positive("step", step)
    if not LEAST_STEP <= step <= 1:
        raise ValueError(f"step must be a number in [{LEAST_STEP:g}, 1], got {step!r}")
    samples = None if samples is None else check_size("samples", samples)
    directions = check_size("directions", directions)
    rng = check_rng(rng)
    times = {"lengths": lengths, "resets": resets}
    layout = layout_of(x, getattr(net, "batch_first", False), lengths, resets)
    if layout is not None:  # what lies beyond an end may be no number, which cannot be changed
        x = layout.leave("x", layout.enter(x))
    loss, dy, trace = loss_and_trace(net, _copy(x), targets, state, None, None, None, **times)
    before = net.params.copy(), net.grads.copy()
    try:
        net.zero_grad()
        dx, dstate = differentiate(net, dy, trace)
        tensors = [(name, net[name], net.grad(name)) for name in net.parameters()]
        if dx is not None and hasattr(x, "dtype") and x.dtype.kind == "f":
            tensors.append(("x", x, dx))
        tensors += _parts("state", state, dstate)

        measured = _Loss(net, x, targets, state, dy, times)
        loss = measured() if loss is None else loss
        check = _Differences(measured, loss, step, tolerance)
        with np.errstate(all="ignore"):  # the report says what is not finite
            checks = [_check(*t, check, samples, directions, rng) for t in tensors]
        return GradientReport(loss, tolerance, checks)
    finally:
        net.params[:], net.grads[:] = before


def _check_positive(name, value):
    if not isinstance(value, (int, float, np.number)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


class _Loss:
    """The loss of a network as it is now, and by how much that is rounded."""

    def __init__(self, net, x, targets, state, dy, times):
        self.net, self.x, self.targets, self.state, self.dy = net, x, targets, state, dy
        self.times = times

    def __call__(self):
        if self.targets is None:  # a random gradient is that of a sum with these weights
            return float((self._run()[0] * self.dy).sum())
        call = self.net, _copy(self.x), self.targets, self.state, None, None, None
        return loss_and_trace(*call, **self.times)[0]

    def rounding(self):
        """Return the size of what is rounded on the way to the loss."""
        y, _, trace = self._run()
        dy, logarithm = self.dy, 0.0
        if self.targets is not None:
            dy = loss_at(y, self.targets, real=real_steps(self.net, trace))[1]
            kind = getattr(getattr(self.targets, "dtype", None), "kind", "f")
            logarithm = 1.0 if kind in "iu" else 0.0
        return float(abs(y * dy).sum()) + logarithm

    def _run(self):
        return run(self.net, _copy(self.x), self.state, **self.times)


class _Differences:
    """Compares gradients with central differences of a loss.

    Attributes
    ----------
    least : float
        The smallest gradient that the rounding of the loss lets differences measure.
    """

    def __init__(self, loss, value, step, tolerance):
        self.loss, self.step, self.tolerance = loss, step, tolerance
        self.least = max(16 * EPSILON * abs(value) / step / tolerance, 1e-30)

    def error(self, move, gradient, size):
        """Return the slope by differences, its error relative to `size`, and the least size they measure.

        Parameters
        ----------
        move : function of a number of steps
            Moves what the gradient is of, and returns its place then.
        gradient, size : float
        """
        slope = self._slope(move, 1)
        error, least = abs(slope - gradient) / size, self.least
        if not error <= self.tolerance and math.isfinite(slope):
            rounding = self._rounding(move)
            bend = (
                self._slope(move, 2) - slope
            ) / 3  # a sixth of the third derivative times step squared
            slope -= bend
            allowed = abs(bend) / 16 + rounding / self.step
            least = max(least, allowed / self.tolerance)
            error = abs(slope - gradient) / max(size, least)
        move(0)
        return slope, error, least

    def _slope(self, move, steps):
        above = move(steps)
        upper = self.loss()
        below = move(-steps)
        return (upper - self.loss()) / (above - below)

    def _rounding(self, move):
        """Return by how much the loss is rounded where it was measured."""
        sizes = []
        for steps in (1, -1):
            move(steps)
            sizes.append(abs(self.loss()) + self.loss.rounding())
        return 16 * EPSILON * max(sizes)


def _copy(x):
    """Return an input for a layer to keep, which may make it read-only."""
    return x.copy() if hasattr(x, "dtype") else x


def _check(name, tensor, gradient, check, samples, directions, rng):
    flat, gradient = tensor.reshape(-1), host(gradient).reshape(-1)
    n = flat.size
    chosen = np.arange(n)
    if samples is not None and samples < n:
        chosen = np.sort(rng.choice(n, samples, replace=False))
    largest, least = float(np.abs(gradient).max(initial=0)), check.least
    worst = (-1.0, 0, 0.0, 0.0)
    for i in chosen:
        move = _mover(name, flat, i, check.step)
        slope, error, measured = check.error(move, gradient[i], max(largest, check.least))
        least = max(least, measured)
        if not error <= worst[0]:  # so that NaN is the worst
            worst = (float(error), int(i), float(gradient[i]), float(slope))
            if math.isnan(error):
                break
    norm, off = max(float(np.linalg.norm(gradient)), check.least), 0.0
    for _ in range(directions if n else 0):
        direction = rng.standard_normal(n)
        direction /= np.linalg.norm(direction)
        move = _mover_along(flat, direction, check.step)
        _, error, _ = check.error(move, direction @ gradient, norm)
        off = error if not error <= off else off
    where = tuple(int(k) for k in np.unravel_index(worst[1], tensor.shape)) if n else ()
    return TensorCheck(name, n, len(chosen), max(worst[0], 0.0) if worst[0] == worst[0] else math.nan,
                       where, worst[2], worst[3], float(off), not largest < least)  # fmt: skip


def _mover(name, flat, i, step):
    """Return a function that moves one element by a number of steps, and returns where it is then."""
    before = float(flat[i])
    if before + step == before or before - step == before:
        raise ValueError(
            f"step must be large enough to change {name}, which holds {before:g}, got {step!r}"
        )

    def move(steps):
        flat[i] = after = before + steps * step
        return after

    return move


def _mover_along(flat, direction, step):
    """Return a function that moves an array along a direction, and returns by how much."""
    before = host(flat.copy())

    def move(steps):
        copy_into(flat, before + steps * step * direction)
        return steps * step

    return move


def _parts(name, state, dstate):
    """Yield the name, array and gradient of each part of a state."""
    if isinstance(state, tuple):
        for i, (part, dpart) in enumerate(zip(state, dstate)):
            yield from _parts(f"{name}[{i}]", part, dpart)
    elif state is not None:
        yield name, state, dstate


# -- the network in float64 -------------------------------------------------------------------------


def _as_float64(value):
    """Return a contiguous copy, of floats in float64."""
    if isinstance(value, (tuple, list)):
        return tuple(_as_float64(part) for part in value)
    if not hasattr(value, "dtype"):
        return value
    return value.astype(np.float64 if value.dtype.kind == "f" else value.dtype, order="C")


def _in_float64(net):
    """Return a copy of a network in float64, with the same weights."""
    try:
        return net.astype(np.float64)
    except TypeError as error:
        raise ValueError(
            f"net must be float64 to check a layer of another maker, {error}"
        ) from None
