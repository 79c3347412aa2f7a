"""The way that runs all steps in one launch, each block with some rows and all recurrent weights."""

import functools
from typing import ClassVar, NamedTuple

import cupy
import numpy as np

from ..launch import i64, kernel, launch_whole, or_null, properties
from .run import new_record

__all__ = ["Persistent"]


class Sizes(NamedTuple):
    """What a block needs, as persistent_sizes says it: threads, and bytes of shared memory."""

    threads: int
    shared: int
    threads_back: int
    shared_back: int


class Persistent:
    """Each block has some rows and, on its multiprocessor, all recurrent weights."""

    name = "persistent"
    BUDGET = 184  # 4-byte registers of a thread for weights, of the 255 there are: more would spill
    MOST_UNITS: ClassVar = {4: 128, 8: 64}  # by the bytes of a number

    def __init__(self, run, defines, sizes, blocks):
        self.run, self.defines, self.sizes, self.blocks = run, defines, sizes, blocks

    @staticmethod
    def pays(run):
        """Return whether to take it, if it fits: always."""
        return True

    @classmethod
    def fitting(cls, run):
        """Return the way for a LayerRun, with as few rows per block as there are multiprocessors.

        None for too many units.
        """
        if run.hidden > cls.MOST_UNITS[run.dtype.itemsize]:
            return None
        device = properties(run.device)
        enough = device["multiProcessorCount"]
        rows = next((n for n in (1, 2) if -(-run.batch // n) <= enough), 4)
        defines = (("HIDDEN", run.hidden), ("ROWS", rows), ("BUDGET", cls.BUDGET))
        sizes = _sizes(run.cell, run.dtype, defines, run.device)
        if max(sizes.shared, sizes.shared_back) > device["sharedMemPerBlockOptin"]:
            return None
        return cls(run, defines, sizes, -(-run.batch // rows))

    def forward(self, call):
        """Run a ForwardCall."""
        run, record = self.run, new_record()
        call.begin(run, record, run.rows(run.hidden))
        launch_whole(
            run.kernel("persistent_forward", self.defines), self.blocks, self.sizes.threads,
            self.sizes.shared, (record, call.h0, run.weight_hh, i64(run.steps), i64(run.batch)),
        )  # fmt: skip

    def backward(self, call):
        """Run a BackwardCall."""
        run, record = self.run, new_record()
        call.begin(run, record, call.dh0, call.dc0)
        launch_whole(
            run.kernel("persistent_backward", self.defines), self.blocks, self.sizes.threads_back,
            self.sizes.shared_back,
            (record, call.dh0, or_null(call.dc0), run.weight_hh, i64(run.steps), i64(run.batch)),
        )  # fmt: skip


@functools.cache
def _sizes(cell, dtype, defines, device):
    """Ask the source, on a device, for its Sizes."""
    sizes = cupy.empty(len(Sizes._fields), np.int64)
    ask = kernel(cell.file, "persistent_sizes", dtype, (*cell.defines, *defines))
    ask((1,), (1,), (sizes,))
    return Sizes(*map(int, sizes.get()))
