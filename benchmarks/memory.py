"""Peak memory of training and inference: lstmc and PyTorch, each in a process of its own.

Counted is the growth of the resident set beyond importing, weights, gradients and the inputs, after a
small layer has been trained so that what a library makes at first use is there.
"""

import ctypes
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import peers
from .isolation import isolated
from .peers import problems
from .workloads import TABLE, Workload

FILES = {"lstmc": "ours", "torch": "torch"}
PEERS = tuple(FILES)
SMALL = {"inputs": 8, "hidden": 8, "steps": 4, "batch": 2, "layers": 1, "vocabulary": 8}
WORKLOADS = (
    Workload("train", 200, 200, 20, 20, 2),
    Workload("train", 650, 650, 35, 20, 2),
    Workload("train", 256, 256, 100, 64),
    *(w for w in TABLE if w.kind == "model"),
    *(w for w in TABLE if w.shortest),
    Workload("forward", 256, 256, 100, 32),
)


@dataclass
class Memory:
    """Bytes that a workload takes beyond weights, gradients and inputs, and for each step of B rows more."""

    workload: Workload
    peer: str
    extra: int
    growth: float

    @property
    def state_bytes(self):
        """Bytes of one number for each unit of each layer and row."""
        w = self.workload
        return w.batch * w.hidden * w.layers * w.directions * np.dtype(w.dtype).itemsize


def _status(name):
    """Return a number of bytes that Linux tells of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s*(\d+) kB", status, re.M)[1]) << 10


def _side(peer, w):
    """Return the side that runs a workload, and the bytes of its weights."""
    problem = problems.make_problem(w)
    weights = sum(array.nbytes for array in problem.weights.values())
    return peers.make(FILES[peer], w, problem, peers.Setting(threads=1))[peer], weights


def peak(peer, w, units):
    """Return the bytes that some units of work take at most, in this process."""
    _side(peer, replace(w, **SMALL))[0].run(2)
    side, weights = _side(peer, w)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # what was freed is not a part of it
    if trim:
        trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    side.run(units)
    grads = weights if w.kind != "forward" and peer == "torch" else 0  # lstmc's are there before
    return _status("VmHWM") - before - grads


def measure(w, peer, units=3):
    """Measure one workload: at its length and at twice that.

    Steps of B rows are counted by the rows that are there: padding is none.
    """
    twice = replace(w, steps=2 * w.steps)
    extra, more = (isolated(1, peak, peer, v, units) for v in (w, twice))
    steps = (problems.rows_of(twice)[0] - problems.rows_of(w)[0]) / w.batch
    return Memory(w, peer, extra, (more - extra) / steps)
