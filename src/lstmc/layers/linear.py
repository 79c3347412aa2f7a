"""Linear: an affine map of the last axis."""

import math
import re

import numpy as np

from .._kernels.turns import in_turn
from ..files import built_in
from ..layer import Layer, check_flag, check_size, fixed, leading_rows
from ..steppers import LinearStepper
from ..traces import Trace

__all__ = ["Linear"]

NUMBER = re.compile("0|[1-9][0-9]{0,8}")  # of a layer, in one way of writing it


@built_in("in_features", "out_features", bias=True, dtype="float32", tied_to=None)
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
    tied_to : str, optional
        "0" ties the layer to layer 0 of the network that it joins: its weight is that layer's (Press and Wolf
        2017), both add to one gradient, and only the bias is its own. By itself it cannot be called.

    Raises
    ------
    TypeError, ValueError
        A size is not a positive integer, the type is another one, or tied_to is not a number in a str.
    """

    _not_pickled = (*Layer._not_pickled, "_tied")
    _tied = None  # the weight and its gradient, if they are those of another layer
    in_features, out_features, bias, tied_to = map(
        fixed, ("in_features", "out_features", "bias", "tied_to")
    )

    def __init__(self, in_features, out_features, bias=True, dtype=np.float32, rng=None,
                 device="cpu", *, tied_to=None):  # fmt: skip
        super().__init__(dtype, device)
        if tied_to is not None and not (isinstance(tied_to, str) and NUMBER.fullmatch(tied_to)):
            raise TypeError(
                f'tied_to must be the number of a layer, as "0", or None, got {tied_to!r:.100}'
            )
        self._tied_to = tied_to
        self._in_features = check_size("in_features", in_features)
        self._out_features = check_size("out_features", out_features)
        self._bias = check_flag("bias", bias)
        bound = 1 / math.sqrt(self._in_features)
        self.allocate(rng, dict.fromkeys(self.parameters(), bound))

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {
            "in_features": self._in_features,
            "out_features": self._out_features,
            "bias": self._bias,
            "dtype": self._dtype.name,
            "tied_to": self._tied_to,
        }

    def parameters(self):
        """Return the shapes of weight (out, in), unless it is another layer's, and bias (out,)."""
        shapes = {}
        if self._tied_to is None:
            shapes["weight"] = (self._out_features, self._in_features)
        if self._bias:
            shapes["bias"] = (self._out_features,)
        return shapes

    def tie(self, weight, gradient):
        """Take these views, another layer's weight and its gradient, for the layer's own from now on."""
        self._tied = weight, gradient

    def weights(self):
        """Return the views of the weight and of the bias, or None.

        Raises
        ------
        ValueError
            It is tied to a layer of a network, and part of none.
        """
        return self._weight(), self._params.get("bias")

    def _weight(self, gradient=False):
        if self._tied_to is None:
            return (self._grads if gradient else self._params)["weight"]
        if self._tied is None:
            raise ValueError(
                f'a Linear tied to layer "{self._tied_to}" of a network runs in that network alone'
            )
        return self._tied[gradient]

    def fingerprint(self):
        """Return a number that changes when the weights do."""
        tied = [] if self._tied is None else [self._tied[0]]
        return self.kernels.fingerprint([self._params.flat, *tied])

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
            self.kernels.linear_forward(flat, rows, *self.weights(), num_threads)
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
                self._weight(gradient=True) if need_grads else None,
                self._grads.get("bias") if need_grads else None,
                rows.reshape(-1, self._out_features),
                trace.x,
                self._weight(),
                num_threads,
            )
        return dx, dstate

    def stepper(self, batch=1, num_threads=None):
        """Return a LinearStepper: it takes one step x (batch, in) or, for one row, (in,)."""
        return LinearStepper(self, num_threads)
