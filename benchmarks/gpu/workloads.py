"""What is timed on a GPU, what is asked of lstmc there, and the numbers that go in.

A floor is the ratio (cuDNN's time / lstmc's) that is asked for, at either precision.
"""

from dataclasses import dataclass, replace

import numpy as np

from .. import peers
from ..workloads import Workload

PRECISIONS = ("float32", "tf32")
TOLERANCE = {"float32": 2e-4, "tf32": 5e-2}  # of the largest element
CPU_TOLERANCE = {"float64": 1e-11, "float32": 1e-5}
CPU_STEPS = 12  # of a sequence that the CPU runs too
UNITS_CHECKED = 3  # a state is carried; a graph is recorded at the second and replayed at the third
MOST_SETS = 128


def _lstm(kind, batch, steps, hidden, floor):
    return Workload(kind, hidden, hidden, steps, batch, floor=floor)


def _model(hidden, steps, dropout):
    return Workload(
        "model", hidden, hidden, steps, 20, 2, vocabulary=10000, dropout=dropout, floor=1.2
    )


TABLE = (
    _lstm("train", 64, 256, 64, 1.0),
    _lstm("train", 64, 256, 128, 1.0),
    _lstm("train", 64, 256, 192, 1.0),
    _lstm("train", 64, 256, 256, 0.7),
    _lstm("train", 64, 256, 512, 0.7),
    _lstm("train", 16, 1024, 768, 0.5),
    _lstm("forward", 16, 1024, 768, 0.5),
    _lstm("step", 1, 1, 128, 1.5),
    _lstm("step", 1, 1, 512, 1.5),
    _lstm("step", 2048, 1, 128, 1.5),
    _model(200, 20, 0.0),
    _model(650, 35, 0.5),
)
PUBLISHED = {
    "train B16 T1024 H768": "cuDNN 5.2 ms, FlashRNN fused 13.6 ms",
    "forward B16 T1024 H768": "cuDNN 2.0 ms, FlashRNN fused 4.9 ms",
}
"""Others' figures for an H100, of half precision: printed beside ours, compared with nothing."""


def select(wanted):
    """Give the workloads of the table that have every word of any of `wanted` in their names."""
    if not wanted:
        return TABLE
    for words in wanted:
        if not any(set(words.split()) <= set(w.name.split()) for w in TABLE):
            raise ValueError(f"{words!r} is none of: {', '.join(w.name for w in TABLE)}")
    return tuple(
        w for w in TABLE if any(set(words.split()) <= set(w.name.split()) for words in wanted)
    )


@dataclass
class Problem:
    """The numbers of a workload: weights by PyTorch's names, one bias; sets of input, taken in turn.

    A set is (x,) of a step (B, I) or a sequence (T, B, I), (x, dy) or (tokens, targets).
    """

    weights: dict
    sets: list

    def on(self, arrays):
        """Give the same with its sets as arrays of a module: numpy or cupy."""
        return replace(self, sets=[tuple(map(arrays.asarray, one)) for one in self.sets])


def sets_beyond(w, cache):
    """Tell how many sets of input it takes that none is in a cache of so many bytes when its turn comes."""
    if w.kind == "model":
        return peers.WINDOWS
    arrays = 2 if w.kind == "train" else 1
    one = arrays * w.steps * w.batch * w.inputs * np.dtype(w.dtype).itemsize
    return min(MOST_SETS, max(2, -(-2 * cache // one)))


def make_problem(w, sets=1):
    """Draw the numbers, the same at every call."""
    weights = peers.make_problem(replace(w, steps=1, batch=1)).weights
    rng, dtype = np.random.default_rng(2), np.dtype(w.dtype)
    if w.kind == "model":
        drawn = rng.integers(w.vocabulary, size=(sets, 2, w.steps, w.batch))
        return Problem(weights, [tuple(one) for one in drawn])

    def draw(columns):
        shape = (w.batch, columns) if w.kind == "step" else (w.steps, w.batch, columns)
        return rng.standard_normal(shape, dtype)

    widths = (w.inputs, w.hidden) if w.kind == "train" else (w.inputs,)
    return Problem(weights, [tuple(draw(n) for n in widths) for _ in range(sets)])
