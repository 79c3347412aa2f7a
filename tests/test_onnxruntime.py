"""Live comparison of GRUs with ONNX Runtime, which has both of them; runs wherever it and onnx import.

ONNX's `linear_before_reset` is `reset_after`. Float32 alone: 1e-5 of the largest element is what is
asked of any two right systems.
"""

import numpy as np
import pytest
from cases import CELLS
from stacks import as_type, first_state, make_layer, random_problem, suffixes
from support import assert_close

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TOLERANCE = 1e-5
LINEAR_BEFORE_RESET = {"gru": 1, "gru_before": 0}
# T, B, I, H and L: not less than 3 steps, and the units on either side of a vector and of a panel.
SIZES = [(3, 2, 5, 4, 1), (7, 4, 3, 9, 2), (5, 6, 17, 33, 1), (4, 3, 8, 65, 2)]


def in_their_order(rows):
    """Return row blocks r, z, n as z, r, n."""
    r, z, n = np.split(rows, 3)
    return np.concatenate([z, r, n])


def their_weights(problem, ends):
    """Return W, R and B of the directions of one layer; B holds W's biases, then R's."""
    own = CELLS[problem["cell"]].own_biases * problem["h0"].shape[-1]
    arrays = []
    for end in ends:
        bias = problem[f"bias_{end}"]
        of_w = in_their_order(bias[: len(bias) - own])
        of_r = np.concatenate([np.zeros(len(of_w) - own, bias.dtype), bias[len(bias) - own :]])
        arrays.append(
            (
                in_their_order(problem[f"weight_ih_{end}"]),
                in_their_order(problem[f"weight_hh_{end}"]),
                np.concatenate([of_w, of_r]),
            )
        )
    return [np.stack(of_all) for of_all in zip(*arrays, strict=True)]


def their_layer(problem, weights, x, h0, lengths):
    """Run ONNX Runtime's operator; return y (T, B, D*H) and the final state (D, B, H)."""
    directions, _, hidden = h0.shape
    given = dict(zip(("W", "R", "B", "x", "h0"), (*weights, x, h0), strict=True))
    node = onnx.helper.make_node(
        "GRU", ["x", "W", "R", "B", "lengths", "h0"], ["y", "h_n"], hidden_size=hidden,
        direction="bidirectional" if directions == 2 else "forward",
        linear_before_reset=LINEAR_BEFORE_RESET[problem["cell"]],
    )  # fmt: skip
    value, real = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    inputs = [value(name, real, a.shape) for name, a in given.items()]
    inputs.append(value("lengths", onnx.TensorProto.INT32, lengths.shape))
    outputs = [value("y", real, None), value("h_n", real, None)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "layer", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, h_n = session.run(None, {**given, "lengths": lengths.astype(np.int32)})
    return y.transpose(0, 2, 1, 3).reshape(len(x), x.shape[1], directions * hidden), h_n


@pytest.mark.parametrize("some_end", [False, True], ids=["equal", "lengths"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cell", LINEAR_BEFORE_RESET)
def test_gru(isa, cell, sizes, directions, some_end):
    problem = as_type(random_problem(cell, *sizes, directions=directions), np.float32)
    steps, batch, layers = len(problem["x"]), problem["x"].shape[1], problem["num_layers"]
    lengths = np.full(batch, steps)
    if some_end:
        lengths[:] = [(k * 2 + 1) % (steps + 1) for k in range(batch)]
        lengths[-1] = 0
    ends, y, last = suffixes(layers, directions), problem["x"], []
    for k in range(0, len(ends), directions):
        weights = their_weights(problem, ends[k : k + directions])
        y, h_n = their_layer(problem, weights, y, problem["h0"][k : k + directions], lengths)
        last.append(h_n)
    ours, state = make_layer(problem)(
        problem["x"], first_state(problem), lengths=lengths if some_end else None
    )
    assert_close(ours, y, TOLERANCE, "y")
    real = lengths > 0  # of other rows it returns zeros; here the state stays as it was
    assert_close(state[:, real], np.concatenate(last)[:, real], TOLERANCE, "h_n")
