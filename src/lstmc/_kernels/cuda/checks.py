"""Checks of what a caller passes to a network on a GPU, like the binding's for the CPU."""

import cupy
import numpy as np

from ..devices import is_on_gpu
from ..environment import check_threads
from ..messages import kind_of, shape_text
from .launch import flat_kernel, i32, i64, launch

__all__ = [
    "address",
    "adopt",
    "check_flat",
    "check_num_threads",
    "checked",
    "checked_tokens",
    "not_cupys",
    "on_current_device",
]

NEVER = np.iinfo(np.int64).max


def address(array):
    """Return the address of an array's first element."""
    return array.data.ptr


def adopt(value):
    """Return another library's array on a GPU as one of CuPy's, without a copy; else the value."""
    if isinstance(value, (cupy.ndarray, np.ndarray)) or not is_on_gpu(value):
        return value
    if getattr(value, "__cuda_array_interface__", None) is not None:
        return cupy.asarray(value)
    return cupy.from_dlpack(value)


def not_cupys(value):
    """Return what messages call a value that is not the array of CuPy it should be."""
    if isinstance(value, np.ndarray):
        return "a NumPy array: nothing is copied to the GPU by itself, cupy.asarray() does it"
    return kind_of(value)


def _contiguous(array):
    """Return an array as kernels read it: a copy only where it is not contiguous."""
    return array if array.flags.c_contiguous else cupy.ascontiguousarray(array)


def on_current_device(name, array):
    """Return an array; refuse one of another device than the current one."""
    current = cupy.cuda.runtime.getDevice()
    if array.device.id != current:
        raise ValueError(
            f"{name} must be on the current device, {current}, got one on {array.device.id}"
        )
    return array


def checked(name, value, dtype, shape):
    """Return `value` as a contiguous array of CuPy if it has the type and the shape, else raise.

    `shape` holds numbers, which must match, and letters, which stand for any size. An array of another
    library on the GPU is taken without a copy, where it is contiguous.
    """
    value = adopt(value)
    if not isinstance(value, cupy.ndarray):
        raise TypeError(
            f"{name} must be a {np.dtype(dtype).name} array {shape_text(shape)} on the GPU, "
            f"got {not_cupys(value)}"
        )
    if value.dtype != dtype:
        raise TypeError(f"{name} must be {np.dtype(dtype).name}, got {value.dtype.name}")
    matches = value.ndim == len(shape) and all(
        isinstance(expected, str) or n == expected for n, expected in zip(value.shape, shape)
    )
    if not matches:
        raise ValueError(f"{name} must be {shape_text(shape)}, got {shape_text(value.shape)}")
    return _contiguous(on_current_device(name, value))


def checked_tokens(name, value, limit, shape=None, ignored=None):
    """Return token ids as a contiguous int64 array; each must be in [0, limit) or be `ignored`.

    Waits for the GPU, to know that.
    """
    value = adopt(value)
    if not isinstance(value, cupy.ndarray) or value.dtype not in (np.int64, np.int32):
        got = value.dtype.name if isinstance(value, cupy.ndarray) else not_cupys(value)
        raise TypeError(f"{name} must be an int64 or int32 array on the GPU, got {got}")
    if shape is not None and value.shape != tuple(shape):
        raise ValueError(f"{name} must be {shape_text(shape)}, got {shape_text(value.shape)}")
    ids = on_current_device(name, value).astype(
        np.int64, order="C"
    )  # a copy, checked and then used
    if not ids.size:
        return ids
    first_bad = cupy.full(1, NEVER, np.uint64)
    skip = i64(0 if ignored is None else ignored)
    launch(
        flat_kernel("check_tokens"), ids.size, first_bad, ids, i64(ids.size), i64(limit), skip,
        i32(ignored is not None),
    )  # fmt: skip
    first = int(first_bad[0])
    if first != NEVER:
        at = ", ".join(str(j) for j in np.unravel_index(first, value.shape)) if value.ndim else "()"
        allowed = f"in [0, {limit})" + ("" if ignored is None else f" or {ignored}")
        raise ValueError(f"{name}[{at}] must be {allowed}, got {int(ids.reshape(-1)[first])}")
    return ids


def check_flat(params, **others):
    """Refuse arrays that do not belong to one another, element by element, as those of an optimiser do."""
    on_current_device("params", params)
    for name, array in {"params": params, **others}.items():
        if array is not None and checked(name, array, params.dtype, params.shape) is not array:
            raise ValueError(f"{name} must be contiguous")


def check_num_threads(num_threads):
    """Check a number of threads, which has no effect here."""
    if num_threads is not None:
        check_threads("num_threads", num_threads)
