"""The numbers of a workload: drawn once, the same for all who take part."""

from dataclasses import dataclass, field, replace

import numpy as np

from .ours import layer_of

WINDOWS = 4  # sets of input of a "model"


@dataclass
class Problem:
    """Weights, and sets of input.

    weights: by PyTorch's names, with one bias. sets: of input, taken in turn: (x,) with x (B, I) of a "step"
    or (T, B, I) of a "forward"; (x, dy) of a "train"; (tokens, targets) of a "model". times: lengths (B,)
    and resets (T, B), those of them that the workload has, by name.
    """

    weights: dict[str, np.ndarray]
    sets: list[tuple]
    times: dict[str, np.ndarray] = field(default_factory=dict)

    def on(self, arrays):
        """Return the same with its sets as arrays of a module, numpy or cupy."""
        return replace(self, sets=[tuple(map(arrays.asarray, one)) for one in self.sets])


def shapes_of(w):
    """Return the shapes of a workload's weights by name."""
    shapes = dict(layer_of(w).parameters())
    if w.kind == "model":
        shapes |= {"embedding": (w.vocabulary, w.inputs), "softmax": (w.vocabulary, w.hidden)}
        shapes |= {"softmax_bias": (w.vocabulary,)}
    return shapes


def times_of(w):
    """Draw the lengths (B,) and resets (T, B) that a workload has, the same at every call."""
    rng, times = np.random.default_rng(2), {}
    if w.shortest:
        times["lengths"] = rng.integers(w.shortest, w.steps, w.batch, endpoint=True)
    if w.resets:
        times["resets"] = rng.random((w.steps, w.batch)) < w.resets
        times["resets"][0] = False
    return times


def rows_of(w):
    """Return how many rows all steps have together, and how many steps must follow one another."""
    times = times_of(w)
    lengths = times.get("lengths", np.full(w.batch, w.steps))
    if "resets" not in times:
        return int(lengths.sum()), int(lengths.max())
    ends = [
        np.append(np.flatnonzero(row[:length]), length)
        for row, length in zip(times["resets"].T, lengths)
    ]
    return int(lengths.sum()), max(int(np.diff(end, prepend=0).max()) for end in ends)


def equal(w):
    """Return the workload with as many rows in steps of B, no resets: the nearest whole number of steps."""
    return replace(w, steps=round(rows_of(w)[0] / w.batch), shortest=0, resets=0.0)


def make_problem(w, sets=None):
    """Draw the numbers, the same at every call; by default one set of input, of a "model" WINDOWS."""
    rng, dtype = np.random.default_rng(1), np.dtype(w.dtype)
    weights = {
        name: rng.uniform(-1, 1, shape).astype(dtype) / np.sqrt(w.hidden, dtype=dtype)
        for name, shape in shapes_of(w).items()
    }
    if w.kind == "model":
        size = (sets or WINDOWS, 2, w.steps, w.batch)
        return Problem(weights, [tuple(one) for one in rng.integers(w.vocabulary, size=size)])
    rows = (w.batch,) if w.kind == "step" else (w.steps, w.batch)
    widths = (w.inputs, w.directions * w.hidden) if w.kind == "train" else (w.inputs,)
    drawn = [
        tuple(rng.standard_normal((*rows, width), dtype) for width in widths)
        for _ in range(sets or 1)
    ]
    return Problem(weights, drawn, times_of(w))
