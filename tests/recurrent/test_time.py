"""Tests of what recurrent layers do with time: lengths, resets, both directions, and these together.

The judges are the NumPy reference, which cuts rows by hand, and central differences.
"""

from functools import lru_cache

import numpy as np
import pytest
from cases import OF_ALL_OPTIONS, ONE_OF_EACH_KIND
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
    solution,
    states_of,
    time_of,
)
from support import assert_close, assert_same_bits
from times import PARAMETERS, TIMES, beyond, padded_with

import lstmc

# float64: both sides round to 1e-16, and sums have some hundred terms. float32 rounds to 6e-8, and its
# inputs are exact.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

# Central differences at 1e-5 are good to some 1e-10 of losses of order 1; the losses here reach some tens.
DIFFERENCE_TOLERANCE = 1e-7

STEPS, BATCH, INPUTS = 7, 5, 3
# L, D, and H on either side of the widths of vectors.
STACKS = [(1, 1, 17), (2, 1, 9), (3, 1, 8), (1, 2, 33), (2, 2, 7), (3, 2, 16)]


def problem_of(cell, time, layers=2, directions=2, hidden=9, sizes=(STEPS, BATCH, INPUTS)):
    problem = random_problem(cell, *sizes, hidden, layers, directions)
    return problem | TIMES[time](*sizes[:2])


@lru_cache(maxsize=256)
def solved(*case):
    problem = problem_of(*case)
    return problem, reference_solution(problem)


def assert_solves(actual, expected, tolerance):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_close(actual[name], value, tolerance, name)


# --------------------------------------------------------------------------------------------------
# Against the reference
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("cell", [*ONE_OF_EACH_KIND, *OF_ALL_OPTIONS])
def test_like_the_reference(cell, stack, time, isa, dtype):
    problem, expected = solved(cell, time, *stack)
    actual = solution(as_type(problem, dtype))
    assert {value.dtype for value in actual.values()} == {dtype}
    assert_solves(actual, expected, TOLERANCE[dtype])
    padding = beyond(problem)
    assert not actual["y"][padding].any()
    assert not actual["dx"][padding].any()


@pytest.mark.parametrize("directions", [1, 2])
def test_every_cell(cell, directions, isa, dtype):
    problem, expected = solved(cell, "lengths and resets", 2, directions, 9)
    assert_solves(solution(as_type(problem, dtype)), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(
    "sizes", [(90, 25, 17), (3, 70, 9), (40, 9, 130)], ids=["long", "many", "wide"]
)
@pytest.mark.parametrize("cell", [*ONE_OF_EACH_KIND, *OF_ALL_OPTIONS])
def test_blocks(cell, sizes, directions, isa, dtype):
    """Sizes that are cut in several blocks, of time and of rows."""
    problem, expected = solved(cell, "lengths and resets", 2, directions, 35, sizes)
    assert_solves(solution(as_type(problem, dtype)), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("cell", [*ONE_OF_EACH_KIND, *OF_ALL_OPTIONS])
def test_chunks_of_rows_that_become_fewer(cell, isa, dtype):
    """So many rows that backward makes several chunks of steps of them, the last ones longer."""
    problem, expected = solved(cell, "lengths", 1, 1, 5, (150, 30, INPUTS))
    assert_solves(solution(as_type(problem, dtype)), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("cell", [*ONE_OF_EACH_KIND, *OF_ALL_OPTIONS])
def test_more_rows_in_a_step_than_a_block_has(cell, isa, dtype):
    """The gradient of R is then a sum over several blocks of the rows that steps began from."""
    problem, expected = solved(cell, "lengths", 1, 1, 3, (3, 1900, 2))
    assert_solves(solution(as_type(problem, dtype)), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("block", [512, 1024, 2048])
def test_a_step_of_a_block_after_one_of_more_rows(block, isa, dtype):
    """A block of the rows' gradients, and one row more, which is cut in two halves: scratch holds both."""
    layer = lstmc.LSTM(3, 5, dtype=dtype, rng=0)
    rng = np.random.default_rng(block)
    x, dy = (rng.standard_normal((2, block + 1, n)).astype(dtype) for n in (3, 5))
    lengths = np.append(np.full(block, 2), 1)
    layer.backward(dy, layer.forward(x, lengths=lengths)[2])
    actual = layer.grads.copy()
    layer.zero_grad()
    for rows, steps in ((slice(block), 2), (slice(block, None), 1)):
        trace = layer.forward(x[:steps, rows])[2]
        layer.backward(np.ascontiguousarray(dy[:steps, rows]), trace)
    assert_close(actual, layer.grads, TOLERANCE[dtype])


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("time", ["lengths", "resets"])
def test_without_biases(time, directions, dtype):
    problem = problem_of("gru", time, 2, directions)
    layer = make_layer(as_type(problem, dtype), bias=False)
    expected = reference_solution(
        problem | {key: 0 * value for key, value in problem.items() if key.startswith("bias")}
    )
    expected = {key: value for key, value in expected.items() if "bias" not in key}
    assert_solves(solution(as_type(problem, dtype), layer), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("sizes", [(1, 3), (0, 3), (4, 0), (0, 0), (1, 1), (4, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_few_steps_or_rows(cell, directions, sizes, time, dtype):
    problem = problem_of(cell, time, 2, directions, 9, (*sizes, INPUTS))
    actual = solution(as_type(problem, dtype))
    assert_solves(actual, reference_solution(problem), TOLERANCE[dtype])


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", [*ONE_OF_EACH_KIND, *OF_ALL_OPTIONS])
def test_derivatives(cell, directions, time, isa):
    """Every output of backward is the derivative of the kernels' own forward."""
    problem = problem_of(cell, time, 2, directions, 3, (4, 3, 2))
    layer = make_layer(problem)
    actual = solution(problem, layer)
    for output, expected in differences(problem, layer):
        assert_close(actual[output], expected, DIFFERENCE_TOLERANCE, output)


# --------------------------------------------------------------------------------------------------
# Padding, and states that are left out
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("time", ["lengths", "short", "empty", "lengths and resets"])
@pytest.mark.parametrize("directions", [1, 2])
def test_padding_reaches_nothing(cell, directions, time, value, isa, dtype):
    """Whatever is beyond an end in x and dy, in every result; and results are zero there."""
    problem = as_type(problem_of(cell, time, 2, directions), dtype)
    padded = padded_with(problem, value)
    assert not np.array_equal(padded["x"], problem["x"])
    actual = solution(padded)
    assert_same_bits(actual, solution(problem))
    assert not actual["y"][beyond(problem)].any()
    assert not actual["dx"][beyond(problem)].any()
    y, state = make_layer(padded)(padded["x"], first_state(padded), **time_of(padded))
    assert_same_bits(y, actual["y"])
    assert_same_bits(parts_of(state), [actual[f"{s}_n"] for s in states_of(cell)])


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
def test_what_is_left_out_is_zeros(cell, directions, time, dtype):
    problem = as_type(problem_of(cell, time, 2, directions), dtype)
    layer, options = make_layer(problem), time_of(problem)
    zeros = [np.zeros_like(part) for part in parts_of(first_state(problem))]
    for got, expected in zip(
        layer(problem["x"], **options),
        layer(problem["x"], as_state(zeros), **options),
        strict=True,
    ):
        assert_same_bits(got, expected)
    y, state, trace = layer.forward(problem["x"], first_state(problem), **options)
    for left_out, written in [
        ((None, arriving_state(problem)), (np.zeros_like(y), arriving_state(problem))),
        ((problem["dy"], None), (problem["dy"], as_state(zeros))),
    ]:
        results = []
        for dy, dstate in (left_out, written):
            layer.zero_grad()
            out = layer.backward(dy, trace, dstate)
            results.append(collect(layer, problem, y, state, *out))
        assert_same_bits(*results)


# --------------------------------------------------------------------------------------------------
# Forms and options
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
def test_batch_first(cell, directions, time, dtype):
    problem = as_type(problem_of(cell, time, 2, directions), dtype)
    turned = problem | {key: problem[key].swapaxes(0, 1) for key in ("x", "dy")}
    if "resets" in problem:
        turned["resets"] = problem["resets"].T
    expected = solution(problem)
    # The sizes of a layer are those of x's last axis: what make_layer() reads.
    actual = solution(turned, make_layer(turned, batch_first=True))
    for name in ("y", "dx"):
        actual[name] = actual[name].swapaxes(0, 1).copy()
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("end", [None, 0, 1, 4, STEPS])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_unbatched(cell, directions, resets, end, dtype):
    """One sequence alone is a batch of one row; its length is an integer, of Python or NumPy."""
    problem = problem_of(cell, "plain", 2, directions, 9, (STEPS, 1, INPUTS))
    problem = as_type(problem, dtype)
    alone = {key: value[:, 0] if np.ndim(value) == 3 else value for key, value in problem.items()}
    if resets:
        alone["resets"] = np.arange(STEPS) % 3 == 0
        problem["resets"] = alone["resets"][:, None]
    if end is not None:
        problem["lengths"] = np.array([end])
    layer = make_layer(problem)
    expected = {
        name: value[:, 0] if value.ndim == 3 else value
        for name, value in solution(problem, layer).items()
    }
    for length in [None] if end is None else [end, np.int32(end), np.array(end)]:
        assert_same_bits(solution(alone | {"lengths": length}, layer), expected)


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
def test_options_of_backward(cell, layers, directions, time, dtype):
    """Using up the trace, and leaving out dx or the weights: the rest keeps its bits."""
    problem = as_type(problem_of(cell, time, layers, directions), dtype)
    expected = solution(problem)
    for options in ({"consume": True}, {"need_dx": False}, {"need_grads": False},
                    {"need_dx": False, "consume": True}, {"need_grads": False, "consume": True},
                    {"need_dx": False, "need_grads": False}, {"record": []}):  # fmt: skip
        actual = solution(problem, **options)
        for name, value in expected.items():
            if name == "dx" and not options.get("need_dx", True):
                assert actual[name] is None
            elif name.startswith("d_") and not options.get("need_grads", True):
                assert not actual[name].any()
            else:
                assert_same_bits(actual[name], value, f"{name} with {options}")


def test_gradients_add_and_traces_are_whole_after_a_backward(cell, dtype):
    problem = as_type(problem_of(cell, "lengths and resets"), dtype)
    layer = make_layer(problem)
    expected = solution(problem, layer)
    y, state, trace = layer.forward(problem["x"], first_state(problem), **time_of(problem))
    layer.forward(-problem["x"])  # of other lengths, in memory that it may share
    for _ in range(2):
        layer.zero_grad()
        out = layer.backward(problem["dy"], trace, arriving_state(problem))
        assert_same_bits(collect(layer, problem, y, state, *out), expected)
    layer.backward(problem["dy"], trace, arriving_state(problem))
    for name in layer.parameters():
        # Adding to what is there rounds differently from doubling it.
        assert_close(layer.grad(name), 2 * expected[f"d_{name}"], TOLERANCE[dtype], name)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint64, list, tuple])
def test_lengths_are_integers_of_any_kind(dtype):
    problem = problem_of("lstm", "lengths")
    expected = solution(problem)
    lengths = problem["lengths"]
    problem["lengths"] = (
        dtype(lengths.tolist()) if dtype in (list, tuple) else lengths.astype(dtype)
    )
    assert_same_bits(solution(problem), expected)


def test_arguments_are_neither_written_nor_kept():
    """Of any layout; what is changed after forward changes no backward."""
    problem = problem_of("lstm", "lengths and resets")
    expected = solution(problem)
    layer = make_layer(problem)
    lengths = np.repeat(problem["lengths"], 2)[::2]
    resets = np.asfortranarray(problem["resets"])
    x = problem["x"].copy()
    before = [x.copy(), lengths.copy(), resets.copy()]
    y, state, trace = layer.forward(x, first_state(problem), lengths=lengths, resets=resets)
    assert_same_bits([x, lengths, resets], before)
    x[...], lengths[...], resets[...] = np.nan, 0, True
    layer.zero_grad()
    out = layer.backward(problem["dy"], trace, arriving_state(problem))
    assert_same_bits(collect(layer, problem, y, state, *out), expected)
