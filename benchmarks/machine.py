"""The machine: what it is, and how fast it multiplies matrices and reads memory.

Rates are the best of several trials, of all threads together. The micro-kernel is reached through the
C interface, whose declarations are read from kernels.h.
"""

import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import cffi
import numpy as np

from lstmc._kernels.binding import core

from .workloads import GATES

HERE = Path(__file__).parent
HEADER = HERE.parent / "src" / "lstmc" / "_kernels" / "c" / "kernels.h"
CPUS = Path("/sys/devices/system/cpu")
TRIAL = 0.002  # seconds
BLAS_SIZES = (384, 768, 1536)  # of square matrices
MEMORY = 256 << 20  # bytes that no cache holds, at least
PACKAGES = ("lstmc", "numpy", "torch", "onnxruntime", "jax")


@dataclass(frozen=True)
class Level:
    """A level of memory: bytes that all threads together read there (None: no end), bytes a second."""

    name: str
    size: int | None
    bandwidth: float


@dataclass(frozen=True)
class Machine:
    """Rates that so many threads reach together."""

    threads: int
    blas: dict[str, float]  # flop/s by type
    kernel: dict[str, float]
    levels: tuple[Level, ...]
    activation: float  # seconds for one tanh or sigmoid
    isa: str

    def bandwidth(self, nbytes):
        """Give the bandwidth of the fastest level that holds so many bytes."""
        return next(lv.bandwidth for lv in self.levels if lv.size is None or nbytes <= lv.size)


# -- what it is -----------------------------------------------------------------------------------


def describe():
    """Name the machine and the versions: a dict of lines."""
    lines = {"cpu": platform.processor() or platform.machine(), "cores": str(os.cpu_count())}
    found = re.search(r"^model name\s*:\s*(.*)$", _text("/proc/cpuinfo"), re.M)
    if found:
        family = re.findall(r"^(?:cpu family|model)\s*:\s*(\d+)$", _text("/proc/cpuinfo"), re.M)[:2]
        lines["cpu"] = f"{found[1]} (family {family[0]}, model {family[1]})"
    cores = sorted(os.sched_getaffinity(0))
    lines["cores"] += f", of which this run may use {len(cores)}"
    lines["caches"] = ", ".join(f"{n} {size >> 10} KiB" for n, size in cache_sizes(cores[:1]))
    lines["system"] = (
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )
    if shutil.which("git"):
        command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            lines["commit"] = found.stdout.strip()
    versions = {name: _version(name) for name in PACKAGES}
    lines["versions"] = ", ".join(f"{n} {v}" for n, v in versions.items() if v)
    lines["date"] = time.strftime("%Y-%m-%d")
    return lines


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(path):
    return Path(path).read_text().strip()


def cache_sizes(cores):
    """List (name, bytes) of the data caches that these cores have together."""
    sizes = {}
    for number in cores:
        for index in sorted((CPUS / f"cpu{number}" / "cache").glob("index*")):
            if _text(index / "type") != "Instruction":
                key = f"L{_text(index / 'level')}", _text(index / "shared_cpu_list")
                sizes[key] = int(_text(index / "size").removesuffix("K")) << 10
    names = dict.fromkeys(name for name, _ in sizes)
    return [(n, sum(size for (m, _), size in sizes.items() if m == n)) for n in names]


# -- how fast it is -------------------------------------------------------------------------------


@cache
def _library():
    found = re.search(r"/\* cffi begin \*/(.*)/\* cffi end \*/", HEADER.read_text(), re.DOTALL)
    ffi = cffi.FFI()
    ffi.cdef(re.sub(r"/\*.*?\*/", "", found[1], flags=re.DOTALL))
    return ffi, ffi.dlopen(core.__file__)


def _kernels(dtype):
    """Give cffi and the table of C functions that lstmc uses for a type."""
    ffi, library = _library()
    return ffi, library.lstmc_table(np.dtype(dtype).itemsize, core.instruction_set().encode())


def _aligned(nbytes):
    room = np.ones(nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + nbytes]


def together(threads, make, units, seconds):
    """Give the best rate of threads that work at once: units a second.

    make() gives, in its thread, a function that does its work n times; each time is so many units.
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
    ffi, table = _kernels(dtype)
    sizes = [(rows, columns) for rows in (24, 36, 48, 60) for columns in (128, 256)]
    inputs, best = 256, 0.0
    for rows, columns in sizes:

        def make(rows=rows, columns=columns):
            weight = np.full((columns, inputs), 0.01, dtype)
            packed = _aligned(table.packed_linear_size(inputs, columns))
            x, y = np.full((rows, inputs), 0.5, dtype), np.empty((rows, columns), dtype)
            out, a, w, p = (ffi.from_buffer(array) for array in (y, x, weight, packed))
            table.pack_linear(p, w, inputs, columns)
            call = table.linear_forward

            def run(n):
                for _ in range(n):
                    call(out, a, ffi.NULL, ffi.NULL, p, rows, inputs, columns, 1, ffi.NULL)

            run.kept = x, y, packed
            return run

        units = 2 * rows * inputs * columns
        best = max(best, together(threads, make, units, seconds / len(sizes)))
    return best


@cache
def _reader():
    ffi = cffi.FFI()
    ffi.cdef("long long read_all(const void *bytes, ptrdiff_t size, ptrdiff_t passes);")
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/reader.so"
        command = [os.environ.get("CC", "cc"), "-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", library, str(HERE / "reader.c")], check=True)
        return ffi, ffi.dlopen(library)


def read_rate(nbytes, threads, seconds):
    """Measure how fast threads read so many bytes in all, again and again."""
    ffi, library = _reader()
    each = nbytes // threads // 512 * 512

    def make():
        array = _aligned(each)
        address = ffi.from_buffer(array)

        def run(n):
            library.read_all(address, each, n)

        run.kept = array
        return run

    return together(threads, make, each, seconds)


def activation_seconds(seconds):
    """Measure tanh and sigmoid, an element of either on the average."""
    ffi, table = _kernels("float32")
    a = np.linspace(-4, 4, 2**15, dtype=np.float32)  # so many that a call costs nothing beside them
    out = np.empty_like(a)
    pointers = ffi.from_buffer(out), ffi.from_buffer(a)

    def make():
        return lambda n: [table.map(*pointers, f, a.size) for _ in range(n) for f in (1, 2)]

    return 1 / together(1, make, 2 * a.size, seconds)


def packing_seconds(w):
    """Measure the packing of a workload's recurrent weights, once, on one thread."""
    ffi, table = _kernels(w.dtype)
    rows, cell = GATES[w.cell] * w.hidden, core.cell("lstm" if w.cell == "lstm" else "rnn_tanh")

    def layer_seconds(inputs):
        shapes = ((rows, inputs), (rows, w.hidden), (rows,))
        pointers = [ffi.from_buffer(np.zeros(shape, w.dtype)) for shape in shapes]
        layer = ffi.new("lstmc_forward_layer *", {"inputs": inputs, "hidden": w.hidden})
        layer.weight_ih, layer.weight_hh, layer.bias = pointers
        packed = ffi.from_buffer(_aligned(table.packed_size(layer, cell)))

        def run(n):
            for _ in range(n):
                table.pack_layer(packed, layer, cell)

        return 1 / together(1, lambda: run, 1, 0.02)

    return sum(layer_seconds(inputs) for inputs in [w.inputs] + [w.hidden] * (w.layers - 1))


def measure(threads, seconds=1.0):
    """Measure the machine with so many threads, some seconds for each rate."""
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
