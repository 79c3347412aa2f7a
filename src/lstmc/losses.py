"""Losses: the value and its gradient at once."""

import math

import numpy as np

from ._kernels import kernels_of
from ._kernels.messages import kind_of, shape_text
from .layer import float_array
from .lengths import check_on_cpu, counted

__all__ = ["binary_cross_entropy", "huber", "softmax_cross_entropy", "squared_error"]


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


def _only(counts, targets, ignore_index):
    """Return token ids with ignore_index where they do not count; anything but an array of them as it is."""
    fits = isinstance(targets, np.ndarray) and targets.shape == counts.shape
    if not fits or targets.dtype.kind != "i" or targets.dtype.itemsize < 4:
        return targets  # it is refused soon
    return np.where(counts, targets, np.int64(ignore_index))


def check_returned(y, result):
    """Return what a loss function of a user's returned for an output; refuse what is no loss and gradient."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"loss must return a loss and its gradient, got {kind_of(result)}")
    dy = result[1]
    if getattr(dy, "shape", None) != y.shape or getattr(dy, "dtype", None) != y.dtype:
        wanted = f"{y.dtype} {shape_text(y.shape)}, as the output is"
        got = f"{dy.dtype} {shape_text(dy.shape)}" if hasattr(dy, "dtype") else kind_of(dy)
        raise ValueError(f"the gradient that loss returns must be {wanted}, got {got}")
    return result


def softmax_cross_entropy(
    logits,
    targets,
    ignore_index=-1,
    num_threads=None,
    out=None,
    *,
    lengths=None,
    mask=None,
    batch_first=False,
):
    """Cross-entropy of softmax(logits) against target classes, with its gradient.

    A target counts if `ignore_index`, `lengths` and `mask` all let it. Where one does not, logits and target
    may be anything, NaN and classes out of range too.

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
    lengths : ndarray (B,) of integers in [0, T], optional
        Steps from a row's length on do not count. logits are then (T, B, ..., V).
    mask : ndarray (...) of booleans, optional
        In the shape of targets: only where it is True do they count.
    batch_first : bool
        Whether, with lengths, logits are (B, T, ..., V).

    Returns
    -------
    loss : float
        The mean over the targets that count, in nats; 0.0 if none does. For arrays on a GPU it is an array ()
        there: ``float(loss)`` waits for it.
    dlogits : ndarray (..., V)
        `out`, if there is one. Zero where a target does not count.

    Raises
    ------
    TypeError, ValueError
        Types or shapes do not fit, or a target is out of range: the message names it and its position. Or
        lengths come with logits (B, V), of one target for each row: these have no steps. Or lengths or a mask
        come with arrays on a GPU, whose losses take none yet.
    """
    kernels = kernels_of(logits)
    rows = float_array(kernels, "logits", logits)
    if rows.ndim == 0 or rows.shape[-1] == 0:
        raise ValueError(f"logits must be (..., V) with V at least 1, got {shape_text(rows.shape)}")
    classes, ignore_index = rows.shape[-1], _index("ignore_index", ignore_index)
    check_on_cpu(rows, lengths=lengths, mask=mask)
    counts = counted("logits", rows, lengths, mask, batch_first, each=False)
    only = targets if counts is None else _only(counts, targets, ignore_index)
    ids = kernels.checked_tokens("targets", only, classes, rows.shape[:-1], ignore_index)
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


def squared_error(y, target, num_threads=None, *, lengths=None, mask=None, batch_first=False):
    """Mean of the squared differences, with its gradient.

    An element counts if `lengths` and `mask` both let it. Where one does not, y and target may be anything,
    NaN too.

    Parameters
    ----------
    y, target : ndarray of one shape and type
    num_threads : int, optional
    lengths : ndarray (B,) of integers in [0, T], optional
        Steps from a row's length on do not count. y is then (T, B, ..., K), of three axes at least: of two,
        (T, B) and (B, K) could not be told apart.
    mask : ndarray of booleans, optional
        In the shape of y, or of y without its last axis: only where it is True do elements count.
    batch_first : bool
        Whether, with lengths, y is (B, T, ..., K).

    Returns
    -------
    loss : float
        The mean over the elements that count; 0.0 if none does. For arrays on a GPU it is an array () there.
    dy : ndarray, in the shape of y
        Zero where an element does not count.

    Raises
    ------
    TypeError, ValueError
        Types or shapes differ or do not fit. Or lengths or a mask come with arrays on a GPU, whose losses
        take none yet.
    """
    kernels, y, target, counts = _pair("y", y, "target", target, lengths, mask, batch_first)
    dy = kernels.arrays.empty(y.shape, y.dtype)
    return kernels.squared_error(dy, y, target, counts, num_threads), dy


def huber(y, target, delta=1.0, num_threads=None, *, lengths=None, mask=None, batch_first=False):
    r"""Mean of Huber's loss, with its gradient: half the square of small errors, and a line for large ones.

    With error = y - target, an element's loss is error² / 2 where \|error\| is at most delta, and
    delta (\|error\| - delta / 2) beyond. Its slope is the error, but within [-delta, delta]: an outlier pulls
    no harder than an error of delta.

    Parameters
    ----------
    y, target : ndarray of one shape and type
    delta : float
        Where the square becomes a line: a positive number.
    num_threads, lengths, mask, batch_first
        As for `squared_error`.

    Returns
    -------
    loss : float
        The mean over the elements that count; 0.0 if none does.
    dy : ndarray, in the shape of y
        Zero where an element does not count.

    Raises
    ------
    TypeError, ValueError
        As for `squared_error`; or delta is not a positive number, or the arrays are on a GPU, which does not
        have this loss yet.

    References
    ----------
    Huber (1964), Robust estimation of a location parameter.
    """
    if isinstance(delta, bool) or not isinstance(delta, (int, float, np.integer, np.floating)):
        raise TypeError(f"delta must be a positive finite number, got {delta!r}")
    if not 0 < delta < math.inf:
        raise ValueError(f"delta must be a positive finite number, got {delta}")
    kernels, y, target, counts = _pair("y", y, "target", target, lengths, mask, batch_first)
    dy = kernels.arrays.empty(y.shape, y.dtype)
    return kernels.huber(dy, y, target, counts, delta, num_threads), dy


def binary_cross_entropy(
    logits, targets, num_threads=None, *, lengths=None, mask=None, batch_first=False
):
    """Cross-entropy of sigmoid(logits) against the probabilities in targets, with its gradient.

    With p = sigmoid(logits), an element's loss is -(targets log(p) + (1 - targets) log(1 - p)). It is
    computed from the logits, and is exact to rounding for any of them. An infinite logit costs nothing where
    the target is the 0 or 1 on its side; elsewhere the loss is infinite.

    Parameters
    ----------
    logits : ndarray
        Log odds of the positive class.
    targets : ndarray of the shape and type of logits
        Probabilities of the positive class, in [0, 1]; mostly 0 or 1.
    num_threads, lengths, mask, batch_first
        As for `squared_error`.

    Returns
    -------
    loss : float
        The mean over the elements that count, in nats; 0.0 if none does.
    dlogits : ndarray, in the shape of logits
        Zero where an element does not count.

    Raises
    ------
    TypeError, ValueError
        As for `squared_error`; or a target that counts is not in [0, 1], or the arrays are on a GPU, which
        does not have this loss yet.
    """
    kernels, logits, targets, counts = _pair(
        "logits", logits, "targets", targets, lengths, mask, batch_first
    )
    dlogits = kernels.arrays.empty(logits.shape, logits.dtype)
    loss = kernels.binary_cross_entropy(dlogits, logits, targets, counts, num_threads)
    _check_probabilities("targets", targets, counts)
    return loss, dlogits


def _pair(y_name, y, target_name, target, lengths, mask, batch_first):
    """Return kernels, two arrays of one shape and type as these read them, and which elements count."""
    kernels = kernels_of(y)
    y = float_array(kernels, y_name, y)
    check_on_cpu(y, lengths=lengths, mask=mask)
    counts = counted(y_name, y, lengths, mask, batch_first, each=True)
    return kernels, y, kernels.checked(target_name, target, y.dtype, y.shape), counts


def _check_probabilities(name, values, counts):
    """Refuse a value outside [0, 1] that counts, and NaN."""
    wrong = ~((values >= 0) & (values <= 1))  # written so that NaN is wrong
    if counts is not None:
        wrong &= counts
    if wrong.any():
        place = np.unravel_index(np.argmax(wrong), values.shape)
        at = ", ".join(map(str, place)) or "()"
        raise ValueError(f"{name}[{at}] must be in [0, 1], got {values[place]}")
