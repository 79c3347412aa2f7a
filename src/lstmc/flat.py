"""Flat buffers: one array that parameters lie in side by side, and views of it by name."""

import math

import numpy as np

from ._kernels import cpu

__all__ = ["Views", "flat_views", "parted"]

ALIGNMENT = 64  # bytes: where every view of a flat buffer starts


class Views(dict):
    """Views into one flat array by name; ``flat`` is the part of the array that they span."""

    flat: np.ndarray


def flat_views(shapes, dtype, kernels=cpu):
    """Return named views into a new flat array of zeros.

    Parameters
    ----------
    shapes : dict of name to shape
    dtype : numpy dtype
    kernels : module
        The kernels of the device that the array is to be on.

    Returns
    -------
    Views
        In the order of `shapes`. Each starts on a 64-byte boundary; the padding between them is zero.
    """
    step = ALIGNMENT // dtype.itemsize
    starts, end = {}, 0
    for name, shape in shapes.items():
        starts[name] = end
        end += -(-math.prod(shape) // step) * step
    flat = kernels.Pool().array((end,), dtype)
    flat[:] = 0
    views = Views(
        {n: flat[a : a + math.prod(shapes[n])].reshape(shapes[n]) for n, a in starts.items()}
    )
    views.flat = flat
    return views


def _spanned(part, flat, kernels):
    """Return the part of a flat array that some of its views span, with the padding after the last."""
    start = min(kernels.address(view) for view in part.values())
    end = max(kernels.address(view) + view.nbytes for view in part.values())
    step = ALIGNMENT // flat.itemsize
    first = (start - kernels.address(flat)) // flat.itemsize
    return flat[first : first + -(-(end - start) // flat.itemsize // step) * step]


def parted(views, count, kernels):
    """Return the views of each of so many layers, by the layer's own names, of views by "number.name".

    The flat array of each part is what its views span.
    """
    parts = [Views() for _ in range(count)]
    for name, view in views.items():
        number, _, own = name.partition(".")
        parts[int(number)][own] = view
    for part in parts:
        part.flat = _spanned(part, views.flat, kernels) if part else None
    return parts
