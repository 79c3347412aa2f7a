"""NVIDIA's compilers, where they are: NVRTC (the library that CuPy uses) by ctypes, and nvcc.

For tests that kernels compile, which needs no GPU. Deliberately not what lstmc itself compiles with.
"""

import ctypes
import functools
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def nvrtc():
    """Return NVRTC as a ctypes library, from a wheel or the system; None where there is none."""
    package = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in package.submodule_search_locations] if package else []
    wheels = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so.*"))]
    for name in (*map(str, wheels), "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def why_not():
    """Return why nothing can be compiled here; "" where it can."""
    compiler = nvrtc() or shutil.which("nvcc")
    return "" if compiler else "neither nvcc nor NVRTC is installed: pip install nvidia-cuda-nvrtc"


def compile_all(source, names, options, architecture):
    """Compile CUDA C for an architecture such as 90, with these kernels; raise what the compiler said."""
    options = ("--std=c++17", "-ftz=true", *options)
    if nvrtc():
        _by_nvrtc(source, names, (f"--gpu-architecture=sm_{architecture}", *options))
    else:
        _by_nvcc(source, names, (f"-arch=sm_{architecture}", *options))


def _by_nvrtc(source, names, options):
    library, program = nvrtc(), ctypes.c_void_p()

    def check(status):
        assert status == 0, f"NVRTC: error {status}"

    check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"", 0, None, None))
    try:
        for name in names:
            check(library.nvrtcAddNameExpression(program, name.encode()))
        flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = library.nvrtcCompileProgram(program, len(options), flags)
        size = ctypes.c_size_t()
        check(library.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        log = ctypes.create_string_buffer(size.value)
        check(library.nvrtcGetProgramLog(program, log))
        assert status == 0, log.value.decode()
        lowered = ctypes.c_char_p()
        for name in names:
            check(library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _by_nvcc(source, names, options):
    addresses = ", ".join(f"(const void *)({name})" for name in names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cu"
        path.write_text(f"{source}\nconst void *kernels[] = {{{addresses}}};\n")
        done = subprocess.run(
            ["nvcc", "-c", "-o", str(path.with_suffix(".o")), *options, str(path)],
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr
