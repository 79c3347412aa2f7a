"""Tests of RNN and LSTM: kernels, driver and binding, on every instruction set of the machine.

The judges are the NumPy reference, PyTorch's numbers in the golden files, and central differences.
Where the demand is equal bits, two ways of the library are compared that must not differ; what
they compute is judged elsewhere in the file. Deliberately without PyTorch, see test_torch.py.
"""

import numpy as np
import pytest
from cases import CELLS
from stacks import (
    arriving_state,
    as_state,
    as_type,
    collect,
    differences,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    reference_solution,
    reference_states,
    solution,
)
from support import assert_close, assert_same_bits, golden_of, load_golden

import lstmc

# One less and one more than every vector width (4, 8, 16) and two of them, and the width itself.
WIDTHS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65]

# float64: both sides round to 1e-16, sums have some thousand terms at most and are followed by few
# layers and steps. float32 rounds to 6e-8, and its inputs are exact.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

# The golden files are PyTorch's float64: what is asked of any two right systems.
GOLDEN_TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}

# Central differences at 1e-5 are good to some 1e-10 of losses of order 1, as support.py says; the
# losses here reach some tens. A wrong formula is off by 1e-2.
DIFFERENCE_TOLERANCE = 1e-7

GOLDEN = golden_of(CELLS)


def assert_solves(actual, expected, tolerance):
    """Assert that a solution has all that is expected and nothing else, each within tolerance."""
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_close(actual[name], value, tolerance, name)


# --------------------------------------------------------------------------------------------------
# Against the reference and the golden files
# --------------------------------------------------------------------------------------------------


def check_against_reference(dtype, *case):
    problem = random_problem(*case)
    inputs = as_type(problem, dtype)
    actual = solution(inputs)
    assert {value.dtype for value in actual.values()} == {dtype}
    assert_solves(actual, reference_solution(problem), TOLERANCE[dtype])


@pytest.mark.parametrize("width", range(len(WIDTHS)), ids=lambda i: f"H{WIDTHS[i]}")
def test_widths(isa, dtype, cell, width):
    """Every width as H, each with another as I, and with 1, 2 or 3 layers."""
    inputs = WIDTHS[(width + 4) % len(WIDTHS)]
    check_against_reference(dtype, cell, 4, 3, inputs, WIDTHS[width], 1 + width % 3)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 6, 7, 11, 13])
@pytest.mark.parametrize("hidden", [15, 50, 130])
def test_batches(isa, dtype, batch, hidden):
    """Every height of the micro-kernel, with one to many panels at once."""
    check_against_reference(dtype, "lstm", 3, batch, 9, hidden)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("hidden", [130, 200])
def test_batches_of_a_single_gate(isa, dtype, batch, hidden):
    check_against_reference(dtype, "rnn_tanh", 3, batch, 70, hidden, 2)


@pytest.mark.parametrize(
    "sizes", [(90, 25, 17, 35), (3, 7, 2100, 190), (1, 2, 3, 5)], ids=["long", "wide", "one step"]
)
def test_blocks(isa, dtype, cell, sizes):
    """Sizes that are cut in several blocks: of time, of rows, of the sums' terms."""
    check_against_reference(dtype, cell, *sizes)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(isa, dtype, name):
    golden = load_golden(name)
    actual = solution(as_type(golden, dtype))
    assert_solves(actual, {key: golden[key] for key in actual}, GOLDEN_TOLERANCE[dtype])
    assert {"dx", "dh0", "d_weight_ih_l0", "d_weight_hh_l0", "d_bias_l0"} <= set(actual)


@pytest.mark.parametrize("hidden", [8, 17])
def test_trace(isa, dtype, cell, hidden):
    """The trace holds the states after each step and the activated gates, as the reference has them."""
    problem = random_problem(cell, 4, 3, 5, hidden, 2)
    inputs = as_type(problem, dtype)
    _, _, trace = make_layer(inputs).forward(inputs["x"], first_state(inputs))
    cell = CELLS[cell]
    for layer, (_, *saved) in zip(trace.layers, reference_states(problem), strict=True):
        expected = dict(zip(cell.saved, saved, strict=True))
        assert_close(layer.h, expected["h"][1:], TOLERANCE[dtype], "h")
        assert (layer.c is not None) == cell.has_c
        if cell.has_c:
            assert_close(layer.c, expected["c"][1:], TOLERANCE[dtype], "c")
        assert tuple(layer.gates) == cell.trace_gates
        if cell.trace_gates:
            gates = np.concatenate([layer.gates[name] for name in cell.gates], axis=-1)
            assert_close(gates, expected["gates"], TOLERANCE[dtype], "gates")
        for name, other in cell.coupled.items():
            assert (layer.gates[name] == 1 - layer.gates[other]).all()
        for view in (layer.h, *((layer.c,) if cell.has_c else ()), *layer.gates.values()):
            with pytest.raises(ValueError, match="read-only"):
                view[...] = 0


# --------------------------------------------------------------------------------------------------
# Against central differences
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(3, 2, 4, 5, 2), (4, 3, 3, 9, 1)])
def test_derivatives(isa, cell, sizes):
    """Every output of backward is the derivative of the kernels' own forward."""
    problem = random_problem(cell, *sizes)
    layer = make_layer(problem)
    actual = solution(problem, layer)
    for output, expected in differences(problem, layer):
        assert_close(actual[output], expected, DIFFERENCE_TOLERANCE, output)


def test_relu_at_zero_has_slope_zero(isa, dtype):
    layer = lstmc.RNN(1, 1, nonlinearity="relu", bias=False, dtype=dtype)
    layer["weight_ih_l0"][...] = 1
    _, _, trace = layer.forward(np.zeros((1, 1, 1), dtype))
    dx, dstate = layer.backward(np.ones((1, 1, 1), dtype), trace)
    assert dx == 0
    assert dstate == 0


# --------------------------------------------------------------------------------------------------
# Equal bits
# --------------------------------------------------------------------------------------------------

# Cases that two threads share out by batch rows or by hidden units, for every vector width: the
# thresholds are in plan.h.
SHARED = [
    ("lstm", 10, 17, 20, 33, 2),  # rows
    ("lstm", 40, 5, 20, 33, 1),  # rows, few
    ("lstm", 5, 3, 120, 130, 2),  # units
    ("lstm", 8, 1, 60, 201, 1),  # units, one row
    ("rnn_tanh", 12, 21, 33, 65, 2),  # rows
    ("rnn_relu", 6, 7, 60, 161, 2),  # units
]


@pytest.mark.parametrize("case", SHARED, ids=str)
def test_threads_do_not_change_a_bit(isa, dtype, case):
    problem = as_type(random_problem(*case), dtype)
    expected = solution(problem, num_threads=1)
    for threads in (2, 3):
        assert_same_bits(solution(problem, num_threads=threads), expected)


@pytest.mark.parametrize("case", SHARED, ids=str)
def test_threads_of_inference(isa, dtype, case):
    problem = as_type(random_problem(*case), dtype)
    layer, state = make_layer(problem), first_state(problem)
    y, last, _ = layer.forward(problem["x"], state, num_threads=1)
    for threads in (1, 2, 3):
        y2, last2, trace = layer.forward(problem["x"], state, training=False, num_threads=threads)
        assert trace is None
        assert_same_bits(y2, y)
        assert_same_bits(last2, last)


@pytest.mark.parametrize("hidden", [9, 65])
def test_rows_do_not_know_of_each_other(isa, dtype, cell, hidden):
    """A row has the bits it has alone, whatever the rows beside it and however many are done at once."""
    problem = as_type(random_problem(cell, 4, 13, 7, hidden, 2), dtype)
    together = solution(problem)
    for row in range(13):
        alone = {
            key: value[:, row : row + 1] if getattr(value, "ndim", 0) == 3 else value
            for key, value in problem.items()
        }
        for name, value in solution(alone).items():
            if value.ndim == 3:
                assert_same_bits(together[name][:, row : row + 1], value, name)


@pytest.mark.parametrize("sizes", [(5, 1, 4, 3), (4, 3, 9, 17), (3, 2, 33, 65), (70, 20, 7, 65)])
@pytest.mark.parametrize("layers", [1, 3])
def test_steps_and_parts_of_a_sequence(isa, dtype, cell, sizes, layers):
    """A loop of steps, two halves, inference and training: one sequence in four ways."""
    problem = as_type(random_problem(cell, *sizes, layers), dtype)
    layer, x, state = make_layer(problem), problem["x"], first_state(problem)
    y, last, _ = layer.forward(x, state)

    inferred, inferred_last = layer(x, state)
    assert_same_bits(inferred, y)
    assert_same_bits(inferred_last, last)

    head, between = layer(x[:2], state)
    tail, end = layer(x[2:], between)
    assert_same_bits(np.concatenate([head, tail]), y)
    assert_same_bits(end, last)

    stepper = layer.stepper(batch=sizes[1])
    stepper.state = state
    assert_same_bits(np.stack([stepper(x_t) for x_t in x]), y)
    assert_same_bits(stepper.state, last)


def test_two_backwards_over_one_trace(isa, dtype, cell):
    """They give the same, and add; a forward in between, and on other data, changes nothing."""
    problem = as_type(random_problem(cell, 5, 3, 7, 17, 2), dtype)
    layer = make_layer(problem)
    expected = solution(problem, layer)
    y, state, trace = layer.forward(problem["x"], first_state(problem))

    def backward():
        return layer.backward(problem["dy"], trace, arriving_state(problem))

    layer.zero_grad()
    first = collect(layer, problem, y, state, *backward())
    other_y, _, other = layer.forward(-problem["x"])
    layer.backward(other_y, other)
    layer.zero_grad()
    again = collect(layer, problem, y, state, *backward())
    assert_same_bits(first, expected)
    assert_same_bits(again, expected)
    backward()
    for name in layer.parameters():
        # Adding to what is there rounds differently from doubling it.
        assert_close(layer.grad(name), 2 * expected[f"d_{name}"], TOLERANCE[dtype], name)


def test_options_of_backward(isa, dtype, cell):
    """Using up the trace, leaving out dx, and asking for threads: the rest keeps its bits."""
    problem = as_type(random_problem(cell, 5, 3, 7, 17, 2), dtype)
    expected = solution(problem)
    assert_same_bits(solution(problem, consume=True), expected)
    without = solution(problem, need_dx=False)
    assert without.pop("dx") is None
    assert_same_bits(without, {k: v for k, v in expected.items() if k != "dx"})


def test_gradients_left_out_are_zeros(isa, dtype, cell):
    problem = as_type(random_problem(cell, 4, 3, 5, 9, 2), dtype)
    zeros = as_state([np.zeros_like(part) for part in parts_of(arriving_state(problem))])
    layer = make_layer(problem)
    y, state, trace = layer.forward(problem["x"], first_state(problem))
    for left_out, written in [
        ((None, arriving_state(problem)), (np.zeros_like(y), arriving_state(problem))),
        ((problem["dy"], None), (problem["dy"], zeros)),
    ]:
        results = []
        for dy, dstate in (left_out, written):
            layer.zero_grad()
            out = layer.backward(dy, trace, dstate)
            results.append(collect(layer, problem, y, state, *out))
        assert_same_bits(*results)


def test_no_state_is_zeros(isa, dtype, cell):
    problem = as_type(random_problem(cell, 4, 3, 5, 9, 2), dtype)
    layer = make_layer(problem)
    zeros = as_state([np.zeros_like(part) for part in parts_of(first_state(problem))])
    for got, expected in zip(layer(problem["x"]), layer(problem["x"], zeros), strict=True):
        assert_same_bits(got, expected)
