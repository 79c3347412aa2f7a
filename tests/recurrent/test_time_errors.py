"""Tests of lengths and resets that are refused: the argument, what was expected and what came."""

import re

import numpy as np
import pytest
from cases import ONE_OF_EACH_KIND
from recurrent_inputs import CASE, float32_problem
from stacks import first_state, make_layer, random_problem
from support import assert_same_bits

import lstmc

STEPS, BATCH, *_ = CASE  # 5, 3

LENGTHS = {
    "negative": ([2, -1, 3], ValueError, r"lengths must be integers in [0, 5], got -1 at row 1"),
    "above T": ([5, 5, 6], ValueError, r"lengths must be integers in [0, 5], got 6 at row 2"),
    "far above T": ([2**62, 0, 1], ValueError, f"lengths must be integers in [0, 5], got {2**62} at row 0"),
    "beyond a signed integer": (np.array([1, 2**63, 2], np.uint64), ValueError,
                                f"lengths must be integers in [0, 5], got {2**63} at row 1"),
    "floats": ([1.0, 2.0, 3.0], TypeError, "lengths must be integers, got "),
    "a float array": (np.ones(3), TypeError, "lengths must be integers, got float64"),
    "booleans": (np.ones(3, bool), TypeError, "lengths must be integers, got bool"),
    "a list of booleans": ([True, True, False], TypeError, "lengths must be integers, got "),
    "words": (["1", "2", "3"], TypeError, "lengths must be integers, got "),
    "objects": (np.array([1, 2, 3], object), TypeError, "lengths must be integers, got object"),
    "a row less": ([1, 2], ValueError, "lengths must be (3,), got (2,)"),
    "a row more": ([1, 2, 3, 4], ValueError, "lengths must be (3,), got (4,)"),
    "a column": ([[1], [2], [3]], ValueError, "lengths must be (3,), got (3, 1)"),
    "one integer": (4, ValueError, "lengths must be (3,), got ()"),
    "ragged": ([[1], [2, 3], 4], TypeError, "lengths must be integers, got "),
}  # fmt: skip

RESETS = {
    "integers": (np.zeros((5, 3), int), TypeError, "resets must be a bool array (5, 3), got int64"),
    "floats": (np.zeros((5, 3)), TypeError, "resets must be a bool array (5, 3), got float64"),
    "objects": (np.zeros((5, 3), object), TypeError, "resets must be a bool array (5, 3), got object"),
    "a list": ([[False] * 3] * 5, TypeError, "resets must be a bool array (5, 3), got list"),
    "a boolean": (True, TypeError, "resets must be a bool array (5, 3), got bool"),
    "turned": (np.zeros((3, 5), bool), ValueError, "resets must be a bool array (5, 3), got (3, 5)"),
    "a step less": (np.zeros((4, 3), bool), ValueError, "resets must be a bool array (5, 3), got (4, 3)"),
    "of steps alone": (np.zeros(5, bool), ValueError, "resets must be a bool array (5, 3), got (5,)"),
    "of another rank": (np.zeros((5, 3, 1), bool), ValueError,
                        "resets must be a bool array (5, 3), got (5, 3, 1)"),
}  # fmt: skip


def assert_refused(layer, error, message, *arguments, **options):
    """By every way to call it; and the layer is what it was."""
    layer.grads[...] = 1
    before = [layer.params.copy(), layer.grads.copy()]
    for call in (layer, layer.forward, lambda *a, **o: layer.forward(*a, training=False, **o)):
        with pytest.raises(error, match=re.escape(message)):
            call(*arguments, **options)
    assert_same_bits([layer.params, layer.grads], before)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("lengths", "error", "message"), LENGTHS.values(), ids=LENGTHS)
def test_lengths_that_are_refused(directions, lengths, error, message):
    layer = lstmc.GRU(7, 9, bidirectional=directions == 2, rng=1)
    x = np.ones((STEPS, BATCH, 7), np.float32)
    assert_refused(layer, error, message, x, lengths=lengths)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("resets", "error", "message"), RESETS.values(), ids=RESETS)
def test_resets_that_are_refused(directions, resets, error, message):
    layer = lstmc.GRU(7, 9, bidirectional=directions == 2, rng=1)
    x = np.ones((STEPS, BATCH, 7), np.float32)
    assert_refused(layer, error, message, x, resets=resets)
    assert_refused(layer, error, message, x, resets=resets, lengths=[1, 5, 0])


def test_messages_have_the_caller_s_layout():
    layer = lstmc.LSTM(7, 9, batch_first=True)
    x = np.ones((BATCH, STEPS, 7), np.float32)
    resets = np.zeros((STEPS, BATCH), bool)
    assert_refused(
        layer, ValueError, "resets must be a bool array (3, 5), got (5, 3)", x, resets=resets
    )
    assert_refused(
        layer, ValueError, "lengths must be integers in [0, 5], got 6", x, lengths=[5, 6, 1]
    )


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_sequence(batch_first):
    layer, x = lstmc.LSTM(7, 9, batch_first=batch_first), np.ones((STEPS, 7), np.float32)
    for lengths, error, message in [
        (6, ValueError, "lengths must be integers in [0, 5], got 6"),
        (-1, ValueError, "lengths must be integers in [0, 5], got -1"),
        ([4], ValueError, "lengths must be one integer, got (1,)"),
        (2.0, TypeError, "lengths must be integers, got 2.0"),
        (True, TypeError, "lengths must be integers, got True"),
    ]:
        assert_refused(layer, error, message, x, lengths=lengths)
    resets = np.zeros((STEPS, 1), bool)
    assert_refused(
        layer, ValueError, "resets must be a bool array (5,), got (5, 1)", x, resets=resets
    )


@pytest.mark.parametrize("value", ["no", 1, None])
def test_options_are_true_or_false(value):
    makers = [(name, lambda **o: lstmc.GRU(3, 5, **o))
              for name in ("bias", "batch_first", "bidirectional", "reset_after")]  # fmt: skip
    makers += [("bias", lambda **o: lstmc.Linear(3, 5, **o)),
               ("batch_first", lambda **o: lstmc.Sequential(lstmc.Linear(3, 5), **o))]  # fmt: skip
    for name, make in makers:
        with pytest.raises(TypeError, match=f"{name} must be True or False, got {value!r}"):
            make(**{name: value})


@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_bidirectional_layers_have_no_stepper(cell):
    layer = make_layer(random_problem(cell, *CASE, directions=2))
    with pytest.raises(ValueError, match=r"bidirectional layer has no stepper.*the last step"):
        layer.stepper(batch=3)
    net = lstmc.Sequential(lstmc.Linear(4, 7, dtype=layer.dtype), layer)
    with pytest.raises(ValueError, match=r"^1\.[A-Z]+: a bidirectional layer has no stepper"):
        net.stepper(batch=3)
    with pytest.raises(ValueError, match=r"^num_threads must be an integer from 1"):
        net.stepper(batch=3, num_threads=0)


@pytest.mark.parametrize(("directions", "expected"), [(2, "(4, 3, 9)"), (1, "(2, 3, 9)")])
def test_states_of_both_directions(directions, expected):
    layer = lstmc.GRU(7, 9, 2, bidirectional=directions == 2)
    x = np.ones((STEPS, BATCH, 7), np.float32)
    wrong = np.zeros((6 // directions, BATCH, 9), np.float32)
    got = f"({6 // directions}, 3, 9)"
    with pytest.raises(ValueError, match=re.escape(f"state must be {expected}, got {got}")):
        layer(x, wrong)
    _, _, trace = layer.forward(x, lengths=[1, 5, 0])
    layer.grads[...] = 1
    with pytest.raises(ValueError, match=re.escape(f"dstate must be {expected}, got {got}")):
        layer.backward(None, trace, wrong)
    assert (layer.grads == 1).all()


def test_dy_of_one_direction_is_refused():
    problem = float32_problem("gru")
    layer = lstmc.GRU(7, 9, bidirectional=True)
    y, _, trace = layer.forward(problem["x"], lengths=[1, 5, 0])
    layer.grads[...] = 1
    with pytest.raises(ValueError, match=re.escape("dy must be (5, 3, 18), got (5, 3, 9)")):
        layer.backward(problem["dy"], trace, consume=True)
    assert (layer.grads == 1).all()
    assert layer.backward(y, trace)[0].shape == (5, 3, 7)  # nothing was consumed


def test_traces_of_other_directions_are_refused():
    problem = float32_problem("lstm")
    layer = make_layer(problem)
    _, _, trace = layer.forward(problem["x"], first_state(problem), lengths=[5, 0, 2])
    other = lstmc.LSTM(7, 9, 2, bidirectional=True)
    with pytest.raises(ValueError, match="trace"):
        other.backward(None, trace)


@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_bidirectional_is_fixed(cell):
    layer = make_layer(random_problem(cell, *CASE, directions=2))
    assert layer.bidirectional is True
    assert layer.num_directions == 2
    with pytest.raises(AttributeError):
        layer.bidirectional = False
    names = [f"{kind}_l{k}{end}" for k in range(2) for end in ("", "_reverse")
             for kind in ("weight_ih", "weight_hh", "bias")]  # fmt: skip
    assert list(layer.parameters()) == names
    assert layer["weight_ih_l1_reverse"].shape[1] == 18
