"""lstmc's kernels by their C interface, whose declarations are read from kernels.h.

Each function here returns one of n that calls a kernel n times.
"""

import re
from functools import cache
from pathlib import Path

import cffi
import numpy as np

from lstmc._kernels.binding import core

HEADER = Path(__file__).parents[2] / "src" / "lstmc" / "_kernels" / "c" / "kernels.h"


@cache
def _library():
    part = re.search(r"/\* cffi begin \*/(.*)/\* cffi end \*/", HEADER.read_text(), re.DOTALL)
    ffi = cffi.FFI()
    ffi.cdef(re.sub(r"/\*.*?\*/", "", part[1], flags=re.DOTALL))
    return ffi, ffi.dlopen(core.__file__)


def _table(dtype):
    """Return cffi and the table of C functions that lstmc uses for a type."""
    ffi, library = _library()
    return ffi, library.lstmc_table(np.dtype(dtype).itemsize, core.instruction_set().encode())


def aligned(nbytes):
    """Return bytes that start on a 64-byte boundary."""
    room = np.ones(nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + nbytes]


def product(dtype, rows, inputs, columns):
    """Multiply (rows, inputs) by packed weights (inputs, columns)."""
    ffi, table = _table(dtype)
    weight = np.full((columns, inputs), 0.01, dtype)
    packed = ffi.from_buffer(aligned(table.packed_linear_size(inputs, columns)))
    table.pack_linear(packed, ffi.from_buffer(weight), inputs, columns)
    x = ffi.from_buffer(np.full((rows, inputs), 0.5, dtype))
    y = ffi.from_buffer(np.empty((rows, columns), dtype))
    call, null = table.linear_forward, ffi.NULL

    def run(n):
        for _ in range(n):
            call(y, x, null, null, packed, rows, inputs, columns, 1, null)

    return run


def activations(count):
    """Apply the sigmoid and tanh to numbers of float32."""
    ffi, table = _table("float32")
    out = ffi.from_buffer(np.empty(count, np.float32))
    numbers = ffi.from_buffer(np.linspace(-4, 4, count, dtype=np.float32))
    library = _library()[1]
    functions = (library.LSTMC_VTANH, library.LSTMC_SIGMOID)

    def run(n):
        for _ in range(n):
            for function in functions:
                table.activate(out, numbers, function, 0.0, count, 1)

    return run


def packing(record, dtype, inputs, hidden):
    """Pack the weights of one recurrent layer, whose cell is a record of lstmc's."""
    ffi, table = _table(dtype)
    rows, cell = len(record.gates) * hidden, core.cell(record.name)
    shapes = ((rows, inputs), (rows, hidden), (record.biases * hidden,))
    weights = [ffi.from_buffer(np.zeros(shape, dtype)) for shape in shapes]
    layer = ffi.new(
        "lstmc_forward_layer *", {"inputs": inputs, "hidden": hidden, "outputs": hidden}
    )
    layer.weight_ih, layer.weight_hh, layer.bias = weights
    packed = ffi.from_buffer(aligned(table.packed_size(layer, cell)))

    def run(n):
        for _ in range(n):
            table.pack_layer(packed, layer, cell)

    run.weights = weights  # the layer has only their addresses
    return run
