"""Losses: the value and its gradient at once."""

import math

import numpy as np

from ._kernels import _core
from ._kernels._core import checked, checked_tokens
from .layers import check_dtype

__all__ = ["softmax_cross_entropy", "squared_error"]


def _float_array(name, value):
    if not isinstance(value, np.ndarray) or value.dtype.newbyteorder("=") not in (
        np.float32,
        np.float64,
    ):
        got = value.dtype.name if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name} must be a float32 or float64 array, got {got}")
    return checked(name, value, check_dtype(value.dtype.newbyteorder("=")), value.shape)


def _output(name, out, rows):
    """Check an array that is to be written: of the form of rows, and rows itself or apart from it."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be an ndarray, got {type(out).__name__}")
    contiguous = out.flags.c_contiguous and out.flags.aligned and out.flags.writeable
    if not contiguous or out.shape != rows.shape or out.dtype != rows.dtype:
        raise ValueError(
            f"{name} must be a writable contiguous {rows.dtype.name} array "
            f"{_core.describe(rows.shape)}, got {out.dtype.name} {_core.describe(out.shape)}"
        )
    if out.ctypes.data != rows.ctypes.data and np.may_share_memory(out, rows):
        raise ValueError(f"{name} must be logits itself or share no memory with it")
    return out


def softmax_cross_entropy(logits, targets, ignore_index=-1, num_threads=None, out=None):
    """Cross-entropy of softmax(logits) against target classes, with its gradient.

    Parameters
    ----------
    logits : ndarray (..., V)
        Unnormalised log probabilities. The largest of a row is taken off first, so that none overflows.
    targets : ndarray (...), int64 or int32
        Classes in [0, V), or `ignore_index`.
    ignore_index : int
        Targets of this value are not counted.
    num_threads : int, optional
    out : ndarray (..., V), contiguous and of the type of logits, optional
        Where to write dlogits; it may be logits itself, which spares the memory of a second array.

    Returns
    -------
    loss : float
        The mean over the counted targets, in nats; 0.0 if none is counted.
    dlogits : ndarray (..., V)
        `out` if that was given.

    Raises
    ------
    TypeError, ValueError
        Types or shapes do not fit, or a target is out of range: it is named with its position.
    """
    rows = _float_array("logits", logits)
    if rows.ndim == 0 or rows.shape[-1] == 0:
        raise ValueError(
            f"logits must be (..., V) with V at least 1, got {_core.describe(rows.shape)}"
        )
    classes = rows.shape[-1]
    ids = checked_tokens("targets", targets, classes, rows.shape[:-1], ignored=ignore_index)
    dlogits = np.empty(rows.shape, rows.dtype) if out is None else _output("out", out, rows)
    shape = (math.prod(rows.shape[:-1]), classes)
    loss = _core.softmax_cross_entropy(
        dlogits.reshape(shape), rows.reshape(shape), ids, ignore_index, num_threads
    )
    return loss, dlogits


def squared_error(y, target, num_threads=None):
    """Mean of the squared differences, with its gradient.

    Parameters
    ----------
    y, target : ndarray of one shape and type
    num_threads : int, optional

    Returns
    -------
    loss : float
        The mean over all elements; 0.0 if there are none.
    dy : ndarray, in the shape of y

    Raises
    ------
    TypeError, ValueError
        Types or shapes differ.
    """
    y = _float_array("y", y)
    target = checked("target", target, y.dtype, y.shape)
    dy = np.empty(y.shape, y.dtype)
    return _core.squared_error(dy, y, target, num_threads), dy
