"""Linear: an affine map of the last axis."""

import math

import numpy as np

from .._kernels.turns import in_turn
from ..files import built_in, generator
from ..layer import Layer, check_flag, check_size, fixed, leading_rows
from ..steppers import LinearStepper
from ..traces import Trace

__all__ = ["Linear"]


@built_in("in_features", "out_features", bias=True, dtype="float32")
class Linear(Layer):
    """An affine map of the last axis: y = x weight^T + bias.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Draws the initial weights, uniform within 1/sqrt(in_features).
    device : "cpu", "cuda" or "cuda:N"

    Raises
    ------
    TypeError, ValueError
        A size is not a positive integer, or the type is another one.
    """

    in_features = fixed("in_features")
    out_features = fixed("out_features")
    bias = fixed("bias")

    def __init__(
        self, in_features, out_features, bias=True, dtype=np.float32, rng=None, device="cpu"
    ):
        super().__init__(dtype, device)
        self._in_features = check_size("in_features", in_features)
        self._out_features = check_size("out_features", out_features)
        self._bias = check_flag("bias", bias)
        bound = 1 / math.sqrt(self._in_features)
        self._allocate(generator(rng), {"weight": bound, "bias": bound})

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {
            "in_features": self._in_features,
            "out_features": self._out_features,
            "bias": self._bias,
            "dtype": self._dtype.name,
        }

    def parameters(self):
        """Return the shapes of weight (out, in) and bias (out,)."""
        shapes = {"weight": (self._out_features, self._in_features)}
        return {**shapes, "bias": (self._out_features,)} if self._bias else shapes

    def forward(self, x, state=None, training=True, num_threads=None):
        """Return y (..., out_features) for x (..., in_features), the state unchanged, and a trace.

        Raises
        ------
        TypeError, ValueError
            x is not an array of the layer's type, or its shape does not fit.
        """
        x = self.kernels.adopt(x)
        rows = leading_rows(self.kernels, x, "x", self._in_features, self._dtype)
        y = self.empty((*x.shape[:-1], self._out_features))
        if rows.size:
            flat = y.reshape(-1, self._out_features)
            self.kernels.linear_forward(
                flat, rows, self._params["weight"], self._params.get("bias"), num_threads
            )
        trace = None
        if training:
            copy = self.pool.array(rows.shape, self._dtype)
            copy[...] = rows
            trace = Trace(self, self.fingerprint(), x=copy, shape=x.shape)
        return y, state, trace

    @in_turn
    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, need_grads=True):
        """Add to the gradients, if needed; return dx in the shape of x, or None, and dstate unchanged.

        Raises
        ------
        TypeError, ValueError
            dy does not fit, the trace is not this layer's, or the weights have changed since.
        """
        self.check_trace(trace)
        rows = self.kernels.checked("dy", dy, self._dtype, (*trace.shape[:-1], self._out_features))
        dx = self.empty(trace.shape) if need_dx else None
        if rows.size:
            flat_dx = None if dx is None else dx.reshape(-1, self._in_features)
            self.kernels.linear_backward(
                flat_dx,
                self._grads["weight"] if need_grads else None,
                self._grads.get("bias") if need_grads else None,
                rows.reshape(-1, self._out_features),
                trace.x,
                self._params["weight"],
                num_threads,
            )
        return dx, dstate

    def stepper(self, batch=1, num_threads=None):
        """Return a LinearStepper: it takes one step x (batch, in) or, for one row, (in,)."""
        return LinearStepper(self, num_threads)
