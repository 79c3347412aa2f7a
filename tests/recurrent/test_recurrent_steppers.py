"""Tests of steppers: the bits of the sequence call one step at a time, state, reset, refresh and errors."""

import numpy as np
import pytest
from cases import CELLS
from recurrent_inputs import float32_problem, read_only, unaligned
from stacks import as_type, first_state, make_layer, parts_of, random_problem
from support import assert_same_bits

import lstmc


def test_stepper_forms(isa, dtype, cell):
    """(1, I) and (I,), a fresh result or `out`: the same numbers."""
    problem = as_type(random_problem(cell, 4, 1, 7, 9, 2), dtype)
    layer = make_layer(problem)
    expected = layer(problem["x"])[0]
    plain, flat, into, flat_into = (layer.stepper() for _ in range(4))
    units = CELLS[cell].units("h", 9)
    out, flat_out = np.empty((1, units), dtype), np.empty(units, dtype)
    for x_t, y_t in zip(problem["x"], expected, strict=True):
        assert_same_bits(plain(x_t), y_t)
        assert_same_bits(flat(x_t[0]), y_t[0])
        assert into(x_t, out=out) is out
        assert_same_bits(out, y_t)
        assert flat_into(x_t[0], flat_out) is flat_out
        assert_same_bits(flat_out, y_t[0])
    assert plain(x_t) is not plain(x_t)


def test_stepper_threads(isa):
    problem = float32_problem(case=(3, 4, 60, 201, 1))
    layer = make_layer(problem)
    one, two = layer.stepper(4, num_threads=1), layer.stepper(4, num_threads=2)
    for x_t in problem["x"]:
        assert_same_bits(two(x_t), one(x_t))


def test_stepper_state(cell):
    """It starts at zeros, is read and written as copies, and several steppers keep theirs apart."""
    problem = float32_problem(cell)
    layer = make_layer(problem)
    stepper, other = layer.stepper(3), layer.stepper(3)
    for part, like in zip(parts_of(stepper.state), parts_of(first_state(problem)), strict=True):
        assert part.shape == like.shape
        assert not part.any()
    start = first_state(problem)
    stepper.state = start
    first = stepper(problem["x"][0])
    after = stepper.state
    assert_same_bits(start, first_state(problem))
    assert not any(part.any() for part in parts_of(other.state))
    for part in parts_of(stepper.state):
        part[...] = 5
    assert_same_bits(stepper.state, after)
    stepper.state = start
    assert_same_bits(stepper(problem["x"][0]), first)
    stepper.state = None
    assert not any(part.any() for part in parts_of(stepper.state))


def test_stepper_reset(cell):
    problem = float32_problem(cell)
    stepper = make_layer(problem).stepper(3)
    stepper.state = first_state(problem)
    stepper.reset(np.array([True, False, True]))
    for part, before in zip(parts_of(stepper.state), parts_of(first_state(problem)), strict=True):
        assert not part[:, [0, 2]].any()
        assert_same_bits(part[:, 1], before[:, 1])
    stepper.reset()
    assert not any(part.any() for part in parts_of(stepper.state))
    for mask in ([True, False, True], np.ones(3), np.ones(2, bool), np.ones((3, 1), bool)):
        with pytest.raises(ValueError, match=r"mask must be a bool array \(3,\), got"):
            stepper.reset(mask)


@pytest.mark.parametrize("kind", ["weight_ih", "weight_hh", "bias"])
@pytest.mark.parametrize("hidden", [9, 65])
def test_stepper_refresh(isa, cell, kind, hidden):
    """The weights are those of when it was made, until refresh() takes the present ones."""
    problem = float32_problem(cell, (2, 3, 7, hidden, 2))
    layer = make_layer(problem)
    x, state = problem["x"][0], first_state(problem)
    old = layer(x[None], state)[0][0]
    stepper = layer.stepper(3)
    for k in range(2):
        layer[f"{kind}_l{k}"][...] *= 0.5
    new = layer(x[None], state)[0][0]
    assert not np.array_equal(new, old)
    for expected in (old, new):
        stepper.state = state
        assert_same_bits(stepper(x), expected)
        stepper.refresh()


def test_stepper_refresh_follows_weights_that_moved(cell):
    """A network takes the weights of its layers into one array: those are the present ones from then on."""
    problem = float32_problem(cell)
    layer = make_layer(problem)
    x, state = problem["x"][0], first_state(problem)
    stepper = layer.stepper(x.shape[0])
    net = lstmc.Sequential(layer)
    net.params[...] *= 0.5
    stepper.refresh()
    stepper.state = state
    assert_same_bits(stepper(x), layer(x[None], state)[0][0])


def test_calls_see_the_present_weights(isa, cell):
    problem = float32_problem(cell)
    layer = make_layer(problem)
    layer(problem["x"])
    for name in layer.parameters():
        layer[name][...] *= 0.5
    changed = {**problem, **{name: layer[name].copy() for name in layer.parameters()}}
    assert_same_bits(layer(problem["x"]), make_layer(changed)(problem["x"]))


STEP_ERRORS = {
    "batch": ((2, 7), np.float32, ValueError, r"x must be \(3, 7\), got \(2, 7\)"),
    "features": ((3, 6), np.float32, ValueError, r"x must be \(3, 7\), got \(3, 6\)"),
    "rank 1": ((7,), np.float32, ValueError, r"x must be \(3, 7\), got \(7,\)"),
    "rank 3": ((1, 3, 7), np.float32, ValueError, r"x must be \(3, 7\), got \(1, 3, 7\)"),
    "rank 0": ((), np.float32, ValueError, r"x must be \(3, 7\), got \(\)"),
    "float64": ((3, 7), np.float64, TypeError, "x must be float32, got float64"),
    "object": ((3, 7), object, TypeError, "x must be float32, got object"),
}


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"), STEP_ERRORS.values(), ids=STEP_ERRORS
)
def test_steps_that_are_refused(cell, shape, dtype, error, message):
    stepper = make_layer(float32_problem(cell)).stepper(3)
    with pytest.raises(error, match=message):
        stepper(np.ones(shape, dtype))
    assert not any(part.any() for part in parts_of(stepper.state))


def test_a_step_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"x must be a float32 array \(1, 7\), got list"):
        lstmc.LSTM(7, 9).stepper()([0.0] * 7)


OUT_ERRORS = {
    "shape": lambda: np.empty((3, 8), np.float32),
    "rank": lambda: np.empty((1, 3, 9), np.float32),
    "rank 0": lambda: np.empty((), np.float32),
    "type": lambda: np.empty((3, 9)),
    "a list": lambda: [[0.0] * 9] * 3,
    "order": lambda: np.empty((9, 3), np.float32).T,
    "read-only": lambda: read_only(np.empty((3, 9), np.float32)),
    "byte-swapped": lambda: np.empty((3, 9), np.dtype(np.float32).newbyteorder()),
    "unaligned": lambda: unaligned(np.empty((3, 9), np.float32)),
}


@pytest.mark.parametrize("out", OUT_ERRORS.values(), ids=OUT_ERRORS)
def test_out_that_is_refused(out):
    stepper = make_layer(float32_problem()).stepper(3)
    with pytest.raises(
        ValueError, match=r"out must be a writable contiguous float32 array \(3, 9\)"
    ):
        stepper(np.ones((3, 7), np.float32), out=out())
    assert not any(part.any() for part in parts_of(stepper.state))


def test_out_may_not_overlap_x():
    stepper = lstmc.LSTM(9, 9).stepper(3)
    x = np.ones((3, 9), np.float32)
    with pytest.raises(ValueError, match="does not overlap x"):
        stepper(x, out=x)


@pytest.mark.parametrize("batch", [0, -1, True, 1.5])
def test_batches_of_a_stepper_that_are_refused(batch):
    with pytest.raises((TypeError, ValueError), match="batch must be a positive integer"):
        lstmc.LSTM(3, 4).stepper(batch)
