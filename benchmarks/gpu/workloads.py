"""What is timed on a GPU, and what is asked of lstmc there.

A floor is the ratio (cuDNN's time / lstmc's) that is asked for, at either precision.
"""

import numpy as np

from ..peers.problems import WINDOWS
from ..workloads import Workload

PEER = "torch"
WAYS_OF = ("train", "forward")  # kinds that are timed by every way through time

PRECISIONS = ("float32", "tf32")
TOLERANCE = {"float32": 2e-4, "tf32": 5e-2}  # of the largest element
CPU_TOLERANCE = {"float64": 1e-11, "float32": 1e-5}
CPU_STEPS = 12  # of a sequence that the CPU runs too
UNITS_CHECKED = 3  # a state is carried; a graph is recorded at the second and replayed at the third
MOST_SETS = 128


def _layer(kind, batch, steps, hidden, floor):
    return Workload(kind, hidden, hidden, steps, batch, floor=floor)


def _model(hidden, steps, dropout):
    return Workload(
        "model", hidden, hidden, steps, 20, 2, vocabulary=10000, dropout=dropout, floor=1.2
    )


TABLE = (
    _layer("train", 64, 256, 64, 1.0),
    _layer("train", 64, 256, 128, 1.0),
    _layer("train", 64, 256, 192, 1.0),
    _layer("train", 64, 256, 256, 0.7),
    _layer("train", 64, 256, 512, 0.7),
    _layer("train", 16, 1024, 768, 0.5),
    _layer("forward", 16, 1024, 768, 0.5),
    _layer("step", 1, 1, 128, 1.5),
    _layer("step", 1, 1, 512, 1.5),
    _layer("step", 2048, 1, 128, 1.5),
    _model(200, 20, 0.0),
    _model(650, 35, 0.5),
)
PUBLISHED = {
    "train B16 T1024 H768": "cuDNN 5.2 ms, FlashRNN fused 13.6 ms",
    "forward B16 T1024 H768": "cuDNN 2.0 ms, FlashRNN fused 4.9 ms",
}
"""Others' figures for an H100, at half precision: printed beside ours, compared with nothing."""


def select(names):
    """Return the workloads of the table whose names have every word of any of these names; of none, all."""
    if not names:
        return TABLE
    for words in names:
        if not any(set(words.split()) <= set(w.name.split()) for w in TABLE):
            raise ValueError(f"{words!r} is none of: {', '.join(w.name for w in TABLE)}")
    return tuple(
        w for w in TABLE if any(set(words.split()) <= set(w.name.split()) for words in names)
    )


def sets_beyond(w, cache):
    """Return how many sets of input it takes for none to be in a cache, of bytes, when its turn comes."""
    if w.kind == "model":
        return WINDOWS
    arrays = 2 if w.kind == "train" else 1
    one = arrays * w.steps * w.batch * w.inputs * np.dtype(w.dtype).itemsize
    return min(MOST_SETS, max(2, -(-2 * cache // one)))
