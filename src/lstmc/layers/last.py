"""Last: where each row of a sequence ends."""

import numpy as np

from .._kernels import cpu, kernels_of
from .._kernels.messages import shape_text
from ..files import built_in
from ..layer import Layer, float_array
from ..lengths import check_lengths
from ..steppers import copying
from ..traces import Trace

__all__ = ["Last"]


@built_in()
class Last(Layer):
    """Where each row of a sequence ends: (B, D*P) of (T, B, D*P), of an unbatched one (D*P,) of (T, D*P).

    The features of the forward direction are those of the row's last real step, T-1 or ``lengths[b] - 1``.
    Those of the reverse direction, where the recurrent layer before is bidirectional, are those of its
    first step, at which that direction ends. Of a row without a step they are zero.

    In a network it follows a recurrent layer, perhaps with other layers between: after a bidirectional one
    only such as keep features apart (``keeps_features``), as Dropout does. No layer that needs time may
    follow it. By itself it takes all features for those of the forward direction.
    """

    keeps_time, out_features = False, "same"

    def __init__(self):
        super().__init__()
        self._directions = 1

    def options(self):
        """Return the arguments that make a layer like this one: none."""
        return {}

    def use_kernels(self, kernels):
        """Compute with the kernels of another device from now on; a GPU is refused."""
        self.check_movable(kernels)
        super().use_kernels(kernels)

    def check_movable(self, kernels):
        """Refuse a GPU, which does not have the layer."""
        if kernels is not cpu:
            raise ValueError("a GPU does not have the layer Last yet")

    def follow(self, directions):
        """Read an x that has so many directions, 1 or 2, from now on."""
        self._directions = directions

    def _sources(self, shape, lengths):
        """Yield where y comes from in x (T, B, D*P): the steps, their rows, and the features."""
        steps, batch, features = shape
        ends = np.full(batch, steps) if lengths is None else np.atleast_1d(lengths)
        rows, half = np.flatnonzero(ends), features // self._directions
        yield ends[rows] - 1, rows, slice(0, half)
        if self._directions == 2:
            yield np.zeros_like(rows), rows, slice(half, features)

    def __call__(self, x, state=None, lengths=None):
        """Run without a trace for backward: return y and the state."""
        y, state, _ = self.forward(x, state, training=False, lengths=lengths)
        return y, state

    def forward(self, x, state=None, training=True, lengths=None):
        """Return y, the state unchanged, and a trace.

        Parameters
        ----------
        x : ndarray (T, B, D*P), or (T, D*P) for one unbatched sequence
        state : optional
        training : bool
            Return a trace.
        lengths : array_like (B,) of integers, or an integer for an unbatched sequence, optional
            The real steps of each row, 0 to T.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit, or x is on a GPU.
        """
        self.check_movable(kernels_of(x))
        x = float_array(self.kernels, "x", x)
        if x.ndim not in (2, 3) or x.shape[-1] % self._directions:
            even = " with an even number of features" if self._directions == 2 else ""
            raise ValueError(
                f"x must be (T, B, features) or (T, features){even}, got {shape_text(x.shape)}"
            )
        if lengths is not None:
            lengths = check_lengths(lengths, x.shape[:-1])
        batched = x if x.ndim == 3 else x[:, None]
        y = np.zeros(batched.shape[1:], x.dtype)
        for steps, rows, part in self._sources(batched.shape, lengths):
            y[rows, part] = batched[steps, rows, part]
        form = {"shape": x.shape, "dtype": x.dtype, "lengths": lengths}
        y = y.reshape(x.shape[1:])
        return y, state, Trace(self, None, **form) if training else None

    def backward(self, dy, trace, dstate=None):
        """Return dx, zero but where y was taken from, and dstate unchanged.

        Raises
        ------
        TypeError, ValueError
            dy does not fit, or the trace is not this layer's.
        """
        self.check_trace(trace)
        dy = self.kernels.checked("dy", dy, trace.dtype, trace.shape[1:])
        dx = self.pool.array(trace.shape, trace.dtype)
        dx[...] = 0
        batched = dx if dx.ndim == 3 else dx[:, None]
        dy = dy.reshape(batched.shape[1:])
        for steps, rows, part in self._sources(batched.shape, trace.lengths):
            batched[steps, rows, part] = dy[rows, part]
        return dx, dstate

    def fingerprint(self):
        """Return None: there are no weights."""

    def stepper(self, batch=1, num_threads=None):
        """Return a function of one step, which returns a copy of x: the step is the last so far.

        Raises
        ------
        ValueError
            The layer before it runs in two directions: the reverse one begins at the end.
        """
        if self._directions == 2:
            raise ValueError(
                "Last of a bidirectional layer has no stepper: it needs the whole sequence"
            )
        return copying(self)
