"""The GPU: what it is, and what it reaches at most, measured in this run."""

import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path

import numpy as np

import lstmc
from lstmc._kernels import kernels_for

from .measure import events
from .sides import products
from .workloads import PRECISIONS

HERE = Path(__file__).parent
PACKAGES = ("lstmc", "numpy", "torch")
TRIALS = 20


def _output(*command):
    """Give what a command prints, or nothing."""
    if not shutil.which(command[0]):
        return ""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def _version(number):
    return f"{number // 1000}.{number % 1000 // 10}"


def describe():
    """Name the GPU and the versions: a dict of lines."""
    cupy = kernels_for("cuda").arrays
    runtime = cupy.cuda.runtime
    told = runtime.getDeviceProperties(runtime.getDevice())
    query = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    lines = {
        "GPU": f"{told['name'].decode()}, {told['multiProcessorCount']} multiprocessors, "
        f"{told['l2CacheSize'] >> 20} MiB L2, {told['totalGlobalMem'] / 2**30:.0f} GiB",
        "driver": f"{query.splitlines()[0] if query else 'unknown'}, "
        f"for CUDA {_version(runtime.driverGetVersion())}",
        "CUDA": f"{_version(runtime.runtimeGetVersion())}, as CuPy uses it",
        "CuPy": cupy.__version__,
    }
    try:
        import torch

        cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
        lines["PyTorch"] = f"{torch.__version__}, for CUDA {torch.version.cuda}"
        lines["cuDNN"] = str(cudnn or "none")
    except ImportError as error:
        lines["PyTorch"] = f"none: {error}"
    lines["system"] = (
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, lstmc {_installed()}"
    )
    lines["commit"] = _output("git", "-C", str(HERE), "describe", "--always", "--dirty")
    lines["commit"] = lines["commit"] or "unavailable"
    lines["date"] = time.strftime("%Y-%m-%d")
    return lines


def _installed():
    try:
        return metadata.version("lstmc")
    except metadata.PackageNotFoundError:
        return lstmc.__version__


def limits(size=4096, megabytes=256, launches=2000):
    """Measure what nothing on this GPU gets past: a dict of numbers.

    "float32" and "tf32" are of a matrix product, flop/s; "copy" is bytes a second, read and written;
    "launch" is seconds for a kernel among many, "wait" for one that is waited for.
    """
    from cupy.cuda import runtime

    from lstmc._kernels.cuda import kernels as cuda
    from lstmc._kernels.cuda.products import product

    cupy = cuda.arrays
    rng, found = np.random.default_rng(0), {}
    a, b = (cupy.asarray(rng.standard_normal((size, size), np.float32)) for _ in range(2))
    out = cupy.empty_like(a)

    def multiply(n):
        for _ in range(n):
            product(out, a, b)

    for precision in PRECISIONS:
        with products(precision):
            found[precision] = 2 * size**3 / _best(multiply, 5)

    source = cupy.zeros(megabytes << 18, np.float32)
    target = cupy.zeros_like(source)

    def copy(n):
        for _ in range(n):
            target[...] = source

    found["copy"] = 2 * source.nbytes / _best(copy, 5)
    little = cupy.zeros(32, np.float32)

    def launch(n, wait):
        for _ in range(n):
            cuda.scale(little, 1.0)
            if wait:
                runtime.deviceSynchronize()

    for name, wait in (("launch", False), ("wait", True)):
        launch(10, True)
        began = time.perf_counter()
        launch(launches, wait)
        runtime.deviceSynchronize()
        found[name] = (time.perf_counter() - began) / launches
    return found


def _best(run, n):
    events(run, n)
    return min(events(run, n) for _ in range(TRIALS))
