"""How kernels of a GPU are compiled, launched and joined by matrix products, whatever they compute.

Sources are compiled by NVRTC when they are first needed; CuPy keeps what comes out, in memory and on disk.
"""

import functools
import re
from pathlib import Path

import cupy
import numpy as np

from . import get_matmul_precision

__all__ = [
    "NULL",
    "fill",
    "i32",
    "i64",
    "kernel",
    "launch",
    "number",
    "product",
    "properties",
    "source_text",
]

FOLDER = Path(__file__).parent / "cuda"
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
    gemm = blas.sgemm if out.dtype.itemsize == 4 else blas.dgemm
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
