"""Those who take part: lstmc and what a user would otherwise pick, one in each file.

Such a file has a function for each kind of workload it can do, named for it, that takes the workload,
the problem and the number of threads and gives a dict of contestants (see timing.py) by name. Weights
are bound there, once. What comes back from a contestant is, in this order: y; for "train" y, dx and
the gradients of the weights; for "model" the loss and the weights.
"""

import importlib
from dataclasses import dataclass, replace

import numpy as np

import lstmc

PEERS = ("torch", "onnxruntime", "jax", "numpy")
WINDOWS = 4  # of a "model", taken in turn
CLIP, RATE = 5.0, 1.0


@dataclass
class Problem:
    """The numbers of a workload, the same for all who take part."""

    weights: dict[str, np.ndarray]  # PyTorch's names, one bias
    x: np.ndarray  # (T, B, I)
    dy: np.ndarray  # (T, B, H)
    tokens: np.ndarray | None = None  # (WINDOWS, T, B)
    targets: np.ndarray | None = None


def layer_of(w, layers=None):
    """Give the recurrent layer of a workload."""
    kind = {"lstm": lstmc.LSTM, "rnn": lstmc.RNN}[w.cell]
    return kind(w.inputs, w.hidden, layers or w.layers, dtype=w.dtype, rng=0)


def make_problem(w):
    rng = np.random.default_rng(1)
    weights = {}
    shapes = layer_of(w).parameters()
    if w.kind == "model":
        tables = {"embedding": (w.vocabulary, w.inputs), "softmax": (w.vocabulary, w.hidden)}
        shapes = {**shapes, **tables, "softmax_bias": (w.vocabulary,)}
    for name, shape in shapes.items():
        weights[name] = rng.uniform(-1, 1, shape).astype(w.dtype) / np.sqrt(w.hidden, dtype=w.dtype)
    x = rng.standard_normal((w.steps, w.batch, w.inputs)).astype(w.dtype)
    dy = rng.standard_normal((w.steps, w.batch, w.hidden)).astype(w.dtype)
    problem = Problem(weights, x, dy)
    if w.kind == "model":
        size = (2, WINDOWS, w.steps, w.batch)
        problem.tokens, problem.targets = rng.integers(w.vocabulary, size=size)
    return problem


def make(name, w, problem, threads):
    """Give the contestants of a file: none where it has nothing for this kind of workload."""
    kind = getattr(importlib.import_module(f"{__name__}.{name}"), w.kind, None)
    return kind(w, problem, threads) if kind else {}


def twins(w, problem, threads, isa):
    """Give lstmc in other ways: one thread, float32, another instruction set."""
    from .ours import with_instruction_set

    found = {}
    if threads > 1:
        found["lstmc, 1 thread"] = make("ours", w, problem, 1)["lstmc"]
    if w.dtype == "float64":
        single = replace(w, dtype="float32")
        found["lstmc, float32"] = make("ours", single, make_problem(single), threads)["lstmc"]
    if isa:
        found[f"lstmc, {isa}"] = with_instruction_set(
            isa, lambda: make("ours", w, problem, threads)["lstmc"]
        )
    return found
