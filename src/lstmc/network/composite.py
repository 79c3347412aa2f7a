"""Composite: a layer made of other layers, over one flat array of parameters and one of gradients."""

import textwrap
from abc import ABC, abstractmethod

import numpy as np

from .._kernels import kernels_of, on_device
from .._kernels.environment import check_threads
from .._kernels.turns import in_turn
from ..files import describe
from ..flat import parted
from ..layer import Layer, check_size, fixed
from ..layers import Last
from ..steppers import NetworkStepper
from ..traces import Trace, frozen
from .calls import BackwardCalls, ForwardCalls, entries, step_of
from .layout import layout_of
from .place import Place, check_layers, directions_of
from .ties import check_ties, tie

__all__ = ["Composite"]


class Composite(Layer, ABC):
    """A layer made of other layers. A class of its own says by two methods what it computes of them.

    ``compute(x, call)`` returns y, where ``call(i, x)`` runs layer i; ``differentiate(dy, call)`` returns dx,
    where ``call(i, dy)`` differentiates it. The rest is here: states, traces, lengths, parameters, files,
    copies and steppers, and whatever looks into recurrent layers finds those within.

    Parameters
    ----------
    *layers
        Objects with forward and backward as ``lstmc.Layer`` describes them. The parameters of those that have
        any move into flat buffers of the whole. A layer belongs to one network at most.

    Attributes
    ----------
    layers : tuple
    batch_first : bool
        Whether x and y are (B, T, ...): an option of Sequential alone.
    num_directions : int
        The most directions of any of its layers; 0 if none of them is recurrent.
    keeps_time : bool
        Whether y has an axis of time: if all layers keep it, unless a class says otherwise.

    Raises
    ------
    ValueError
        A layer is part of a network already or ``batch_first`` itself, the layers differ in type or device,
        one is tied to another that it does not fit, or a Last is beside a bidirectional layer.
    TypeError
        An object is not a layer, or the class lacks one of the two methods.

    Notes
    -----
    A state is a tuple with one entry per layer, None where a layer has none. Parameters are named
    by the layer's number: ``net["1.weight_hh_l0"]``.
    """

    _not_pickled = (*Layer._not_pickled, "_places", "_shapes")
    _layers: tuple = ()  # until they are checked
    _batch_first = False
    _is_chain = False  # whether layer 0 alone reads x
    layers, batch_first = map(fixed, ("layers", "batch_first"))

    def __init__(self, *layers):
        check_layers(layers)
        shapes = [layer.parameters() if hasattr(layer, "parameters") else {} for layer in layers]
        # A tied layer has the type of its weight, even if it has no parameter of its own.
        weighted = [x for x, own in zip(layers, shapes) if own or getattr(x, "tied_to", None)]
        types = {layer.dtype for layer in weighted if hasattr(layer, "dtype")}
        if len(types) > 1:
            raise ValueError(
                f"layers must share one dtype, got {', '.join(sorted(t.name for t in types))}"
            )
        devices = {layer.device for layer in weighted if hasattr(layer, "device")}
        if len(devices) > 1:
            raise ValueError(f"layers must share one device, got {', '.join(sorted(devices))}")
        check_ties(layers, shapes)
        super().__init__(types.pop() if types else np.float32, devices.pop() if devices else "cpu")
        self._layers = layers
        for layer in self._own() if self.device != "cpu" else ():
            layer.check_movable(self.kernels)
        if self.has_loose_last and self.num_directions > 1:
            raise ValueError("a Last and a bidirectional layer must be in one Sequential")
        self._join(shapes)

    @abstractmethod
    def compute(self, x, call):
        """Return y, of calls of every layer once.

        Parameters
        ----------
        x : ndarray (T, B, ...), or (T, ...) of an unbatched sequence
            Zero beyond an end, and read-only.
        call : ForwardCalls
            ``call(i, x)`` returns what layer i gives for its x; ``call.save(name=value)`` keeps what
            ``differentiate`` needs. A stepper calls this for one step at a time, with T = 1.
        """

    @abstractmethod
    def differentiate(self, dy, call):
        """Return dx, of calls of every layer once.

        Parameters
        ----------
        dy : read-only ndarray, in the shape of y
        call : BackwardCalls
            ``call(i, dy)`` returns the gradient of the loss with respect to what layer i read, for that with
            respect to what it gave; ``call.saved["name"]`` is what ``compute`` has saved.
        """

    def _own(self):
        return [layer for layer in self._layers if isinstance(layer, Layer)]

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
        """Return a layer of what ``options()`` returned: ``cls(*layers, **rest)``, if it has layers."""
        if "layers" not in options:
            return super().from_options(options)
        rest = {name: value for name, value in options.items() if name != "layers"}
        return cls(*(cls.from_description(one) for one in options["layers"]), **rest)

    @property
    def num_directions(self):
        """The most directions of any of its layers; 0 if none of them is recurrent."""
        return max(map(directions_of, self._layers), default=0)

    @property
    def says_directions(self):
        """Whether its class says its own num_directions: its output has their features one after another."""
        return type(self).num_directions is not Composite.num_directions

    @property
    def has_loose_last(self):
        """Whether there is a Last that does not say itself which layer it follows."""
        return any(isinstance(x, Last) or getattr(x, "has_loose_last", False) for x in self._layers)

    @property
    def keeps_time(self):
        """Whether y has an axis of time: if all layers keep it."""
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
            types = {layer.dtype for layer in self._own() if layer.parameters()}
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
        for layer in self._own():
            layer.use_kernels(kernels)
            layer.pool = self.pool  # what one layer frees, the next one takes

    def release(self):
        """Return the memory that the network keeps for its next calls: see ``Layer.release``."""
        super().release()
        for layer in self._own():
            layer.release()

    def check_movable(self, kernels):
        """Refuse to move to the device of these kernels, before anything has moved."""
        self._check_layers(ValueError, "it cannot be moved")
        for place in self._places:
            place.check_movable(kernels)

    def retyped(self, dtype):
        """Return a deep copy in another type."""
        self._check_layers(TypeError, "its type cannot change")
        return super().retyped(dtype)

    def _check_layers(self, error, reason):
        """Refuse what only a Layer can do, if others have parameters."""
        for i, layer in enumerate(self._layers):
            if not isinstance(layer, Layer) and hasattr(layer, "parameters") and layer.parameters():
                name = f"layers[{i}] ({type(layer).__name__})"
                raise error(f"{name} has parameters and is no lstmc.Layer: {reason}")

    def parameters(self):
        """Return the shapes of the parameters by "number.name"."""
        return dict(self._shapes)

    def bind(self, params, grads):
        """Move the parameters and gradients of all layers into other views, those of ``buffers``."""
        self.check_views(params, grads)
        both = (parted(views, len(self._layers), self.kernels) for views in (params, grads))
        for layer, *parts in zip(self._layers, *both):
            if parts[0]:
                layer.bind(*parts)
        self._params, self._grads = params, grads
        tie(self._layers, params, grads)

    # -- the walk ----------------------------------------------------------------------------------

    def walk(self, x, state, call, lengths=None, resets=None):
        """Compute y, each layer run by a function.

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
        parts = entries("state", state, len(self._layers))
        layout = layout_of(x, self._batch_first, lengths, resets)
        lengths = resets = None
        if layout is not None:
            x, lengths, resets = layout.enter(x), layout.lengths, layout.resets
        calls = ForwardCalls(self._places, parts, call, lengths, resets)
        y = calls.run(self.compute, x if self._is_chain else frozen(x))
        if layout is not None:
            y = layout.leave("y", y) if self.keeps_time else y
        form = {name: getattr(y, name, None) for name in ("shape", "dtype")}
        form |= {"lengths": layout and layout.lengths, "kernels": kernels_of(y), "layout": layout}
        trace = Trace(self, None, layers=tuple(calls.traces), saved=calls.saved, **form)
        return y, tuple(calls.after), trace

    def walk_back(self, dy, trace, dstate, call):
        """Compute dx, each layer differentiated by a function.

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
        arriving, layout = entries("dstate", dstate, len(self._layers)), trace.layout
        if dy is None and not self._is_chain:
            dy = trace.kernels.arrays.zeros(trace.shape, trace.dtype)
        elif dy is not None and not (layout is None and self._is_chain):  # or its last layer checks
            dy = trace.kernels.checked("dy", dy, trace.dtype, trace.shape)
        if layout is not None and dy is not None and self.keeps_time:
            dy = layout.enter(dy)
        calls = BackwardCalls(self._places, trace, arriving, call)
        dx = calls.run(self.differentiate, dy if self._is_chain else frozen(dy))
        if layout is not None and dx is not None:
            dx = layout.leave("dx", dx)
        return dx, tuple(calls.departing)

    def __call__(self, x, state=None, lengths=None, resets=None):
        """Run without a trace for backward, and without dropout: return y and the state."""
        y, state, _ = self.forward(x, state, False, None, lengths, resets)
        return y, state

    def forward(self, x, state=None, training=True, num_threads=None, lengths=None, resets=None):
        """Run all layers, as ``compute`` says.

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
            Whether to return dx.
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
            needed = need_dx or place.index > 0 or not self._is_chain
            return place.backward(dy, trace, arriving, num_threads, needed, consume)

        checked = [(layer, part) for layer, part, _ in self._own_layers(trace)]
        for layer, part in checked:
            part.checked_for = layer
        try:
            dx, dstate = self.walk_back(dy, trace, dstate, call)
            return dx if need_dx else None, dstate
        finally:
            for _, part in checked:
                part.checked_for = None

    # -- checks ------------------------------------------------------------------------------------

    def _own_layers(self, trace, dstate=None):
        """Yield every layer whose trace is one of lstmc's and its own, that trace and its part of dstate.

        A layer of a user's own may have anything for a trace.
        """
        parts = entries("dstate", dstate, len(self._layers))
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
            batch or num_threads is not a positive integer, or a layer has no stepper.
        """
        return NetworkStepper(self, check_size("batch", batch), num_threads)

    def chain(self, steppers):
        """Return the functions of x that a step goes through, made of the layers' steppers.

        The last one, which is apart, is a function of x and out.
        """
        return [], step_of(self, self._places, steppers)
