"""Sequential: layers one after another over one flat array of parameters and one of gradients."""

import textwrap

import numpy as np

from .._kernels import on_device
from .._kernels.environment import check_threads
from .._kernels.messages import located
from .._kernels.turns import in_turn
from ..files import built_in, describe
from ..layer import Layer, Views, check_flag, check_size, fixed, spanned
from ..steppers import NetworkStepper
from ..traces import Trace
from .layout import layout_of
from .order import check_layers, check_time, directions_of
from .place import Place

__all__ = ["Sequential"]


@built_in("layers", batch_first=False)
class Sequential(Layer):
    """Layers in a row, each fed by the one before.

    Parameters
    ----------
    *layers
        Objects with forward and backward as ``lstmc.Layer`` describes them. The parameters of those that have
        any move into the network's flat buffers. A layer belongs to one network at most.
    batch_first : bool
        Whether x and y are (B, T, ...) instead of (T, B, ...): integers of two or more axes, and floats of
        three or more. The layers see (T, B, ...), states are not affected, nor are unbatched sequences.

    Raises
    ------
    ValueError
        A layer is part of a network already or ``batch_first`` itself, the layers differ in type or device, a
        Last does not follow a recurrent layer, or a layer that needs time follows a Last.
    TypeError
        An object is not a layer.

    Notes
    -----
    A state is a tuple with one entry per layer, None where a layer has none. Parameters are named
    by the layer's number: ``net["1.weight_hh_l0"]``.
    """

    _not_pickled = (*Layer._not_pickled, "_places", "_shapes")
    _layers: tuple = ()  # until they are checked
    layers, batch_first = map(fixed, ("layers", "batch_first"))

    def __init__(self, *layers, batch_first=False):
        check_layers(layers)
        followed = check_time(_leaves(layers))
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
        for _, leaf in _leaves(layers):
            if hasattr(leaf, "check_movable"):
                leaf.check_movable(self.kernels)
        self._layers, self._batch_first = layers, check_flag("batch_first", batch_first)
        self._join(shapes)
        for last, directions in followed.items():
            last.follow(directions)

    def _join(self, shapes):
        """Move the parameters of the layers, by their shapes, into buffers of the network."""
        self._places = [
            Place(layer, i, any(directions_of(leaf) for _, leaf in _leaves((layer,))))
            for i, layer in enumerate(self._layers)
        ]
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
        """Return the descriptions of the layers, as plain data, and ``batch_first``."""
        layers = [describe(layer) for layer in self._layers]
        return {"layers": layers, "batch_first": self._batch_first}

    @classmethod
    def from_options(cls, options):
        """Return a network of what ``options()`` returned."""
        layers = [cls.from_description(one) for one in options["layers"]]
        return cls(*layers, batch_first=options["batch_first"])

    @property
    def keeps_time(self):
        """Whether y has an axis of time: not after a Last."""
        return all(getattr(layer, "keeps_time", True) for layer in self._layers)

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
        parts = [repr(one) for one in self._layers] + ["batch_first=True"] * self._batch_first
        inside = textwrap.indent("".join(f"{part},\n" for part in parts), "  ")
        return f"{type(self).__name__}(\n{inside})"

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

    def walk(self, x, state, call, lengths=None, resets=None):
        """Run the layers in order, each by a function.

        Everything that runs a network is this walk with a function of its own, which decides what a layer
        does and what is seen of it. A layer may itself be a network, to walk through in turn.

        Parameters
        ----------
        x, state, lengths, resets
            As for ``forward``.
        call : function of (place, x, state, lengths, resets)
            Returns what ``place.layer.forward`` does: y, the state and a trace. x is (T, B, ...), and zero
            beyond an end; after a layer without time, lengths and resets are None.

        Returns
        -------
        y : ndarray
        state : tuple
        trace : Trace

        Raises
        ------
        TypeError, ValueError
            An argument does not fit.
        """
        parts = self._parts("state", state)
        layout = layout_of(x, self._batch_first, lengths, resets)
        lengths = resets = None
        if layout is not None:
            x, lengths, resets = layout.enter(x), layout.lengths, layout.resets
        after, traces = [], []
        for place, before in zip(self._places, parts):
            try:
                x, out, trace = call(place, x, before, lengths, resets)
            except (TypeError, ValueError) as error:
                raise located(error, place.index, place.layer) from error
            after.append(out)
            traces.append(trace)
            if not place.keeps_time:
                lengths = resets = None
        trace = Trace(self, None, layers=tuple(traces), layout=layout)
        if layout is not None:
            x = layout.leave("y", x) if self.keeps_time else x
            trace.lengths, trace.shape, trace.dtype = layout.lengths, x.shape, x.dtype
        return x, tuple(after), trace

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
        TypeError, ValueError
            `dy` or `dstate` does not fit.
        """
        arriving, departing, layout = self._parts("dstate", dstate), [], trace.layout
        if layout is not None and dy is not None:
            dy = layout.kernels.checked("dy", dy, trace.dtype, trace.shape)
            dy = layout.enter(dy) if self.keeps_time else dy
        for place in reversed(self._places):
            i = place.index
            try:
                dy, out = call(place, dy, trace.layers[i], arriving[i])
            except (TypeError, ValueError) as error:
                raise located(error, place.index, place.layer) from error
            departing.append(out)
        if layout is not None and dy is not None:
            dy = layout.leave("dx", dy)
        return dy, tuple(reversed(departing))

    def __call__(self, x, state=None, lengths=None, resets=None):
        """Run without a trace for backward, and without dropout: return y and the state."""
        y, state, _ = self.forward(x, state, False, None, lengths, resets)
        return y, state

    def forward(self, x, state=None, training=True, num_threads=None, lengths=None, resets=None):
        """Run all layers.

        Parameters
        ----------
        x : ndarray
            What the first layer takes, (B, T, ...) with ``batch_first``.
        state : tuple with one entry per layer, or None, which each layer takes in its own way: as zeros,
            or as the state that it has learned to begin with
        training : bool
            Return a trace, and drop where there is dropout.
        num_threads : int, optional
        lengths : array_like (B,) of integers, or an integer for an unbatched sequence, optional
            The real steps of each row, 0 to T. What x holds beyond them is not looked at, y is zero there and
            the final states are those of the last real steps.
        resets : ndarray of bool, in the shape of x's axes of time and rows, optional
            Where a row's state is, before that step, what state=None means.

        Returns
        -------
        y : ndarray
            Without an axis of time after a Last.
        state : tuple
        trace : Trace or None
            Its ``layers`` holds the layers' own traces.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit, as the layer that it reaches says.
        """

        def call(place, x, before, lengths, resets):
            return place.forward(x, before, training, num_threads, True, lengths, resets)

        y, state, trace = self.walk(x, state, call, lengths, resets)
        return y, state, trace if training else None

    @in_turn
    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, consume=False):
        """Differentiate a forward call: add to ``grads``, and return the gradients of x and state.

        Parameters
        ----------
        dy : ndarray, in the shape of y
            What it holds beyond an end is not looked at.
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
        """Return a NetworkStepper: it takes one step per call and has its own state, at first that of None.

        Parameters
        ----------
        batch : int
            B, the rows that step side by side.
        num_threads : int, optional
            Of each layer; by default as many as ``get_num_threads`` says.

        Raises
        ------
        TypeError, ValueError
            batch or num_threads is not a positive integer, or a layer has no stepper.
        """
        return NetworkStepper(self, check_size("batch", batch), num_threads)


def _leaves(layers, name="layers"):
    """Yield all layers in order with names for messages, those of networks in the place of these.

    A network of a class that says its own num_directions is one layer.
    """
    for i, layer in enumerate(layers):
        if isinstance(layer, Sequential) and not hasattr(layer, "num_directions"):
            yield from _leaves(layer.layers, f"{name}[{i}].layers")
        else:
            yield f"{name}[{i}] ({type(layer).__name__})", layer
