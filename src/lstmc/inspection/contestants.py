"""Networks of several kinds with as many parameters, and how each kind starts and learns best."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..cells import CELLS, Cell
from ..files import check_rng
from ..layer import check_size
from ..layers import Linear
from ..network import Sequential
from ..recurrent import KINDS
from .problems import check_problem

__all__ = ["CONTESTANTS", "PAIR", "check_kinds", "equal_networks", "is_finite"]

PAIR = ("lstm", "rnn")  # what is compared unless others are named
UNEQUAL = 0.02  # how far apart the counts of parameters of two networks may be


def _of_gated(forget, start, steps):
    return {"chrono": steps} if forget == "spread" else {"forget_bias": forget}


def _of_rnn(forget, start, steps):
    return {"init": start}


class Contestant(NamedTuple):
    """What the comparison knows of one kind of cell.

    Attributes
    ----------
    cell : Cell
    lr : float
        The learning rate of Adam: the best of several.
    options : function of (forget, start, steps)
        Returns the options of its layer by which it starts as ``equal_networks`` says.
    """

    cell: Cell
    lr: float
    options: Callable

    def parameters(self, problem, hidden):
        """Return how many parameters its network for a problem has, with so many units."""
        gates, biases = len(self.cell.gates), self.cell.biases
        sums = gates * (problem.inputs + hidden) + biases + problem.outputs
        return sums * hidden + problem.outputs

    def size(self, problem, parameters):
        """Return how many units come closest to so many parameters."""
        gates, fixed = len(self.cell.gates), self.parameters(problem, 0)
        b = self.parameters(problem, 1) - fixed - gates  # there are gates * h * h + b * h + fixed
        root = (math.sqrt(b * b + 4 * gates * (parameters - fixed)) - b) / (2 * gates)
        near = math.floor(root), math.ceil(root)
        return min(near, key=lambda h: abs(self.parameters(problem, h) - parameters))


CONTESTANTS = {
    "lstm": Contestant(CELLS["lstm"], 1e-2, _of_gated),
    "gru": Contestant(CELLS["gru"], 1e-2, _of_gated),
    "rnn": Contestant(CELLS["rnn_tanh"], 3e-4, _of_rnn),
}


def equal_networks(problem, hidden=48, rng=0, forget="spread", start="uniform", kinds=PAIR):
    """Return networks of several kinds with as many parameters, each a recurrent layer and a Linear.

    Parameters
    ----------
    problem : Problem
    hidden : int
        Units of an LSTM. The others have the number that comes closest to its parameters: a tanh RNN about
        twice as many.
    rng : int or numpy Generator
    forget : "spread" or float
        How the gates that keep a state start: the forget gates of an LSTM, the update gates of a GRU. A
        number is their ``forget_bias``; "spread" is ``chrono``, over the steps of the problem.
    start : "uniform" or "orthogonal"
        The ``init`` of the RNN. With "orthogonal" the gradient shrinks through tanh alone, which the inputs
        may drive far from zero.
    kinds : sequence of "lstm", "gru" and "rnn"

    Returns
    -------
    tuple of Sequential
        One of each kind.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or `hidden` is so small that none of a kind comes within 2 %.

    Notes
    -----
    The starts matter much, and the share of the gradient that is left at the farthest step before training
    predicts well which network learns. Measured with ``learn`` and its defaults, over 100 steps:

    - with the default starts, the LSTM learns adding in 400 to 600 updates (three seeds) and temporal order
      in 250 (two), the RNN neither in 5000 (one seed); 3e-24 and 3e-23 of the gradient is left in the RNN;
    - a GRU with the default start learns adding in 300 and temporal order in 150 (one seed);
    - with a forget bias of only 1, the LSTM learns adding in 1400, temporal order not in 5000 (one seed);
      4e-8 is left there. The GRU learns adding in 250;
    - with an orthogonal start, the RNN learns temporal order in 1500 updates with one seed, and with another
      not in 3000, and adding not in 5000 (one); 2e-4 to 4e-4 and 0.003 to 0.009 are left.

    Copying over 50 steps, the LSTM has 98.5 % of the symbols right after 3000 updates, with 0.2 of the
    gradient left, and the RNN with the uniform start 50 %, which is guessing (one seed); with the orthogonal
    start it has 86 to 95 % right after 2000 (two seeds).
    """
    check_problem(problem)
    hidden = check_size("hidden", hidden)
    if forget != "spread" and (isinstance(forget, bool) or not is_finite(forget)):
        raise ValueError(f'forget must be "spread" or a finite number, got {forget!r}')
    if start not in ("uniform", "orthogonal"):
        raise ValueError(f'start must be "uniform" or "orthogonal", got {start!r}')
    rng, networks = check_rng(rng), []
    parameters = CONTESTANTS["lstm"].parameters(problem, hidden)
    for kind in check_kinds(kinds):
        contestant = CONTESTANTS[kind]
        size = contestant.size(problem, parameters)
        options = contestant.options(forget, start, max(3, problem.length))
        # Drawn first, as it does not depend on the options.
        linear = Linear(size, problem.outputs, rng=rng)
        net = Sequential(KINDS[kind](problem.inputs, size, rng=rng, **options), linear)
        if abs(net.num_parameters / parameters - 1) >= UNEQUAL:
            raise ValueError(
                f"hidden must be larger: the {kind.upper()} nearest to an LSTM of {hidden} units with "
                f"{parameters} parameters has {net.num_parameters}, not within 2 %"
            )
        networks.append(net)
    return tuple(networks)


def check_kinds(kinds):
    """Return the kinds of networks to compare as a tuple of names."""
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(CONTESTANTS):
        raise ValueError(f"kinds must be different ones of {', '.join(CONTESTANTS)}, got {kinds!r}")
    return kinds


def is_finite(value):
    """Return whether an argument is a finite number."""
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)
