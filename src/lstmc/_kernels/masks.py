"""Which elements of a sequence's output count in a loss, from lengths and a mask."""

import numpy as np

from .messages import kind_of, shape_text

__all__ = ["counted"]


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
    batch, steps = shape[:2] if batch_first else shape[1::-1]
    lengths = _checked_lengths(lengths, steps, batch)
    within = np.arange(steps)[:, None] < lengths
    return within.T if batch_first else within


def _checked_lengths(lengths, steps, batch):
    """Return lengths as int64; each must be in [0, steps], one for each row of the batch."""
    expected = f"lengths must be integers ({batch},)"
    if not isinstance(lengths, np.ndarray):
        raise TypeError(f"{expected}, got {kind_of(lengths)}")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"{expected}, got {lengths.dtype.name}")
    if lengths.shape != (batch,):
        raise ValueError(f"{expected}, got {shape_text(lengths.shape)}")
    wrong = (lengths < 0) | (lengths > steps)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"lengths must be integers in [0, {steps}], got {lengths[row]} at row {row}"
        )
    return np.asarray(lengths, np.int64)


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
