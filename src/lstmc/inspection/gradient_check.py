"""Is backward right? Its gradients against central differences in float64."""

import math
from dataclasses import dataclass

import numpy as np

from .._kernels import copy_into, host
from ..layer import Layer, check_size
from ..layers import Dropout, Embedding, Linear
from ..network import Sequential
from ..recurrent import LSTM, RNN
from .flow import plain
from .passes import run, seeded, without_model

__all__ = ["GradientReport", "TensorCheck", "check_gradients"]


@dataclass
class TensorCheck:
    """One tensor's gradient against central differences.

    Attributes
    ----------
    name : str
        Of the parameter, or "x", or a part of the initial state.
    size : int
        How many elements it has.
    checked : int
        How many of them were moved, one at a time.
    error : float
        The largest difference, relative to the largest element of the gradient.
    worst : tuple of int
        Which element that was.
    backward, differences : float
        What backward and what the differences say of it.
    measurable : bool
        Whether the gradient is large enough for differences to tell. The errors of one that is not are
        relative to the smallest that would be, and say nothing.
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
    """What ``check_gradients`` found. True, as a boolean, where every gradient is right."""

    loss: float
    tolerance: float
    tensors: list

    @property
    def passed(self):
        """Whether no error is larger than the tolerance; one that is not a number is."""
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
        """Give all numbers as plain lists and floats, as JSON can hold them."""
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
    """Give the larger of a tensor's two errors; NaN if either is."""
    return float(np.max([tensor.error, tensor.direction_error]))


def check_gradients(net, x, targets=None, state=None, *, samples=100, directions=3, tolerance=1e-6,
                    step=1e-5, rng=0):  # fmt: skip
    """Compare backward with central differences, in float64.

    Parameters
    ----------
    net : LSTM, RNN, Sequential or LanguageModel
        Of float32, a copy of it in float64 is checked, which takes a network of lstmc's own layers.
        Nothing is dropped. The network is left as it was.
    x : ndarray
        What the network takes. Its gradient is checked too, unless it holds tokens.
    targets : optional
        As for ``gradient_flow``: classes, numbers, a function of y, or None for a random gradient at y.
    state : optional
        The initial state; its gradient is checked too, where it is given.
    samples : int or None
        How many elements of each tensor are moved, drawn at random; None: every one.
    directions : int
        How many random directions over each whole tensor are checked besides: they find an error in any one
        element.
    tolerance : float
        The largest error that is right: of an element relative to the largest of its tensor's gradient,
        along a direction relative to that gradient's norm.
    step : float
        How far an element is moved; along a direction, the norm of the movement.
    rng : int or numpy Generator
        Of the samples and directions.

    Returns
    -------
    GradientReport
        ``assert report`` in a test; ``print(report)`` for a person.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the loss is not finite; a float32 network holds a layer of another maker.
    """
    net = without_model(net)
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
    loss, dy, trace = seeded(net, _copy(x), targets, state, None, None, None)
    before = net.params.copy(), net.grads.copy()
    try:
        net.zero_grad()
        dx, dstate = _backward(net, dy, trace)
        tensors = [(name, net[name], net.grad(name)) for name in net.parameters()]
        if dx is not None and hasattr(x, "dtype") and x.dtype.kind == "f":
            tensors.append(("x", x, dx))
        tensors += _parts("state", state, dstate)

        def value():
            return _loss_of(net, x, targets, state, dy)

        loss = value() if loss is None else loss
        # Differences can not tell gradients that are smaller than what the loss is rounded by.
        least = 16 * np.finfo(np.float64).eps * abs(loss) / step / tolerance
        with np.errstate(all="ignore"):  # what is not finite is told in the report
            found = [_check(*t, value, least, samples, directions, step, rng) for t in tensors]
        return GradientReport(loss, tolerance, found)
    finally:
        net.params[:], net.grads[:] = before


def _loss_of(net, x, targets, state, dy):
    if targets is None:  # a random gradient is that of a sum with these weights
        return float((run(net, _copy(x), state)[0] * dy).sum())
    return seeded(net, _copy(x), targets, state, None, None, None)[0]


def _copy(x):
    """Give a layer an input of its own: it may keep it, and make it read-only."""
    return x.copy() if hasattr(x, "dtype") else x


def _backward(net, dy, trace, dstate=None):
    """Differentiate as backward does, but past a dropout that dropped nothing."""
    if isinstance(net, Dropout) and trace is None:
        return dy, dstate
    if not isinstance(net, Sequential):
        return net.backward(dy, trace, dstate)
    departing = []
    for layer, kept in zip(reversed(net.layers), reversed(trace.layers)):
        dy, out = _backward(layer, dy, kept)
        departing.append(out)
    return dy, tuple(departing[::-1])


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
    """Walk through the arrays of a state and of its gradient."""
    if isinstance(state, tuple):
        for i, (part, dpart) in enumerate(zip(state, dstate)):
            yield from _parts(f"{name}[{i}]", part, dpart)
    elif state is not None:
        yield name, state, dstate


# -- the network in float64 -------------------------------------------------------------------------


def _as_float64(value):
    """Give floats as float64 and everything else as it is; always a copy, contiguous."""
    if isinstance(value, (tuple, list)):
        return tuple(_as_float64(part) for part in value)
    if not hasattr(value, "dtype"):
        return value
    return value.astype(np.float64 if value.dtype.kind == "f" else value.dtype, order="C")


def _in_float64(net):
    """Give a copy of a network in float64, with the same weights."""
    made = _twin(net)
    if isinstance(made, Layer) and hasattr(made, "_params"):
        for name in made.parameters():
            copy_into(made[name], net[name].astype(np.float64))
    return made


def _twin(layer):
    """Make a layer of the same kind and sizes in float64."""
    double = {"dtype": np.float64, "device": layer.device} if isinstance(layer, Layer) else {}
    if isinstance(layer, Sequential):
        return Sequential(*(_in_float64(one) for one in layer.layers))
    if type(layer) in (LSTM, RNN):
        kind = {} if isinstance(layer, LSTM) else {"nonlinearity": layer.nonlinearity}
        sizes = (layer.input_size, layer.hidden_size, layer.num_layers)
        return type(layer)(*sizes, bias=layer.bias, batch_first=layer.batch_first, **double, **kind)
    if type(layer) is Linear:
        return Linear(layer.in_features, layer.out_features, layer.bias, **double)
    if type(layer) is Embedding:
        return Embedding(layer.num_embeddings, layer.embedding_dim, **double)
    if type(layer) is Dropout:
        return Dropout(layer.p)
    raise ValueError(
        f"net must be float64 to check a layer of another maker, {type(layer).__name__}: only layers of "
        "lstmc can be copied from float32"
    )
