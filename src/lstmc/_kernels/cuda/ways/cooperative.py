"""The way that runs all steps in one launch, each block with some units, and one barrier per step."""

from typing import ClassVar

import cupy
import numpy as np

from ..launch import THREADS, i32, i64, launch_whole, let_share, or_null, properties
from .cuts import Problem, cut_backward, cut_forward, round_up
from .run import new_record

__all__ = ["Cooperative"]

_resident: dict = {}  # blocks that can run at once, by kernel, device and shared memory


def _check_resident(kernel, device, blocks, shared):
    """Refuse a launch whose blocks cannot all run at once: they would wait for each other for ever."""
    key = kernel, device, shared
    if key not in _resident:
        let_share(kernel, shared)
        per_multiprocessor = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            kernel.kernel.ptr, THREADS, shared
        )
        _resident[key] = per_multiprocessor * properties(device)["multiProcessorCount"]
    if blocks > _resident[key]:
        raise RuntimeError(
            f"a cooperative launch needs {blocks} blocks at once, the GPU takes {_resident[key]}"
        )


class Cooperative:
    """Each block has some units, for some rows, and the recurrent weights of those on its multiprocessor."""

    name = "cooperative"
    # Multiplications of a step per multiprocessor, by the bytes of a number. Beyond these cuBLAS is faster by
    # more than the launches of each step cost (on an H100).
    MOST: ClassVar = {4: 1 << 19, 8: 1 << 17}

    def __init__(self, run, cut, cut_back):
        self.run, self.cut, self.cut_back = run, cut, cut_back

    @classmethod
    def pays(cls, run):
        """Return whether to take it, if it fits: a step is not too much work."""
        most = cls.MOST[run.dtype.itemsize] * properties(run.device)["multiProcessorCount"]
        return run.batch * run.weight_hh.size <= most

    @classmethod
    def fitting(cls, run):
        """Return the way for a LayerRun, with the cuts that cost least.

        None where the weights do not fit on the chip.
        """
        device = properties(run.device)
        problem = Problem(
            run.cell.gates, run.hidden, run.batch, run.dtype.itemsize, device["multiProcessorCount"],
            device["sharedMemPerBlockOptin"],
        )  # fmt: skip
        cut, cut_back = cut_forward(problem), cut_backward(problem)
        return cls(run, cut, cut_back) if cut and cut_back else None

    def forward(self, call):
        """Run a ForwardCall."""
        run, cut, record = self.run, self.cut, new_record()
        call.begin(run, record, run.rows(run.hidden))
        numbers = cut.units, cut.unit_blocks, cut.rows, cut.outputs, cut.chunk, cut.parts
        self._launch("forward", (record, call.h0, run.weight_hh), cut, numbers)

    def backward(self, call):
        """Run a BackwardCall."""
        run, cut, record = self.run, self.cut_back, new_record()
        call.begin(run, record, call.dh0, call.dc0)
        exchange = cupy.empty((2, cut.blocks, cut.rows, round_up(run.hidden, 4)), run.dtype)
        arrays = record, call.dh0, or_null(call.dc0), run.weight_hh, exchange
        self._launch("backward", arrays, cut, (cut.units, cut.unit_blocks, cut.rows))

    def _launch(self, direction, arrays, cut, numbers):
        run, kernel = self.run, self.run.kernel(f"cooperative_{direction}")
        arrived = cupy.zeros(cut.row_blocks, np.uint32)
        _check_resident(kernel, run.device, cut.blocks, cut.shared)
        launch_whole(
            kernel, cut.blocks, THREADS, cut.shared,
            (*arrays, arrived, i64(run.steps), i64(run.batch), i32(run.hidden), *map(i32, numbers)),
        )  # fmt: skip
