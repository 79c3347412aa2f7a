"""The table of what rows do in time: where they end, and where they begin anew.

A case is a function of T and B that returns what a layer's call takes beside x and the state. Of sizes
too small for what its name says it does what is possible.
"""

import numpy as np
from stacks import seed_of


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
