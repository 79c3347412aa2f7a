"""Kernels: those of the CPU, in C, and those of a GPU, in CUDA, under the same names. Private.

This is the one place that chooses between them: by a device's name, or by what an array is.
"""

import contextlib
import re
import sys

import numpy as np

from . import cpu
from .messages import kind_of

__all__ = [
    "copy_into",
    "device_name",
    "differ",
    "get_matmul_precision",
    "host",
    "is_on_gpu",
    "kernels_for",
    "kernels_of",
    "kind_of",
    "on_device",
    "set_matmul_precision",
]

PRECISIONS = ("float32", "tf32")
_precision = PRECISIONS[0]


def kernels_for(device):
    """Give the kernels of "cpu", "cuda" or "cuda:N"; say what is missing where there are none."""
    if device == "cpu":
        return cpu
    if not isinstance(device, str) or not re.fullmatch(r"cuda(:\d+)?", device):
        raise ValueError(f'device must be "cpu", "cuda" or "cuda:N", got {device!r}')
    try:
        import cupy
    except ImportError:
        raise ImportError(
            f'device {device!r} needs CuPy: pip install "lstmc[cuda13]", '
            'or "lstmc[cuda12]" for a driver of CUDA 12'
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"device {device!r}: there is no usable GPU here ({error})") from None
    if not count:
        raise RuntimeError(f"device {device!r}: there is no usable GPU here")
    if int(device.partition(":")[2] or 0) >= count:
        raise ValueError(
            f"device {device!r} does not exist: the last GPU here is 'cuda:{count - 1}'"
        )
    try:
        cupy.cuda.cublas  # noqa: B018 CuPy loads it when it is asked for
    except ImportError as error:
        raise ImportError(
            f"device {device!r} needs CUDA's libraries ({error}): "
            'install the CUDA toolkit, or pip install "cupy-cuda13x[ctk]"'
        ) from None
    from .cuda import kernels

    return kernels


@contextlib.contextmanager
def on_device(device):
    """Give the kernels of a device, and make it the current one within."""
    kernels = kernels_for(device)
    _, _, number = device.partition(":")
    with kernels.arrays.cuda.Device(int(number)) if number else contextlib.nullcontext():
        yield kernels


def kernels_of(array):
    """Give the kernels that take an array as it is: those of a GPU for what lies there, else the CPU's."""
    if isinstance(array, (np.ndarray, np.generic)):
        return cpu
    return kernels_for("cuda") if is_on_gpu(array) else cpu


def _is_cupys(array):
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def is_on_gpu(array):
    """Tell whether an array, of whatever library, lies on a GPU."""
    if _is_cupys(array):
        return True
    if getattr(array, "__cuda_array_interface__", None) is not None:
        return True
    where = getattr(array, "__dlpack_device__", None)
    return where is not None and where()[0] in (2, 13)  # kDLCUDA, kDLCUDAManaged


def device_name(array):
    """Tell where an array is: "cpu" or "cuda:N"."""
    return "cpu" if isinstance(array, np.ndarray) else f"cuda:{array.device.id}"


def host(array):
    """Give an array as NumPy has it: a copy of what lies on a GPU, anything else as it is."""
    return array.get() if _is_cupys(array) else array


def differ(pairs):
    """Tell whether any two fingerprints differ. Those of a GPU are waited for, once for all."""
    total = 0
    for one, other in pairs:
        if one is not other:
            total = total | (one ^ other)
    return bool(total)


def copy_into(target, source):
    """Write the elements of an array into another of the same shape, wherever each of them is."""
    if isinstance(target, np.ndarray):
        target[...] = host(source)
    elif target.size:
        target[...] = sys.modules["cupy"].asarray(source)


def set_matmul_precision(precision):
    """Choose how matrix products of float32 arrays on a GPU are computed.

    Parameters
    ----------
    precision : "float32" or "tf32"
        "float32", the default: with all 24 bits. "tf32": in cuBLAS's products factors are rounded to 11 bits
        and multiplied by the tensor cores of GPUs that have them, with relative errors near 1e-3. Everything
        else stays float32, and float64 and the CPU are not affected.

    Raises
    ------
    ValueError
        It is neither.
    """
    global _precision
    if precision not in PRECISIONS:
        raise ValueError(f'precision must be "float32" or "tf32", got {precision!r}')
    _precision = precision


def get_matmul_precision():
    """Tell how matrix products of float32 arrays on a GPU are computed: "float32" or "tf32"."""
    return _precision
