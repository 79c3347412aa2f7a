"""The GPU: what it is, and what it reaches at most, measured in this run."""

import time

import numpy as np

import lstmc

from ..machine import facts
from . import ways
from .measure import events, products
from .workloads import PRECISIONS

TRIALS = 20


def _version(number):
    return f"{number // 1000}.{number % 1000 // 10}"


def describe():
    """Return a dict of lines: the GPU, versions."""
    cupy = ways.cupy_here()
    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(runtime.getDevice())
    query = facts.output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    lines = {
        "GPU": f"{properties['name'].decode()}, {properties['multiProcessorCount']} multiprocessors, "
        f"{properties['l2CacheSize'] >> 20} MiB L2, {properties['totalGlobalMem'] / 2**30:.0f} GiB",
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
        f"{facts.system()}, NumPy {np.__version__}, "
        f"lstmc {facts.version('lstmc') or lstmc.__version__}"
    )
    lines["commit"] = facts.commit() or "unavailable"
    lines["date"] = time.strftime("%Y-%m-%d")
    return lines


def limits(size=4096, megabytes=256, launches=2000):
    """Measure what nothing on this GPU gets past.

    Returns
    -------
    dict of float
        "float32" and "tf32": of a matrix product, flop/s. "copy": bytes a second, read and written.
        "launch": seconds for a kernel among many; "wait": for one that is waited for.
    """
    cupy = ways.cupy_here()
    wait_for_all = cupy.cuda.runtime.deviceSynchronize
    rng, reached = np.random.default_rng(0), {}
    a, b = (cupy.asarray(rng.standard_normal((size, size), np.float32)) for _ in range(2))
    out = cupy.empty_like(a)

    def multiply(n):
        for _ in range(n):
            ways.multiply(out, a, b)

    for precision in PRECISIONS:
        with products(precision):
            reached[precision] = 2 * size**3 / _best(multiply, 5)

    source = cupy.zeros(megabytes << 18, np.float32)
    target = cupy.zeros_like(source)

    def copy(n):
        for _ in range(n):
            target[...] = source

    reached["copy"] = 2 * source.nbytes / _best(copy, 5)
    little = cupy.zeros(32, np.float32)

    def launch(n, wait):
        for _ in range(n):
            ways.smallest_kernel(little)
            if wait:
                wait_for_all()

    for name, wait in (("launch", False), ("wait", True)):
        launch(10, True)
        began = time.perf_counter()
        launch(launches, wait)
        wait_for_all()
        reached[name] = (time.perf_counter() - began) / launches
    return reached


def _best(run, n):
    events(run, n)
    return min(events(run, n) for _ in range(TRIALS))
