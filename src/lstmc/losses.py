"""Losses: the value and its gradient at once."""

import math

import numpy as np

from ._kernels import kernels_of
from ._kernels.messages import kind_of, shape_text
from .layer import float_array

__all__ = ["softmax_cross_entropy", "squared_error"]


def _output(kernels, name, out, rows):
    """Return an array to write to, in the form of rows; it must be rows itself or share no memory with it."""
    if not isinstance(out, kernels.arrays.ndarray):
        raise TypeError(f"{name} must be an ndarray where logits is, got {kind_of(out)}")
    contiguous = out.flags.c_contiguous and all(
        getattr(out.flags, flag, True) for flag in ("aligned", "writeable")
    )
    if not contiguous or out.shape != rows.shape or out.dtype != rows.dtype:
        raise ValueError(
            f"{name} must be a writable contiguous {rows.dtype.name} array "
            f"{shape_text(rows.shape)}, got {out.dtype.name} {shape_text(out.shape)}"
        )
    same = kernels.address(out) == kernels.address(rows)
    if not same and kernels.arrays.may_share_memory(out, rows):
        raise ValueError(f"{name} must be logits itself or share no memory with it")
    return out


def _index(name, value):
    """Return an int of 64 bits; refuse anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be an integer of 64 bits, got {value}")
    return int(value)


def softmax_cross_entropy(logits, targets, ignore_index=-1, num_threads=None, out=None):
    """Cross-entropy of softmax(logits) against target classes, with its gradient.

    Parameters
    ----------
    logits : ndarray (..., V)
        Unnormalised log probabilities. The largest of a row is subtracted first, so that none overflows.
    targets : ndarray (...), int64 or int32
        Classes in [0, V), or `ignore_index`.
    ignore_index : int
        Targets of this value do not count.
    num_threads : int, optional
    out : ndarray (..., V), contiguous and of the type of logits, optional
        Where to write dlogits. It may be logits itself, which saves memory.

    Returns
    -------
    loss : float
        The mean over the targets that count, in nats; 0.0 if none does. For arrays on a GPU it is an array ()
        there: ``float(loss)`` waits for it.
    dlogits : ndarray (..., V)
        `out`, if there is one.

    Raises
    ------
    TypeError, ValueError
        Types or shapes do not fit, or a target is out of range: the message names it and its position.
    """
    kernels = kernels_of(logits)
    rows = float_array(kernels, "logits", logits)
    if rows.ndim == 0 or rows.shape[-1] == 0:
        raise ValueError(f"logits must be (..., V) with V at least 1, got {shape_text(rows.shape)}")
    classes, ignore_index = rows.shape[-1], _index("ignore_index", ignore_index)
    ids = kernels.checked_tokens("targets", targets, classes, rows.shape[:-1], ignore_index)
    if out is None:
        dlogits = kernels.arrays.empty(rows.shape, rows.dtype)
    else:
        dlogits = _output(kernels, "out", out, rows)
        if kernels.arrays.may_share_memory(dlogits, kernels.adopt(targets)):
            raise ValueError("out must share no memory with targets")
    shape = (math.prod(rows.shape[:-1]), classes)
    loss = kernels.softmax_cross_entropy(
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
        The mean over all elements; 0.0 if there are none. For arrays on a GPU it is an array () there.
    dy : ndarray, in the shape of y

    Raises
    ------
    TypeError, ValueError
        Types or shapes differ.
    """
    kernels = kernels_of(y)
    y = float_array(kernels, "y", y)
    target = kernels.checked("target", target, y.dtype, y.shape)
    dy = kernels.arrays.empty(y.shape, y.dtype)
    return kernels.squared_error(dy, y, target, num_threads), dy
