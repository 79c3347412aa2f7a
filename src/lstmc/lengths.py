"""Where the rows of a batch end and begin anew: lengths, resets, masks, and what is beyond an end."""

import operator

import numpy as np

from ._kernels import cpu, kernels_of
from ._kernels.messages import kind_of, shape_text

__all__ = ["beyond", "check_lengths", "check_on_cpu", "check_resets", "clear", "counted"]


def check_lengths(lengths, leading):
    """Return lengths in the form in which layers take them; refuse what are none.

    Parameters
    ----------
    lengths : array_like (B,) of integers, or an integer for one unbatched sequence
        The real steps of each row, 0 to T. The rest is padding.
    leading : tuple
        (T, B), or (T,) of an unbatched sequence.

    Returns
    -------
    ndarray (B,) of int64, or int
        A copy.

    Raises
    ------
    TypeError
        They are not integers.
    ValueError
        There are more or fewer than rows, or one is outside 0 to T.
    """
    steps, *rows = leading
    try:
        array = np.asarray(lengths)
    except ValueError:
        array = np.asarray(lengths, object)  # of parts that differ in shape
    if array.dtype.kind not in "iu" and (array.size or isinstance(lengths, np.ndarray)):
        got = str(array.dtype) if hasattr(lengths, "dtype") else repr(lengths)
        raise TypeError(f"lengths must be integers, got {got:.100}")
    if array.shape != tuple(rows):
        form = shape_text(rows) if rows else "one integer"
        raise ValueError(f"lengths must be {form}, got {shape_text(array.shape)}")
    wrong = np.flatnonzero((array < 0) | (array > steps))
    if len(wrong):
        row = int(wrong[0])
        at = f" at row {row}" if rows else ""
        raise ValueError(
            f"lengths must be integers in [0, {steps}], got {array.reshape(-1)[row]}{at}"
        )
    return array.astype(np.int64) if rows else operator.index(array[()])


def check_resets(resets, shape):
    """Return a contiguous copy of resets; refuse what are none.

    Parameters
    ----------
    resets : ndarray of bool
        True where a row's state is to be the initial one before that step.
    shape : tuple
        The axes of time and of rows, as x has them.

    Raises
    ------
    TypeError
        It is not an array of booleans.
    ValueError
        Its shape is another one.
    """
    if not isinstance(resets, np.ndarray) or resets.dtype != bool:
        got = f"{resets.dtype}" if isinstance(resets, np.ndarray) else kind_of(resets)
        raise TypeError(f"resets must be a bool array {shape_text(shape)}, got {got}")
    if resets.shape != tuple(shape):
        raise ValueError(
            f"resets must be a bool array {shape_text(shape)}, got {shape_text(resets.shape)}"
        )
    return resets.copy(order="C")


def check_on_cpu(x, **times):
    """Refuse lengths and resets, by their names, where x is on a GPU."""
    given = [name for name, value in times.items() if value is not None]
    if given and kernels_of(x) is not cpu:
        raise ValueError(f"{given[0]} must be None on a GPU, which does not have them yet")


def beyond(lengths, steps):
    """Return where padding is, as booleans: (T, B) for lengths (B,), (T,) for one length."""
    return np.greater_equal.outer(np.arange(steps), lengths)


def clear(array, lengths):
    """Return a copy of an array (T, B, ...), or (T, ...) for one length, with zeros beyond each end.

    What was there does not matter, be it NaN. If lengths is None, it is the array itself.
    """
    if lengths is None:
        return array
    out = array.copy(order="C")
    out[beyond(lengths, len(out))] = 0
    return out


def counted(name, y, lengths, mask, batch_first, each):
    """Return which elements of an output count; None if all do.

    Parameters
    ----------
    name : str
        What the caller calls y, for messages.
    y : ndarray (T, B, ..., K), or (B, T, ..., K) if `batch_first`
        Without lengths, an array of any shape.
    lengths : integers (B,) or None
        Of each row, the steps that count: the first ones.
    mask : booleans, in the shape of y or of y without its last axis, or None
    each : bool
        Whether to return a boolean for each element of y; else for each row (..., K) of it, and the mask may
        not have the shape of y.

    Returns
    -------
    booleans, contiguous, in the shape of y or of y without its last axis; or None
    """
    shape = y.shape if each else y.shape[:-1]
    parts = []
    if lengths is not None:
        parts.append(_within(name, y.shape, lengths, batch_first, "K" if each else "V"))
    if mask is not None:
        parts.append(_checked_mask(mask, y.shape, each))
    if not parts:
        return None
    for i, part in enumerate(parts):
        # Axes that are missing are y's last ones.
        parts[i] = np.broadcast_to(
            part.reshape(part.shape + (1,) * (len(shape) - part.ndim)), shape
        )
    return np.require(parts[0] if len(parts) == 1 else parts[0] & parts[1], requirements="CA")


def _within(name, shape, lengths, batch_first, last):
    """Return booleans (T, B), or (B, T): which steps are within the length of their row."""
    if len(shape) < 3:
        order = "(B, T, ..., " if batch_first else "(T, B, ..., "
        raise ValueError(
            f"{name} must be {order}{last}) with lengths, got {shape_text(shape)}: "
            "an output that is one for each row has no steps, and one of a single sequence no rows"
        )
    leading = shape[1::-1] if batch_first else shape[:2]
    within = ~beyond(check_lengths(lengths, leading), leading[0])
    return within.T if batch_first else within


def _checked_mask(mask, shape, each):
    """Return a mask; it must be of booleans, in this shape (if `each`) or in this without its last axis."""
    shapes = dict.fromkeys([shape[:-1], shape] if each else [shape[:-1]])
    expected = f"mask must be a bool array {' or '.join(map(shape_text, shapes))}"
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{expected}, got {kind_of(mask)}")
    if mask.dtype != bool:
        raise TypeError(f"{expected}, got {mask.dtype.name}")
    if mask.shape not in shapes:
        raise ValueError(f"{expected}, got {shape_text(mask.shape)}")
    return np.asarray(mask)
