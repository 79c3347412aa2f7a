"""Networks run forward and backward to look at them: nothing is dropped, and no gradient changes.

Here is also how to walk through the recurrent layers of a network of any depth.
"""

import numpy as np

from .network import Composite, Place
from .recurrent import Recurrent

__all__ = ["Record", "differentiate", "recurrent_layers", "run", "run_back"]


def _is_walked(layer):
    """Return whether a layer is a Composite that runs its layers as that class does, by calls."""
    cls = type(layer)
    return isinstance(layer, Composite) and (
        cls.forward is Composite.forward and cls.backward is Composite.backward
    )


def recurrent_layers(net, trace=None, name=""):
    """Yield the recurrent layers of a network, from the input up.

    Parameters
    ----------
    net : Layer
    trace : Trace, optional
        From the network's forward.
    name : str
        Goes before the names.

    Yields
    ------
    name : str
        "" of a bare layer, "1." of layer 1 of a network, "1.0." one level deeper.
    layer : Recurrent
    trace : Trace or None
        The layer's part of `trace`.
    """
    if isinstance(net, Recurrent):
        yield name, net, trace
    elif _is_walked(net):
        for i, layer in enumerate(net.layers):
            yield from recurrent_layers(layer, trace and trace.layers[i], f"{name}{i}.")


def run(net, x, state=None, num_threads=None, lengths=None, resets=None):
    """Run a network as in inference, but with a trace.

    Parameters
    ----------
    net : Layer
    x, state, num_threads, lengths, resets
        As for its forward.

    Returns
    -------
    y : ndarray
    state
    trace : Trace

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the network does not take it.
    """

    def call(place, x, state, lengths, resets):
        if _is_walked(place.layer):
            return place.layer.walk(x, state, call, lengths, resets)
        options = {"lengths": lengths, "resets": resets}
        return place.forward(x, state, drop=False, num_threads=num_threads, **options)

    return call(Place(net), x, state, lengths, resets)


def differentiate(net, dy, trace):
    """Differentiate a trace as the network's backward does, but with no gradient limited by ``grad_clip``.

    Parameters
    ----------
    net : Layer
    dy : ndarray
        The gradient at the output.
    trace : Trace
        From the network's forward, or of ``run``.

    Returns
    -------
    dx : ndarray or None
    dstate

    Raises
    ------
    TypeError, ValueError
        An argument does not fit.
    """

    def call(place, dy, trace, dstate):
        if _is_walked(place.layer):
            return place.layer.walk_back(dy, trace, dstate, call)
        return place.backward(dy, trace, dstate, limit=False)

    return call(Place(net), dy, trace, None)


class Record:
    """What backward said of one recurrent layer.

    Attributes
    ----------
    dstate
        The gradient at the initial state.
    stack : list of StateGradients
        The gradients at the states of every step, for each layer of the stack.
    """

    def __init__(self, dstate, stack):
        self.dstate, self.stack = dstate, stack


def run_back(net, dy, trace, num_threads=None):
    """Differentiate a trace and record what arrives at the states; the network's gradients do not change.

    Parameters
    ----------
    net : Layer
    dy : ndarray
        The gradient at the output.
    trace : Trace
        From the network's forward, or of ``run``.
    num_threads : int, optional

    Returns
    -------
    list of Record
        One for every recurrent layer, in the order of ``recurrent_layers``.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the backward of a recurrent layer does not take need_grads and record.
    """
    records, grads = {}, []  # by layer: a network may go back through its layers in any order

    def call(place, dy, trace, dstate):
        layer = place.layer
        if _is_walked(layer):
            return layer.walk_back(dy, trace, dstate, call)
        if not isinstance(layer, Recurrent):
            if not grads and not place.backward_takes("need_grads"):
                grads.append(net.grads.copy())  # this layer may add to them
            return place.backward(dy, trace, dstate, num_threads, need_grads=False)
        if not place.backward_takes("record"):
            raise TypeError(
                f"{type(layer).__name__}.backward must take need_grads and record, as that of LSTM does"
            )
        stack = []
        dx, departing = place.backward(
            dy, trace, dstate, num_threads, need_grads=False, record=stack
        )
        records[layer] = Record(departing, stack)
        return dx, departing

    try:
        with np.errstate(all="ignore"):
            call(Place(net), dy, trace, None)
    finally:
        if grads:
            net.grads[:] = grads[0]
    return [records[layer] for _, layer, _ in recurrent_layers(net)]
