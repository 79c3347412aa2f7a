"""Kernels: those of the CPU, in C, and those of a GPU, in CUDA, under the same names. Private.

Only ``kernels_for`` chooses between them, by the name of a device; for an array, ``device_of`` names it.
"""

import contextlib
import re

from . import cpu
from .devices import device_of

__all__ = ["kernels_for", "kernels_of", "on_device"]


def kernels_for(device):
    """Return the kernels of a device: "cpu", "cuda" or "cuda:N".

    Raises
    ------
    ValueError
        It is not the name of a device, or there is no such GPU.
    ImportError
        CuPy or CUDA's libraries are not installed.
    RuntimeError
        There is no usable GPU.
    """
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


def kernels_of(array):
    """Return the kernels of the device that an array is on."""
    return kernels_for(device_of(array))


@contextlib.contextmanager
def on_device(device):
    """Make a device the current one, and yield its kernels."""
    kernels = kernels_for(device)
    _, _, number = device.partition(":")
    with kernels.arrays.cuda.Device(int(number)) if number else contextlib.nullcontext():
        yield kernels
