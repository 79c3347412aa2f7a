"""What every way runs: the steps of one layer, and the arrays of a call, by name.

The shapes are those of forward_call and backward_call in sequence.cuh: T steps, B rows, H units, G gates.
"""

from typing import Any, NamedTuple

import cupy
import numpy as np

from ..launch import i32, i64, kernel, launch, or_null

__all__ = ["BackwardCall", "ForwardCall", "LayerRun", "new_record"]

RECORD = 128  # bytes with room for a forward_call or a backward_call
MOST_NUMBERS = 2**31 - 1  # of one step's gates: kernels count them in 32 bits


def new_record():
    """Return memory on the device for the record of a call, which begin() fills."""
    return cupy.empty(RECORD, np.uint8)


class LayerRun:
    """A layer's steps as every way needs them.

    Attributes
    ----------
    cell : cells.Cell
    weight_hh : array (G*H, H)
    steps, batch : int
        T and B.
    """

    def __init__(self, cell, weight_hh, steps, batch):
        self.cell, self.weight_hh = cell, weight_hh
        self.steps, self.batch, self.hidden = steps, batch, weight_hh.shape[1]
        most = MOST_NUMBERS // (cell.gates * self.hidden)
        if batch > most:
            raise ValueError(f"a GPU takes at most {most} rows of {self.hidden} units, got {batch}")

    @property
    def dtype(self):
        """The type of all numbers."""
        return self.weight_hh.dtype

    @property
    def device(self):
        """The number of the device."""
        return self.weight_hh.device.id

    @property
    def size(self):
        """Numbers of a state: B*H."""
        return self.batch * self.hidden

    def kernel(self, name, defines=()):
        """Return a kernel of this cell and type."""
        return kernel(self.cell.file, name, self.dtype, (*self.cell.defines, *defines))

    def rows(self, columns):
        """Return an array (B, columns), not initialised."""
        return cupy.empty((self.batch, columns), self.dtype)


class ForwardCall(NamedTuple):
    """The arrays of a forward call: those of forward_call, and what it begins with.

    h (T, B, H) is written, the state after each step. c too, or it is one (B, H) for all steps. gates and y
    may be None, c0 and c are None where the cell has no c.
    """

    h0: Any
    sums: Any
    bias: Any
    c0: Any
    h: Any
    c: Any
    gates: Any = None
    y: Any = None

    def begin(self, run, record, h_now):
        """Fill the record on the device; write h0 to h_now (B, H)."""
        c_step = 0 if self.c is None or self.c.ndim == 2 else run.size
        launch(
            run.kernel("begin_forward"), run.size, record, h_now, self.h0, self.sums, self.bias,
            or_null(self.c0), self.h, or_null(self.c), or_null(self.gates), or_null(self.y), i64(run.size),
            i64(c_step), i64(run.size),
        )  # fmt: skip


class BackwardCall(NamedTuple):
    """The arrays of a backward call: those of backward_call, and what arrives and leaves through states.

    dh0 and dc0 (B, H) are written. dh_n and dc_n (B, H) may be None for zeros; dc0 is None where the cell has
    no c.
    """

    dh0: Any
    dc0: Any
    dh_n: Any
    dc_n: Any
    dy: Any
    h: Any
    c: Any
    gates: Any
    dgates: Any
    dh: Any = None
    dc: Any = None
    repeat: int = 1

    def begin(self, run, record, dh_now, dc_now):
        """Fill the record on the device; write dh_n and dc_n to dh_now and dc_now (B, H)."""
        launch(
            run.kernel("begin_backward"), run.size, record, dh_now, or_null(dc_now), or_null(self.dh_n),
            or_null(self.dc_n), or_null(self.dy), self.h, or_null(self.c), or_null(self.gates), self.dgates,
            or_null(self.dh), or_null(self.dc), i32(self.repeat), i64(run.size),
        )  # fmt: skip
