"""Activation: a function of each element, or of softmax each row."""

import math

from .._kernels import cpu, kernels_of
from .._kernels.binding.core import ACTIVATIONS
from .._kernels.messages import shape_text
from ..checks import check_number
from ..files import built_in
from ..layer import Layer, check_writable, fixed, float_array
from ..traces import Trace

__all__ = ["Activation"]

# The option that a function has, and what that is by default.
OPTIONS = {"elu": ("alpha", 1.0), "leaky_relu": ("negative_slope", 0.01)}
FUNCTIONS = ("tanh", "relu", "sigmoid", "softmax", "elu", "leaky_relu")


@built_in("function", alpha=None, negative_slope=None)
class Activation(Layer):
    """A function of each element of x; of softmax, of each row of features.

    Parameters
    ----------
    function : str
        "tanh", "relu" (x, or 0 below 0), "sigmoid", "softmax" over the last axis, "elu" (x, or
        alpha (exp(x) - 1) below 0; Clevert et al. 2016) or "leaky_relu" (x, or negative_slope x below 0;
        Maas et al. 2013). Where it has a corner at 0, its derivative there is that of the side below.
    alpha : float, optional
        Of elu alone: 1 by default.
    negative_slope : float, optional
        Of leaky_relu alone: 0.01 by default.

    Raises
    ------
    ValueError
        The function is unknown, an option does not belong to it, or is not a finite number of at least 0.
    """

    out_features = "same"
    function = fixed("function")
    alpha = fixed("alpha")
    negative_slope = fixed("negative_slope")

    def __init__(self, function, alpha=None, negative_slope=None):
        super().__init__()
        if not isinstance(function, str) or function not in FUNCTIONS:
            raise ValueError(f"function must be one of {', '.join(FUNCTIONS)}, got {function!r}")
        self._function, self._slope = function, 0.0
        self.keeps_features = function != "softmax"
        self._alpha = self._checked("alpha", alpha)
        self._negative_slope = self._checked("negative_slope", negative_slope)

    def _checked(self, name, value):
        """Return an option, or None if the function has another one or none."""
        own, default = OPTIONS.get(self._function, (None, None))
        if own != name:
            if value is not None:
                raise ValueError(
                    f"{name} must be None, as {self._function} has none, got {value!r}"
                )
            return None
        self._slope = check_number(name, default if value is None else value)
        return self._slope

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        options = {"function": self._function, "alpha": None, "negative_slope": None}
        own, default = OPTIONS.get(self._function, (None, None))
        if own and self._slope != default:
            options[own] = self._slope
        return options

    def use_kernels(self, kernels):
        """Compute with the kernels of another device from now on; a GPU is refused."""
        self.check_movable(kernels)
        super().use_kernels(kernels)

    def check_movable(self, kernels):
        """Refuse a GPU, which does not have the layer."""
        if kernels is not cpu:
            raise ValueError("a GPU does not have the layer Activation yet")

    def _checked_x(self, x):
        self.check_movable(kernels_of(x))
        x = float_array(self.kernels, "x", x)
        if self._function == "softmax" and not x.ndim:
            raise ValueError(f"x must be (..., features), got {shape_text(x.shape)}")
        return x

    def _activate(self, y, x, num_threads):
        if self._function == "softmax":
            self.kernels.softmax(_rows(y), _rows(x), num_threads)
        else:
            self.kernels.activate(y, x, ACTIVATIONS[self._function], self._slope, num_threads)

    def forward(self, x, state=None, training=True, num_threads=None):
        """Return y in the shape and type of x, the state unchanged, and a trace.

        Parameters
        ----------
        x : ndarray (...), of softmax (..., features)
        state : optional
        training : bool
            Return a trace.
        num_threads : int, optional

        Raises
        ------
        TypeError
            x is not an array of floats.
        ValueError
            x is on a GPU, or has no axis for softmax.
        """
        x = self._checked_x(x)
        y = self.pool.array(x.shape, x.dtype)
        self._activate(y, x, num_threads)
        trace = None
        if training:
            copy = self.pool.array(y.shape, y.dtype)
            copy[...] = y
            trace = Trace(self, None, y=copy)
        return y, state, trace

    def fingerprint(self):
        """Return None: there are no weights."""

    def backward(self, dy, trace, dstate=None, num_threads=None):
        """Return dx, and dstate unchanged.

        Raises
        ------
        TypeError, ValueError
            dy does not fit, or the trace is not this layer's.
        """
        self.check_trace(trace)
        y = trace.y
        dy = self.kernels.checked("dy", dy, y.dtype, y.shape)
        dx = self.pool.array(y.shape, y.dtype)
        if self._function == "softmax":
            self.kernels.softmax_backward(_rows(dx), _rows(dy), _rows(y), num_threads)
        else:
            number = ACTIVATIONS[self._function]
            self.kernels.activate_backward(dx, dy, y, number, self._slope, num_threads)
        return dx, dstate

    def stepper(self, batch=1, num_threads=None):
        """Return a function of one step, which needs no state."""

        def step(x, out=None):
            x = self._checked_x(x)
            if out is None:
                out = self.kernels.arrays.empty(x.shape, x.dtype)
            elif self.kernels.checked(
                "out", out, x.dtype, x.shape
            ) is not out or self.kernels.arrays.may_share_memory(x, out):
                raise ValueError("out must be contiguous and must not overlap x")
            self._activate(check_writable("out", out), x, num_threads)
            return out

        return step


def _rows(array):
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
