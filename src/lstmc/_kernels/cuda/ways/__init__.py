"""The ways through time on a GPU: how the steps of one layer are run, forward and backward.

What comes before the steps, the products with all inputs, and after them, the gradients of the weights, is
the same for all ways and not here. The ways, in the order in which they are tried:

- "persistent": all steps in one launch, each block with its own rows and all recurrent weights on its
  multiprocessor; for few units.
- "cooperative": all steps in one launch, each block with the weights of some units, and one barrier per step.
- "graph": the launches of "steps", recorded once per shape as a CUDA graph and replayed at once.
- "steps": for each step one product with the recurrent weights and one kernel for the rest.

This file chooses among them.
"""

from contextlib import contextmanager

from .cooperative import Cooperative
from .graph import Graph
from .persistent import Persistent
from .run import BackwardCall, ForwardCall, LayerRun
from .steps import Steps

__all__ = [
    "WAYS",
    "BackwardCall",
    "ForwardCall",
    "LayerRun",
    "choose",
    "forget_graphs",
    "run_backward",
    "run_forward",
    "use_way",
    "watch_ways",
]

WAYS = {way.name: way for way in (Persistent, Cooperative, Graph, Steps)}

_asked_for = None
_watchers: list = []

forget_graphs = Graph.forget


@contextmanager
def use_way(name):
    """Take the way of this name within; None: choose by size.

    Raises
    ------
    ValueError
        There is no such way; or, where a layer is run, it does not fit.
    """
    global _asked_for
    if name is not None and name not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {name!r}")
    before, _asked_for = _asked_for, name
    try:
        yield
    finally:
        _asked_for = before


@contextmanager
def watch_ways():
    """Observe which ways are taken within: the context is a list that gets their names.

    One name per layer and pass, in the order in which they are run; a long sequence without a trace is run in
    parts, each of which counts.
    """
    names: list = []
    _watchers.append(names)
    try:
        yield names
    finally:
        _watchers[:] = [watcher for watcher in _watchers if watcher is not names]


def choose(run):
    """Return the way that a LayerRun takes: the first of WAYS that fits and pays, or the one asked for."""
    ways = (
        [way for way in WAYS.values() if way.pays(run)]
        if _asked_for is None
        else [WAYS[_asked_for]]
    )
    for kind in ways:
        way = kind.fitting(run)
        if way is not None:
            return way
    raise ValueError(
        f"the way {_asked_for!r} does not fit {run.batch} rows of {run.hidden} units of {run.dtype} "
        "on this device"
    )


def run_forward(run, call):
    """Run all steps of a LayerRun forward, on the arrays of a ForwardCall."""
    _take(run).forward(call)


def run_backward(run, call):
    """Run all steps of a LayerRun backward, on the arrays of a BackwardCall."""
    _take(run).backward(call)


def _take(run):
    way = choose(run)
    for names in _watchers:
        names.append(way.name)
    return way
