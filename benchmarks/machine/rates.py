"""How fast the machine multiplies matrices, reads memory and applies activations.

Rates are the best of several trials, of all threads together.
"""

import math
import os
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

import cffi
import numpy as np

from lstmc._kernels.binding import core

from ..limits import record_of
from . import Level, Machine, kernels
from .facts import cache_sizes

READER = Path(__file__).parent / "reader.c"
TRIAL = 0.002  # seconds
BLAS_SIZES = (384, 768, 1536)  # of square matrices
MEMORY = 256 << 20  # bytes that no cache holds, at least


def together(threads, make, units, seconds):
    """Return the best rate of threads that work at once, in units a second.

    make() returns, in its thread, a function that does its work n times; each time is this many units.
    """
    run = make()
    run(1)
    began = time.perf_counter()
    run(1)
    once = max(time.perf_counter() - began, 1e-7)
    n = max(1, int(TRIAL / once))  # short, to fall between what else the machine does
    trials = max(3, int(seconds / (n * once)))
    barrier, spans = threading.Barrier(threads), [[] for _ in range(threads)]

    def work(k):
        run = make()
        run(1)
        for _ in range(trials):
            barrier.wait()
            began = time.perf_counter()
            run(n)
            spans[k].append((began, time.perf_counter()))

    team = [threading.Thread(target=work, args=(k,)) for k in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    took = [max(end for _, end in trial) - min(t for t, _ in trial) for trial in zip(*spans)]
    return threads * n * units / min(took)


def blas_rate(dtype, seconds):
    """Measure NumPy's own products, which are OpenBLAS's; it has threads of its own."""
    best = 0.0
    for size in BLAS_SIZES:
        a, b = (np.full((size, size), 0.5, dtype) for _ in range(2))
        out = np.empty_like(a)

        def make(a=a, b=b, out=out):
            return lambda n: [np.matmul(a, b, out=out) for _ in range(n)]

        best = max(best, together(1, make, 2 * size**3, seconds / len(BLAS_SIZES)))
    return best


def kernel_rate(dtype, threads, seconds):
    """Measure lstmc's products alone: packed weights, everything in a core's own caches."""
    sizes = [(rows, 256, columns) for rows in (24, 36, 48, 60) for columns in (128, 256)]
    return max(
        together(threads, lambda size=size: kernels.product(dtype, *size), 2 * math.prod(size),
                 seconds / len(sizes))
        for size in sizes
    )  # fmt: skip


@cache
def _reader():
    ffi = cffi.FFI()
    ffi.cdef("long long read_all(const void *bytes, ptrdiff_t size, ptrdiff_t passes);")
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/reader.so"
        command = [os.environ.get("CC", "cc"), "-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", library, str(READER)], check=True)
        return ffi, ffi.dlopen(library)


def read_rate(nbytes, threads, seconds):
    """Measure how fast threads read this many bytes in all, again and again."""
    ffi, library = _reader()
    each = nbytes // threads // 512 * 512

    def make():
        address = ffi.from_buffer(kernels.aligned(each))  # keeps the bytes

        def run(n):
            library.read_all(address, each, n)

        return run

    return together(threads, make, each, seconds)


def activation_seconds(seconds):
    """Measure tanh and the sigmoid, an element of either on the average."""
    count = 2**15  # so many that a call costs nothing beside them
    return 1 / together(1, lambda: kernels.activations(count), 2 * count, seconds)


def packing_seconds(w):
    """Measure the packing of a workload's recurrent weights, once, on one thread."""
    record = record_of(w.cell)
    return sum(
        1 / together(1, lambda n=n: kernels.packing(record, w.dtype, n, w.hidden), 1, 0.02)
        for n in [w.inputs] + [w.directions * w.hidden] * (w.layers - 1)
        for _ in range(w.directions)
    )


def measure(threads, seconds=1.0):
    """Measure the machine with some threads, some seconds for each rate."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    sizes = cache_sizes(cores)
    levels = [
        Level(name + part, size // share, read_rate(size // share, threads, seconds))
        for name, size in sizes
        for part, share in ((", half of it", 2), (", all of it", 1))  # others use it too
    ]
    beyond = max(MEMORY, 4 * sizes[-1][1])
    levels.append(Level("memory", None, read_rate(beyond, threads, seconds)))
    types = ("float32", "float64")
    return Machine(
        threads,
        {dtype: blas_rate(dtype, seconds) for dtype in types},
        {dtype: kernel_rate(dtype, threads, seconds) for dtype in types},
        tuple(levels),
        activation_seconds(seconds / 4),
        core.instruction_set(),
    )
