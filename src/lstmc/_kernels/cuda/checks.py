"""Checks of what a caller gives a network on a GPU, as the binding's are of what one on the CPU gets."""

import cupy
import numpy as np

from .. import is_on_gpu, kind_of
from ..environment import check_threads
from ..messages import shape_text
from .launch import flat_kernel, i32, i64, launch

__all__ = [
    "address",
    "adopt",
    "check_num_threads",
    "checked",
    "checked_tokens",
    "contiguous",
    "found",
    "here",
]

NEVER = np.iinfo(np.int64).max


def address(array):
    """Give the address of an array's first element."""
    return array.data.ptr


def adopt(value):
    """Give an array of another library that lies on a GPU as one of CuPy, the same memory; else as it is."""
    if isinstance(value, (cupy.ndarray, np.ndarray)) or not is_on_gpu(value):
        return value
    if getattr(value, "__cuda_array_interface__", None) is not None:
        return cupy.asarray(value)
    return cupy.from_dlpack(value)


def found(value):
    """Name what a caller gave in place of an array of CuPy, for messages."""
    if isinstance(value, np.ndarray):
        return "a NumPy array: nothing is copied to the GPU by itself, cupy.asarray() does it"
    return kind_of(value)


def contiguous(array):
    """Give an array as kernels read it; a copy only where it is not contiguous."""
    return array if array.flags.c_contiguous else cupy.ascontiguousarray(array)


def here(name, array):
    """Give an array; refuse one of another device than the current one."""
    current = cupy.cuda.runtime.getDevice()
    if array.device.id != current:
        raise ValueError(
            f"{name} must be on the current device, {current}, got one on {array.device.id}"
        )
    return array


def checked(name, value, dtype, shape):
    """Give `value` as a contiguous array of CuPy if it has the type and the shape, else raise.

    `shape` holds numbers, which must match, and letters, which stand for any size. What another library has
    on the GPU is taken without a copy, where it is contiguous.
    """
    value = adopt(value)
    if not isinstance(value, cupy.ndarray):
        raise TypeError(
            f"{name} must be a {np.dtype(dtype).name} array {shape_text(shape)} on the GPU, "
            f"got {found(value)}"
        )
    if value.dtype != dtype:
        raise TypeError(f"{name} must be {np.dtype(dtype).name}, got {value.dtype.name}")
    matches = value.ndim == len(shape) and all(
        isinstance(wanted, str) or got == wanted for got, wanted in zip(value.shape, shape)
    )
    if not matches:
        raise ValueError(f"{name} must be {shape_text(shape)}, got {shape_text(value.shape)}")
    return contiguous(here(name, value))


def checked_tokens(name, value, limit, shape=None, ignored=None):
    """Give token ids as a contiguous int64 array; each must be in [0, limit) or be `ignored`.

    Waits for the GPU, to know that.
    """
    value = adopt(value)
    if not isinstance(value, cupy.ndarray) or value.dtype not in (np.int64, np.int32):
        got = value.dtype.name if isinstance(value, cupy.ndarray) else found(value)
        raise TypeError(f"{name} must be an int64 or int32 array on the GPU, got {got}")
    if shape is not None and value.shape != tuple(shape):
        raise ValueError(f"{name} must be {shape_text(shape)}, got {shape_text(value.shape)}")
    ids = contiguous(here(name, value).astype(np.int64, copy=False))
    if not ids.size:
        return ids
    bad = cupy.full(1, NEVER, np.uint64)
    skip = i64(0 if ignored is None else ignored)
    launch(
        flat_kernel("check_tokens"), ids.size, bad, ids, i64(ids.size), i64(limit), skip,
        i32(ignored is not None),
    )  # fmt: skip
    first = int(bad[0])
    if first != NEVER:
        at = ", ".join(str(j) for j in np.unravel_index(first, value.shape)) if value.ndim else "()"
        allowed = f"in [0, {limit})" + ("" if ignored is None else f" or {ignored}")
        raise ValueError(f"{name}[{at}] must be {allowed}, got {int(ids.reshape(-1)[first])}")
    return ids


def check_num_threads(num_threads):
    """Check a number of threads, which has no effect here."""
    if num_threads is not None:
        check_threads("num_threads", num_threads)
