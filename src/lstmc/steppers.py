"""Layers and networks one step at a time, with packed weights and their own state."""

import contextlib

import numpy as np

from ._kernels import kernels_of
from ._kernels.binding.core import get_num_threads
from ._kernels.environment import check_threads
from ._kernels.messages import kind_of, located, shape_text
from .layer import check_writable, float_array, leading_rows, write_out
from .traces import Bound

__all__ = ["LinearStepper", "NetworkStepper", "copying", "stepper_of"]

IN_USE = "this stepper is in use by another thread: give each thread one of its own"


class Stepper(Bound):
    """Steps a recurrent layer: ``y_t = stepper(x_t)`` or ``stepper(x_t, out=y_t)``.

    x_t is (B, I) and y_t (B, H), a new array unless `out` is given; with batch=1 also (I,) and (H,).
    The stepper packs the weights when it is made: ``refresh()`` packs them anew. Only one thread at a time
    may use it; several steppers may share a model.
    """

    def __new__(cls, layer, batch, num_threads):
        """Pack the weights of a layer."""
        more = {"initial": layer.initial_state} if layer.learn_initial_state else {}
        if layer.clip is not None:
            more["clip"] = layer.clip
        return super().__new__(cls, layer.handle, layer.weights, batch, num_threads, **more)

    def __init__(self, layer, batch, num_threads):
        self._layer = layer
        self._batch = batch

    def __repr__(self):
        return f"<stepper of {self._layer!r}, batch {self._batch}>"

    @property
    def state(self):
        """The state: h (L, B, H), or (h, c). Reading copies; so does assigning. None is as for forward."""
        parts = self.read_state()
        return parts[0] if len(parts) == 1 else tuple(parts)

    @state.setter
    def state(self, state):
        if state is None:
            return self.reset()
        self.write_state(self._layer.enter_state("state", state, self._batch, False))

    def reset(self, mask=None):
        """Set the state to that of None: of all rows, or of those where mask, (B,) booleans, is true.

        Raises
        ------
        ValueError
            mask is not such an array.
        """
        if mask is None:
            return self.clear_state()
        arrays = self._layer.kernels.arrays
        array = arrays.ndarray
        if not isinstance(mask, array) or mask.dtype != bool or mask.shape != (self._batch,):
            got = (
                f"{mask.dtype} {shape_text(mask.shape)}"
                if isinstance(mask, array)
                else kind_of(mask)
            )
            raise ValueError(f"mask must be a bool array ({self._batch},), got {got}")
        self.clear_state(arrays.ascontiguousarray(mask))


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
        self._layer, self._dtype = layer, layer.dtype
        self._inputs, self._outputs = layer.in_features, layer.out_features
        self._threads = None if num_threads is None else check_threads("num_threads", num_threads)
        self._core = layer.kernels.LinearStepper(layer.weights)
        self.refresh = self._core.refresh

    def __repr__(self):
        return f"<stepper of {self._layer!r}>"

    def __call__(self, x, out=None):
        """Return y (batch, out) for x (batch, in)."""
        kernels = self._layer.kernels
        x = kernels.adopt(x)
        rows = leading_rows(kernels, x, "x", self._inputs, self._dtype)
        shape = (*x.shape[:-1], self._outputs)
        if out is None:
            out = kernels.arrays.empty(shape, self._dtype)
        elif kernels.checked(
            "out", out, self._dtype, shape
        ) is not out or kernels.arrays.may_share_memory(x, out):
            raise ValueError("out must be contiguous and must not overlap x")
        check_writable("out", out)
        threads = get_num_threads() if self._threads is None else self._threads
        self._core(out.reshape(-1, self._outputs), rows, threads)
        return out


def copying(layer):
    """Return the step of a layer that copies x."""

    def step(x, out=None):
        is_plain = type(x) is np.ndarray and x.dtype.char in "fd" and x.dtype.isnative
        kernels = layer.kernels if is_plain else kernels_of(x)
        if not is_plain:
            x = float_array(kernels, "x", x)
        return x.copy() if out is None else write_out(kernels, out, x)

    return step


class LayerStepper:
    """Steps a layer that has no stepper of its own, as sequences of one step."""

    def __init__(self, layer, batch):
        if not getattr(layer, "keeps_time", True):
            raise ValueError(
                f"{type(layer).__name__} has no stepper: it reads sequences as a whole"
            )
        self._layer, self.state = layer, None
        self._before, self.taken = None, 0

    def __call__(self, x, out=None):
        """Return y_t for x_t, in a new array or `out`."""
        before = self.state
        y, state, _ = self._layer.forward(x[None], before, training=False)
        y = y[0] if out is None else write_out(kernels_of(y), out, y[0])
        self._before, self.state, self.taken = before, state, self.taken + 1
        return y

    def undo(self):
        """Return to the state before the last step."""
        self.state, self.taken = self._before, self.taken - 1

    def reset(self, mask=None):
        """Set the state to None."""
        if mask is not None and self.state is not None:
            raise ValueError(
                f"mask must be None: {type(self._layer).__name__} has no stepper that resets single rows"
            )
        self.state = None


class NetworkStepper(Bound):
    """Steps a network: a token or x_t in, y_t out.

    The stepper packs the weights when it is made: ``refresh()`` packs them anew. Only one thread at a time
    may use it; several steppers may share a model.
    """

    def __init__(self, net, batch, num_threads):
        self._net, self._batch = net, batch
        if num_threads is not None:
            check_threads("num_threads", num_threads)
        self._steppers = []
        for i, layer in enumerate(net.layers):
            try:
                self._steppers.append(
                    layer.stepper(batch, num_threads=num_threads)
                    if hasattr(layer, "stepper")
                    else LayerStepper(layer, batch)
                )
            except Exception as error:
                raise located(error, i, layer) from error
        self._lower, self._last = net.chain(self._steppers)
        self._in_use = False
        self.taken = 0  # steps, each of them by all layers

    def __repr__(self):
        return f"<stepper of {self._net!r}, batch {self._batch}>"

    def __call__(self, x, out=None):
        """Take one step and return the output of the last layer, in a new array or `out`.

        x is one step of what the first layer takes: (B,) token ids or (B, I); with batch=1 also one
        token or (I,). If a layer refuses its input, or the last one `out`, no layer has taken the step.
        """
        # As in _alone, without its cost. Threads do not change between the test and the assignment: they do
        # so at calls and loops.
        if self._in_use:
            raise RuntimeError(IN_USE)
        self._in_use = True
        try:
            for step in self._lower:
                x = step(x)
            y = self._last(x, out)
            self.taken += 1
            return y
        except BaseException:
            for step in self._steppers:
                if getattr(step, "taken", self.taken) > self.taken:
                    step.undo()
            raise
        finally:
            self._in_use = False

    @contextlib.contextmanager
    def _alone(self):
        """Refuse to go on while another thread uses the stepper, and let no other one begin."""
        if self._in_use:
            raise RuntimeError(IN_USE)
        self._in_use = True
        try:
            yield
        finally:
            self._in_use = False

    def undo(self):
        """Return to the state before the last step, where layers can."""
        with self._alone():
            for step in self._steppers:
                if hasattr(step, "taken"):
                    step.undo()
            self.taken -= 1

    @property
    def state(self):
        """A copy of the state: a tuple with one entry per layer, None where a layer has none."""
        with self._alone():
            return self._state()

    def _state(self):
        return tuple(getattr(step, "state", None) for step in self._steppers)

    @state.setter
    def state(self, state):
        if not isinstance(state, (tuple, list)) or len(state) != len(self._steppers):
            raise ValueError(
                f"state must be a tuple of {len(self._steppers)} entries, one per layer"
            )
        with self._alone(), self._all_or_none():
            self._set(state)

    def _set(self, state):
        for step, part in zip(self._steppers, state):
            if hasattr(step, "state"):
                if part is None:
                    step.reset()
                else:
                    step.state = part

    @contextlib.contextmanager
    def _all_or_none(self):
        """Leave the states of all layers as they were if one of them raises an error."""
        before = self._state()
        try:
            yield
        except BaseException:
            self._set(before)
            raise

    def reset(self, mask=None):
        """Set the state to that of None: of all rows, or of those where mask, (B,) booleans, is true."""
        with self._alone(), self._all_or_none():
            for step in self._steppers:
                if hasattr(step, "reset"):
                    step.reset(mask)

    def refresh(self):
        """Pack the weights anew."""
        with self._alone():
            for step in self._steppers:
                if hasattr(step, "refresh"):
                    step.refresh()
