"""What reports are made of: a network, what it read, and a loss to follow back."""

import math

import numpy as np

from .._kernels import kernels_of
from .._kernels.messages import shape_text
from ..layer import Layer
from ..losses import softmax_cross_entropy, squared_error
from ..network import layout_of
from ..passes import recurrent_layers, run

__all__ = [
    "check_trace",
    "loss_and_trace",
    "loss_at",
    "network_of",
    "real_part",
    "real_steps",
    "recurrent_network",
]


def network_of(net):
    """Return the network of a LanguageModel, and anything else unchanged."""
    return net if isinstance(net, Layer) else getattr(net, "net", net)


def recurrent_network(net):
    """Return the network of a LanguageModel, or a network itself; refuse one without a recurrent layer."""
    net = network_of(net)
    if not any(True for _ in recurrent_layers(net)):
        raise ValueError(f"net must have a recurrent layer, got a {type(net).__name__} without one")
    return net


def loss_and_trace(net, x, targets, state, trace, dy, num_threads, lengths=None, resets=None):
    """Return loss, dy and trace, from a trace and dy, or from x and what the network is to predict.

    Without targets and dy, dy is drawn at random from a fixed seed. The loss is None without targets.

    Raises
    ------
    TypeError, ValueError
        Arguments do not go together or do not fit, or something is not finite.
    """
    if trace is not None:
        check_trace(net, trace, x, targets, state, lengths, resets)
        if dy is None:
            raise ValueError(
                "dy must be given with a trace: the gradient of the loss, as for backward"
            )
        _check_finite("dy", real_part(net, dy, trace))
        _check_weights(net)
        return None, dy, trace
    if x is None:
        raise ValueError("x must be given, or the trace of a forward call")
    if targets is not None and dy is not None:
        raise ValueError("targets and dy exclude each other: both say what the loss is")
    layout = layout_of(x, getattr(net, "batch_first", False), lengths, resets)
    _check_finite(
        "x", x if layout is None else layout.enter(x)
    )  # what padding holds does not matter
    _check_weights(net)
    y, _, trace = run(net, x, state, num_threads, lengths, resets)
    if not y.size:
        raise ValueError(
            f"x must have at least one step and one row, got {shape_text(np.shape(x))}"
        )
    loss = None
    if targets is not None:
        loss, dy = loss_at(y, targets, num_threads, real_steps(net, trace))
        loss = float(loss)
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss}: {_NO_GRADIENT}")
    elif dy is None:
        drawn = np.random.default_rng(0).standard_normal(y.shape).astype(y.dtype)
        dy = kernels_of(y).arrays.asarray(drawn)
    _check_finite("dy", real_part(net, dy, trace))
    return loss, dy, trace


def check_trace(net, trace, *others):
    """Refuse a trace of another network, a consumed one, or one beside what it already holds."""
    if any(other is not None for other in others):
        raise ValueError(
            "trace holds what forward saw: x, targets, state, lengths and resets must not be given"
        )
    net.check_trace(trace)
    for _, layer, layer_trace in recurrent_layers(net, trace):
        layer.check_trace(layer_trace)


def real_steps(net, trace):
    """Return where an output has no padding, as booleans in its own order; None if there is none."""
    lengths = getattr(trace, "lengths", None)
    if lengths is None or not net.keeps_time:
        return None
    leaf = next(recurrent_layers(net, trace))[2]
    real = np.arange(leaf.steps)[:, None] < lengths
    if leaf.unbatched:
        return real[:, 0]
    return real.T if net.batch_first else real


def real_part(net, dy, trace):
    """Return a gradient at the output with zeros in the padding."""
    real = real_steps(net, trace)
    fits = real is not None and getattr(dy, "shape", ())[: real.ndim] == real.shape
    return np.where(real[..., None], dy, 0) if fits else dy


def loss_at(y, targets, num_threads=None, real=None):
    """Return loss and dy at an output y; targets are classes, numbers, or a function of y.

    Of classes and numbers, only those where `real`, booleans by step and row, is true count.
    """
    if callable(targets):
        result = targets(y)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"targets(y) must give (loss, dy), got {type(result).__name__}")
        return result
    if not hasattr(targets, "dtype"):
        targets = kernels_of(y).arrays.asarray(targets)
    if targets.dtype.kind in "iu":
        return softmax_cross_entropy(y, targets, num_threads=num_threads, mask=real)
    return squared_error(y, targets.astype(y.dtype, copy=False), num_threads, mask=real)


_NO_GRADIENT = "there is no gradient to follow. lstmc.find_nonfinite() names where it began"


def _check_weights(net):
    for name in net.parameters():
        _check_finite(f"the weight {name}", net[name])


def _check_finite(name, array):
    kind = getattr(getattr(array, "dtype", None), "kind", None)
    if kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite: {_NO_GRADIENT}")
