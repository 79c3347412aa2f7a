"""How the cooperative way shares out units and rows among blocks, forward and backward."""

import functools
import math
from typing import NamedTuple

from ..launch import THREADS

__all__ = ["BackwardCut", "ForwardCut", "Problem", "cut_backward", "cut_forward", "round_up"]


class Problem(NamedTuple):
    """What a cut depends on: a layer's sizes, bytes of a number, and the device."""

    gates: int
    hidden: int
    batch: int
    itemsize: int
    multiprocessors: int
    most_shared: int  # bytes of shared memory that a block may have


class Share(NamedTuple):
    """What a block has: so many units, for so many rows; and how many blocks that makes."""

    units: int
    unit_blocks: int
    rows: int
    row_blocks: int


class ForwardCut(NamedTuple):
    """A cut of a forward pass: a Share, the rest of `cut` in cooperative.cuh, bytes of shared memory."""

    units: int
    unit_blocks: int
    rows: int
    row_blocks: int
    outputs: int
    chunk: int
    parts: int
    shared: int

    @property
    def blocks(self):
        """Blocks of the launch."""
        return self.row_blocks * self.unit_blocks


class BackwardCut(NamedTuple):
    """A cut of a backward pass: a Share and bytes of shared memory."""

    units: int
    unit_blocks: int
    rows: int
    row_blocks: int
    shared: int

    @property
    def blocks(self):
        """Blocks of the launch."""
        return self.row_blocks * self.unit_blocks


def round_up(n, to):
    """Return the least multiple of `to` that is n or more."""
    return -(-n // to) * to


def _shares(problem):
    """Yield the Shares that use at most one block per multiprocessor."""
    for row_blocks in range(1, problem.multiprocessors + 1):
        rows = round_up(-(-problem.batch // row_blocks), 4)
        if rows * (row_blocks - 1) >= problem.batch and row_blocks > 1:
            continue  # the last would have none
        most = problem.multiprocessors // row_blocks
        units = -(-problem.hidden // min(problem.hidden, most))
        yield Share(units, -(-problem.hidden // units), rows, row_blocks)


@functools.cache
def cut_forward(problem):
    """Return the ForwardCut of a Problem whose step costs least; None if none fits.

    Counted roughly, in cycles of a multiprocessor: of multiplications 128 per cycle, and a thread's in some
    20; the sums of parts; the words that come from L2, some 16 per cycle.
    """
    best, least = None, math.inf
    itemsize = problem.itemsize
    for share in _shares(problem):
        rows, units = share.rows, share.units
        outputs, terms = round_up(units * problem.gates, 4), round_up(problem.hidden, 4)
        tiles = rows // 4 * (outputs // 4)
        for parts in (1, 2, 4, 8, 16, 32):
            fixed = terms * outputs + parts * rows * outputs + rows * units
            room = ((problem.most_shared // itemsize - fixed) // rows - 4) // 4 * 4
            if parts * tiles > THREADS or room < min(terms, 32):
                continue
            products = max(terms * rows * outputs / 128, terms / parts * 20)
            sums = parts * 10 * -(-rows * units // THREADS)
            cost = products + sums + rows * terms * itemsize / 64
            if cost < least:
                least, chunk = cost, min(terms, room)
                shared = (fixed + (chunk + 4) * rows) * itemsize
                best = ForwardCut(*share, outputs, chunk, parts, shared)
    return best


@functools.cache
def cut_backward(problem):
    """Return the BackwardCut of a Problem whose step costs least, counted as forward; None if none fits."""
    best, least = None, math.inf
    itemsize = problem.itemsize
    for share in _shares(problem):
        rows, units = share.rows, share.units
        columns, terms = round_up(problem.hidden, 4), units * problem.gates
        shared = (terms * columns + terms * rows + 2 * rows * units) * itemsize
        if shared > problem.most_shared:
            continue
        rounds = -(-(rows // 4 * (columns // 4)) // THREADS)
        products = max(terms * rows * columns / 128, terms * rounds * 20)
        sums = -(-rows * units // THREADS) * (600 + 5 * share.unit_blocks)
        cost = products + sums + 2 * rows * columns * itemsize / 64
        if cost < least:
            best, least = BackwardCut(*share, shared), cost
    return best
