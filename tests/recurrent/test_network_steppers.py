"""Tests of steppers of networks and of layers without a recurrence: all layers take a step, or none."""

import numpy as np
import pytest
from own_layers import Halve
from recurrent_inputs import read_only
from support import assert_same_bits

import lstmc

B, I, H = 2, 3, 5  # noqa: E741


def network(*last):
    """Return a network that does not fit at its end, unless `last` does."""
    return lstmc.Sequential(
        lstmc.LSTM(I, H, rng=1),
        Halve(),
        lstmc.RNN(H, H, 2, rng=2),
        lstmc.Linear(H, 4, rng=3),
        *last,
    )


def step_input(seed=4):
    return np.random.default_rng(seed).standard_normal((B, I)).astype(np.float32)


def assert_same_state(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        if b is None or isinstance(b, int):
            assert a == b
        else:
            assert_same_bits(a, b)


BAD_OUTS = {
    "shape": lambda: np.zeros((B, 5), np.float32),
    "integers": lambda: np.zeros((B, 4), np.int64),
    "float64": lambda: np.zeros((B, 4)),
    "read-only": lambda: read_only(np.zeros((B, 4), np.float32)),
    "a list": lambda: [[0.0] * 4] * B,
}


@pytest.mark.parametrize("last", [None, lstmc.Dropout, Halve], ids=["Linear", "Dropout", "own"])
@pytest.mark.parametrize("out", BAD_OUTS.values(), ids=BAD_OUTS)
def test_a_step_that_fails_is_taken_by_no_layer(out, last):
    net = network(*([last()] if last else []))
    stepper, other = net.stepper(B), net.stepper(B)
    for _ in range(2):
        stepper(step_input()), other(step_input())
    before = stepper.state
    with pytest.raises((TypeError, ValueError), match="out must be"):
        stepper(step_input(), out=out())
    assert_same_state(stepper.state, before)
    assert_same_bits(stepper(step_input(5)), other(step_input(5)))


def test_a_step_that_the_last_layer_cannot_take():
    class Silent(lstmc.LSTM):  # which does not say what it reads, so that it may join
        in_features = None

    stepper = network(Silent(7, 2)).stepper(B)
    with pytest.raises(ValueError, match=r"x must be \(2, 7\), got \(2, 4\)"):
        stepper(step_input())
    assert not any(np.any(part) for part in np.concatenate([*stepper.state[0], stepper.state[2]]))
    assert stepper.state[1] is None


def test_a_step_that_is_interrupted():
    class Interrupted(Halve):
        def forward(self, x, state=None, training=True):
            raise KeyboardInterrupt

    stepper = network(Interrupted()).stepper(B)
    for _ in range(2):  # and the stepper can be used again
        with pytest.raises(KeyboardInterrupt):
            stepper(step_input())
        assert not np.any(stepper.state[2])


@pytest.mark.parametrize("inner", [False, True], ids=["a network", "a network in one"])
def test_undo(inner):
    net = lstmc.Sequential(network()) if inner else network()
    stepper = net.stepper(B)
    stepper(step_input())
    before, y = stepper.state, stepper(step_input(5))
    stepper.undo()
    assert_same_state(*((s[0] if inner else s) for s in (stepper.state, before)))
    assert_same_bits(stepper(step_input(5)), y)


def test_undo_of_one_layer():
    stepper = lstmc.LSTM(I, H, 2, rng=1).stepper(B)
    with pytest.raises(RuntimeError, match="there is no step to undo"):
        stepper.undo()
    stepper(step_input())
    before = stepper.state
    stepper(step_input())
    stepper.undo()
    assert_same_bits(stepper.state, before)
    with pytest.raises(RuntimeError, match="there is no step to undo"):
        stepper.undo()
    stepper(step_input())
    stepper.state = before
    with pytest.raises(RuntimeError, match="there is no step to undo"):
        stepper.undo()


def test_a_state_that_fits_some_layers_alone():
    stepper = network().stepper(B)
    stepper(step_input())
    before = stepper.state
    h, c = before[0]
    for state in (
        ((h + 1, c), 7, before[2][:1], None),  # the third entry has a layer too few
        ((h + 1, c.astype(np.float64)), 7, before[2], None),
        ((h + 1, c + 1), 7, None, None)[:3],
    ):
        with pytest.raises((TypeError, ValueError), match="state"):
            stepper.state = state
        assert_same_state(stepper.state, before)


def test_a_mask_that_some_layers_alone_can_take():
    stepper = network().stepper(B)
    stepper(step_input())
    before = stepper.state
    with pytest.raises(ValueError, match="Halve has no stepper that resets single rows"):
        stepper.reset(np.array([True, False]))
    assert_same_state(stepper.state, before)


def test_a_refresh_that_fails_changes_no_layer():
    """The first layer's weights have changed, those of the second are of another shape."""
    layer = lstmc.LSTM(I, H, 2, rng=1)
    stepper, other = layer.stepper(B), layer.stepper(B)
    weights = layer.weights()
    layer["weight_ih_l0"][...] *= 2
    stacks = layer._stacks
    layer._stacks = [
        [weights[0], weights[1]._replace(weight_hh=weights[1].weight_hh[1:])],
        stacks[1],
    ]
    with pytest.raises(ValueError, match="other weights than those this stepper was made for"):
        stepper.refresh()
    assert_same_bits(stepper(step_input()), other(step_input()))


# --------------------------------------------------------------------------------------------------
# The output of layers that have no state
# --------------------------------------------------------------------------------------------------


STATELESS = {
    "Embedding": (lambda: lstmc.Embedding(6, 4), lambda: np.array([1, 5])),
    "Dropout": (lstmc.Dropout, lambda: np.ones((B, 4), np.float32)),
    "Linear": (lambda: lstmc.Linear(I, 4), step_input),
    "own": (lambda: lstmc.Sequential(Halve()), lambda: np.ones((B, 4), np.float32)),
}


@pytest.mark.parametrize("out", BAD_OUTS.values(), ids=BAD_OUTS)
@pytest.mark.parametrize(("make", "x"), STATELESS.values(), ids=STATELESS)
def test_out_that_is_refused(make, x, out):
    stepper, array = make().stepper(B), out()
    before = np.array(array)
    with pytest.raises((TypeError, ValueError), match="out must be"):
        stepper(x(), out=array)
    assert_same_bits(np.array(array), before)


@pytest.mark.parametrize(("make", "x"), STATELESS.values(), ids=STATELESS)
def test_out_that_is_written(make, x):
    stepper, out, x = make().stepper(B), np.zeros((B, 4), np.float32), x()
    assert stepper(x, out=out) is out
    y = stepper(x)
    assert_same_bits(out, y)
    assert not np.may_share_memory(y, x)


def test_dropout_steps_floats_alone():
    stepper = lstmc.Dropout().stepper()
    with pytest.raises(TypeError, match="x must be a float32 or float64 array, got int64"):
        stepper(np.ones(3, np.int64))
    swapped = np.ones(3, np.dtype(np.float32).newbyteorder())
    assert stepper(swapped).dtype == np.float32


@pytest.mark.parametrize("threads", [0, -1, "2", 1.5, True])
def test_threads_of_a_linear_stepper(threads):
    with pytest.raises(ValueError, match="num_threads must be an integer from 1"):
        lstmc.Linear(3, 4).stepper(num_threads=threads)


# --------------------------------------------------------------------------------------------------
# One thread at a time
# --------------------------------------------------------------------------------------------------


def test_a_stepper_that_is_in_use():
    """A layer that uses the stepper of its network from within a step stands for another thread."""
    errors = []

    class Curious(Halve):
        def forward(self, x, state=None, training=True):
            for use in (
                lambda: stepper.state,
                lambda: setattr(stepper, "state", stepper.state),
                lambda: setattr(stepper, "state", (None,) * 5),
                lambda: stepper(step_input()),
                stepper.reset,
                stepper.refresh,
                stepper.undo,
            ):
                with pytest.raises(RuntimeError, match="in use by another thread") as error:
                    use()
                errors.append(error)
            return super().forward(x, state)

    stepper = network(Curious()).stepper(B)
    y = stepper(step_input())
    assert len(errors) == 7
    assert_same_bits(y, network(Halve()).stepper(B)(step_input()))
    stepper.state  # noqa: B018 it is free again
