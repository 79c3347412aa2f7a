"""Matrix products of a GPU, by cuBLAS: at once, or recorded as a part of a CUDA graph."""

import ctypes
import functools
import threading
from contextlib import contextmanager, suppress

import cupy
import numpy as np

from ..devices import get_matmul_precision
from .launch import TYPES

__all__ = ["Recording", "forget_workspaces", "product", "recording"]

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_MATH_MODES = {"float32": 0, "tf32": 3}  # CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH
_OF_CUPY = {FLOAT32: "sgemm", FLOAT64: "dgemm"}
_OF_LIBRARY = {FLOAT32: "cublasSgemm_v2", FLOAT64: "cublasDgemm_v2"}
_FACTORS = {dtype: np.array([0, 1], dtype) for dtype in TYPES}
_ZERO = {dtype: both.ctypes.data for dtype, both in _FACTORS.items()}
_ONE = {dtype: both.ctypes.data + both.itemsize for dtype, both in _FACTORS.items()}


def product(out, a, b, turn_a=False, turn_b=False, add=False):
    """Write the product of a (m, k) and b (k, n) to out (m, n), or add it.

    All are contiguous; a factor whose turn_ is true is passed transposed. cuBLAS counts by columns: to it all
    are transposed, and the factors change places.
    """
    m, n = out.shape
    k = a.shape[0] if turn_a else a.shape[1]
    if not k and not add and out.size:
        out.fill(0)
    if not (m and n and k):
        return
    blas, handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()
    gemm = _gemm(out.dtype, getattr(_recording, "library", None))
    beta = _ONE if add else _ZERO
    fast = out.dtype == FLOAT32 and get_matmul_precision() != "float32"
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
    if library is None:
        return getattr(cupy.cuda.cublas, _OF_CUPY[dtype])
    return getattr(library, _OF_LIBRARY[dtype])


# -- products while a graph is recorded ---------------------------------------------------------------

WORKSPACE = 32 << 20  # bytes; what cuBLAS takes on recent GPUs

_recording = threading.local()
_workspaces: dict = {}  # by device and stream: what is replayed on one stream takes turns


class Recording:
    """What recording() records: ``graph``, None until it has ended."""

    def __init__(self):
        self.graph = None


def forget_workspaces():
    """Release the memory that recorded products use; no graph may be launched after that."""
    _workspaces.clear()


@functools.cache
def _library():
    """Return cuBLAS itself, which CuPy has loaded: CuPy's binding refuses a stream that is being recorded."""
    library = ctypes.CDLL(f"libcublas.so.{cupy.cuda.runtime.runtimeGetVersion() // 1000}")
    pointer, whole = ctypes.c_void_p, ctypes.c_int

    def declare(name, *types):
        function = getattr(library, name)
        function.argtypes, function.restype, function.errcheck = types, whole, _check

    declare("cublasSetStream_v2", pointer, pointer)
    declare("cublasGetStream_v2", pointer, ctypes.POINTER(pointer))
    declare("cublasSetWorkspace_v2", pointer, pointer, ctypes.c_size_t)
    for name in _OF_LIBRARY.values():
        declare(
            name, pointer, *5 * (whole,), pointer, *2 * (pointer, whole), *2 * (pointer,), whole
        )
    return library


def _check(status, function, arguments):
    if status:
        raise RuntimeError(f"{function.__name__} of cuBLAS failed with status {status}")


@contextmanager
def recording(stream):
    """Record what is launched on a stream within, products too; the context is a Recording.

    Its graph may be launched on the stream that is current now, and on no other.
    """
    cupy.cuda.cublas  # noqa: B018 that it is loaded
    library, handle = _library(), cupy.cuda.device.get_cublas_handle()
    place = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr
    if place not in _workspaces:
        _workspaces[place] = cupy.empty(WORKSPACE, np.uint8)
    workspace, before, record = _workspaces[place], ctypes.c_void_p(), Recording()
    library.cublasGetStream_v2(handle, ctypes.byref(before))
    with stream:
        stream.begin_capture()
        try:
            library.cublasSetStream_v2(handle, stream.ptr)
            library.cublasSetWorkspace_v2(handle, workspace.data.ptr, workspace.nbytes)
            _recording.library = library
            yield record
        except BaseException:
            with suppress(Exception):  # what went wrong first is what counts
                stream.end_capture()
            raise
        finally:
            _recording.library = None
            library.cublasSetStream_v2(handle, before)
        record.graph = stream.end_capture()
