"""The devices that arrays are on, copies between them, and the precision of products on a GPU."""

import sys

import numpy as np

__all__ = [
    "copy_into",
    "device_of",
    "differ",
    "get_matmul_precision",
    "host",
    "is_on_gpu",
    "set_matmul_precision",
]

PRECISIONS = ("float32", "tf32")
_precision = PRECISIONS[0]


def device_of(array):
    """Return the device that an array of any library is on: "cpu", "cuda:N", or "cuda" if N is not known."""
    if isinstance(array, (np.ndarray, np.generic)):
        return "cpu"
    if _is_cupys(array):
        return f"cuda:{array.device.id}"
    return "cuda" if is_on_gpu(array) else "cpu"


def is_on_gpu(array):
    """Return whether an array, of any library, is on a GPU."""
    if _is_cupys(array):
        return True
    if getattr(array, "__cuda_array_interface__", None) is not None:
        return True
    where = getattr(array, "__dlpack_device__", None)
    return where is not None and where()[0] in (2, 13)  # kDLCUDA, kDLCUDAManaged


def _is_cupys(array):
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def host(array):
    """Return an array as NumPy's: a copy of one on a GPU, anything else as it is."""
    return array.get() if _is_cupys(array) else array


def differ(pairs):
    """Return whether the fingerprints of any pair differ. Waits for a GPU once, not for each pair."""
    total = 0
    for one, other in pairs:
        if one is not other:
            total = total | (one ^ other)
    return bool(total)


def copy_into(target, source):
    """Copy the elements of an array into another of the same shape, from and to any device."""
    if isinstance(target, np.ndarray):
        target[...] = host(source)
    elif target.size:
        target[...] = sys.modules["cupy"].asarray(source)


def set_matmul_precision(precision):
    """Set how matrix products of float32 arrays on a GPU are computed.

    Parameters
    ----------
    precision : "float32" or "tf32"
        "float32", the default, keeps all 24 bits. With "tf32", cuBLAS rounds the factors to 11 bits and
        multiplies them on the tensor cores of GPUs that have them, with relative errors near 1e-3. All else
        stays float32; float64 and the CPU are not affected.

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
    """Return how matrix products of float32 arrays on a GPU are computed: "float32" or "tf32"."""
    return _precision
