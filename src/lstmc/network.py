"""Sequential: layers one after another over one flat array of parameters and one of gradients."""

import inspect
import textwrap

import numpy as np

from ._kernels import on_device
from ._kernels.environment import check_threads
from ._kernels.messages import located
from ._kernels.turns import in_turn
from .files import built_in, describe
from .layer import Layer, Views, check_size, fixed, spanned
from .steppers import NetworkStepper
from .traces import Trace

__all__ = ["Place", "Sequential"]


class Place:
    """A layer in its network, and the options that its calls take.

    Attributes
    ----------
    layer : object
    index : int
        The place of the layer in its network, from 0.
    """

    def __init__(self, layer, index=0):
        self.layer, self.index = layer, index
        self._forward_takes, self._backward_takes = (
            frozenset(inspect.signature(method).parameters)
            for method in (layer.forward, layer.backward)
        )

    def forward(self, x, state, training=True, num_threads=None, drop=True):
        """Call the layer's forward with those of the options that it takes."""
        takes, options = self._forward_takes, {}
        if "num_threads" in takes:
            options["num_threads"] = num_threads
        if not drop and "drop" in takes:
            options["drop"] = False
        return self.layer.forward(x, state, training=training, **options)

    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, consume=False,
                 need_grads=True, record=None):  # fmt: skip
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
        return self.layer.backward(dy, trace, dstate, **options)

    def backward_takes(self, option):
        """Return whether the layer's backward has a parameter of this name."""
        return option in self._backward_takes


@built_in("layers")
class Sequential(Layer):
    """Layers in a row, each fed by the one before.

    Parameters
    ----------
    *layers
        Objects with forward and backward as ``lstmc.Layer`` describes them. The parameters of those that have
        any move into the network's flat buffers. A layer belongs to one network at most.

    Raises
    ------
    ValueError
        A layer is part of a network already, or the layers differ in type, device or ``batch_first``.
    TypeError
        An object is not a layer.

    Notes
    -----
    A state is a tuple with one entry per layer, None where a layer has none. Parameters are named
    by the layer's number: ``net["1.weight_hh_l0"]``.
    """

    _not_pickled = (*Layer._not_pickled, "_places", "_shapes")
    _layers: tuple = ()  # until they are checked
    layers = fixed("layers")

    def __init__(self, *layers):
        _check_layers(layers)
        shapes = [layer.parameters() if hasattr(layer, "parameters") else {} for layer in layers]
        with_parameters = [layer for layer, own in zip(layers, shapes) if own]
        types = {layer.dtype for layer in with_parameters if hasattr(layer, "dtype")}
        if len(types) > 1:
            raise ValueError(
                f"layers must share one dtype, got {', '.join(sorted(t.name for t in types))}"
            )
        devices = {layer.device for layer in with_parameters if hasattr(layer, "device")}
        if len(devices) > 1:
            raise ValueError(f"layers must share one device, got {', '.join(sorted(devices))}")
        super().__init__(types.pop() if types else np.float32, devices.pop() if devices else "cpu")
        self._layers = layers
        self._join(shapes)

    def _join(self, shapes):
        """Move the parameters of the layers, by their shapes, into buffers of the network."""
        self._places = [Place(layer, i) for i, layer in enumerate(self._layers)]
        self._shapes = {
            f"{i}.{name}": tuple(shape)
            for i, own in enumerate(shapes)
            for name, shape in own.items()
        }
        with on_device(self.device):
            self.bind(*self.buffers(self._shapes))
        for layer in self._layers:
            layer.in_network = True
        self.use_kernels(self.kernels)

    def options(self):
        """Return the descriptions of the layers, as plain data."""
        return {"layers": [describe(layer) for layer in self._layers]}

    @classmethod
    def from_options(cls, options):
        """Return a network of what ``options()`` returned."""
        return cls(*(cls.from_description(one) for one in options["layers"]))

    def _view(self, views, name):
        if isinstance(name, (int, np.integer)):
            raise KeyError(
                f"a network's parameters go by name, its layers are in layers: layers[{name}]"
            )
        return super()._view(views, name)

    def own_arrays(self):
        """Return None: the layers bring theirs."""

    def restore(self, arrays, device):
        """Make buffers on a device, and move what the layers have brought into them."""
        with on_device(device) as kernels:
            self.kernels = kernels
            types = {x.dtype for x in self._layers if isinstance(x, Layer) and x.parameters()}
            self._dtype = types.pop() if types else self._dtype
            self._params, self._grads = self.buffers({})
        self._join([x.parameters() if hasattr(x, "parameters") else {} for x in self._layers])

    def __repr__(self):
        layers = textwrap.indent("".join(f"{one!r},\n" for one in self._layers), "  ")
        return f"{type(self).__name__}(\n{layers})"

    def use_kernels(self, kernels):
        """Compute with the kernels of another device from now on."""
        super().use_kernels(kernels)
        for layer in self._layers:
            if isinstance(layer, Layer):
                layer.use_kernels(kernels)
                layer.pool = self.pool  # what one layer frees, the next one takes

    def release(self):
        """Return the memory that the network keeps for its next calls: see ``Layer.release``."""
        super().release()
        for layer in self._layers:
            if isinstance(layer, Layer):
                layer.release()

    def check_movable(self, kernels):
        """Refuse to move to the device of these kernels, before anything has moved."""
        for i, layer in enumerate(self._layers):
            if isinstance(layer, Layer):
                layer.check_movable(kernels)
            elif hasattr(layer, "parameters") and layer.parameters():
                raise ValueError(
                    f"layers[{i}] ({type(layer).__name__}) has parameters and is no lstmc.Layer: "
                    "it cannot be moved"
                )

    def retyped(self, dtype):
        """Return a deep copy in another type."""
        for i, layer in enumerate(self._layers):
            if not isinstance(layer, Layer) and hasattr(layer, "parameters") and layer.parameters():
                raise TypeError(
                    f"layers[{i}] ({type(layer).__name__}) has parameters and is no lstmc.Layer: "
                    "its type cannot change"
                )
        return super().retyped(dtype)

    def parameters(self):
        """Return the shapes of the parameters by "number.name"."""
        return dict(self._shapes)

    def bind(self, params, grads):
        """Move the parameters and gradients of all layers into other views, those of ``buffers``."""
        self.check_views(params, grads)
        for i, parts in enumerate(zip(*(self._parted(views) for views in (params, grads)))):
            if parts[0]:
                self._layers[i].bind(*parts)
        self._params, self._grads = params, grads

    def _parted(self, views):
        """Return the views of each layer by the layer's own names; their flat array is what they span."""
        parts = [Views() for _ in self._layers]
        for name, view in views.items():
            number, _, own = name.partition(".")
            parts[int(number)][own] = view
        for part in parts:
            part.flat = spanned(part, views.flat, self.kernels) if part else None
        return parts

    # -- the walk ----------------------------------------------------------------------------------

    def walk(self, x, state, call):
        """Run the layers in order, each by a function.

        Everything that runs a network is this walk with a function of its own, which decides what a layer
        does and what is seen of it. A layer may itself be a network, to walk through in turn.

        Parameters
        ----------
        x : ndarray
        state : tuple with one entry per layer, or None
        call : function of (place, x, state)
            Returns what ``place.layer.forward`` does: y, the state and a trace.

        Returns
        -------
        y : ndarray
        state, traces : tuple
            One entry per layer.

        Raises
        ------
        ValueError
            `state` does not fit.
        """
        after, traces = [], []
        for place, before in zip(self._places, self._parts("state", state)):
            try:
                x, out, trace = call(place, x, before)
            except (TypeError, ValueError) as error:
                raise located(error, place.index, place.layer) from error
            after.append(out)
            traces.append(trace)
        return x, tuple(after), tuple(traces)

    def walk_back(self, dy, trace, dstate, call):
        """Differentiate the layers, the last one first, each by a function.

        Parameters
        ----------
        dy : ndarray
        trace : Trace
        dstate : tuple with one entry per layer, or None
        call : function of (place, dy, trace, dstate)
            Returns what ``place.layer.backward`` does: dx and dstate.

        Returns
        -------
        dx : ndarray or None
        dstate : tuple
            One entry per layer.

        Raises
        ------
        ValueError
            `dstate` does not fit.
        """
        arriving, departing = self._parts("dstate", dstate), []
        for place in reversed(self._places):
            i = place.index
            try:
                dy, out = call(place, dy, trace.layers[i], arriving[i])
            except (TypeError, ValueError) as error:
                raise located(error, place.index, place.layer) from error
            departing.append(out)
        return dy, tuple(reversed(departing))

    def forward(self, x, state=None, training=True, num_threads=None):
        """Run all layers.

        Parameters
        ----------
        x : ndarray
            What the first layer takes.
        state : tuple with one entry per layer, or None for zeros
        training : bool
            Return a trace, and drop where there is dropout.
        num_threads : int, optional

        Returns
        -------
        y : ndarray
        state : tuple
        trace : Trace or None
            Its ``layers`` holds the layers' own traces.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit, as the layer that it reaches says.
        """

        def call(place, x, before):
            return place.forward(x, before, training, num_threads)

        y, state, traces = self.walk(x, state, call)
        return y, state, Trace(self, None, layers=traces) if training else None

    @in_turn
    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, consume=False):
        """Differentiate a forward call: add to ``grads``, and return the gradients of x and state.

        Parameters
        ----------
        dy : ndarray, in the shape of y
        trace : Trace
            From this network's forward.
        dstate : tuple with one entry per layer, or None
            The gradient arriving through the final states.
        num_threads : int, optional
        need_dx : bool
            Whether to compute the dx of the first layer.
        consume : bool
            Let the layers overwrite the trace, which cannot be used again.

        Returns
        -------
        dx : ndarray, or None where the first layer has none (an embedding)
        dstate : tuple

        Raises
        ------
        ValueError
            The trace is another network's or was consumed, or the weights have changed. No gradient has been
            changed then.
        """
        self.check_trace(trace, dstate)  # all layers, before the first gradient is touched
        if num_threads is not None:
            check_threads("num_threads", num_threads)

        def call(place, dy, trace, arriving):
            return place.backward(
                dy, trace, arriving, num_threads, place.index > 0 or need_dx, consume
            )

        checked = [(layer, part) for layer, part, _ in self._own_layers(trace)]
        for layer, part in checked:
            part.checked_for = layer
        try:
            return self.walk_back(dy, trace, dstate, call)
        finally:
            for _, part in checked:
                part.checked_for = None

    # -- checks ------------------------------------------------------------------------------------

    def _own_layers(self, trace, dstate=None):
        """Yield every layer whose trace is one of lstmc's and its own, that trace and its part of dstate.

        A layer of a user's own may have anything for a trace.
        """
        parts = self._parts("dstate", dstate)
        for layer, layer_trace, part in zip(self._layers, trace.layers, parts):
            if isinstance(layer_trace, Trace) and layer_trace.owner is layer:
                yield layer, layer_trace, part

    def check_form(self, trace, dstate=None):
        """Refuse anything but a trace of this network and a dstate that fits; weights are not compared."""
        super().check_form(trace)
        for layer, layer_trace, part in self._own_layers(trace, dstate):
            layer.check_form(layer_trace, part)

    def fingerprints(self, trace):
        """Return pairs of fingerprints of all layers: as forward saw the weights, and as they are now."""
        return [
            pair
            for layer, layer_trace, _ in self._own_layers(trace)
            for pair in layer.fingerprints(layer_trace)
        ]

    def fingerprint(self):
        """Return None: each layer has its own."""

    def _parts(self, name, state):
        """Return a state, or its gradient, as a tuple with one entry per layer."""
        if state is None:
            return (None,) * len(self._layers)
        if not isinstance(state, (tuple, list)) or len(state) != len(self._layers):
            got = (
                f"{len(state)} entries"
                if isinstance(state, (tuple, list))
                else type(state).__name__
            )
            raise ValueError(
                f"{name} must be None or a tuple of {len(self._layers)} entries, one per layer, got {got}"
            )
        return tuple(state)

    def stepper(self, batch=1, num_threads=None):
        """Return a NetworkStepper: it takes one step per call and has its own state, which starts at zeros.

        Parameters
        ----------
        batch : int
            B, the rows that step side by side.
        num_threads : int, optional
            Of each layer; by default as many as ``get_num_threads`` says.

        Raises
        ------
        TypeError, ValueError
            batch or num_threads is not a positive integer.
        """
        return NetworkStepper(self, check_size("batch", batch), num_threads)


def _check_layers(layers):
    """Refuse what is not a row of layers, each of them free to join a network."""
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    seen = set()
    for i, layer in enumerate(layers):
        if isinstance(layer, type):
            raise TypeError(f"layers[{i}] must be a layer, got the class {layer.__name__}: call it")
        for method in ("forward", "backward"):
            if not callable(getattr(layer, method, None)):
                raise TypeError(f"layers[{i}] must have {method}(), got {type(layer).__name__}")
        if getattr(layer, "in_network", False) or id(layer) in seen:
            raise ValueError(f"layers[{i}] ({type(layer).__name__}) is part of a network already")
        seen.add(id(layer))
    if len(_orders(layers)) > 1:
        raise ValueError("layers must share one batch_first, got True and False")


def _orders(layers):
    """Return the values of batch_first of the layers that have it, inside networks too."""
    orders = set()
    for layer in layers:
        if isinstance(layer, Sequential):
            orders |= _orders(layer.layers)
        elif hasattr(layer, "batch_first"):
            orders.add(bool(layer.batch_first))
    return orders
