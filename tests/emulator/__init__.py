"""A double of CuPy for tests: its arrays live on the host, and CUDA kernels run there too, as fibers.

`install()` puts it in the place of `cupy`. It is deliberately strict where CuPy is (host and device do
not mix, reductions give arrays) and where CUDA lets mistakes pass (widths of arguments, writes outside of
an array, unwritten memory). It says nothing of speed, of order between streams, of the memory model or of
the rounding of a real device, and has only the part of CuPy that lstmc uses.
"""

import ctypes
import sys
import types

import numpy as np

from . import arrays, cuda, functions, memory, modules, names, settings, streams
from .arrays import pretend_device

__all__ = ["available", "install", "pretend_device", "remove", "settings", "why_not"]

_real_library = ctypes.CDLL
_modules = {}
_hidden = {}


def available():
    """Whether kernels can be run here."""
    return not modules.why_not()


def why_not():
    """Why kernels cannot be run here; nothing where they can."""
    return modules.why_not()


def _module(name, contents):
    module = types.ModuleType(name, f"A double of {name}, see tests/emulator.")
    module.__dict__.update(contents)
    _modules[name] = module
    return module


def _make():
    part = {
        "runtime": cuda.RUNTIME,
        "driver": cuda.DRIVER,
        "cublas": cuda.CUBLAS,
        "device": {
            "Device": cuda.Device,
            "get_cublas_handle": cuda.get_cublas_handle,
            "get_compute_capability": lambda: cuda.Device().compute_capability,
            "get_device_id": lambda: 0,
        },
        "memory": {
            name: getattr(memory, name)
            for name in ("OutOfMemoryError", "MemoryPool", "MemoryPointer", "Memory", "UnownedMemory",
                         "alloc")
        },
        "stream": {
            name: getattr(streams, name)
            for name in ("Stream", "ExternalStream", "Event", "get_current_stream", "get_elapsed_time")
        },
        "graph": {"Graph": streams.Graph},
        "compiler": {"CompileException": modules.CompileException},
    }  # fmt: skip
    parts = {name: _module(f"cupy.cuda.{name}", contents) for name, contents in part.items()}
    shown = {**part["stream"], **part["graph"], **part["memory"], **part["device"]}
    del shown["OutOfMemoryError"], shown["get_compute_capability"]
    top = {name: getattr(np, name) for name in names.CONSTANTS}
    top |= functions.functions
    top |= {
        "__version__": "14.2.0",
        "ndarray": arrays.ndarray,
        "RawModule": modules.RawModule,
        "RawKernel": modules.RawKernel,
        "linalg": _module(
            "cupy.linalg", {**functions.linalg, "LinAlgError": np.linalg.LinAlgError}
        ),
        "cuda": _module("cupy.cuda", {**parts, **shown, "is_available": lambda: True}),
        "is_available": lambda: True,
        "get_default_memory_pool": memory.get_default_memory_pool,
    }
    _module("cupy", top)


def install():
    """Put the double in the place of CuPy, and return it."""
    if sys.modules.get("cupy") is _modules["cupy"]:
        return _modules["cupy"]
    for name in list(sys.modules):
        if name.split(".")[0] in ("cupy", "cupyx"):
            _hidden[name] = sys.modules.pop(name)
    sys.modules.update(_modules)
    ctypes.CDLL = _Library
    return _modules["cupy"]


class _Library(_real_library):
    """What ctypes loads: of cuBLAS, the double."""

    def __new__(cls, name, *args, **more):
        if str(name).startswith("libcublas.so"):
            return cuda.Library()
        return super().__new__(cls)


def remove():
    """Take the double away, and what has been imported with it."""
    ctypes.CDLL = _real_library
    streams.forget_captures()
    for name in _modules:
        if sys.modules.get(name) is _modules[name]:
            del sys.modules[name]
    sys.modules.update(_hidden)
    _hidden.clear()
    for name in [name for name in sys.modules if name.startswith("lstmc._kernels.cuda")]:
        del sys.modules[name]
    if "lstmc._kernels" in sys.modules:
        vars(sys.modules["lstmc._kernels"]).pop("cuda", None)


_make()
