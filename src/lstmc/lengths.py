"""Where the rows of a batch end, and where they begin anew: lengths and resets, and what is beyond an end."""

import operator

import numpy as np

from ._kernels import cpu, kernels_of
from ._kernels.messages import kind_of, shape_text

__all__ = ["beyond", "check_lengths", "check_on_cpu", "check_resets", "clear"]


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
    array = np.asarray(lengths)
    if array.dtype.kind not in "iu":
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
