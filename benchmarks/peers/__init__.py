"""Those who take part: lstmc and what a user would otherwise pick, one in each file.

Such a file has a function for each kind of workload it can do, named for the kind. It takes the workload,
the problem and the setting, binds the weights, and returns a dict of sides by name. Each file has one table
of which of its modules is which cell, and names the kinds, NOT_PLAIN, that it can do in both directions, with
lengths and with resets too.
"""

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PEERS = ("torch", "onnxruntime", "jax", "numpy")
CLIP, RATE = 5.0, 1.0


@dataclass(frozen=True)
class Setting:
    """Where a side runs, and how."""

    device: str = "cpu"  # or "cuda"
    threads: int | None = None  # of the CPU
    precision: str = "float32"  # or "tf32": of products of float32 on a GPU

    @property
    def arrays(self):
        """The module whose arrays lie on the device: numpy or cupy."""
        return np if self.device == "cpu" else importlib.import_module("cupy")


class Side(NamedTuple):
    """One that takes part.

    run(n) does n units of work; on a GPU it does not wait for them. answers() returns the arrays of the last
    unit: y, for "step" y and the states (L, B, H), for "train" y, dx and the gradients of the weights, for
    "model" the loss and the weights.
    """

    run: Callable
    answers: Callable


class Turns:
    """Items that are taken in turn, again and again."""

    def __init__(self, items):
        self._only = items[0] if len(items) == 1 else None
        self._items = itertools.cycle(items)

    def take(self, n):
        """Return an iterator over the next n."""
        if self._only is not None:
            return itertools.repeat(self._only, n)
        return itertools.islice(self._items, n)


def make(name, w, problem, setting):
    """Return the sides of a file: none where it has nothing for this kind of workload."""
    module = importlib.import_module(f"{__name__}.{name}")
    kind = getattr(module, w.kind, None)
    if not kind or not (w.is_plain or w.kind in module.NOT_PLAIN):
        return {}
    return kind(w, problem, setting)
