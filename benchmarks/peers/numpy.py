"""NumPy: what one would write, products by OpenBLAS. It has no gradients, so it does not train."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import Side, Turns

NOT_PLAIN = ()


class Cell(NamedTuple):
    """How many states a cell has, the order of its row blocks here, and a step."""

    states: int
    order: tuple
    step: Callable  # (W x + b, R h: (B, G*H); R's own bias, if any; states) -> states


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _lstm(of_x, of_h, own, state):
    sums, hidden = of_x + of_h, of_x.shape[1] // 4
    gates = _sigmoid(sums[:, : 3 * hidden])
    c = gates[:, hidden : 2 * hidden] * state[1]
    c += gates[:, :hidden] * np.tanh(sums[:, 3 * hidden :])
    return gates[:, 2 * hidden :] * np.tanh(c), c


def _gru(of_x, of_h, own, state):
    hidden = of_x.shape[1] // 3
    gates = _sigmoid(of_x[:, : 2 * hidden] + of_h[:, : 2 * hidden])
    n = np.tanh(of_x[:, 2 * hidden :] + gates[:, :hidden] * (of_h[:, 2 * hidden :] + own))
    return (n + gates[:, hidden:] * (state[0] - n),)


CELLS = {
    "lstm": Cell(2, (0, 1, 3, 2), _lstm),  # i, f, o, g: one sigmoid for three gates
    "gru": Cell(1, (0, 1, 2), _gru),
    "rnn": Cell(1, (0,), lambda of_x, of_h, own, state: (np.tanh(of_x + of_h),)),
}


def _bound(w, problem):
    """Return for each layer the transposed weights, the bias, and R's own bias, which may be empty."""
    order = CELLS[w.cell].order

    def ordered(array):
        blocks = np.split(array, len(order))
        return np.ascontiguousarray(np.concatenate([blocks[i] for i in order]).T)

    layers = []
    for k in range(w.layers):
        w_ih, w_hh, bias = (
            problem.weights[f"{n}_l{k}"] for n in ("weight_ih", "weight_hh", "bias")
        )
        bias, own = np.split(bias, [len(w_ih)])
        layers.append((ordered(w_ih), ordered(w_hh), ordered(bias), own))
    return layers


def _run_layers(w, layers, x, states):
    """Run x (T, B, I) through all layers, the input product at once; return y and the final states."""
    final, step = [], CELLS[w.cell].step
    for (weight_ih, weight_hh, bias, own), state in zip(layers, states):
        products = (x.reshape(-1, x.shape[-1]) @ weight_ih + bias).reshape(w.steps, w.batch, -1)
        x = np.empty((w.steps, w.batch, w.hidden), w.dtype)
        for t, of_x in enumerate(products):
            state = step(of_x, state[0] @ weight_hh, own, state)
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
