"""Stacks of recurrent layers as problems: made at random, solved by the reference and by lstmc.

A problem is a dictionary with the keys of a golden recurrent file (golden/make_golden.py lists
them): what goes in and the gradients that arrive. It may have "lengths", "resets", "grad_clip", and 2
"directions": then its states are (L*D, B, .), and dy is (T, B, D*P). A solution has the keys of
what comes out. No test is here, and no tolerance.
"""

import zlib
from functools import partial

import numpy as np
from cases import ROWS, cell_of
from support import numerical_gradient

from lstmc import reference


def states_of(cell):
    """Return the names of what the state of a cell holds."""
    return ROWS[cell].states


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


def suffixes(layers, directions=1):
    """Return what the names of weights end in, in the order of states: "l0", "l0_reverse", "l1"."""
    return [f"l{k}{end}" for k in range(layers) for end in ("", "_reverse")[:directions]]


def suffixes_of(problem):
    return suffixes(problem["num_layers"], problem.get("directions", 1))


def random_problem(cell, steps, batch, inputs, hidden, layers=1, directions=1):
    """Draw a problem, in float64, of numbers that float32 holds exactly too.

    All states and all arriving gradients differ and none is zero. The recurrent weights are just
    short of making a linear state grow. Where a cell needs more units, it has its least.
    """
    case = cell, steps, batch, inputs, hidden, layers
    generator = np.random.default_rng(seed_of(*case, *[2] * (directions - 1)))
    row = ROWS[cell]
    hidden = max(hidden, row.least_hidden)
    units = row.units("h", hidden)

    def draw(*shape, scale=1.0):
        return np.round(1024 * scale * generator.standard_normal(shape)) / 1024

    problem = {"cell": cell, "num_layers": layers, "x": draw(steps, batch, inputs)}
    if directions == 2:
        problem["directions"] = 2
    for number, end in enumerate(suffixes(layers, directions)):
        features = inputs if number < directions else directions * units
        scales = {
            "weight_ih": 1 / np.sqrt(features),
            "weight_hh": 0.9 / np.sqrt(units),
            "weight_hr": 1.5 / np.sqrt(hidden),
            "peephole": 0.3,
        }
        for name, shape in row.shapes(features, hidden).items():
            problem[f"{name}_{end}"] = draw(*shape, scale=scales.get(name, 1.0))
    problem["dy"] = draw(steps, batch, directions * units)
    for state in states_of(cell):
        shape = layers * directions, batch, row.units(state, hidden)
        problem[f"{state}0"], problem[f"d{state}_n"] = draw(*shape), draw(*shape)
    return problem


# --------------------------------------------------------------------------------------------------
# By the reference
# --------------------------------------------------------------------------------------------------


def layer_weights(problem, end):
    """Return the weights whose names end in `end`, such as "l0_reverse"; a number is a layer's."""
    end = f"l{end}" if isinstance(end, int) else end
    return [problem[f"{kind}_{end}"] for kind in ROWS[problem["cell"]].weights]


def time_of(problem):
    """Return what a layer's call takes beside x and the state."""
    return {key: problem[key] for key in ("lengths", "resets") if key in problem}


def reference_forward(problem):
    """Return y, the parts of the final state and what is saved, as the reference has them."""
    cell = ROWS[problem["cell"]]
    first = [problem[f"{state}0"] for state in cell.states]
    weights = [layer_weights(problem, end) for end in suffixes_of(problem)]
    options = {"directions": problem.get("directions", 1), **time_of(problem)}
    return reference.stack_forward(cell.forward, problem["x"], first, weights, **options)


def reference_states(problem):
    """Return, per layer, its input and what the cell's reference returns: rows all of one length."""
    return [arrays for _, ((_, arrays),) in reference_forward(problem)[2]]


def reference_solution(problem):
    """Run the layers forward and backward; return what comes out by golden key."""
    cell, ends = ROWS[problem["cell"]], suffixes_of(problem)
    y, last, saved = reference_forward(problem)
    dlast = [problem[f"d{state}_n"] for state in cell.states]
    weights, backward = [layer_weights(problem, end) for end in ends], cell.backward
    if "grad_clip" in problem:
        backward = partial(backward, grad_clip=problem["grad_clip"])
    dx, dfirst, dweights = reference.stack_backward(
        backward, problem["dy"], dlast, saved, weights, problem.get("directions", 1)
    )
    result = {"y": y, "dx": dx}
    for state, final, initial in zip(cell.states, last, dfirst, strict=True):
        result |= {f"{state}_n": final, f"d{state}0": initial}
    for end, gradients in zip(ends, dweights, strict=True):
        for kind, gradient in zip(cell.weights, gradients, strict=True):
            result[f"d_{kind}_{end}"] = gradient
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
    cell, count = cell_of(layer), layer.num_layers * layer.num_directions
    shapes = [(count, *rows, cell.units(state, layer.hidden_size)) for state in cell.states]
    return as_state([rng.standard_normal(shape).astype(layer.dtype) for shape in shapes])


def first_state(problem):
    return as_state([problem[f"{state}0"] for state in states_of(problem["cell"])])


def arriving_state(problem):
    return as_state([problem[f"d{state}_n"] for state in states_of(problem["cell"])])


def make_layer(problem, **options):
    """Return a layer with the problem's sizes, type and weights."""
    x, cell = problem["x"], ROWS[problem["cell"]]
    hidden = problem[f"{cell.states[-1]}0"].shape[
        -1
    ]  # of c, where there is one: h may be projected
    options = {"num_layers": problem["num_layers"], "dtype": x.dtype, **options}
    if problem.get("directions", 1) == 2:
        options["bidirectional"] = True
    if "grad_clip" in problem:
        options["grad_clip"] = problem["grad_clip"]
    layer = cell.make(x.shape[-1], hidden, **options)
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
    y, state, trace = layer.forward(
        problem["x"], first_state(problem), num_threads=num_threads, **time_of(problem)
    )
    dx, dstate = layer.backward(
        problem["dy"], trace, arriving_state(problem), num_threads=num_threads, **backward_options
    )
    return collect(layer, problem, y, state, dx, dstate)


def differences(problem, layer):
    """Differentiate a layer's forward by central differences: yield golden key and gradient, one by one."""
    arriving = [problem["dy"], *parts_of(arriving_state(problem))]
    inputs = {"dx": "x"} | {f"d{state}0": f"{state}0" for state in states_of(problem["cell"])}
    inputs |= {f"d_{name}": name for name in layer.parameters()}
    for output, name in inputs.items():

        def loss(value, name=name):
            changed = {**problem, name: value}
            if name in layer.parameters():
                layer[name][...] = value
            y, state = layer(changed["x"], first_state(changed), **time_of(problem))
            return sum(np.sum(a * b) for a, b in zip(arriving, [y, *parts_of(state)], strict=True))

        yield output, numerical_gradient(loss, problem[name])
        if name in layer.parameters():
            layer[name][...] = problem[name]
