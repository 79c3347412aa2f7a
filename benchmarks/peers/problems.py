"""The numbers of a workload: drawn once, the same for all who take part."""

from dataclasses import dataclass, replace

import numpy as np

from .ours import layer_of

WINDOWS = 4  # sets of input of a "model"


@dataclass
class Problem:
    """Weights, and sets of input.

    weights: by PyTorch's names, with one bias. sets: of input, taken in turn: (x,) with x (B, I) of a "step"
    or (T, B, I) of a "forward"; (x, dy) of a "train"; (tokens, targets) of a "model".
    """

    weights: dict[str, np.ndarray]
    sets: list[tuple]

    def on(self, arrays):
        """Return the same with its sets as arrays of a module, numpy or cupy."""
        return replace(self, sets=[tuple(map(arrays.asarray, one)) for one in self.sets])


def shapes_of(w):
    """Return the shapes of a workload's weights by name."""
    shapes = dict(layer_of(replace(w, steps=1, batch=1)).parameters())
    if w.kind == "model":
        shapes |= {"embedding": (w.vocabulary, w.inputs), "softmax": (w.vocabulary, w.hidden)}
        shapes |= {"softmax_bias": (w.vocabulary,)}
    return shapes


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
    widths = (w.inputs, w.hidden) if w.kind == "train" else (w.inputs,)
    return Problem(weights, [
        tuple(rng.standard_normal((*rows, width), dtype) for width in widths)
        for _ in range(sets or 1)
    ])  # fmt: skip
