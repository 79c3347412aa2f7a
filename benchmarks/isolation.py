"""Fresh processes with their threads counted and pinned: every measurement runs in one.

Thread pools read their settings when they are made, so a count cannot be changed afterwards.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LSTMC_NUM_THREADS")


def usable_cores():
    return sorted(os.sched_getaffinity(0))


@contextmanager
def pinned(threads):
    """Let processes that are started within have this many threads, on as many cores."""
    cores, environment = os.sched_getaffinity(0), dict(os.environ)
    os.environ.update(dict.fromkeys(COUNTS, str(threads)))
    eigen = "true" if threads > 1 else "false"
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={threads}"
    )
    os.environ["JAX_PLATFORMS"] = "cpu"
    # The last cores: the first one is where most interrupts go. A child inherits this.
    os.sched_setaffinity(0, usable_cores()[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        os.environ.clear()
        os.environ.update(environment)


def isolated(threads, function, *args):
    """Return function(*args), run in a process of its own with this many threads on as many cores."""
    context = multiprocessing.get_context("spawn")
    with pinned(threads), ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args).result()
