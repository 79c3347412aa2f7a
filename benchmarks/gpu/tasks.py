"""What a run consists of, task by task, for another process to do (which finds nothing in a __main__.py)."""

import gc

from lstmc._kernels import kernels_for

from .measure import QUICK, Effort, Result, agree, measure
from .workloads import PRECISIONS

MACHINE = "machine"


def tasks_of(workloads, quick):
    """List (workload, what is to be done, quick): the machine first."""
    whats = ("CPU", *PRECISIONS)
    return [(None, MACHINE, quick)] + [(w, what, quick) for w in workloads for what in whats]


def work(task, banned, say):
    """Do one task, in the process that is for it."""
    w, what, quick = task
    try:
        import torch  # before CuPy: the libraries that both need are then those it was built with
    except ImportError:
        torch = None
    kernels = kernels_for("cuda")
    from .device import describe, limits

    if what == MACHINE:
        return describe(), limits(launches=200) if quick else limits()
    effort = QUICK if quick else Effort()
    result = agree(w, banned, say) if what == "CPU" else measure(w, what, banned, say, effort)
    from lstmc._kernels.cuda.ways import forget_graphs

    forget_graphs()
    gc.collect()
    kernels.arrays.get_default_memory_pool().free_all_blocks()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return result


def given_up(task, why):
    w, what, _ = task
    if what == MACHINE:
        raise SystemExit(f"no GPU can be measured here: {why}")
    return Result(w.name, what, w.floor, failed={"lstmc": why})
