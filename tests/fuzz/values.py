"""What a caller may pass by mistake or on purpose: arrays of any form, and what is no array. No test is here.

Every array lies between guards, so that a write beside it is noticed; those that are read-only are compared
afterwards with what they were.
"""

import numpy as np
from hypothesis import strategies as st

GUARD, PATTERN = 64, 0xA5  # bytes on either side
FLOATS = ("f4", "f8")
KINDS = (*FLOATS, "f4", "i8", "i4", ">f4", ">f8", "f2", "c8", "u1", "u8", "?", "V8", "M8[s]")
OTHER_KINDS = ("O", "U3", [("a", "f4"), ("b", "i8")])  # which cannot lie between guards
INTEGERS = (0, 1, 2, 3, 5, -1, 2**31, 2**32 + 1, 2**63 - 1, 2**63, 2**70, -(2**63), -(2**70))
NUMBERS = (0.0, 0.5, 1.0, -1.0, 1.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"))
LAYOUTS = (
    "C",
    "C",
    "F",
    "every second",
    "backwards",
    "broadcast",
    "unaligned",
    "read-only",
    "subclass",
)


class Memory:
    """The arrays of one example, and what must still be true of them after it."""

    def __init__(self):
        self._guarded, self._constant = [], []

    def array(self, kind, shape, layout, fill=1):
        """Return an array (shape) of a type, in a layout."""
        if kind in OTHER_KINDS:
            return np.zeros(shape, np.dtype(kind))
        dtype = np.dtype(kind)
        stored = tuple(shape)
        if layout == "every second" and shape:
            stored = (*shape[:-1], 2 * shape[-1])
        elif layout == "broadcast" and shape:
            stored = (1, *shape[1:]) if shape[0] else shape
        array = self._between_guards(dtype, stored, layout == "unaligned")
        if dtype.kind != "V":
            with np.errstate(all="ignore"):
                array[...] = np.array(fill).astype(dtype)
        if layout == "every second" and shape:
            array = array[..., ::2]
        elif layout == "broadcast":
            array = np.broadcast_to(array, shape)
        elif layout == "F":
            array = np.asfortranarray(array)
        elif layout == "backwards" and shape:
            array = array[::-1]
        elif layout == "subclass":
            array = array.view(np.ma.MaskedArray)
        elif layout == "read-only":
            array.flags.writeable = False
            self._constant.append((array, array.tobytes()))
        return array

    def _between_guards(self, dtype, shape, unaligned):
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        memory = np.full(size + 2 * GUARD + 1, PATTERN, np.uint8)
        start = GUARD + unaligned
        inside = slice(start, start + size)
        memory[inside] = 0
        self._guarded.append((memory, inside))
        return memory[inside].view(dtype).reshape(shape)

    def check(self):
        """Raise an AssertionError if anything was written that must not be."""
        for memory, inside in self._guarded:
            outside = memory.copy()
            outside[inside] = PATTERN
            assert (outside == PATTERN).all(), "bytes beside an array were written"
        for array, before in self._constant:
            assert array.tobytes() == before, "a read-only array was written"


def shapes():
    return st.lists(st.integers(0, 5), max_size=4).map(tuple)


def any_array(draw, memory):
    """Draw an array of any type, shape and layout."""
    fill = draw(st.sampled_from((0, 1, -1, 7, 2**40, float("nan"))))
    kind = draw(st.sampled_from((*KINDS, *OTHER_KINDS)))
    if np.dtype(kind).kind in "iu?" and fill != fill:
        fill = 3
    return memory.array(kind, draw(shapes()), draw(st.sampled_from(LAYOUTS)), fill)


def close_array(draw, memory, kind, shape, fill=1):
    """Draw an array like the one that is asked for, but perhaps for one thing."""
    change = draw(st.sampled_from(("none", "none", "layout", "type", "size", "axis", "value")))
    layout, shape = "C", list(shape)
    if change == "layout":
        layout = draw(st.sampled_from(LAYOUTS))
    elif change == "type":
        kind = draw(st.sampled_from(KINDS))
    elif change == "size" and shape:
        axis = draw(st.integers(0, len(shape) - 1))
        shape[axis] = max(0, shape[axis] + draw(st.sampled_from((-1, 1, 2))))
    elif change == "axis":
        shape = shape[1:] if draw(st.booleans()) else [1, *shape]
    elif change == "value":
        fill = draw(st.sampled_from((-1, 0, 4, 5, 2**40, -(2**40))))
    return memory.array(kind, tuple(shape), layout, fill)


def junk(draw, memory):
    """Draw anything at all."""
    if draw(st.integers(0, 2)) == 0:
        return any_array(draw, memory)
    return draw(
        st.one_of(
            st.none(),
            st.booleans(),
            st.sampled_from(INTEGERS),
            st.sampled_from(NUMBERS),
            st.text(max_size=3),
            st.binary(max_size=3),
            st.builds(object),
            st.sampled_from(
                [int, np, len, (), [], {}, [1.0, 2.0], (None, None), {"a": 1}, "float32"]
            ),
            st.sampled_from([np.float32(2), np.int64(3), np.float64("nan"), np.bool_(True)]),
        )
    )
