"""A layer in its network: whether it may join, and which of the options of a call it takes."""

import inspect

from .._kernels.messages import located
from ..layer import Layer

__all__ = ["Place", "check_layers", "directions_of"]


def check_layers(layers):
    """Refuse what is not a row of layers, each of them free to join a network and time-major."""
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    seen = set()
    for i, layer in enumerate(layers):
        if isinstance(layer, type):
            raise TypeError(f"layers[{i}] must be a layer, got the class {layer.__name__}: call it")
        name = f"layers[{i}] ({type(layer).__name__})"
        for method in ("forward", "backward"):
            if not callable(getattr(layer, method, None)):
                raise TypeError(f"layers[{i}] must have {method}(), got {type(layer).__name__}")
        if getattr(layer, "in_network", False) or id(layer) in seen:
            raise ValueError(f"{name} is part of a network already")
        if getattr(layer, "batch_first", False):
            raise ValueError(
                f"{name}: batch_first must be False within a network: give it to the network"
            )
        seen.add(id(layer))


def directions_of(layer):
    """Return in how many directions a layer runs through time; 0 of one that is not recurrent."""
    return getattr(layer, "num_directions", 0)


class Place:
    """A layer in its network, and the options that its calls take.

    Parameters
    ----------
    layer : object
    index : int
        The place of the layer in its network, from 0.

    Attributes
    ----------
    layer, index
    keeps_time : bool
        Whether the layer's output has an axis of time.
    """

    def __init__(self, layer, index=0):
        self.layer, self.index, self._reads_time = layer, index, bool(directions_of(layer))
        self.keeps_time = getattr(layer, "keeps_time", True)
        self._forward_takes, self._backward_takes = (
            frozenset(inspect.signature(method).parameters)
            for method in (layer.forward, layer.backward)
        )

    def forward(
        self, x, state, training=True, num_threads=None, drop=True, lengths=None, resets=None
    ):
        """Call the layer's forward with those of the options that it takes.

        Raises
        ------
        ValueError
            There are lengths or resets, which the layer does not take, and it is recurrent.
        """
        takes, options = self._forward_takes, {}
        if "num_threads" in takes:
            options["num_threads"] = num_threads
        if not drop and "drop" in takes:
            options["drop"] = False
        if lengths is not None or resets is not None:
            options |= self._times(lengths=lengths, resets=resets)
        return self.layer.forward(x, state, training=training, **options)

    def _times(self, **times):
        """Return those of lengths and resets that there are and that the layer takes."""
        times = {name: value for name, value in times.items() if value is not None}
        for name in times if self._reads_time else ():
            if name not in self._forward_takes:
                raise ValueError(f"{name} must be None: this recurrent layer does not take them")
        return {name: value for name, value in times.items() if name in self._forward_takes}

    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, consume=False,
                 need_grads=True, record=None, limit=True):  # fmt: skip
        """Call the layer's backward with those of the options that it takes."""
        takes, options = self._backward_takes, {}
        if "num_threads" in takes:
            options["num_threads"] = num_threads
        if "need_dx" in takes:
            options["need_dx"] = need_dx
        if consume and "consume" in takes:
            options["consume"] = True
        if not need_grads and "need_grads" in takes:
            options["need_grads"] = False
        if record is not None:
            options["record"] = record
        if not limit and "limit" in takes:
            options["limit"] = False
        return self.layer.backward(dy, trace, dstate, **options)

    def check_movable(self, kernels):
        """Refuse to move to the device of these kernels, by the name of the layer, if it cannot."""
        if not isinstance(self.layer, Layer):
            return
        try:
            self.layer.check_movable(kernels)
        except (TypeError, ValueError) as error:
            raise located(error, self.index, self.layer) from error

    def backward_takes(self, option):
        """Return whether the layer's backward has a parameter of this name."""
        return option in self._backward_takes
