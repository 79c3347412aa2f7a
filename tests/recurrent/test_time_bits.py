"""Tests of equal bits over time: whatever the threads, the companions of a row, and the way it is run.

Two ways of the library are compared that must not differ; what they compute is judged in test_time.py.
"""

from itertools import pairwise

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from stacks import (
    as_state,
    as_type,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    solution,
    states_of,
    time_of,
)
from support import assert_same_bits
from times import PARAMETERS, TIMES, UNEVEN, alone

STEPS, BATCH, INPUTS = 7, 6, 3


def problem_of(cell, time, layers=2, directions=2, hidden=17, sizes=(STEPS, BATCH, INPUTS)):
    problem = random_problem(cell, *sizes, hidden, layers, directions)
    return problem | TIMES[time](*sizes[:2])


# --------------------------------------------------------------------------------------------------
# Threads
# --------------------------------------------------------------------------------------------------

# T, B, I, H, L that two threads and four share out by batch rows or by hidden units, each direction of
# two too: the thresholds are in split.h.
SHARED = [
    (12, 64, 20, 33, 2),  # rows
    (30, 40, 9, 8, 1),  # rows, few units
    (6, 16, 40, 260, 1),  # units
    (5, 20, 60, 210, 2),  # units
]


@pytest.mark.parametrize(
    "time", ["plain", pytest.param("lengths", marks=pytest.mark.slow), "lengths and resets"]
)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("sizes", SHARED, ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_threads_do_not_change_a_bit(isa, dtype, cell, sizes, directions, time):
    """Of any result, weight gradients too."""
    *sizes, hidden, layers = sizes
    problem = as_type(problem_of(cell, time, layers, directions, hidden, sizes), dtype)
    expected = solution(problem, num_threads=1)
    for threads in (2, 3, 4):
        assert_same_bits(solution(problem, num_threads=threads), expected)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("sizes", SHARED[::2], ids=str)
def test_threads_of_inference(isa, dtype, sizes, directions):
    *sizes, hidden, layers = sizes
    problem = as_type(problem_of("lstm", "lengths", layers, directions, hidden, sizes), dtype)
    layer, state = make_layer(problem), first_state(problem)
    y, last, _ = layer.forward(problem["x"], state, num_threads=1, **time_of(problem))
    for threads in (1, 2, 4):
        got = layer.forward(
            problem["x"], state, training=False, num_threads=threads, **time_of(problem)
        )
        assert got[2] is None
        assert_same_bits(got[:2], (y, last))


# --------------------------------------------------------------------------------------------------
# Companions
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [9, 65])
@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_rows_do_not_know_of_each_other(isa, dtype, cell, directions, time, hidden):
    """A row has the bits that it has alone, whatever ends or begins beside it."""
    problem = as_type(problem_of(cell, time, 2, directions, hidden, (7, 13, 3)), dtype)
    together = solution(problem)
    for row in range(13):
        for name, value in solution(alone(problem, row)).items():
            if value.ndim == 3:
                assert_same_bits(together[name][:, row : row + 1], value, name)


@pytest.mark.parametrize("directions", [1, 2])
def test_rows_among_other_companions(isa, dtype, cell, directions):
    """The first row is what it is, whatever the others' lengths, resets and values are."""
    problem = as_type(problem_of(cell, "lengths and resets", 2, directions), dtype)
    problem["lengths"][0] = STEPS - 2
    expected = solution(problem)
    other = {
        key: np.concatenate([value[:, :1], -value[:, 1:]], axis=1)
        for key, value in problem.items()
        if np.ndim(value) == 3
    }
    other["lengths"] = np.concatenate([[STEPS - 2], problem["lengths"][:0:-1]])
    other["resets"] = np.concatenate([problem["resets"][:, :1], ~problem["resets"][:, 1:]], axis=1)
    for name, value in solution(problem | other).items():
        if value.ndim == 3:
            assert_same_bits(value[:, :1], expected[name][:, :1], name)


@pytest.mark.parametrize("directions", [1, 2])
def test_padding_may_be_longer(isa, dtype, cell, directions):
    """More steps that no row has add zeros to y and dx, and change no other bit."""
    problem = as_type(problem_of(cell, "lengths and resets", 2, directions), dtype)
    more = {key: np.concatenate([problem[key], problem[key][:3]]) for key in ("x", "dy", "resets")}
    expected, actual = solution(problem), solution(problem | more)
    for name in ("y", "dx"):
        assert not actual[name][STEPS:].any()
        actual[name] = actual[name][:STEPS]
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("directions", [1, 2])
def test_the_order_of_rows_is_free(isa, dtype, cell, directions):
    problem = as_type(problem_of(cell, "lengths and resets", 2, directions), dtype)
    order = np.random.default_rng(2).permutation(BATCH)
    moved = {key: value[:, order] for key, value in problem.items() if np.ndim(value) == 3}
    moved |= {"lengths": problem["lengths"][order], "resets": problem["resets"][:, order]}
    expected = solution(problem)
    for name, value in solution(problem | moved).items():
        if value.ndim == 3:
            assert_same_bits(value, expected[name][:, order], name)


@pytest.mark.parametrize("directions", [1, 2])
def test_ends_and_resets_that_are_none(isa, dtype, cell, directions):
    """Lengths that are all T, resets that are all false: as without."""
    problem = as_type(problem_of(cell, "plain", 2, directions), dtype)
    expected = solution(problem)
    lengths = {"lengths": np.full(BATCH, STEPS)}
    resets = {"resets": np.zeros((STEPS, BATCH), bool)}
    for same in (lengths, resets, lengths | resets):
        assert_same_bits(solution(problem | same), expected)


# --------------------------------------------------------------------------------------------------
# Other ways to run the same
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
def test_inference_is_training_without_a_trace(isa, dtype, cell, layers, directions, time):
    problem = as_type(problem_of(cell, time, layers, directions), dtype)
    layer, state = make_layer(problem), first_state(problem)
    *expected, trace = layer.forward(problem["x"], state, **time_of(problem))
    assert trace is not None
    for got in (
        layer.forward(problem["x"], state, training=False, **time_of(problem))[:2],
        layer(problem["x"], state, **time_of(problem)),
    ):
        assert_same_bits(list(got), expected)


def cut_by_hand(layer, problem):
    """Run each piece of each row by itself, which is right of a single layer: y and the final states.

    A stack is cut at the same steps in all its layers, so that of it this is right too.
    """
    x, resets, directions = problem["x"], problem["resets"], layer.num_directions
    steps, batch = x.shape[:2]
    first = parts_of(first_state(problem))
    y = np.zeros((steps, batch, directions * first[0].shape[2]), x.dtype)
    last = [np.zeros_like(part) for part in first]
    for b in range(batch):
        end = problem["lengths"][b] if "lengths" in problem else steps
        cuts = [0, *(t for t in range(1, end) if resets[t, b]), end]
        if not end:
            for to, part in zip(last, first, strict=True):
                to[:, b] = part[:, b]
            continue
        for t0, t1 in pairwise(cuts):
            begins = [np.zeros_like(part[:, b : b + 1]) for part in first]
            for begin, part in zip(begins, first, strict=True):
                if t0 == 0 and not resets[0, b]:
                    begin[::directions] = part[::directions, b : b + 1]
                if directions == 2 and t1 == end:
                    begin[1::2] = part[1::2, b : b + 1]
            piece, ends = layer(x[t0:t1, b : b + 1].copy(), as_state(begins))
            y[t0:t1, b] = piece[:, 0]
            for to, part in zip(last, parts_of(ends), strict=True):
                if t1 == end:
                    to[::directions, b] = part[::directions, 0]
                if directions == 2 and t0 == 0:
                    to[1::2, b] = part[1::2, 0]
    return y, last


@pytest.mark.parametrize("time", ["resets", "resets everywhere", "lengths and resets"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
def test_resets_are_cuts_by_hand(isa, dtype, cell, layers, directions, time):
    problem = as_type(problem_of(cell, time, layers, directions), dtype)
    layer = make_layer(problem)
    y, state = layer(problem["x"], first_state(problem), **time_of(problem))
    expected_y, expected_state = cut_by_hand(layer, problem)
    assert_same_bits(y, expected_y, "y")
    assert_same_bits(parts_of(state), expected_state, "the state")


@pytest.mark.parametrize("time", ["resets", "resets everywhere"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("hidden", [9, 65])
def test_steps_with_resets(isa, dtype, cell, hidden, layers, time):
    """A stepper whose rows are reset before the steps where resets are true is the sequence's call."""
    problem = as_type(problem_of(cell, time, layers, 1, hidden), dtype)
    layer, resets = make_layer(problem), problem["resets"]
    y, state = layer(problem["x"], first_state(problem), resets=resets)
    stepper = layer.stepper(BATCH)
    stepper.state = first_state(problem)
    for t in range(STEPS):
        stepper.reset(resets[t])
        assert_same_bits(stepper(problem["x"][t]), y[t], f"y of step {t}")
    assert_same_bits(parts_of(stepper.state), parts_of(state))


@pytest.mark.parametrize("time", UNEVEN)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("at", [1, 3, 6])
def test_parts_of_a_sequence(isa, dtype, at, directions, time):
    """The forward direction of one layer goes on where it left off, in rows that have ended too."""
    problem = as_type(problem_of("lstm", time, 1, directions), dtype)
    layer, x, first = make_layer(problem), problem["x"], first_state(problem)
    y, state = layer(x, first, **time_of(problem))
    parts = []
    for span in (slice(0, at), slice(at, STEPS)):
        options = {}
        if "lengths" in problem:
            length = span.stop - span.start
            options["lengths"] = np.clip(problem["lengths"] - span.start, 0, length)
        if "resets" in problem:
            options["resets"] = problem["resets"][span]
        part, first = layer(x[span], first, **options)
        parts.append(part[..., :17])
    assert_same_bits(np.concatenate(parts), y[..., :17].copy())
    for part, expected in zip(parts_of(first), parts_of(state), strict=True):
        assert_same_bits(part[0], expected[0])


def test_one_direction_is_the_other_turned_round(isa, dtype, cell):
    """With each row turned round within its length, and the directions' weights and states exchanged."""
    problem = as_type(problem_of(cell, "lengths", 1), dtype)
    steps, ends = np.arange(STEPS)[:, None], problem["lengths"]
    at = np.where(steps < ends, ends - 1 - steps, steps)[:, :, None]
    turned = {key: np.take_along_axis(problem[key], at, 0) for key in ("x", "dy")}
    units = problem["h0"].shape[2]
    turned["dy"] = np.roll(turned["dy"], units, axis=2)
    for name in states_of(cell):
        turned |= {key: problem[key][::-1].copy() for key in (f"{name}0", f"d{name}_n")}
    for kind in CELLS[cell].weights:
        one, other = f"{kind}_l0", f"{kind}_l0_reverse"
        turned |= {one: problem[other], other: problem[one]}
    expected, actual = solution(problem), solution(problem | turned)
    y = np.roll(np.take_along_axis(actual["y"], at, 0), units, axis=2)
    assert_same_bits(y, expected["y"], "y")
    assert_same_bits(np.take_along_axis(actual["dx"], at, 0), expected["dx"], "dx")
    for name in states_of(cell):
        for key in (f"{name}_n", f"d{name}0"):
            assert_same_bits(actual[key][::-1].copy(), expected[key], key)
