"""The kernels of the CPU: the C ones, and what NumPy does as well.

cuda/kernels.py has the same names for arrays on a GPU.
"""

import math

import numpy as np

from .binding.core import (
    LinearStepper,
    Pool,
    RecurrentStepper,
    activate,  # noqa: F401 a GPU has no activation layers
    activate_backward,  # noqa: F401 likewise
    adam,
    binary_cross_entropy,
    cell,
    checked,
    checked_tokens,
    clip_values,
    embedding_backward,
    embedding_forward,
    fingerprint,
    gather_rows,  # noqa: F401 a GPU has it not: no lengths and no second direction
    huber,
    linear_backward,
    linear_forward,
    norm,
    recurrent_backward,
    recurrent_forward,
    rmsprop,
    scale,
    sgd,
    softmax,
    softmax_backward,  # noqa: F401 likewise
    softmax_cross_entropy,
    squared_error,
)

__all__ = [
    "LinearStepper",
    "Pool",
    "RecurrentStepper",
    "adam",
    "address",
    "adopt",
    "arrays",
    "binary_cross_entropy",
    "cell",
    "checked",
    "checked_tokens",
    "clip",
    "clip_values",
    "dropout_mask",
    "embedding_backward",
    "embedding_forward",
    "fingerprint",
    "huber",
    "linear_backward",
    "linear_forward",
    "masked",
    "norm",
    "recurrent_backward",
    "recurrent_forward",
    "rmsprop",
    "scale",
    "sgd",
    "softmax",
    "softmax_cross_entropy",
    "squared_error",
]

arrays = np  # the module whose arrays these functions take


def address(array):
    """Return the address of an array's first element."""
    return array.__array_interface__["data"][0]


def adopt(value):
    """Return a value as an array of this kind, where that needs no copy; else as it is."""
    return value


def clip(grads, max_norm, num_threads=None):
    """Scale a flat array to a norm of at most max_norm, if its norm is finite; return the norm before."""
    before = norm(grads, num_threads)
    if math.isfinite(before) and before > max_norm:
        for factor in _factors(max_norm, before, np.finfo(grads.dtype).tiny):
            scale(grads, factor, num_threads)
    return before


def _factors(numerator, denominator, least):
    """Return a quotient below 1 as factors, none of which is below `least`, where there is a way."""
    quotient = numerator / denominator
    if quotient >= least:
        return (quotient,)
    (a, up), (b, down) = math.frexp(numerator), math.frexp(denominator)
    half = (up - down) // 2
    return math.ldexp(1.0, half), math.ldexp(a / b, up - down - half)


def dropout_mask(rng, share, shape):
    """Draw an array of booleans, false with probability `share`."""
    return rng.random(shape, np.float32) >= share


def masked(y, x, mask, factor):
    """Write y = x * mask * factor."""
    np.multiply(x, mask, out=y)
    y *= y.dtype.type(factor)
