"""Stacks of recurrent layers as problems: made at random, solved by the reference and by lstmc.

A problem is a dictionary with the keys of a golden recurrent file (golden/make_golden.py lists
them): what goes in and the gradients that arrive. A solution has the keys of what comes out. No
test is here, and no tolerance.
"""

import zlib

import numpy as np
from cases import CELLS, cell_of


def states_of(cell):
    """Return the names of what the state of a cell holds."""
    return CELLS[cell].states


def as_type(problem, dtype):
    """Return the problem with every floating-point array in another type."""
    return {
        key: value.astype(dtype) if getattr(value, "dtype", None) == np.float64 else value
        for key, value in problem.items()
    }


def seed_of(*case):
    """Return a seed that is the case's own, the same in every run, and print it."""
    seed = zlib.crc32(repr(case).encode())
    print(f"seed {seed} for {case}")
    return seed


def random_problem(cell, steps, batch, inputs, hidden, layers=1):
    """Draw a problem, in float64, of numbers that float32 holds exactly too.

    All states and all arriving gradients differ and none is zero. The recurrent weights are just
    short of making a linear state grow.
    """
    generator = np.random.default_rng(seed_of(cell, steps, batch, inputs, hidden, layers))
    rows = hidden * len(CELLS[cell].gates)
    biases = hidden * CELLS[cell].biases

    def draw(*shape, scale=1.0):
        return np.round(1024 * scale * generator.standard_normal(shape)) / 1024

    problem = {"cell": cell, "num_layers": layers, "x": draw(steps, batch, inputs)}
    for k in range(layers):
        features = hidden if k else inputs
        problem[f"weight_ih_l{k}"] = draw(rows, features, scale=1 / np.sqrt(features))
        problem[f"weight_hh_l{k}"] = draw(rows, hidden, scale=0.9 / np.sqrt(hidden))
        problem[f"bias_l{k}"] = draw(biases)
    problem["dy"] = draw(steps, batch, hidden)
    for state in states_of(cell):
        problem[f"{state}0"] = draw(layers, batch, hidden)
        problem[f"d{state}_n"] = draw(layers, batch, hidden)
    return problem


# --------------------------------------------------------------------------------------------------
# By the reference
# --------------------------------------------------------------------------------------------------


def layer_weights(problem, layer):
    return [problem[f"{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias")]


def reference_states(problem):
    """Return, per layer, its input and what the reference's forward returns."""
    cell, x, saved = CELLS[problem["cell"]], problem["x"], []
    for k in range(problem["num_layers"]):
        first = [problem[f"{state}0"][k] for state in cell.states]
        saved.append((x, *cell.forward(x, *first, *layer_weights(problem, k))))
        x = saved[k][1][1:]
    return saved


def reference_solution(problem):
    """Run the layers forward and backward; return what comes out by golden key."""
    cell, layers = CELLS[problem["cell"]], range(problem["num_layers"])
    states = cell.states
    saved = reference_states(problem)
    result = {"y": saved[-1][1][1:]}
    for i, state in enumerate(states):
        result[f"{state}_n"] = np.stack([arrays[1 + i][-1] for arrays in saved])

    dy, dfirst = problem["dy"], {}
    for k in reversed(layers):
        weight_ih, weight_hh, _ = layer_weights(problem, k)
        dlast = [problem[f"d{state}_n"][k] for state in states]
        out = cell.backward(dy, *dlast, *saved[k], weight_ih, weight_hh)
        dy, dfirst[k] = out[0], out[1 : 1 + len(states)]
        for kind, gradient in zip(("weight_ih", "weight_hh", "bias"), out[-3:], strict=True):
            result[f"d_{kind}_l{k}"] = gradient
    result["dx"] = dy
    for i, state in enumerate(states):
        result[f"d{state}0"] = np.stack([dfirst[k][i] for k in layers])
    return result


# --------------------------------------------------------------------------------------------------
# By lstmc
# --------------------------------------------------------------------------------------------------


def as_state(parts):
    """Return the parts of a state in the form that a layer takes."""
    return tuple(parts) if len(parts) > 1 else parts[0]


def parts_of(state):
    """Return the parts of a state or its gradient as a list, whatever its form."""
    return list(state) if isinstance(state, tuple) else [state]


def draw_state(layer, rows, rng):
    """Return a random state of a recurrent layer, in its own form; rows: (B,), () of one sequence."""
    shape = (layer.num_layers, *rows, layer.hidden_size)
    parts = [rng.standard_normal(shape).astype(layer.dtype) for _ in cell_of(layer).states]
    return as_state(parts)


def first_state(problem):
    return as_state([problem[f"{state}0"] for state in states_of(problem["cell"])])


def arriving_state(problem):
    return as_state([problem[f"d{state}_n"] for state in states_of(problem["cell"])])


def make_layer(problem, **options):
    """Return a layer with the problem's sizes, type and weights."""
    x, (_, _, hidden) = problem["x"], problem["h0"].shape
    options = {"num_layers": problem["num_layers"], "dtype": x.dtype, **options}
    layer = CELLS[problem["cell"]].make(x.shape[-1], hidden, **options)
    for name in layer.parameters():
        layer[name][...] = problem[name]
    return layer


def batch_first(layer):
    """Return a layer with the same weights that takes (B, T, I)."""
    turned = type(layer)(**layer.options() | {"batch_first": True})
    turned.params[...] = layer.params
    return turned


def collect(layer, problem, y, state, dx, dstate):
    """Return copies of what a layer's forward and backward gave, by golden key."""
    result = {"y": y, "dx": dx}
    names = states_of(problem["cell"])
    for name, last, dfirst in zip(names, parts_of(state), parts_of(dstate), strict=True):
        result |= {f"{name}_n": last, f"d{name}0": dfirst}
    result |= {f"d_{name}": layer.grad(name) for name in layer.parameters()}
    return {key: value if value is None else value.copy() for key, value in result.items()}


def solution(problem, layer=None, num_threads=None, **backward_options):
    """Run a layer forward and backward from zero gradients; return what comes out by golden key."""
    layer = layer or make_layer(problem)
    layer.zero_grad()
    y, state, trace = layer.forward(problem["x"], first_state(problem), num_threads=num_threads)
    dx, dstate = layer.backward(
        problem["dy"], trace, arriving_state(problem), num_threads=num_threads, **backward_options
    )
    return collect(layer, problem, y, state, dx, dstate)
