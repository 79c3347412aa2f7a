"""How kernels of a GPU are compiled, launched and joined by matrix products, whatever they compute.

Sources are compiled by NVRTC when they are first needed; CuPy keeps what comes out, in memory and on disk.
"""

import ctypes
import functools
import re
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import cupy
import numpy as np

from ..devices import get_matmul_precision

__all__ = [
    "NULL",
    "fill",
    "flat_kernel",
    "forget_workspaces",
    "i32",
    "i64",
    "kernel",
    "launch",
    "number",
    "or_null",
    "product",
    "properties",
    "recording",
    "source_text",
]

FOLDER = Path(__file__).parent
THREADS = 256  # of a block that shares out elements
MOST_BLOCKS = 4096
NULL = np.uint64(0)  # an absent array: CuPy can not pass None
i32, i64, number = np.int32, np.int64, np.float64
# What is compiled together. Those of "cooperative" are launched with all blocks resident, or not at all.
GROUPS = {
    "steps": ("begin_forward", "forward_step", "begin_backward", "backward_step", "step_rows",
              "step_sums"),
    "persistent": ("persistent_forward", "persistent_backward", "persistent_sizes"),
    "cooperative": ("cooperative_forward", "cooperative_backward"),
    "flat": ("embedding_forward", "embedding_backward", "masked", "add_bias", "sum_rows", "add_sums",
             "softmax_rows", "squares", "scale", "clip", "sgd", "adam", "rmsprop"),
    "flat of no type": ("check_tokens", "dropout_mask", "weight_of_targets", "add_up", "fingerprint"),
}  # fmt: skip
TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def source_text(name):
    """Give a source with what it includes put in its place, each file once."""
    seen = set()

    def read(file):
        if file in seen:
            return ""
        seen.add(file)
        text = (FOLDER / file).read_text(encoding="utf-8")
        return re.sub(r'^#include "(.+)"$', lambda found: read(found[1]), text, flags=re.MULTILINE)

    return read(name)


@functools.cache
def _module(file, group, dtype, defines):
    names = tuple(_full_name(name, dtype) for name in GROUPS[group])
    return cupy.RawModule(
        code=source_text(file),
        options=("--std=c++17", *(f"-D{key}={value}" for key, value in defines)),
        name_expressions=names,
        enable_cooperative_groups=group == "cooperative",
    )


def _full_name(name, dtype):
    return name if dtype is None else f"{name}<{TYPES[dtype]}>"


@functools.cache
def kernel(file, name, dtype=None, defines=()):
    """Give a kernel of a source file, for an element type if it has one.

    Parameters
    ----------
    file, name : str
    dtype : numpy dtype, optional
        None for a kernel that is no template.
    defines : tuple of (name, number)
    """
    group = next(group for group, names in GROUPS.items() if name in names)
    return _module(file, group, dtype, defines).get_function(_full_name(name, dtype))


def flat_kernel(name, dtype=None):
    """Give a kernel of flat arrays."""
    return kernel("flat.cu", name, dtype)


def or_null(array):
    """Give an array as an argument of a kernel, NULL for None."""
    return NULL if array is None else array


@functools.cache
def properties(device):
    """Give what CUDA says of a device, by its number."""
    return cupy.cuda.runtime.getDeviceProperties(device)


def launch(run, n, *arguments):
    """Launch a kernel over n elements, on the current stream."""
    if n:
        run((min(-(-n // THREADS), MOST_BLOCKS),), (THREADS,), arguments)


def fill(array, value=0):
    """Set all elements of a contiguous array."""
    if array.size:
        array.fill(value)


# -- products -----------------------------------------------------------------------------------------

_MATH_MODES = {"float32": 0, "tf32": 3}  # CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH
_FACTORS = {dtype: np.array([0, 1], dtype) for dtype in TYPES}
_ZERO = {dtype: both.ctypes.data for dtype, both in _FACTORS.items()}
_ONE = {dtype: both.ctypes.data + both.itemsize for dtype, both in _FACTORS.items()}


def product(out, a, b, turn_a=False, turn_b=False, add=False):
    """Write, or add to, out (m, n) the product of a (m, k) and b (k, n); turn_: it is given transposed.

    All are contiguous. cuBLAS counts by columns: to it they are transposed, and the factors change places.
    """
    m, n = out.shape
    k = a.shape[0] if turn_a else a.shape[1]
    if not k and not add:
        fill(out)
    if not (m and n and k):
        return
    blas, handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()
    gemm = _gemm(out.dtype, getattr(_recording, "library", None))
    beta = _ONE if add else _ZERO
    fast = out.dtype.itemsize == 4 and get_matmul_precision() != "float32"
    if fast:
        before = blas.getMathMode(handle)
        blas.setMathMode(handle, _MATH_MODES[get_matmul_precision()])
    try:
        gemm(
            handle, int(turn_b), int(turn_a), n, m, k, _ONE[out.dtype], b.data.ptr, b.shape[1],
            a.data.ptr, a.shape[1], beta[out.dtype], out.data.ptr, n,
        )  # fmt: skip
    finally:
        if fast:
            blas.setMathMode(handle, before)


def _gemm(dtype, library):
    if library is not None:
        return library.cublasSgemm_v2 if dtype.itemsize == 4 else library.cublasDgemm_v2
    return cupy.cuda.cublas.sgemm if dtype.itemsize == 4 else cupy.cuda.cublas.dgemm


# -- products while a graph is recorded ---------------------------------------------------------------

WORKSPACE = 32 << 20  # bytes; what cuBLAS takes on recent GPUs

_recording = threading.local()
_workspaces: dict = {}  # by device and stream: what is replayed on one stream takes turns


def forget_workspaces():
    """Let go of the memory that recorded products use; no graph may be launched after that."""
    _workspaces.clear()


@functools.cache
def _library():
    """Give cuBLAS itself, which CuPy has loaded: CuPy's binding refuses a stream that is being recorded."""
    library = ctypes.CDLL(f"libcublas.so.{cupy.cuda.runtime.runtimeGetVersion() // 1000}")
    pointer, whole = ctypes.c_void_p, ctypes.c_int

    def of(name, *types):
        function = getattr(library, name)
        function.argtypes, function.restype, function.errcheck = types, whole, _check
        return function

    of("cublasSetStream_v2", pointer, pointer)
    of("cublasGetStream_v2", pointer, ctypes.POINTER(pointer))
    of("cublasSetWorkspace_v2", pointer, pointer, ctypes.c_size_t)
    for name in ("cublasSgemm_v2", "cublasDgemm_v2"):
        of(name, pointer, *5 * (whole,), pointer, *2 * (pointer, whole), *2 * (pointer,), whole)
    return library


def _check(status, function, arguments):
    if status:
        raise RuntimeError(f"{function.__name__} of cuBLAS failed with status {status}")


@contextmanager
def recording(stream):
    """Record, within, what is launched on a stream, products too; give a list that gets the graph.

    It may be launched on the stream that is current now, and on no other.
    """
    cupy.cuda.cublas  # noqa: B018 that it is loaded
    library, handle = _library(), cupy.cuda.device.get_cublas_handle()
    place = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr
    if place not in _workspaces:
        _workspaces[place] = cupy.empty(WORKSPACE, np.uint8)
    workspace, before, made = _workspaces[place], ctypes.c_void_p(), []
    library.cublasGetStream_v2(handle, ctypes.byref(before))
    with stream:
        stream.begin_capture()
        try:
            library.cublasSetStream_v2(handle, stream.ptr)
            library.cublasSetWorkspace_v2(handle, workspace.data.ptr, workspace.nbytes)
            _recording.library = library
            yield made
        except BaseException:
            with suppress(Exception):  # what went wrong first is what counts
                stream.end_capture()
            raise
        finally:
            _recording.library = None
            library.cublasSetStream_v2(handle, before)
        made.append(stream.end_capture())
