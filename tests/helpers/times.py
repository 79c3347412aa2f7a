"""The table of what rows do in time: where they end, and where they begin anew.

A case is a function of T and B that returns what a layer's call takes beside x and the state. Of sizes
too small for what its name says it does what is possible. Beside it is what such rows do, told in two
more ways: a walk of single steps, and what the reference saved, laid out in the order of x's steps.
"""

import numpy as np
import pytest
from cases import ROWS
from stacks import (
    first_state,
    layer_weights,
    parts_of,
    reference_forward,
    seed_of,
    states_of,
    suffixes_of,
)


def plain(steps, batch):
    return {}


def uneven(steps, batch):
    """In no order, one row without a step, one of all."""
    lengths = np.random.default_rng(seed_of("lengths", steps, batch)).integers(0, steps + 1, batch)
    if batch > 1:
        lengths[batch // 2], lengths[-1] = 0, steps
    return {"lengths": lengths}


def short(steps, batch):
    """No row has the last step."""
    return {"lengths": np.maximum(0, steps - 1 - np.arange(batch) % max(1, steps - 1))}


def empty(steps, batch):
    return {"lengths": np.zeros(batch, int)}


def full(steps, batch):
    return {"lengths": np.full(batch, steps)}


def cut(steps, batch):
    """At step 0, at the last step, at two steps that follow each other, and a row that is not cut."""
    resets = np.random.default_rng(seed_of("resets", steps, batch)).random((steps, batch)) < 0.2
    if steps and batch:
        resets[0, 0] = resets[-1, batch // 2] = True
        resets[1:3, 0] = True
        resets[:, -1] &= batch == 1
    return {"resets": resets}


def everywhere(steps, batch):
    return {"resets": np.ones((steps, batch), bool)}


def uneven_and_cut(steps, batch):
    """Beyond ends too, and at the first step beyond one."""
    case = uneven(steps, batch) | cut(steps, batch)
    for b, end in enumerate(case["lengths"][:-1]):
        case["resets"][end : end + 1, b] = True
    return case


TIMES = {
    "plain": plain,
    "lengths": uneven,
    "short": short,
    "empty": empty,
    "full": full,
    "resets": cut,
    "resets everywhere": everywhere,
    "lengths and resets": uneven_and_cut,
}
# As parameters of tests: the rest, which are ends of the same kinds, are slow.
FIRST = ("plain", "lengths", "resets", "lengths and resets")
PARAMETERS = [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in TIMES]
# Those that are not one rectangle of steps.
UNEVEN = [name for name in TIMES if name not in ("plain", "full")]


def alone(problem, row):
    """Return the problem of one row of a batch."""
    arrays = {key: value[:, row : row + 1] for key, value in problem.items() if np.ndim(value) == 3}
    if "lengths" in problem:
        arrays["lengths"] = problem["lengths"][row : row + 1]
    if "resets" in problem:
        arrays["resets"] = problem["resets"][:, row : row + 1].copy()
    return problem | arrays


def beyond(problem):
    """Return where steps are beyond a row's end, (T, B)."""
    steps, batch = problem["x"].shape[:2]
    lengths = problem.get("lengths", np.full(batch, steps))
    return np.arange(steps)[:, None] >= lengths


def padded_with(problem, value):
    """Return the problem with something else beyond the ends of x and dy."""
    padding = beyond(problem)[:, :, None]
    return problem | {
        key: np.where(padding, problem[key].dtype.type(value), problem[key]) for key in ("x", "dy")
    }


def walk(problem, moved=None):
    """Take single steps, asking at each what a row does there: y and the parts of the final states.

    `moved` holds by (l * D + d, name of a state) an array (T, B, H) that is added to that state after each
    real step: a change of a state alone, of which derivatives are taken.
    """
    cell, x = ROWS[problem["cell"]], problem["x"]
    steps, batch = x.shape[:2]
    is_real = ~beyond(problem)
    # Beyond an end a reset would take the final state away.
    resets = problem.get("resets", np.zeros((steps, batch), bool)) & is_real
    directions, last = problem.get("directions", 1), []
    for number, end in enumerate(suffixes_of(problem)):
        d = number % directions
        if not d:
            read, y = x, []
        state = [part[number] for part in parts_of(first_state(problem))]
        outputs = [None] * steps
        for t in reversed(range(steps)) if d else range(steps):
            if not d:
                state = [np.where(resets[t][:, None], 0, part) for part in state]
            after = list(cell.step(read[t], *state, *layer_weights(problem, end)))
            for i, name in enumerate(cell.states):
                after[i] = after[i] + ((moved or {}).get((number, name), np.zeros(steps)))[t]
            outputs[t] = np.where(is_real[t][:, None], after[0], 0)
            state = [np.where(is_real[t][:, None], a, b) for a, b in zip(after, state, strict=True)]
            if d and t:
                state = [np.where(resets[t][:, None], 0, part) for part in state]
        last.append(state)
        y.append(np.array(outputs))
        x = np.concatenate(y, axis=2)
    return x, [np.stack(part) for part in zip(*last, strict=True)]


def reference_traces(problem):
    """Return per l * D + d what the reference saved, (T, B, .) by name, in the order of x's steps.

    States are those after each step; those before have "_before" at the end. Zeros beyond an end.
    """
    cell, traces = ROWS[problem["cell"]], []
    steps, batch = problem["x"].shape[:2]
    for number, (_, pieces) in enumerate(reference_forward(problem)[2]):
        trace = {}
        for (rows, span, _, _), (_, *arrays) in pieces:
            named = dict(zip(cell.saved, arrays, strict=True))
            named |= {f"{state}_before": named[state][:-1] for state in states_of(cell.name)}
            named |= {state: named[state][1:] for state in states_of(cell.name)}
            for name, array in named.items():
                if name not in trace:
                    trace[name] = np.zeros((steps, batch, array.shape[2]), array.dtype)
                reverse = number % problem.get("directions", 1)
                trace[name][span, rows] = array[::-1] if reverse else array
        traces.append(trace)
    return traces
