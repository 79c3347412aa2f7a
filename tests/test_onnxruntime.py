"""Live comparison with ONNX Runtime: both GRUs, and LSTMs with peepholes, coupled gates and clips.

ONNX's `linear_before_reset` is `reset_after`, its `input_forget` is `coupled`. Float32 alone: 1e-5 of the
largest element is what is asked of any two right systems. Runs wherever it and onnx import.
"""

import itertools

import numpy as np
import pytest
from cases import HAS_OPTIONS, ROWS
from stacks import (
    as_type,
    first_state,
    layer_weights,
    make_layer,
    parts_of,
    random_problem,
    seed_of,
    suffixes,
)
from support import assert_close

from lstmc import reference

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TOLERANCE = 1e-5
LINEAR_BEFORE_RESET = {"gru": 1, "gru_before": 0}
# T, B, I, H and L: not less than 3 steps, and the units on either side of a vector and of a panel.
SIZES = [(3, 2, 5, 4, 1), (7, 4, 3, 9, 2), (5, 6, 17, 33, 1), (4, 3, 8, 65, 2)]
# Without projections, which ONNX does not have.
LSTMS = [name for name, cell in ROWS.items() if cell.kind == "lstm" and cell.least_hidden == 1]


# --------------------------------------------------------------------------------------------------
# Their operators
# --------------------------------------------------------------------------------------------------


def in_their_order(array, names, order):
    """Return the blocks of an array with these names in another order; one that is missing is 0.5.

    That is an LSTM's f where the gates are coupled, which nobody reads.
    """
    blocks = dict(zip(names, np.split(array, len(names)), strict=True))
    return np.concatenate([blocks.get(name, np.full_like(array[: len(array) // len(names)], 0.5))
                           for name in order])  # fmt: skip


def their_weights(problem, ends):
    """Return W, R, B and, where there are peepholes, P of the directions of one layer.

    B holds W's biases, then R's.
    """
    cell, arrays = ROWS[problem["cell"]], []
    order = "iofg" if cell.kind == "lstm" else "zrn"
    own = cell.own_biases * problem["h0"].shape[-1]
    for end in ends:
        bias = problem[f"bias_{end}"]
        of_w = in_their_order(bias[: len(bias) - own], cell.gates, order)
        of_r = np.concatenate([np.zeros(len(of_w) - own, bias.dtype), bias[len(bias) - own :]])
        one = [in_their_order(problem[f"{kind}_{end}"], cell.gates, order)
               for kind in ("weight_ih", "weight_hh")]  # fmt: skip
        one.append(np.concatenate([of_w, of_r]))
        if "peephole" in cell.weights:
            one.append(in_their_order(problem[f"peephole_{end}"], cell.sigmoids, "iof"))
        arrays.append(one)
    return [np.stack(of_all) for of_all in zip(*arrays, strict=True)]


def their_layer(problem, ends, x, first, lengths, direction):
    """Run the operator of one layer; return y (T, B, D*H) and the parts of the final state (D, B, H)."""
    cell = ROWS[problem["cell"]]
    directions, _, hidden = first[0].shape
    states = {f"{name}0": part for name, part in zip(cell.states, first, strict=True)}
    given = dict(zip("WRBP", their_weights(problem, ends))) | {"x": x} | states
    if cell.kind == "gru":
        options = {"linear_before_reset": LINEAR_BEFORE_RESET[cell.name]}
    else:
        options = {"input_forget": int("coupled" in cell.options)}
        options |= {"clip": cell.options["clip"]} if "clip" in cell.options else {}
    read = ["x", "W", "R", "B", "lengths", *states, *(["P"] if "P" in given else [])]
    written = ["y", *(f"{name}_n" for name in cell.states)]
    node = onnx.helper.make_node(
        cell.kind.upper(), read, written, hidden_size=hidden, direction=direction, **options
    )
    value, real = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    inputs = [value(name, real, a.shape) for name, a in given.items()]
    inputs.append(value("lengths", onnx.TensorProto.INT32, lengths.shape))
    outputs = [value(name, real, None) for name in written]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "layer", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, *last = session.run(None, {**given, "lengths": lengths.astype(np.int32)})
    return y.transpose(0, 2, 1, 3).reshape(len(x), x.shape[1], directions * hidden), last


def some_lengths(steps, batch):
    """Return a length for each row, in no order; the last has no step."""
    lengths = np.array([(k * 2 + 1) % (steps + 1) for k in range(batch)])
    lengths[-1] = 0
    return lengths


def check_against_theirs(problem, lengths=None):
    """Compare a layer with their operators, one for each layer of the stack."""
    ends = suffixes(problem["num_layers"], directions := problem.get("directions", 1))
    first, y, last = parts_of(first_state(problem)), problem["x"], []
    theirs = np.full(y.shape[1], len(y)) if lengths is None else lengths
    for k in range(0, len(ends), directions):
        of_layer = slice(k, k + directions)
        state = [part[of_layer] for part in first]
        direction = "bidirectional" if directions == 2 else "forward"
        y, end = their_layer(problem, ends[of_layer], y, state, theirs, direction)
        last.append(end)
    ours, state = make_layer(problem)(problem["x"], first_state(problem), lengths=lengths)
    assert_close(ours, y, TOLERANCE, "y")
    real = theirs > 0  # of other rows it returns zeros; here the state stays as it was
    for actual, expected in zip(parts_of(state), zip(*last, strict=True), strict=True):
        assert_close(actual[:, real], np.concatenate(expected)[:, real], TOLERANCE, "a state")


# --------------------------------------------------------------------------------------------------
# Tests
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("some_end", [False, True], ids=["equal", "lengths"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cell", LINEAR_BEFORE_RESET)
def test_gru(isa, cell, sizes, directions, some_end):
    problem = as_type(random_problem(cell, *sizes, directions=directions), np.float32)
    check_against_theirs(problem, some_lengths(*sizes[:2]) if some_end else None)


@pytest.mark.parametrize("some_end", [False, True], ids=["equal", "lengths"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("cell", LSTMS)
def test_the_reference_of_lstms(cell, direction, some_end):
    """In float64, and of one direction by itself too."""
    sizes, directions = (7, 4, 3, 9), 1 + (direction == "bidirectional")
    problem = as_type(random_problem(cell, *sizes, directions=directions), np.float32)
    lengths = some_lengths(*sizes[:2]) if some_end else np.full(sizes[1], sizes[0])
    first, ends = parts_of(first_state(problem)), suffixes(1, directions)
    y, last = their_layer(problem, ends, problem["x"], first, lengths, direction)
    exact = as_type(
        {key: np.asarray(value, np.float64) if np.ndim(value) else value
         for key, value in problem.items()}, np.float64,
    )  # fmt: skip
    for d, end in enumerate(ends):
        state = [part[d] for part in parts_of(first_state(exact))]
        is_reverse = direction == "reverse" or d == 1
        expected_y, expected, _ = reference.layer_forward(
            ROWS[cell].forward, exact["x"], state, layer_weights(exact, end), lengths,
            reverse=is_reverse,
        )  # fmt: skip
        assert_close(y[..., d * 9 : (d + 1) * 9], expected_y, TOLERANCE, "y")
        real = lengths > 0
        for actual, part in zip(last, expected, strict=True):
            assert_close(actual[d][real], part[real], TOLERANCE, "a state")


@pytest.mark.skipif(not HAS_OPTIONS, reason="the layer does not have them yet")
@pytest.mark.parametrize(
    ("cell", "directions", "some_end"), [*itertools.product(LSTMS, (1, 2), (False, True))]
)
@pytest.mark.parametrize("number", range(5))
def test_lstm(cell, directions, some_end, number):
    """Random sizes of stacks of one or two layers."""
    rng = np.random.default_rng(seed_of("sizes", cell, directions, some_end, number))
    steps, batch, hidden = (int(rng.integers(*span)) for span in ((3, 12), (2, 9), (1, 70)))
    inputs = int(rng.choice([n for n in range(1, 40) if n != hidden]))
    problem = random_problem(cell, steps, batch, inputs, hidden, 1 + number % 2, directions)
    lengths = rng.integers(0, steps + 1, batch) if some_end else None
    check_against_theirs(as_type(problem, np.float32), lengths)
