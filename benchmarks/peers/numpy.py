"""NumPy: what one would write, products by OpenBLAS. It has no gradients, so it does not train."""

import numpy as np


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _bound(w, problem):
    """Give for each layer the transposed weights, the bias, and the rows in the order i, f, o, g."""

    def rows(array):
        if w.cell == "rnn":
            return array
        i, f, g, o = np.split(array, 4)
        return np.concatenate([i, f, o, g])  # one sigmoid for three gates

    names = ("weight_ih", "weight_hh", "bias")
    return [
        [np.ascontiguousarray(rows(problem.weights[f"{name}_l{k}"]).T) for name in names]
        for k in range(w.layers)
    ]


def _cell(w, a, state):
    if w.cell == "rnn":
        return (np.tanh(a),)
    hidden = w.hidden
    gates = _sigmoid(a[:, : 3 * hidden])
    c = gates[:, hidden : 2 * hidden] * state[1]
    c += gates[:, :hidden] * np.tanh(a[:, 3 * hidden :])
    return gates[:, 2 * hidden :] * np.tanh(c), c


def _run_layers(w, layers, x, states):
    """Run x (T, B, I) through all layers, the input product at once; give y and the final states."""
    final = []
    for (weight_ih, weight_hh, bias), state in zip(layers, states):
        products = (x.reshape(-1, x.shape[-1]) @ weight_ih + bias).reshape(w.steps, w.batch, -1)
        x = np.empty((w.steps, w.batch, w.hidden), w.dtype)
        for t, a in enumerate(products):
            state = _cell(w, a + state[0] @ weight_hh, state)
            x[t] = state[0]
        final.append(state)
    return x, final


def _zeros(w):
    zeros = np.zeros((w.batch, w.hidden), w.dtype)
    return [(zeros, zeros)] * w.layers


def step(w, problem, threads):
    layers, states = _bound(w, problem), _zeros(w)

    def run(n):
        nonlocal states
        for _ in range(n):
            y, states = _run_layers(w, layers, problem.x, states)
        return (y[0],)

    return {"numpy": run}


def forward(w, problem, threads):
    layers = _bound(w, problem)

    def run(n):
        for _ in range(n):
            y, _ = _run_layers(w, layers, problem.x, _zeros(w))
        return (y,)

    return {"numpy": run}
