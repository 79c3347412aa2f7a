"""The way that records the launches of all steps as a CUDA graph and replays them."""

import atexit
import threading
from collections import OrderedDict
from typing import ClassVar

import cupy

from ...devices import get_matmul_precision
from ..products import forget_workspaces, recording
from .steps import Steps

__all__ = ["Graph"]


class Graph(Steps):
    """The launches of Steps, recorded and replayed: the host asks for all steps at once.

    A graph holds addresses, so its arrays are its own, and a call's arrays are reached through the record.
    The first call of a shape, forward and backward, runs step by step, so that all is loaded; the second
    records.
    """

    name = "graph"
    cache: ClassVar[OrderedDict] = OrderedDict()  # by shape, weights, stream and thread
    MOST = 32

    def __init__(self, run):
        super().__init__(run)
        self.dc_now = run.rows(run.hidden) if run.cell.has_c else None
        self.graphs = {}  # by direction; None after the first call

    @classmethod
    def fitting(cls, run):
        """Return the way for a LayerRun, on this stream and thread: it fits all."""
        key = (
            run.cell, run.dtype, run.steps, run.batch, run.hidden, run.weight_hh.data.ptr, run.device,
            cupy.cuda.get_current_stream().ptr, threading.get_ident(), get_matmul_precision(),
        )  # fmt: skip
        if key not in cls.cache:
            cls.cache[key] = cls(run)
        cls.cache.move_to_end(key)
        while len(cls.cache) > cls.MOST:
            cls.cache.popitem(last=False)
        return cls.cache[key]

    @classmethod
    def forget(cls):
        """Release all graphs and the memory that they hold."""
        cls.cache.clear()
        forget_workspaces()

    def forward(self, call):
        """Run a ForwardCall."""
        call.begin(self.run, self.record, self.states)
        if self.run.steps:
            self._launch("forward", self.launch_forward)

    def backward(self, call):
        """Run a BackwardCall."""
        call.begin(self.run, self.record, self.states, self.dc_now)
        if self.run.steps:
            self._launch("backward", lambda: self.launch_backward(self.states, self.dc_now))
        call.dh0[...] = self.states
        if call.dc0 is not None:
            call.dc0[...] = self.dc_now

    def _launch(self, direction, launches):
        """Launch the steps: by themselves, then recorded, then as recorded."""
        if direction not in self.graphs:
            self.graphs[direction] = None
            launches()
            return
        if self.graphs[direction] is None:
            with recording(cupy.cuda.Stream(non_blocking=True)) as record:
                launches()
            self.graphs[direction] = record.graph
        self.graphs[direction].launch()


atexit.register(Graph.forget)  # while CUDA is still there
