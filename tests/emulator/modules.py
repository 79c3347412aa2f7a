"""RawModule of the emulated device: kernels compiled by a C++ compiler with shim.h, and launched.

What a launch asks for is checked against what CUDA would refuse, and every argument against the
kernel's own signature, which CUDA does not do.
"""

import ctypes
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading

import numpy as np

from . import memory, settings
from .arrays import ndarray, unwrap
from .errors import CUDADriverError
from .streams import submit

FOLDER = pathlib.Path(__file__).parent
SHIM = [FOLDER / name for name in ("shim.h", "shim_fibers.h", "shim_functions.h")]
FLAGS = (
    *("-std=c++17", "-O1", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-fvisibility=hidden"),
    "-fsanitize=alignment,null,bounds,integer-divide-by-zero",  # shim.h takes the reports
    "-U_FORTIFY_SOURCE",  # its longjmp() does not know of fibers
)
MAX_PARAMETERS = 128
_EXTERN_C = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?void\s+'
    r"(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\("
)
_lock = threading.RLock()


class CompileException(Exception):
    """As CuPy's, with what the compiler said."""

    def __init__(self, msg, source, name, options, backend="nvrtc"):
        self._msg, self.source, self.name, self.options = msg, source, name, options
        self.backend = backend
        super().__init__(msg)

    def get_message(self):
        return self._msg


def compiler():
    """The C++ compiler to use, or None."""
    return next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)


def why_not():
    """Why kernels cannot be run here, or nothing."""
    if not sys.platform.startswith("linux"):
        return "fibers need Linux' ucontext"
    return "" if compiler() else "no C++ compiler"


class Parameter(ctypes.Structure):
    """What shim.h says of a kernel's parameter."""

    _fields_ = (
        ("size", ctypes.c_ulonglong),
        ("target_size", ctypes.c_ulonglong),
        ("kind", ctypes.c_char),
        ("target", ctypes.c_char),
    )


def _build(code, names, options):
    """Return the library, compiled now or before."""
    entries = "".join(
        f"    {{emulated::Kernel<&{name}>::invoke, emulated::Kernel<&{name}>::describe}},\n"
        for name in names
    )
    table = f"extern const emulated::Entry emulated_kernels[] = {{\n{entries}}};\n"
    text = f'#include "shim.h"\n#line 1 "kernel.cu"\n{code}\n#line 1 "kernels wanted"\n{table}'
    flags = [*FLAGS, *(option for option in options if option.startswith(("-D", "-I")))]
    headers = [path.read_text() for path in SHIM]
    folder = pathlib.Path(settings.cache_folder or _default_folder())
    library = folder / f"{_key(text, flags, headers, compiler())}.so"
    if not library.exists():
        ahead = _compiled_ahead(folder / _key(headers, compiler()))
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source, compiled, linked = (
                str(pathlib.Path(scratch, f"k.{end}")) for end in ("cc", "o", "so")
            )
            pathlib.Path(source).write_text(text)
            compiling = [
                compiler(),
                *flags,
                f"-I{ahead}",
                f"-I{FOLDER}",
                "-c",
                source,
                "-o",
                compiled,
            ]
            done = subprocess.run(compiling, capture_output=True, text=True, check=False)
            if done.returncode:
                raise CompileException(done.stderr, code, "kernel.cu", options)
            sys.stderr.write(done.stderr)
            # By itself, without -fsanitize, or it would want the library that takes its reports.
            subprocess.run([compiler(), "-shared", compiled, "-o", linked], check=True)
            os.replace(linked, library)
    return ctypes.CDLL(str(library))


def _key(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _compiled_ahead(folder):
    """Return the folder with shim.h as g++ reads it fastest; another compiler takes shim.h itself."""
    folder.mkdir(parents=True, exist_ok=True)
    header = folder / "shim.h.gch"
    if not header.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = pathlib.Path(scratch, header.name)
            compiling = [compiler(), *FLAGS, "-x", "c++-header", str(SHIM[0]), "-o", str(made)]
            subprocess.run(compiling, check=True)
            os.replace(made, header)
    return folder


def _default_folder():
    return pathlib.Path(tempfile.gettempdir(), f"emulated-cuda-{os.getuid()}")


class RawModule:
    """CUDA C++ source, compiled when the first kernel is asked for."""

    def __init__(
        self,
        code=None,
        *,
        path=None,
        options=(),
        backend="nvrtc",
        translate_cucomplex=False,
        enable_cooperative_groups=False,
        name_expressions=None,
        jitify=None,
    ):
        if path is not None or code is None:
            raise NotImplementedError("only source code is emulated")
        if not isinstance(options, tuple):
            raise TypeError("Argument 'options' has incorrect type (expected tuple)")
        self.code, self.options, self.backend = code, options, backend
        self.enable_cooperative_groups = bool(enable_cooperative_groups)
        self.name_expressions = None if name_expressions is None else tuple(name_expressions)
        self.file_path = None
        self._names = list(self.name_expressions or ())
        self._names += [name for name in _EXTERN_C.findall(code) if name not in self._names]
        self._library = None
        self._functions = {}

    def compile(self, log_stream=None):
        with _lock:
            if self._library is None:
                self._library = _build(self.code, self._names, self.options)

    def get_function(self, name):
        if name not in self._names:
            raise CUDADriverError(500)
        self.compile()
        if name not in self._functions:
            self._functions[name] = RawKernel(self, name, self._names.index(name))
        return self._functions[name]


def _range(value):
    """The memory of an argument: the first byte and the number of them, none where unknown."""
    if not isinstance(value, ndarray) or not value.size:
        return 0, 0
    return value.data.ptr, value.nbytes if unwrap(value).flags.forc else 1


class _Handle:
    """What cupy.cuda.driver takes for a kernel."""

    def __init__(self, ptr):
        self.ptr = ptr


class RawKernel:
    """One kernel of a module."""

    max_threads_per_block = 1024
    num_regs = 32
    shared_size_bytes = local_size_bytes = const_size_bytes = 0
    binary_version = ptx_version = 90
    preferred_shared_memory_carveout = -1
    cache_mode_ca = 0

    def __init__(self, module, name, index):
        self.name, self._module, self._index = name, module, index
        self.code, self.options, self.backend = module.code, module.options, module.backend
        self.enable_cooperative_groups = module.enable_cooperative_groups
        self.kernel = _Handle(id(self))
        self._shared_limit = 48 * 1024
        described = (Parameter * MAX_PARAMETERS)()
        count = module._library.emulated_describe(index, described, MAX_PARAMETERS)
        self.parameters = described[:count]

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._shared_limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        if not 0 <= size <= settings.properties["sharedMemPerBlockOptin"]:
            raise CUDADriverError(1)
        self._shared_limit = int(size)

    @property
    def attributes(self):
        return {
            name: getattr(self, name)
            for name in dir(type(self))
            if name.endswith(("_bytes", "_version", "_block", "_regs", "_carveout", "_ca"))
        }

    def compile(self, log_stream=None):
        pass

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError(f"{self.name}: grid and block must be tuples")
        grid = [*map(int, grid), 1, 1][:3]
        block = [*map(int, block), 1, 1][:3]
        threads, blocks = np.prod(block), np.prod(grid)
        limits = [2**31 - 1, 65535, 65535]
        if (
            min(grid + block) < 1
            or threads > self.max_threads_per_block
            or any(size > limit for size, limit in zip(grid, limits))
            or not 0 <= shared_mem <= self._shared_limit
        ):
            raise CUDADriverError(1)
        cooperative = self.enable_cooperative_groups
        if cooperative and blocks > settings.properties["multiProcessorCount"]:
            raise CUDADriverError(720)
        if len(args) != len(self.parameters):
            raise TypeError(
                f"{self.name}: {len(args)} arguments, but the kernel takes {len(self.parameters)}"
            )
        passed = [self._pass(i, value) for i, value in enumerate(args)]
        # A graph does not keep the arrays that it was captured with, as on a real device.
        ranges = [_range(value) for value in args]
        ranges += [
            (int(value), 1)
            for value, parameter in zip(args, self.parameters)
            if parameter.kind == b"p" and not isinstance(value, ndarray)
        ]
        submit(lambda: self._run(grid, block, passed, ranges, shared_mem, cooperative), stream)

    def _run(self, grid, block, passed, ranges, shared_mem, cooperative):
        for address, size in ranges:
            if address and not memory.find(address, size):
                raise RuntimeError(f"{self.name}: a pointer to what is no memory of an array (now)")
        message = ctypes.create_string_buffer(500)
        addresses = (ctypes.c_void_p * (len(passed) + 1))(*map(ctypes.addressof, passed))
        kind, seed = settings.order_of_threads()
        with _lock:
            failed = self._module._library.emulated_launch(
                self._index,
                (ctypes.c_uint * 3)(*grid),
                (ctypes.c_uint * 3)(*block),
                ctypes.c_size_t(shared_mem),
                addresses,
                int(cooperative),
                kind,
                ctypes.c_ulonglong(seed),
                message,
                ctypes.c_size_t(len(message)),
            )
        if failed:
            text = message.value.decode()
            hint = "" if cooperative or "spin" not in text else " (not launched cooperatively)"
            raise RuntimeError(f"kernel {self.name}: {text}{hint}")
        try:
            memory.check_guards()
        except RuntimeError as error:
            raise RuntimeError(f"kernel {self.name} {error}") from None

    def _pass(self, position, value):
        """The bytes of an argument as CuPy passes it; refused where the kernel takes others."""
        parameter = self.parameters[position]
        kind, target = parameter.kind.decode(), parameter.target.decode()

        def refuse(what):
            raise TypeError(f"{self.name}: argument {position} is {what}")

        if isinstance(value, ndarray):
            if kind != "p":
                refuse("an array, but the kernel does not take a pointer")
            has = value.dtype.kind
            if target == "f" and has == "f" and parameter.target_size != value.itemsize:
                refuse(f"an array of {value.dtype}, not of {8 * parameter.target_size} bits")
            if (target == "f" and has in "iub") or (target in "ib" and has == "f"):
                refuse(f"an array of {value.dtype}, but the kernel takes another kind of number")
            return ctypes.c_void_p(value.data.ptr)
        if isinstance(value, bool):
            value = np.bool_(value)
        elif isinstance(value, int):
            value = np.int64(value)
        elif isinstance(value, float):
            value = np.float64(value)
        is_struct = isinstance(value, np.ndarray | np.void) and value.dtype.kind == "V"
        if not is_struct and not isinstance(value, np.number | np.bool_):
            refuse(f"of the unsupported type {type(value).__name__}")
        if value.nbytes != parameter.size:
            refuse(f"{value.nbytes} bytes ({value.dtype}), but the kernel takes {parameter.size}")
        kinds = {"f": "f", "i": "iu", "b": "b", "p": "iu", "o": "V"}
        if value.dtype.kind not in kinds[kind]:
            names = {"f": "a floating number", "i": "an integer", "b": "a bool", "p": "a pointer"}
            refuse(f"{value.dtype}, but the kernel takes {names.get(kind, 'a struct')}")
        return ctypes.create_string_buffer(value.tobytes(), value.nbytes)
