"""The ways through time on a GPU: how the steps of one layer are run, forward and backward.

What comes before the steps, the products with all inputs, and after them, the gradients of the weights, is
the same for all ways and not here. The ways:

- "steps": for each step one product with the recurrent weights and one kernel for the rest.
- "graph": the same launches, recorded once per shape as a CUDA graph and replayed at once.
- "persistent": all steps in one launch, each block with its own rows and all recurrent weights on its
  multiprocessor; for few units.
- "cooperative": all steps in one launch, each block with the weights of some units, and one barrier a step.
"""

import atexit
import functools
import math
import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import ClassVar

import cupy
import numpy as np

from ..devices import get_matmul_precision
from .launch import (
    THREADS,
    forget_workspaces,
    i32,
    i64,
    kernel,
    launch,
    or_null,
    product,
    properties,
    recording,
)

__all__ = ["EXPERIMENTAL", "WAYS", "Cell", "run_backward", "run_forward", "use_way"]

FILES = {0: "rnn.cu", 1: "lstm.cu"}
GATES = {0: 1, 1: 4}
RECORD = 128  # bytes with room for a forward_call or a backward_call

_named = None


@contextmanager
def use_way(name):
    """Take this way, by name, within; None: choose by size."""
    global _named
    if name is not None and name not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {name!r}")
    before, _named = _named, name
    try:
        yield
    finally:
        _named = before


class Cell:
    """What every way must know of a layer: its cell, its sizes and its recurrent weights."""

    def __init__(self, cell, activation, weight_hh, steps, batch):
        self.file, self.gates, self.has_c = FILES[cell], GATES[cell], cell == 1
        self.activation, self.weight_hh = i32(activation), weight_hh
        self.dtype, self.hidden = weight_hh.dtype, weight_hh.shape[1]
        self.steps, self.batch = steps, batch
        most = (2**31 - 1) // (self.gates * self.hidden)
        if batch > most:
            raise ValueError(f"a GPU takes at most {most} rows of {self.hidden} units, got {batch}")

    def kernel(self, name, defines=()):
        """Give a kernel of this cell and type."""
        return kernel(self.file, name, self.dtype, defines)

    def rows(self, columns):
        """Make room for a number of columns of each row."""
        return cupy.empty((self.batch, columns), self.dtype)


def run_forward(cell, h0, sums, bias, c0, h, c, gates, y):
    """Run all steps forward. The arrays are those of forward_call in sequence.cuh.

    h (T, B, H) gets the states after each step; c too, or it is one (B, H) for all of them. gates and y may
    be None.
    """
    size = cell.batch * cell.hidden

    def begin(record, h_now):
        launch(
            cell.kernel("begin_forward"), size, record, h_now, h0, sums, bias, or_null(c0), h, or_null(c),
            or_null(gates), or_null(y), i64(size), i64(0 if c is None or c.ndim == 2 else size), i64(size),
        )  # fmt: skip

    _choose(cell).forward(begin, h0)


def run_backward(cell, dh0, dc0, dh_n, dc_n, dy, h, c, gates, dgates, dh, dc, repeat):
    """Run all steps backward. The arrays are those of backward_call in sequence.cuh.

    dh0 and dc0 (B, H) are written.
    """
    size = cell.batch * cell.hidden

    def begin(record, dh_now, dc_now):
        launch(
            cell.kernel("begin_backward"), size, record, dh_now, or_null(dc_now), or_null(dh_n),
            or_null(dc_n), or_null(dy), h, or_null(c), or_null(gates), dgates, or_null(dh), or_null(dc),
            i32(repeat), i64(size),
        )  # fmt: skip

    _choose(cell).backward(begin, dh0, dc0)


def _record():
    return cupy.empty(RECORD, np.uint8)


# -- a launch a step --------------------------------------------------------------------------------


class Steps:
    """A product and a kernel for each step."""

    def __init__(self, cell):
        self.cell = cell
        self.record = _record()
        self.states = cell.rows(cell.hidden)  # what h the next product reads
        self.sums = cell.rows(cell.gates * cell.hidden)  # that product; on the way back, dgates

    @classmethod
    def fitting(cls, cell):
        """Give the way for these sizes: it fits all."""
        return cls(cell)

    def forward(self, begin, h0):
        """Run forward; begin(record, h_now) says where the call's arrays are."""
        begin(self.record, self.states)
        self.launch_forward()

    def launch_forward(self):
        """Launch all steps."""
        cell = self.cell
        step, size = cell.kernel("forward_step"), cell.batch * cell.hidden
        sizes = (i32(cell.batch), i32(cell.hidden), cell.activation)
        for t in range(cell.steps):
            product(self.sums, self.states, cell.weight_hh, turn_b=True)
            launch(step, size, self.record, self.states, self.sums, i64(t), *sizes)

    def backward(self, begin, dh_now, dc_now):
        """Run backward; begin(record, dh_now, dc_now) says where the call's arrays are."""
        begin(self.record, dh_now, dc_now)
        self.launch_backward(dh_now, dc_now)

    def launch_backward(self, dh_now, dc_now):
        """Launch all steps, the last one first."""
        cell = self.cell
        step, size = cell.kernel("backward_step"), cell.batch * cell.hidden
        sizes = (i32(cell.batch), i32(cell.hidden), cell.activation)
        dc_now = or_null(dc_now)
        for t in reversed(range(cell.steps)):
            launch(step, size, self.record, self.sums, dc_now, dh_now, i64(t), *sizes)
            product(dh_now, self.sums, cell.weight_hh)


class Graph(Steps):
    """The same launches, recorded and replayed: the host asks for all steps at once.

    A graph knows addresses, so its arrays are its own, and a call's arrays are found through the record. The
    first call of a shape, forward and backward, runs step by step, so that all is loaded; the second records.
    """

    _kept: ClassVar[OrderedDict] = OrderedDict()  # by shape, weights, stream and thread
    MOST = 32

    def __init__(self, cell):
        super().__init__(cell)
        self.dc_now = cell.rows(cell.hidden) if cell.has_c else None
        self.graphs = {}  # by direction; None after the first call

    @classmethod
    def fitting(cls, cell):
        """Give the way for these sizes, weights, stream and thread: it fits all."""
        key = (
            cell.file, cell.dtype, cell.steps, cell.batch, cell.hidden, int(cell.activation),
            cell.weight_hh.data.ptr, cell.weight_hh.device.id, cupy.cuda.get_current_stream().ptr,
            threading.get_ident(), get_matmul_precision(),
        )  # fmt: skip
        if key not in cls._kept:
            cls._kept[key] = cls(cell)
        cls._kept.move_to_end(key)
        while len(cls._kept) > cls.MOST:
            cls._kept.popitem(last=False)
        return cls._kept[key]

    @classmethod
    def forget(cls):
        """Let go of all graphs and of the memory that they hold."""
        cls._kept.clear()
        forget_workspaces()

    def _launch(self, name, launches):
        """Launch the steps: by themselves, then recorded, then as recorded."""
        if name not in self.graphs:
            self.graphs[name] = None
            launches()
            return
        if self.graphs[name] is None:
            with recording(cupy.cuda.Stream(non_blocking=True)) as made:
                launches()
            self.graphs[name] = made
        self.graphs[name][0].launch()

    def forward(self, begin, h0):
        """Run forward; begin(record, h_now) says where the call's arrays are."""
        begin(self.record, self.states)
        if self.cell.steps:
            self._launch("forward", self.launch_forward)

    def backward(self, begin, dh_now, dc_now):
        """Run backward; begin(record, dh_now, dc_now) says where the call's arrays are."""
        begin(self.record, self.states, self.dc_now)
        if self.cell.steps:
            self._launch("backward", lambda: self.launch_backward(self.states, self.dc_now))
        dh_now[...] = self.states
        if dc_now is not None:
            dc_now[...] = self.dc_now


atexit.register(Graph.forget)  # while CUDA is still there


# -- all steps in one launch ------------------------------------------------------------------------


def _most_shared(device):
    return properties(device)["sharedMemPerBlockOptin"]


def _run(kernel, blocks, threads, shared, arguments):
    """Launch with so many bytes of shared memory: above 48 KiB they must be asked for."""
    if shared > 48 << 10:
        kernel.max_dynamic_shared_size_bytes = shared
    kernel((blocks,), (threads,), arguments, shared_mem=shared)


class Persistent:
    """Each block has some rows and, on its multiprocessor, all recurrent weights."""

    BUDGET = 184  # 4-byte registers of a thread for weights, of the 255 there are: more would spill
    MOST_UNITS: ClassVar = {4: 128, 8: 64}  # by the bytes of a number

    def __init__(self, cell, defines, sizes, blocks):
        self.cell, self.defines, self.sizes, self.blocks = cell, defines, sizes, blocks

    @classmethod
    def fitting(cls, cell):
        """Give the way, with as few rows a block as there are multiprocessors; None for too many units."""
        if cell.hidden > cls.MOST_UNITS[cell.dtype.itemsize]:
            return None
        device = cell.weight_hh.device.id
        enough = properties(device)["multiProcessorCount"]
        rows = next((n for n in (1, 2) if -(-cell.batch // n) <= enough), 4)
        defines = (("HIDDEN", cell.hidden), ("ROWS", rows), ("BUDGET", cls.BUDGET))
        sizes = _persistent_sizes(cell.file, cell.dtype, defines, device)
        if max(sizes[1], sizes[3]) > _most_shared(device):
            return None
        return cls(cell, defines, sizes, -(-cell.batch // rows))

    def forward(self, begin, h0):
        """Run forward; begin(record, h_now) says where the call's arrays are."""
        cell, record = self.cell, _record()
        begin(record, cell.rows(cell.hidden))
        threads, shared, _, _ = self.sizes
        _run(
            cell.kernel("persistent_forward", self.defines), self.blocks, threads, shared,
            (record, h0, cell.weight_hh, i64(cell.steps), i64(cell.batch), cell.activation),
        )  # fmt: skip

    def backward(self, begin, dh_now, dc_now):
        """Run backward; begin(record, dh_now, dc_now) says where the call's arrays are."""
        cell, record = self.cell, _record()
        begin(record, dh_now, dc_now)
        _, _, threads, shared = self.sizes
        _run(
            cell.kernel("persistent_backward", self.defines), self.blocks, threads, shared,
            (record, dh_now, or_null(dc_now), cell.weight_hh, i64(cell.steps), i64(cell.batch),
             cell.activation),
        )  # fmt: skip


@functools.cache
def _persistent_sizes(file, dtype, defines, device):
    """Ask the source for threads and bytes of shared memory, forward and backward."""
    sizes = cupy.empty(4, np.int64)
    kernel(file, "persistent_sizes", dtype, defines)((1,), (1,), (sizes,))
    return tuple(int(n) for n in sizes.get())


_resident: dict = {}


def _check_resident(run, device, blocks, shared):
    """Refuse a launch whose blocks can not all run at once: they would wait for each other for ever."""
    key = run, device, shared
    if key not in _resident:
        if shared > 48 << 10:
            run.max_dynamic_shared_size_bytes = shared
        each = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            run.kernel.ptr, THREADS, shared
        )
        _resident[key] = each * properties(device)["multiProcessorCount"]
    if blocks > _resident[key]:
        raise RuntimeError(
            f"a cooperative launch needs {blocks} blocks at once, the GPU takes {_resident[key]}"
        )


class Cooperative:
    """Each block has some units, for some rows, and the recurrent weights of those on its multiprocessor."""

    def __init__(self, cell, forward, backward):
        self.cell, self.cut, self.cut_back = cell, forward, backward

    @classmethod
    def fitting(cls, cell):
        """Give the way, with the cuts that cost least; None where the weights do not fit on the chip."""
        device = cell.weight_hh.device.id
        known = (cell.gates, cell.hidden, cell.batch, cell.dtype.itemsize,
                 properties(device)["multiProcessorCount"], _most_shared(device))  # fmt: skip
        forward, backward = _cut(*known), _cut_back(*known)
        return forward and backward and cls(cell, forward, backward)

    def _run(self, name, arrays, cut, row_blocks, shared):
        cell = self.cell
        arrived = cupy.zeros(row_blocks, np.uint32)
        run, blocks = cell.kernel(f"cooperative_{name}"), row_blocks * cut[1]
        _check_resident(run, cell.weight_hh.device.id, blocks, shared)
        _run(
            run, blocks, THREADS, shared,
            (*arrays, arrived, i64(cell.steps), i64(cell.batch), i32(cell.hidden), *map(i32, cut),
             cell.activation),
        )  # fmt: skip

    def forward(self, begin, h0):
        """Run forward; begin(record, h_now) says where the call's arrays are."""
        record = _record()
        begin(record, self.cell.rows(self.cell.hidden))
        self._run("forward", (record, h0, self.cell.weight_hh), *self.cut)

    def backward(self, begin, dh_now, dc_now):
        """Run backward; begin(record, dh_now, dc_now) says where the call's arrays are."""
        cell, record = self.cell, _record()
        begin(record, dh_now, dc_now)
        (_, unit_blocks, rows), row_blocks, _ = self.cut_back
        exchange = cupy.empty(
            (2, row_blocks * unit_blocks, rows, _round_up(cell.hidden, 4)), cell.dtype
        )
        arrays = (record, dh_now, or_null(dc_now), cell.weight_hh, exchange)
        self._run("backward", arrays, *self.cut_back)


def _round_up(n, to):
    return -(-n // to) * to


def _blocks(hidden, batch, multiprocessors):
    """Walk through the ways to share units and rows among blocks: row_blocks, rows, units, unit_blocks."""
    for row_blocks in range(1, multiprocessors + 1):
        rows = _round_up(-(-batch // row_blocks), 4)
        if rows * (row_blocks - 1) >= batch and row_blocks > 1:
            continue  # the last would have none
        units = -(-hidden // min(hidden, multiprocessors // row_blocks))
        yield row_blocks, rows, units, -(-hidden // units)


@functools.cache
def _cut(gates, hidden, batch, itemsize, multiprocessors, most_shared):
    """Cut a forward pass into blocks: (units, unit_blocks, rows, outputs, chunk, parts), row_blocks, bytes.

    Of all cuts that fit, the one whose step costs least, in cycles of a multiprocessor by a rough count: of
    multiplications 128 a cycle, and a thread's in some 20; the sums of parts; the words that come from L2,
    some 16 a cycle. None if none fits.
    """
    best, least = None, math.inf
    for row_blocks, rows, units, unit_blocks in _blocks(hidden, batch, multiprocessors):
        outputs, terms = _round_up(units * gates, 4), _round_up(hidden, 4)
        tiles = rows // 4 * (outputs // 4)
        for parts in (1, 2, 4, 8, 16, 32):
            fixed = terms * outputs + parts * rows * outputs + rows * units
            room = ((most_shared // itemsize - fixed) // rows - 4) // 4 * 4
            if parts * tiles > THREADS or room < min(terms, 32):
                continue
            products = max(terms * rows * outputs / 128, terms / parts * 20)
            cost = (
                products + parts * 10 * -(-rows * units // THREADS) + rows * terms * itemsize / 64
            )
            if cost < least:
                least, chunk = cost, min(terms, room)
                shared = (fixed + (chunk + 4) * rows) * itemsize
                best = (units, unit_blocks, rows, outputs, chunk, parts), row_blocks, shared
    return best


@functools.cache
def _cut_back(gates, hidden, batch, itemsize, multiprocessors, most_shared):
    """Cut a backward pass into blocks: (units, unit_blocks, rows), row_blocks, bytes; counted as forward."""
    best, least = None, math.inf
    for row_blocks, rows, units, unit_blocks in _blocks(hidden, batch, multiprocessors):
        columns, terms = _round_up(hidden, 4), units * gates
        shared = (terms * columns + terms * rows + 2 * rows * units) * itemsize
        if shared > most_shared:
            continue
        rounds = -(-(rows // 4 * (columns // 4)) // THREADS)
        products = max(terms * rows * columns / 128, terms * rounds * 20)
        sums = -(-rows * units // THREADS) * (600 + 5 * unit_blocks)
        cost = products + sums + 2 * rows * columns * itemsize / 64
        if cost < least:
            best, least = ((units, unit_blocks, rows), row_blocks, shared), cost
    return best


# -- which one --------------------------------------------------------------------------------------

WAYS = {"persistent": Persistent, "cooperative": Cooperative, "graph": Graph, "steps": Steps}
EXPERIMENTAL = {"persistent", "cooperative", "graph"}
"""Ways that have not run on a device yet. They are taken only where they are asked for by name."""


def _choose(cell):
    """Give the first way that fits, in the order of WAYS, or the one that was named."""
    for name in WAYS if _named is None else (_named,):
        if _named is None and name in EXPERIMENTAL:
            continue
        way = WAYS[name].fitting(cell)
        if way is not None:
            return way
    raise ValueError(
        f"the way {_named!r} does not fit {cell.batch} rows of {cell.hidden} units of {cell.dtype} "
        "on this device"
    )
