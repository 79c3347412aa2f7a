"""The products of a workload, and the least time a machine needs for them. Nothing is run here."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .peers import problems
from .peers.ours import LAYERS

TRAINING = ("train", "model")


@dataclass(frozen=True)
class Phase:
    """Products over one matrix: their operations, and how often its bytes are read."""

    name: str
    flops: float
    reads: int
    nbytes: int
    held: int  # bytes that a cache must hold for the reads to come from it


@cache
def record_of(cell):
    """Return lstmc's record of a cell."""
    return LAYERS[cell](1, 1).cell


def phases(w):
    """List the products of one unit of work: input, recurrent steps, backward steps, weight gradients."""
    (rows, steps), itemsize = problems.rows_of(w), np.dtype(w.dtype).itemsize
    sums = len(record_of(w.cell).gates) * w.hidden
    products = []
    for layer in sorted([*range(w.layers)] * w.directions):
        inputs = w.directions * w.hidden if layer else w.inputs
        # (matrix, its rows of input, how often a pass over time must read it)
        for what, width, reads in (("input", inputs, 1), ("recurrent", w.hidden, steps)):
            flops, nbytes = 2 * rows * sums * width, sums * width * itemsize
            products.append(Phase(f"{what} product", flops, reads, nbytes, nbytes))
            if w.kind in TRAINING:
                products.append(Phase(f"backward {what}", flops, reads, nbytes, nbytes))
                products.append(Phase(f"weight gradient {what}", flops, 1, nbytes, nbytes))
    if w.kind == "model":
        nbytes = w.hidden * w.vocabulary * itemsize
        for name in ("softmax product", "backward softmax", "weight gradient softmax"):
            flops = 2 * rows * w.hidden * w.vocabulary
            products.append(Phase(name, flops, 1, nbytes, nbytes))
    if w.steps == 1:  # a loop of steps goes through all weights before it meets one again
        held = sum(phase.nbytes for phase in products)
        products = [replace(phase, held=held) for phase in products]
    return products


def flops(w):
    """Count the operations of the products: 2·T·B·G·H·(I+H) per layer forward, thrice that in training.

    Of rows of unequal length T·B is the sum of lengths.
    """
    return sum(phase.flops for phase in phases(w))


def limit(w, machine):
    """Return the least seconds: each phase at the rate of the micro-kernel, or as its weights are read."""
    rate = machine.kernel[w.dtype]
    return sum(
        max(phase.flops / rate, phase.reads * phase.nbytes / machine.bandwidth(phase.held))
        for phase in phases(w)
    )


def activations(w):
    """Count the exponentials, sigmoids and hyperbolic tangents, which the limit leaves out."""
    record = record_of(w.cell)
    each = sum(gate.activation in ("sigmoid", "tanh") for gate in record.gates)
    each += record.has_c * (2 if w.kind in TRAINING else 1)  # tanh(c), again in backward
    units = w.hidden * w.layers * w.directions
    return problems.rows_of(w)[0] * (units * each + w.vocabulary)
