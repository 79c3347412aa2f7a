"""Activations of arrays of any shape; softmax goes over the last axis."""

import numpy as np

from .lstm import sigmoid

__all__ = ["activation_backward", "activation_forward"]


def _softmax(x):
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def activation_forward(x, function, alpha=1.0, negative_slope=0.01):
    """Value of an activation: of each element, or of softmax each row.

    Parameters
    ----------
    x : array
    function : str
        "tanh", "relu", "sigmoid", "softmax", "elu" (Clevert et al. 2016) or "leaky_relu" (Maas et al. 2013).
    alpha : float
        ELU's limit far below 0 is minus this.
    negative_slope : float
        The slope of the leaky ReLU below 0.

    Returns
    -------
    y : array
    """
    below = np.minimum(x, 0)
    y = {
        "tanh": lambda: np.tanh(x),
        "relu": lambda: np.maximum(x, 0),
        "sigmoid": lambda: sigmoid(x),
        "softmax": lambda: _softmax(x),
        "elu": lambda: np.where(x > 0, x, alpha * np.expm1(below)),
        "leaky_relu": lambda: np.where(x > 0, x, negative_slope * below),
    }[function]()
    return y.astype(x.dtype)


def activation_backward(dy, x, function, alpha=1.0, negative_slope=0.01):
    """Gradient of `activation_forward`; at 0 it is that of the negative side.

    Parameters
    ----------
    dy, x : array
    function, alpha, negative_slope
        As forward had them.

    Returns
    -------
    dx : array
    """
    y = activation_forward(x, function, alpha, negative_slope)
    if function == "softmax":
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))
    slope = {
        "tanh": lambda: 1 - y * y,
        "relu": lambda: np.where(x > 0, 1, 0),
        "sigmoid": lambda: y * (1 - y),
        "elu": lambda: np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0))),
        "leaky_relu": lambda: np.where(x > 0, 1, negative_slope),
    }[function]()
    return (dy * slope).astype(dy.dtype)
