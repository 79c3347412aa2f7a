"""A network run forward and backward for the sake of looking: nothing of it changes, to the bit.

Here too is what tells layers apart, so that the reports need not know what a Sequential is.
"""

import inspect
import math
from dataclasses import dataclass

import numpy as np

from .._kernels import kernels_of
from .._kernels.messages import shape_text
from ..layer import Layer
from ..layers import Dropout, Embedding
from ..losses import softmax_cross_entropy, squared_error
from ..network import Sequential
from ..recurrent import Recurrent
from ..traces import Trace

__all__ = [
    "Record",
    "accepts",
    "check_trace",
    "gradient_at",
    "network_of",
    "recurrent_layers",
    "run",
    "run_back",
    "seeded",
    "without_model",
]


def network_of(net):
    """Give the network of a LanguageModel, anything else as it is; refuse one without a recurrent layer."""
    net = without_model(net)
    if not any(True for _ in recurrent_layers(net)):
        raise ValueError(
            f"net must have a recurrent layer (RNN or LSTM), got a {type(net).__name__} without one"
        )
    return net


def without_model(net):
    """Give the network of a LanguageModel, and anything else as it is."""
    return net if isinstance(net, Layer) else getattr(net, "net", net)


def recurrent_layers(net, trace=None, name=""):
    """Walk through the recurrent layers: name ("" for a bare one, "1." in a Sequential), layer and trace."""
    if isinstance(net, Recurrent):
        yield name, net, trace
    elif isinstance(net, Sequential):
        for i, layer in enumerate(net.layers):
            yield from recurrent_layers(layer, trace and trace.layers[i], f"{name}{i}.")


def run(net, x, state=None, num_threads=None):
    """Run a network as inference does, nothing dropped, but keep a trace: y, state, trace."""
    if isinstance(net, Dropout):
        return x, state, None
    if not isinstance(net, Sequential):
        kept = {"num_threads": num_threads} if accepts(net.forward, "num_threads") else {}
        return net.forward(x, state, training=True, **kept)
    after, traces = [], []
    for layer, before in zip(net.layers, net._check_state("state", state)):
        x, out, trace = run(layer, x, before, num_threads)
        after.append(out)
        traces.append(trace)
    return x, tuple(after), Trace(net, None, layers=tuple(traces))


def run_back(net, dy, trace, num_threads=None):
    """Differentiate a trace, changing no gradient: the Record of every recurrent layer, in order."""
    records, kept = [], None
    if not all(_leaves_grads_alone(layer) for layer in _leaves(net)):
        kept = net.grads.copy()  # a layer of another maker adds to its own
    try:
        with np.errstate(all="ignore"):
            _run_back(net, dy, trace, records, num_threads)
    finally:
        if kept is not None:
            net.grads[:] = kept
    return records[::-1]


def _leaves(net):
    if isinstance(net, Sequential):
        for layer in net.layers:
            yield from _leaves(layer)
    else:
        yield net


def _leaves_grads_alone(layer):
    return isinstance(layer, (Dropout, Embedding)) or accepts(layer.backward, "need_grads")


@dataclass
class Record:
    """What backward handed out at one recurrent layer: dstate, and StateGradients for each of its stack."""

    dstate: object
    stack: list


def _run_back(net, dy, trace, records, threads):
    if isinstance(net, Sequential):
        for layer, kept in zip(reversed(net.layers), reversed(trace.layers)):
            dy = _run_back(layer, dy, kept, records, threads)
        return dy
    if isinstance(net, Embedding):  # the end of the way
        return dy
    if isinstance(net, Dropout) and trace is None:  # it dropped nothing
        return dy
    if isinstance(net, Recurrent):
        if not accepts(net.backward, "record"):
            raise TypeError(
                f"{type(net).__name__}.backward must take need_grads and record, as that of RNN and LSTM"
            )
        stack = []
        dx, dstate = net.backward(dy, trace, num_threads=threads, need_grads=False, record=stack)
        records.append(Record(dstate, stack))
        return dx
    options = {"num_threads": threads, "need_grads": False}
    taken = {name: value for name, value in options.items() if accepts(net.backward, name)}
    return net.backward(dy, trace, **taken)[0]


def accepts(function, option):
    """Tell whether a function has a parameter of this name."""
    return option in inspect.signature(function).parameters


def seeded(net, x, targets, state, trace, dy, num_threads):
    """Give loss, dy and trace from what a caller has: a trace and dy, or x and something to foresee.

    Without targets and dy, dy is drawn at random, from a seed of its own.
    """
    if trace is not None:
        check_trace(net, trace, x, targets, state)
        if dy is None:
            raise ValueError(
                "dy must be given with a trace: the gradient of the loss, as for backward"
            )
        _check_finite("dy", dy)
        _check_weights(net)
        return None, dy, trace
    if x is None:
        raise ValueError("x must be given, or the trace of a forward call")
    if targets is not None and dy is not None:
        raise ValueError("targets and dy exclude each other: both say what the loss is")
    _check_finite("x", x)
    _check_weights(net)
    y, _, trace = run(net, x, state, num_threads)
    if not y.size:
        raise ValueError(
            f"x must have at least one step and one row, got {shape_text(np.shape(x))}"
        )
    loss = None
    if targets is not None:
        loss, dy = gradient_at(y, targets, num_threads)
        loss = float(loss)
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss}: {_NO_GRADIENT}")
    elif dy is None:
        drawn = np.random.default_rng(0).standard_normal(y.shape).astype(y.dtype)
        dy = kernels_of(y).arrays.asarray(drawn)
    _check_finite("dy", dy)
    return loss, dy, trace


def check_trace(net, trace, *not_given):
    """Refuse a trace that is another network's, spent, or given with what it holds already."""
    if any(given is not None for given in not_given):
        raise ValueError("trace holds what forward saw: x, targets and state must not be given")
    net._check_trace(trace)
    for _, layer, kept in recurrent_layers(net, trace):
        layer._check_trace(kept)


def gradient_at(y, targets, num_threads=None):
    """Give loss and dy of classes, numbers, or a function of y."""
    if callable(targets):
        found = targets(y)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"targets(y) must give (loss, dy), got {type(found).__name__}")
        return found
    if not hasattr(targets, "dtype"):
        targets = kernels_of(y).arrays.asarray(targets)
    if targets.dtype.kind in "iu":
        return softmax_cross_entropy(y, targets, num_threads=num_threads)
    return squared_error(y, targets.astype(y.dtype, copy=False), num_threads)


_NO_GRADIENT = "there is no gradient to follow. lstmc.find_nonfinite() names where it began"


def _check_weights(net):
    for name in net.parameters():
        _check_finite(f"the weight {name}", net[name])


def _check_finite(name, array):
    kind = getattr(getattr(array, "dtype", None), "kind", None)
    if kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite: {_NO_GRADIENT}")
