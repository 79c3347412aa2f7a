"""Layers and networks one step at a time, with packed weights and their own state."""

from ._kernels.binding.core import get_num_threads
from ._kernels.messages import kind_of, shape_text
from .layer import check_writable, leading_rows
from .traces import Bound

__all__ = ["LinearStepper", "NetworkStepper", "stepper_of"]


class Stepper(Bound):
    """Steps a recurrent layer: ``y_t = stepper(x_t)`` or ``stepper(x_t, out=y_t)``.

    x_t is (B, I) and y_t (B, H), a new array unless `out` is given; with batch=1 also (I,) and (H,).
    The stepper packs the weights when it is made: ``refresh()`` packs them anew. Only one thread at a time
    may use it; several steppers may share a model.
    """

    def __new__(cls, layer, batch, num_threads):
        """Pack the weights of a layer."""
        return super().__new__(cls, layer.handle, layer.weights, batch, num_threads)

    def __init__(self, layer, batch, num_threads):
        self._layer = layer
        self._batch = batch

    def __repr__(self):
        return f"<stepper of {self._layer!r}, batch {self._batch}>"

    @property
    def state(self):
        """The state: h (L, B, H), or (h, c). Reading copies; so does assigning, where None means zeros."""
        parts = [part.copy() for part in self.states()]
        return parts[0] if len(parts) == 1 else tuple(parts)

    @state.setter
    def state(self, state):
        if state is None:
            return self.reset()
        parts = self._layer.enter_state("state", state, self._batch, False)
        for mine, new in zip(self.states(), parts):
            mine[...] = new

    def reset(self, mask=None):
        """Set the state to zeros: of all rows, or of those where mask, (B,) booleans, is true.

        Raises
        ------
        ValueError
            mask is not such an array.
        """
        if mask is None:
            for part in self.states():
                part[...] = 0
            return
        array = self._layer.kernels.arrays.ndarray
        if not isinstance(mask, array) or mask.dtype != bool or mask.shape != (self._batch,):
            got = (
                f"{mask.dtype} {shape_text(mask.shape)}"
                if isinstance(mask, array)
                else kind_of(mask)
            )
            raise ValueError(f"mask must be a bool array ({self._batch},), got {got}")
        for part in self.states():
            part[:, mask] = 0


_CLASSES: dict = {}  # Stepper over the step of the kernels of a device, by these kernels


def stepper_of(layer, batch, num_threads):
    """Return a Stepper of a recurrent layer, for the device that the layer is on."""
    kernels = layer.kernels
    if kernels not in _CLASSES:
        bases = (Stepper, kernels.RecurrentStepper)
        _CLASSES[kernels] = type("Stepper", bases, {"__doc__": Stepper.__doc__})
    return _CLASSES[kernels](layer, batch, num_threads)


class LinearStepper(Bound):
    """Steps a linear layer with packed weights. ``refresh()`` packs them anew."""

    def __init__(self, layer, num_threads):
        self._layer = layer
        self._threads = num_threads
        self._core = layer.kernels.LinearStepper(
            lambda: (layer["weight"], layer["bias"] if layer.bias else None)
        )
        self.refresh = self._core.refresh

    def __repr__(self):
        return f"<stepper of {self._layer!r}>"

    def __call__(self, x, out=None):
        """Return y (batch, out) for x (batch, in)."""
        layer, kernels = self._layer, self._layer.kernels
        x = kernels.adopt(x)
        rows = leading_rows(kernels, x, "x", layer.in_features, layer.dtype)
        shape = (*x.shape[:-1], layer.out_features)
        if out is None:
            out = kernels.arrays.empty(shape, layer.dtype)
        elif kernels.checked(
            "out", out, layer.dtype, shape
        ) is not out or kernels.arrays.may_share_memory(x, out):
            raise ValueError("out must be contiguous and must not overlap x")
        check_writable("out", out)
        threads = get_num_threads() if self._threads is None else self._threads
        self._core(out.reshape(-1, layer.out_features), rows, threads)
        return out


class LayerStepper:
    """Steps a layer that has no stepper of its own, as sequences of one step."""

    def __init__(self, layer, batch):
        self._layer, self.state = layer, None

    def __call__(self, x, out=None):
        y, self.state, _ = self._layer.forward(x[None], self.state, training=False)
        if out is None:
            return y[0]
        out[...] = y[0]
        return out

    def reset(self, mask=None):
        """Set the state to zeros."""
        if mask is not None and self.state is not None:
            raise ValueError(
                f"mask must be None: {type(self._layer).__name__} has no stepper that resets single rows"
            )
        self.state = None


class NetworkStepper(Bound):
    """Steps a Sequential: a token or x_t in, y_t out.

    The stepper packs the weights when it is made: ``refresh()`` packs them anew. Only one thread at a time
    may use it; several steppers may share a model.
    """

    def __init__(self, net, batch, num_threads):
        self._net, self._batch = net, batch
        self._steppers = [
            layer.stepper(batch, num_threads=num_threads)
            if hasattr(layer, "stepper")
            else LayerStepper(layer, batch)
            for layer in net.layers
        ]

    def __repr__(self):
        return f"<stepper of {self._net!r}, batch {self._batch}>"

    def __call__(self, x, out=None):
        """Take one step and return the output of the last layer, in a new array or `out`.

        x is one step of what the first layer takes: (B,) token ids or (B, I); with batch=1 also one
        token or (I,).
        """
        for step in self._steppers[:-1]:
            x = step(x)
        return self._steppers[-1](x, out)

    @property
    def state(self):
        """A copy of the state: a tuple with one entry per layer, None where a layer has none."""
        return tuple(getattr(step, "state", None) for step in self._steppers)

    @state.setter
    def state(self, state):
        if not isinstance(state, (tuple, list)) or len(state) != len(self._steppers):
            raise ValueError(
                f"state must be a tuple of {len(self._steppers)} entries, one per layer"
            )
        for step, part in zip(self._steppers, state):
            if hasattr(step, "state"):
                if part is None:
                    step.reset()
                else:
                    step.state = part

    def reset(self, mask=None):
        """Set the state to zeros: of all rows, or of those where mask, (B,) booleans, is true."""
        for step in self._steppers:
            if hasattr(step, "reset"):
                step.reset(mask)

    def refresh(self):
        """Pack the weights anew."""
        for step in self._steppers:
            if hasattr(step, "refresh"):
                step.refresh()
