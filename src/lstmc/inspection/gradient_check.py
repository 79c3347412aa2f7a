"""Is backward right? Its gradients against central differences in float64."""

import math
from dataclasses import dataclass

import numpy as np

from .._kernels.devices import copy_into, host
from ..layer import Layer, check_size
from ..passes import run
from .inputs import loss_and_trace, network_of
from .reports import plain

__all__ = ["GradientReport", "TensorCheck", "check_gradients"]


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
        the smallest that would be, and mean nothing.
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


@dataclass
class GradientReport:
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


def check_gradients(net, x, targets=None, state=None, *, samples=100, directions=3, tolerance=1e-6,
                    step=1e-5, rng=0):  # fmt: skip
    """Compare backward with central differences, in float64.

    Parameters
    ----------
    net : recurrent layer, Sequential or LanguageModel
        If it is float32, a copy in float64 is checked, which requires that all layers are lstmc's or define
        ``options()``. Nothing is dropped. The network does not change.
    x : ndarray
        What the network takes. Its gradient is checked too, unless it holds tokens.
    targets : optional
        As for ``gradient_flow``: classes, numbers, a function of y, or None for a random gradient at y.
    state : optional
        The initial state. If there is one, its gradient is checked too.
    samples : int or None
        How many elements of each tensor are changed, drawn at random. None means all.
    directions : int
        How many random directions over each whole tensor are checked as well: they detect an error in any
        element.
    tolerance : float
        The largest error allowed: for an element relative to the largest of its tensor's gradient, along a
        direction relative to the norm of that gradient.
    step : float
        By how much an element is changed; along a direction, the norm of the change.
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
    """
    net = network_of(net)
    if not isinstance(net, Layer):
        raise TypeError(f"net must be a layer or a network of layers, got {type(net).__name__}")
    if net.dtype != np.float64 or not list(net.parameters()):
        net = _in_float64(net)
    x, state = _as_float64(x), _as_float64(state)
    if targets is not None and not callable(targets):
        targets = _as_float64(targets if hasattr(targets, "dtype") else np.asarray(targets))
    for name, value in (("tolerance", tolerance), ("step", step)):
        if not isinstance(value, (int, float, np.number)) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    samples = None if samples is None else check_size("samples", samples)
    directions = check_size("directions", directions)
    rng = np.random.default_rng(rng)
    loss, dy, trace = loss_and_trace(net, _copy(x), targets, state, None, None, None)
    before = net.params.copy(), net.grads.copy()
    try:
        net.zero_grad()
        dx, dstate = net.backward(dy, trace)
        tensors = [(name, net[name], net.grad(name)) for name in net.parameters()]
        if dx is not None and hasattr(x, "dtype") and x.dtype.kind == "f":
            tensors.append(("x", x, dx))
        tensors += _parts("state", state, dstate)

        def value():
            return _loss_of(net, x, targets, state, dy)

        loss = value() if loss is None else loss
        # Differences cannot measure gradients below the rounding of the loss.
        least = 16 * np.finfo(np.float64).eps * abs(loss) / step / tolerance
        with np.errstate(all="ignore"):  # the report says what is not finite
            checks = [_check(*t, value, least, samples, directions, step, rng) for t in tensors]
        return GradientReport(loss, tolerance, checks)
    finally:
        net.params[:], net.grads[:] = before


def _loss_of(net, x, targets, state, dy):
    if targets is None:  # a random gradient is that of a sum with these weights
        return float((run(net, _copy(x), state)[0] * dy).sum())
    return loss_and_trace(net, _copy(x), targets, state, None, None, None)[0]


def _copy(x):
    """Return an input for a layer to keep, which may make it read-only."""
    return x.copy() if hasattr(x, "dtype") else x


def _check(name, tensor, gradient, value, least, samples, directions, step, rng):
    flat, gradient = tensor.reshape(-1), host(gradient).reshape(-1)
    n = flat.size
    chosen = np.arange(n)
    if samples is not None and samples < n:
        chosen = np.sort(rng.choice(n, samples, replace=False))
    least = max(least, 1e-30)
    largest = float(np.abs(gradient).max(initial=0))
    measurable = not largest < least
    largest = max(largest, least)
    worst = (-1.0, 0, 0.0, 0.0)
    for i in chosen:
        before = float(flat[i])
        flat[i] = above = before + step
        upper = value()
        flat[i] = below = before - step
        slope = (upper - value()) / (above - below)
        flat[i] = before
        error = abs(slope - gradient[i]) / largest
        if not error <= worst[0]:  # so that NaN is the worst
            worst = (float(error), int(i), float(gradient[i]), float(slope))
            if math.isnan(error):
                break
    before, norm, off = host(flat.copy()), max(float(np.linalg.norm(gradient)), least), 0.0
    for _ in range(directions if n else 0):
        direction = rng.standard_normal(n)
        direction /= np.linalg.norm(direction)
        copy_into(flat, before + step * direction)
        upper = value()
        copy_into(flat, before - step * direction)
        slope = (upper - value()) / (2 * step)
        copy_into(flat, before)
        error = abs(slope - direction @ gradient) / norm
        off = error if not error <= off else off
    where = tuple(int(k) for k in np.unravel_index(worst[1], tensor.shape)) if n else ()
    return TensorCheck(name, n, len(chosen), max(worst[0], 0.0) if worst[0] == worst[0] else math.nan,
                       where, worst[2], worst[3], float(off), measurable)  # fmt: skip


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
