"""How the sequences of one call lie in their arrays, for the caller and for the layers of a network."""

import math

from .._kernels import kernels_of
from .._kernels.messages import shape_text
from ..lengths import beyond, check_lengths, check_on_cpu, check_resets, clear

__all__ = ["Layout", "layout_of"]


class Layout:
    """Brings arrays of a call into the form that layers take, and back. Layers see (T, B, ...) alone.

    Attributes
    ----------
    leading : tuple
        (T, B), or (T,) of an unbatched sequence.
    turned : bool
        Whether the caller's arrays are (B, T, ...).
    lengths : ndarray (B,) of int64, int or None
        None where no row is shorter than T.
    resets : ndarray (T, B) or (T,) of bool, or None
    """

    def __init__(self, leading, turned, lengths, resets, kernels):
        self.leading, self.turned = leading, turned
        self.lengths, self.resets = lengths, resets
        self.kernels = kernels

    def enter(self, array):
        """Return an array of the caller as the layers see it: time first, and zeros in the padding."""
        return clear(self._turn(self.kernels.adopt(array)), self.lengths)

    def leave(self, name, array):
        """Return an array of the layers as the caller sees it, with zeros in the padding.

        Raises
        ------
        ValueError
            It does not have the axes of time and rows.
        """
        if tuple(array.shape[: len(self.leading)]) != self.leading:
            raise ValueError(
                f"{name} must begin with the axes {shape_text(self.leading)} of time and rows, got "
                f"{shape_text(array.shape)}: a layer whose output has none says keeps_time = False"
            )
        return self._turn(clear(array, self.lengths))

    def real(self):
        """Return where there is no padding, as booleans in the caller's order; None if there is none."""
        if self.lengths is None:
            return None
        return self._turn(~beyond(self.lengths, self.leading[0]))

    def _turn(self, array):
        if not self.turned:
            return array
        return self.kernels.arrays.ascontiguousarray(array.swapaxes(0, 1))


def layout_of(x, batch_first, lengths=None, resets=None):
    """Return the Layout of a call of a network, or None where x is as its layers take it.

    Parameters
    ----------
    x : ndarray
        Tokens (T, B) or numbers (T, B, ...), with one axis less an unbatched sequence.
    batch_first : bool
        Whether batched arrays are (B, T, ...).
    lengths, resets : optional
        As for ``Sequential.forward``.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit.
    """
    timed = lengths is not None or resets is not None
    if not timed and not batch_first:
        return None
    kernels = kernels_of(x)
    x = kernels.adopt(x)
    kind, shape = getattr(getattr(x, "dtype", None), "kind", None), getattr(x, "shape", ())
    axes = {"i": 1, "u": 1, "f": 2}.get(kind, math.inf)  # of an unbatched sequence
    if len(shape) < axes:
        if timed:
            name = "resets" if lengths is None else "lengths"
            got = shape_text(shape) if kind else type(x).__name__
            raise ValueError(f"{name} need an x with an axis of time, got {got}")
        return None  # for the first layer to refuse
    check_on_cpu(x, lengths=lengths, resets=resets)
    leading, turned = tuple(shape[:1]), False
    if len(shape) > axes:
        leading, turned = tuple(shape[:2]), batch_first
    ordered = leading[::-1] if turned else leading
    layout = Layout(ordered, turned, None, None, kernels)
    if lengths is not None:
        lengths = check_lengths(lengths, ordered)
        whole = lengths == ordered[0]
        layout.lengths = None if (whole if isinstance(whole, bool) else whole.all()) else lengths
    if resets is not None:
        resets = check_resets(resets, leading)
        layout.resets = kernels.arrays.ascontiguousarray(resets.T) if turned else resets
    return layout
