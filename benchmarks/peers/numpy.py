"""NumPy: what one would write, products by OpenBLAS. It has no gradients, so it does not train."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import Side, Turns


class Cell(NamedTuple):
    """How many states a cell has, the order of its row blocks here, and a step."""

    states: int
    order: tuple
    step: Callable  # (sums (B, G*H), states) -> states


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _lstm(sums, state):
    hidden = sums.shape[1] // 4
    gates = _sigmoid(sums[:, : 3 * hidden])
    c = gates[:, hidden : 2 * hidden] * state[1]
    c += gates[:, :hidden] * np.tanh(sums[:, 3 * hidden :])
    return gates[:, 2 * hidden :] * np.tanh(c), c


CELLS = {
    "lstm": Cell(2, (0, 1, 3, 2), _lstm),  # i, f, o, g: one sigmoid for three gates
    "rnn": Cell(1, (0,), lambda sums, state: (np.tanh(sums),)),
}


def _bound(w, problem):
    """Return for each layer the transposed weights and the bias."""
    order = CELLS[w.cell].order

    def ordered(array):
        blocks = np.split(array, len(order))
        return np.ascontiguousarray(np.concatenate([blocks[i] for i in order]).T)

    names = ("weight_ih", "weight_hh", "bias")
    return [[ordered(problem.weights[f"{name}_l{k}"]) for name in names] for k in range(w.layers)]


def _run_layers(w, layers, x, states):
    """Run x (T, B, I) through all layers, the input product at once; return y and the final states."""
    final, step = [], CELLS[w.cell].step
    for (weight_ih, weight_hh, bias), state in zip(layers, states):
        products = (x.reshape(-1, x.shape[-1]) @ weight_ih + bias).reshape(w.steps, w.batch, -1)
        x = np.empty((w.steps, w.batch, w.hidden), w.dtype)
        for t, sums in enumerate(products):
            state = step(sums + state[0] @ weight_hh, state)
            x[t] = state[0]
        final.append(state)
    return x, final


def _zeros(w):
    return [(np.zeros((w.batch, w.hidden), w.dtype),) * CELLS[w.cell].states] * w.layers


def step(w, problem, setting):
    layers, states, y = _bound(w, problem), _zeros(w), None
    turns = Turns([x[None] for (x,) in problem.sets])

    def run(n):
        nonlocal y, states
        for x in turns.take(n):
            y, states = _run_layers(w, layers, x, states)

    return {"numpy": Side(run, lambda: (y[0], *map(np.stack, zip(*states))))}


def forward(w, problem, setting):
    layers, turns, y = _bound(w, problem), Turns(problem.sets), None

    def run(n):
        nonlocal y
        for (x,) in turns.take(n):
            y, _ = _run_layers(w, layers, x, _zeros(w))

    return {"numpy": Side(run, lambda: (y,))}
