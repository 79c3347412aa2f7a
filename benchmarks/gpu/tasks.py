"""What a run consists of, task by task, for another process to do (which imports no __main__.py)."""

import gc

from ..peers import Setting
from ..timing import OURS, Result
from . import measure, ways
from .workloads import PRECISIONS

MACHINE = "machine"


def tasks_of(workloads, quick):
    """List (workload, what is to be done, quick): the machine first."""
    whats = (measure.CPU, *PRECISIONS)
    return [(None, MACHINE, quick)] + [(w, what, quick) for w in workloads for what in whats]


def work(task, banned, say):
    """Do one task, in the process that is for it."""
    w, what, quick = task
    try:
        import torch  # before CuPy: the libraries that both need are then those it was built with
    except ImportError:
        torch = None
    ways.cupy_here()
    from .device import describe, limits

    if what == MACHINE:
        return describe(), limits(launches=200) if quick else limits()
    if what == measure.CPU:
        result = measure.agree(w, banned, say)
    else:
        effort = measure.QUICK if quick else measure.EFFORT
        result = measure.measure(w, what, banned, say, effort)
    gc.collect()
    ways.forget()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return result


def given_up(task, why):
    """Return what stands for a task that cannot be done."""
    w, what, _ = task
    if what == MACHINE:
        raise SystemExit(f"no GPU can be measured here: {why}")
    return Result(w, Setting("cuda", precision=what), failed={OURS: why})
