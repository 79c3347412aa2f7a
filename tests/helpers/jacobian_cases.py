"""Layers whose Jacobians are taken, and the judge: central differences of a twin in float64."""

import numpy as np
from cases import ROWS, cell_of
from stacks import (
    as_state,
    draw_state,
    layer_weights,
    parts_of,
    reference_forward,
    seed_of,
    suffixes_of,
)

# Central differences at 1e-5 in float64 are good to 1e-10 where the numbers are of the order of 1, as
# here. A float32 layer is compared with those of its twin in float64: it rounds at 6e-8, some tens of
# times.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-8}

# Both sides round at the layer's own type.
CLOSED_TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

STEPS, BATCH, FEATURES, HIDDEN = 5, 2, 3, 4

FORMS = ["time first", "batch first", "unbatched"]


def make_layer(cell, layers=1, dtype=np.float64, hidden=HIDDEN, features=FEATURES, **options):
    options = {"num_layers": layers, "dtype": dtype, "rng": 1, **options}
    return ROWS[cell].make(features, hidden, **options)


def make_case(cell, layers=1, dtype=np.float64, form="time first", steps=STEPS):
    """Return a layer with weights as large as make a difference, what it reads and its state."""
    rng = np.random.default_rng(seed_of(cell, layers, form, steps))
    layer = make_layer(cell, layers, dtype, batch_first=form == "batch first")
    layer.params[...] *= 1.5
    order = {"time first": (steps, BATCH), "batch first": (BATCH, steps), "unbatched": (steps,)}
    rows = () if form == "unbatched" else (BATCH,)
    x = rng.standard_normal((*order[form], FEATURES)).astype(dtype)
    return layer, x, draw_state(layer, rows, rng)


# --------------------------------------------------------------------------------------------------
# The judge
# --------------------------------------------------------------------------------------------------


def twin_of(layer):
    """Return a layer of the same weights: float64, time first."""
    cell = cell_of(layer)
    twin = make_layer(cell.name, layer.num_layers, np.float64, layer.hidden_size, layer.input_size)
    for name in layer.parameters():
        twin[name][...] = layer[name]
    return twin


def in_rows(x, state, form):
    """Return x as (T, B, I) and the state as parts of (L, B, H), in float64."""
    x = x.swapaxes(0, 1) if form == "batch first" else x
    parts = parts_of(state)
    if form == "unbatched":
        x, parts = x[:, None], [part[:, None] for part in parts]
    return x.astype(np.float64), [part.astype(np.float64) for part in parts]


def as_vector(parts):
    """Write parts (L, B, H) as rows (B, S): h of all layers, then c of all."""
    return np.concatenate([part.swapaxes(0, 1).reshape(part.shape[1], -1) for part in parts], 1)


def as_parts(vectors, like):
    """The way back."""
    ends = np.cumsum([len(part) * part.shape[2] for part in like])
    pieces = np.split(vectors, ends[:-1], axis=1)
    return [v.reshape(len(v), len(a), -1).swapaxes(0, 1) for v, a in zip(pieces, like, strict=True)]


def differences(f, start, eps=1e-5):
    """Differentiate f (B, S) -> (B, R), whose rows are apart, by central differences: (B, R, S)."""
    columns = []
    for j in range(start.shape[1]):
        above, below = start.copy(), start.copy()
        above[:, j] += eps
        below[:, j] -= eps
        columns.append((f(above) - f(below)) / (above[:, j] - below[:, j])[:, None])
    return np.stack(columns, axis=2)


def exact_state_jacobian(layer, x, state, t0, t1, form="time first"):
    """Move the state after t0 steps and run on to t1: (B, S, S)."""
    layer = twin_of(layer)
    x, parts = in_rows(x, state, form)
    if t0:
        parts = parts_of(layer(x[:t0], as_state(parts))[1])

    def later(vectors):
        return as_vector(parts_of(layer(x[t0:t1], as_state(as_parts(vectors, parts)))[1]))

    return differences(later, as_vector(parts))


# --------------------------------------------------------------------------------------------------
# The judge of rows that end or begin anew, and of both directions: problems of stacks.py, in float64
# --------------------------------------------------------------------------------------------------


def own_steps(problem, row, direction):
    """Return what a direction reads of one row, step by step in its order, and where it is cut."""
    x = problem["x"][:, row]
    end = int(problem["lengths"][row]) if "lengths" in problem else len(x)
    resets = problem["resets"][:end, row] if "resets" in problem else np.zeros(end, bool)
    if not direction:
        return x[:end], resets
    # The reverse direction comes to step t from step t + 1; it has no cut before its first step.
    return x[:end][::-1], np.concatenate([[False], resets[:0:-1]])[:end]


def own_state_jacobian(problem, row, direction, t0, t1):
    """Differentiate the state of one row's direction after t1 of its steps by that after t0: (S, S)."""
    cell, directions = ROWS[problem["cell"]], problem.get("directions", 1)
    weights = [layer_weights(problem, end) for end in suffixes_of(problem)[direction::directions]]
    x, cuts = own_steps(problem, row, direction)
    first = [problem[f"{name}0"][direction::directions, row : row + 1] for name in cell.states]

    def run(parts, begin, end):
        for step in range(begin, min(end, len(x))):
            if cuts[step]:
                parts = [np.zeros_like(part) for part in parts]
            read, after = np.repeat(x[step : step + 1], parts[0].shape[1], axis=0), []
            for k, of_layer in enumerate(weights):
                after.append(cell.step(read, *(part[k] for part in parts), *of_layer))
                read = after[k][0]
            parts = [np.stack(part) for part in zip(*after, strict=True)]
        return parts

    at_t0 = run(first, 0, t0)
    return differences(
        lambda vectors: as_vector(run(as_parts(vectors, at_t0), t0, t1)), as_vector(at_t0)
    )[0]


def state_jacobians(problem, t0, t1):
    """The same of all rows and directions, which know nothing of each other: (B, S, S)."""
    directions, batch = problem.get("directions", 1), problem["x"].shape[1]
    parts, hidden = len(ROWS[problem["cell"]].states), problem["h0"].shape[2]
    count = len(suffixes_of(problem))
    out = np.zeros((batch, parts, count, hidden, parts, count, hidden))
    for row in range(batch):
        for d in range(directions):
            one = own_state_jacobian(problem, row, d, t0, t1)
            shape = (parts, count // directions, hidden)
            out[row, :, d::directions, :, :, d::directions] = one.reshape(*shape, *shape)
    return out.reshape(batch, parts * count * hidden, -1)


def input_jacobians(problem, t, eps=1e-5):
    """Differentiate y of step t by x of every step: (T, B, D*H, I)."""
    columns = []
    for step, feature in np.ndindex(len(problem["x"]), problem["x"].shape[2]):
        moved = []
        for shift in (eps, -eps):
            x = problem["x"].copy()
            x[step, :, feature] += shift
            moved.append(reference_forward(problem | {"x": x})[0][t])
        columns.append((moved[0] - moved[1]) / (2 * eps))
    steps, _, features = problem["x"].shape
    return (
        np.stack(columns, axis=-1).reshape(*columns[0].shape, steps, features).transpose(2, 0, 1, 3)
    )
