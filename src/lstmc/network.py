"""Sequential: layers one after another over one flat array of parameters and one of gradients."""

import inspect

import numpy as np

from ._kernels import on_device
from .layer import Layer, Views, check_size, flat_views
from .steppers import NetworkStepper
from .traces import Trace

__all__ = ["Sequential"]


class Sequential(Layer):
    """Layers in a row, each fed by the one before.

    Parameters
    ----------
    *layers
        Objects with forward and backward as ``lstmc.Layer`` describes them; those with parameters move
        into the network's flat buffers, their values with them. A layer belongs to one network at most.

    Raises
    ------
    ValueError
        A layer is part of a network already, or layers differ in type.
    TypeError
        An object is not a layer.

    Notes
    -----
    A state is a tuple with one entry per layer, None where a layer has none. Parameters are named
    by the layer's number: ``net["1.weight_hh_l0"]``.
    """

    def __init__(self, *layers):
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        seen = set()
        for i, layer in enumerate(layers):
            for method in ("forward", "backward"):
                if not callable(getattr(layer, method, None)):
                    raise TypeError(f"layers[{i}] must have {method}(), got {type(layer).__name__}")
            if getattr(layer, "_in_sequential", False) or id(layer) in seen:
                raise ValueError(
                    f"layers[{i}] ({type(layer).__name__}) is part of a network already"
                )
            seen.add(id(layer))
        shapes = [layer.parameters() if hasattr(layer, "parameters") else {} for layer in layers]
        types = {
            layer.dtype for layer, own in zip(layers, shapes) if own and hasattr(layer, "dtype")
        }
        if len(types) > 1:
            raise ValueError(
                f"layers must share one dtype, got {', '.join(sorted(t.name for t in types))}"
            )
        places = {
            layer.device for layer, own in zip(layers, shapes) if own and hasattr(layer, "device")
        }
        if len(places) > 1:
            raise ValueError(f"layers must share one device, got {', '.join(sorted(places))}")
        super().__init__(types.pop() if types else np.float32, places.pop() if places else "cpu")
        self.layers = layers
        self._shapes = {
            f"{i}.{name}": tuple(shape)
            for i, own in enumerate(shapes)
            for name, shape in own.items()
        }
        self._passes_threads = [_accepts(layer, "num_threads") for layer in layers]
        self._passes_need_dx = [_accepts(layer, "need_dx", "backward") for layer in layers]
        self._passes_consume = [_accepts(layer, "consume", "backward") for layer in layers]
        with on_device(self.device) as kernels:
            self.bind(*(flat_views(self._shapes, self.dtype, kernels) for _ in range(2)))
        for layer in layers:
            layer._in_sequential = True
        self._use(self._kernels)

    def _use(self, kernels):
        super()._use(kernels)
        for layer in getattr(self, "layers", ()):
            if isinstance(layer, Layer):
                layer._use(kernels)
                layer._pool = self._pool  # what one has done with, the next one takes

    def _check_movable(self):
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Layer):
                layer._check_movable()
            elif hasattr(layer, "parameters") and layer.parameters():
                raise ValueError(
                    f"layers[{i}] ({type(layer).__name__}) has parameters and is no lstmc.Layer: "
                    "it can not be moved"
                )

    def parameters(self):
        """Tell the parameters: a dict of "number.name" to shape."""
        return self._shapes

    def bind(self, params, grads):
        """Move all layers into these views."""
        for i, layer in enumerate(self.layers):
            if any(name.startswith(f"{i}.") for name in params):
                layer.bind(_part(params, i, self._kernels), _part(grads, i, self._kernels))
        self._params, self._grads = params, grads

    def forward(self, x, state=None, training=True, num_threads=None):
        """Run all layers.

        Parameters
        ----------
        x : ndarray
            What the first layer takes.
        state : tuple with one entry per layer, or None for zeros
        training : bool
            Keep a trace, and drop where there is dropout.
        num_threads : int, optional

        Returns
        -------
        y : ndarray
        state : tuple
        trace : Trace or None
            Its ``layers`` holds the layers' own traces.
        """
        states = self._check_state("state", state)
        after, traces = [], []
        for layer, before, threads in zip(self.layers, states, self._passes_threads):
            kept = {"num_threads": num_threads} if threads else {}
            x, out, trace = layer.forward(x, before, training=training, **kept)
            after.append(out)
            traces.append(trace)
        trace = Trace(self, None, layers=tuple(traces)) if training else None
        return x, tuple(after), trace

    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, consume=False):
        """Differentiate a forward call, last layer first: adds to ``grads``.

        Parameters
        ----------
        dy : ndarray, in the shape of y
        trace : Trace
            Of this network's forward.
        dstate : tuple with one entry per layer, or None
            The gradient arriving through the final states.
        num_threads : int, optional
        need_dx : bool
            Whether the first layer's dx is wanted.
        consume : bool
            Let layers use the trace's memory for their own: the trace is spent afterwards.

        Returns
        -------
        dx : ndarray, or None where the first layer has none (an embedding)
        dstate : tuple

        Raises
        ------
        ValueError
            The trace is another network's or spent; the weights have changed. No gradient is changed then.
        """
        self._check_trace(trace, dstate)  # all layers, before the first gradient is touched
        arriving = self._check_state("dstate", dstate)
        own = [(layer, kept) for layer, kept, _ in self._own_layers(trace) if kept is not None]
        for layer, kept in own:
            kept._checked_for = layer
        try:
            return self._backward(dy, trace, arriving, num_threads, need_dx, consume)
        finally:
            for _, kept in own:
                kept._checked_for = None

    def _backward(self, dy, trace, arriving, num_threads, need_dx, consume):
        departing = []
        for i in reversed(range(len(self.layers))):
            options = {"num_threads": num_threads} if self._passes_threads[i] else {}
            if self._passes_need_dx[i]:
                options["need_dx"] = i > 0 or need_dx
            if consume and self._passes_consume[i]:
                options["consume"] = True
            dy, out = self.layers[i].backward(dy, trace.layers[i], arriving[i], **options)
            departing.append(out)
        return dy, tuple(reversed(departing))

    def _own_layers(self, trace, dstate=None):
        """Walk through the layers that derive from Layer: layer, its trace, its part of dstate."""
        parts = self._check_state("dstate", dstate)
        for layer, kept, part in zip(self.layers, trace.layers, parts):
            if isinstance(layer, Layer):
                yield layer, kept, part

    def _check_form(self, trace, dstate=None):
        super()._check_form(trace)
        for layer, kept, part in self._own_layers(trace, dstate):
            if kept is not None:
                layer._check_form(kept, part)

    def _then_and_now(self, trace):
        return [
            pair
            for layer, kept, _ in self._own_layers(trace)
            if kept is not None
            for pair in layer._then_and_now(kept)
        ]

    def _fingerprint(self):
        return None  # each layer has its own

    def _check_state(self, name, state):
        if state is None:
            return (None,) * len(self.layers)
        if not isinstance(state, (tuple, list)) or len(state) != len(self.layers):
            got = (
                f"{len(state)} entries"
                if isinstance(state, (tuple, list))
                else type(state).__name__
            )
            raise ValueError(
                f"{name} must be None or a tuple of {len(self.layers)} entries, one per layer, got {got}"
            )
        return tuple(state)

    def stepper(self, batch=1, num_threads=None):
        """Give a stepper of the whole network, with its own state, which starts at zeros."""
        return NetworkStepper(self, check_size("batch", batch), num_threads)


def _accepts(layer, option, method="forward"):
    return option in inspect.signature(getattr(layer, method)).parameters


def _part(views, i, kernels):
    """Give the views of layer i, by the layer's own names, and the stretch of the flat array they span."""
    prefix = f"{i}."
    part = Views(
        {name.removeprefix(prefix): view for name, view in views.items() if name.startswith(prefix)}
    )
    address = {name: kernels.address(view) for name, view in part.items()}
    start = min(address.values())
    end = max(address[name] + part[name].nbytes for name in part)
    itemsize, flat = views.flat.itemsize, views.flat
    step = 64 // itemsize
    first = (start - kernels.address(flat)) // itemsize
    last = first + -(-(end - start) // itemsize // step) * step
    part.flat = flat[first:last]
    return part
