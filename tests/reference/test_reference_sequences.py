"""Tests of the reference over time: lengths, resets, two directions, stacks.

Its judges are a loop of single steps that asks at each one what a row does there, and central differences.
"""

import numpy as np
import pytest
from cases import CELLS, OF_ALL_OPTIONS, ONE_OF_EACH_KIND, ROWS
from reference_cases import DIFFERENCE_TOLERANCE, GOLDEN_TOLERANCE
from stacks import (
    as_type,
    layer_weights,
    random_problem,
    reference_forward,
    reference_solution,
)
from support import assert_close, numerical_gradient
from times import TIMES, beyond, walk

from lstmc import reference

SIZES = (5, 4, 3, 2)  # T, B, I, H


def problem_of(cell, time, layers=1, directions=1):
    steps, batch, *_ = SIZES
    return random_problem(cell, *SIZES, layers, directions) | TIMES[time](steps, batch)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_forward_is_a_walk_of_single_steps(cell, layers, directions, time):
    problem = problem_of(cell, time, layers, directions)
    y, last, _ = reference_forward(problem)
    expected_y, expected_last = walk(problem)
    assert_close(y, expected_y, GOLDEN_TOLERANCE, "y")
    for actual, expected in zip(last, expected_last, strict=True):
        assert_close(actual, expected, GOLDEN_TOLERANCE, "the final state")


DIFFERENTIATED = [("rnn_tanh", 1, 2, time) for time in TIMES] + [
    pytest.param(
        *(cell, *stack, "lengths and resets"),
        marks=pytest.mark.slow if stack == (2, 2) and cell != "gru" else (),
    )
    for cell in (*ONE_OF_EACH_KIND, *OF_ALL_OPTIONS)
    for stack in ((1, 1), (1, 2), (2, 2))
]


@pytest.mark.parametrize(("cell", "layers", "directions", "time"), DIFFERENTIATED)
def test_backward_is_the_derivative(cell, layers, directions, time):
    """Of every input and every weight, with gradients that arrive at y and at the final states."""
    problem = problem_of(cell, time, layers, directions)
    actual = reference_solution(problem)
    states = CELLS[cell].states
    arriving = [problem["dy"], *(problem[f"d{state}_n"] for state in states)]
    inputs = {"dx": "x"} | {f"d{state}0": f"{state}0" for state in states}
    inputs |= {key: key[2:] for key in actual if key.startswith("d_")}
    for output, name in inputs.items():

        def loss(value, name=name):
            y, last, _ = reference_forward(problem | {name: value})
            return sum(np.sum(a * b) for a, b in zip(arriving, [y, *last], strict=True))

        expected = numerical_gradient(loss, problem[name])
        assert_close(actual[output], expected, DIFFERENCE_TOLERANCE, output)


@pytest.mark.parametrize("cell", ROWS)
def test_a_step_over_complex_numbers_is_a_step(cell):
    """That of inspection's judge; real parts agree, and a tiny imaginary one is a derivative by c."""
    problem, row = problem_of(cell, "plain"), ROWS[cell]
    weights = dict(zip(row.weights, layer_weights(problem, 0), strict=True))
    states, beside = [problem[f"{name}0"][0] for name in row.states], list(weights.values())[3:]
    from_x, r = problem["x"][0] @ weights["weight_ih"].T, weights["weight_hh"].T

    def step(c):
        return row.moved_step(from_x, r, weights["bias"], states[0], c, lambda what: 0, *beside)

    expected = row.step(problem["x"][0], *states, *weights.values())
    for actual, exact in zip(step(states[-1] + 0j), expected, strict=False):
        assert_close(actual.real, exact, GOLDEN_TOLERANCE)
    if row.has_c:
        ones, eps = np.ones_like(states[1]), 1e-6
        above, below = (
            row.step(problem["x"][0], states[0], states[1] + sign * eps * ones, *weights.values())
            for sign in (1, -1)
        )
        moved = step(states[1] + 1e-30j * ones)
        for actual, a, b in zip(moved, above, below, strict=True):
            assert_close(actual.imag / 1e-30, (a - b) / (2 * eps), DIFFERENCE_TOLERANCE)


def test_nothing_is_read_beyond_an_end():
    problem = problem_of("lstm", "lengths and resets", 2, 2)
    padding = beyond(problem)
    assert padding.any()
    expected = reference_solution(problem)
    for name in ("x", "dy"):
        problem[name] = np.where(padding[:, :, None], np.nan, problem[name])
    for name, value in reference_solution(problem).items():
        np.testing.assert_array_equal(value, expected[name])
    assert not expected["y"][padding].any()
    assert not expected["dx"][padding].any()


def test_a_row_without_steps_keeps_its_state_and_passes_its_gradient_on():
    problem = problem_of("gru", "empty", 2, 2)
    solution = reference_solution(problem)
    np.testing.assert_array_equal(solution["h_n"], problem["h0"])
    np.testing.assert_array_equal(solution["dh0"], problem["dh_n"])
    assert not any(value.any() for key, value in solution.items() if key[:2] in ("y", "d_", "dx"))


def test_float32_stays_float32():
    problem = as_type(problem_of("lstm", "lengths and resets", 2, 2), np.float32)
    assert {value.dtype for value in reference_solution(problem).values()} == {np.dtype(np.float32)}


def test_arguments_are_not_written():
    problem = problem_of("lstm", "lengths and resets", 2, 2)
    before = {key: np.copy(value) for key, value in problem.items()}
    reference_solution(problem)
    for key, value in before.items():
        np.testing.assert_array_equal(problem[key], value)


def test_one_layer_in_the_reverse_direction_is_the_sequence_turned_round():
    problem = problem_of("lstm", "plain")
    weights, first = layer_weights(problem, 0), [problem["h0"][0], problem["c0"][0]]
    y, last, _ = reference.layer_forward(
        reference.lstm_forward, problem["x"], first, weights, reverse=True
    )
    h, c, _ = reference.lstm_forward(problem["x"][::-1], *first, *weights)
    np.testing.assert_array_equal(y, h[:0:-1])
    np.testing.assert_array_equal(last, [h[-1], c[-1]])
