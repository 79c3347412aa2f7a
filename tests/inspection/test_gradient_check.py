"""Tests of check_gradients: right networks pass, and one wrong element of one gradient is found.

That backward is right is judged elsewhere (test_recurrent.py, test_network.py), so here a network
counts as right that is left alone, and as wrong that is made so.
"""

import json
import math

import numpy as np
import pytest
from cases import CELLS
from gradient_cases import (
    BATCH,
    CLASSES,
    FEATURES,
    HIDDEN,
    STEPS,
    bare_case,
    by_one_percent,
    make_cell,
    token_case,
    wrong_case,
)
from own_layers import Halve, Scale
from stacks import parts_of, seed_of
from support import numerical_gradient

import lstmc

FORMS = ["time first", "batch first", "unbatched"]


# --------------------------------------------------------------------------------------------------
# Right networks
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lstmc.LSTM, lstmc.GRU, lstmc.RNN])
def test_gradients_that_are_limited_are_not_held_against_it(dtype, make):
    """Where backward limits them, they are not those of the loss, and are not meant to be."""
    net = lstmc.Sequential(
        make(3, 4, dtype=dtype, rng=1, grad_clip=1e-3),
        make(4, 5, 2, dtype=dtype, rng=2, grad_clip=1e-3, bidirectional=True),
    )
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(dtype)
    for one, given in ((net, x), (net.layers[1], np.concatenate([x, x[..., :1]], axis=2))):
        report = lstmc.check_gradients(one, given, samples=10)
        assert report, str(report)
    y, _, trace = net.forward(x)
    net.backward(np.ones_like(y), trace)
    limited = net.grads.copy()
    assert 0 < abs(net.grad("1.bias_l1")).max() <= 1e-3 * x[..., 0].size * (1 + 1e-6)
    lstmc.check_gradients(net, x)
    assert np.array_equal(net.grads, limited)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_that_are_right(dtype, cell, layers, form):
    net, x, target, state = bare_case(cell, layers, dtype, form)
    net.grads[...] = 3  # what is there takes no part
    report = lstmc.check_gradients(net, x, target, state, samples=7)
    assert report, str(report)
    states = parts_of(state)
    parts = [f"state[{i}]" for i in range(len(states))] if len(states) > 1 else ["state"]
    assert [t.name for t in report.tensors] == [*net.parameters(), "x", *parts]
    arrays = [*(net[name] for name in net.parameters()), x, *states]
    for tensor, array in zip(report.tensors, arrays, strict=True):
        assert (tensor.size, tensor.checked) == (array.size, min(7, array.size))
        assert 0 <= tensor.error <= 1e-6
        assert 0 <= tensor.direction_error <= 1e-6


@pytest.mark.parametrize("name", ["nested", "model"])
def test_networks_that_are_right(dtype, name):
    """From tokens, which have no gradient; Dropout layers drop nothing."""
    net, x, targets, state = token_case(name, dtype)
    report = lstmc.check_gradients(net, x, targets, state, samples=5)
    assert report, str(report)
    names = list(getattr(net, "net", net).parameters())
    if name == "nested":
        names += ["state[2][0][0]", "state[2][0][1]", "state[3]"]
    assert [t.name for t in report.tensors] == names


@pytest.mark.parametrize("first", [True, False], ids=["below", "above"])
@pytest.mark.parametrize("kind", [Scale, Halve])
def test_layers_of_a_users_own(kind, first):
    lstm = make_cell("lstm", FEATURES, HIDDEN, 1, np.float64)
    own = Halve() if kind is Halve else Scale(FEATURES if first else HIDDEN, np.float64)
    above = lstmc.Linear(HIDDEN, 2, dtype=np.float64, rng=2)
    net = lstmc.Sequential(*((own, lstm) if first else (lstm, own)), above)
    x = np.random.default_rng(seed_of("own")).standard_normal((STEPS, BATCH, FEATURES))
    report = lstmc.check_gradients(net, x, samples=10)
    assert report, str(report)


def test_networks_without_recurrent_layers():
    net = lstmc.Sequential(lstmc.Linear(3, 4, rng=1), lstmc.Dropout(0.5), lstmc.Linear(4, 2, rng=2))
    assert lstmc.check_gradients(net, np.ones((5, 3), np.float32))
    assert lstmc.check_gradients(lstmc.Linear(3, 4, bias=False, rng=1), np.ones((5, 3), np.float32))
    embedding = lstmc.Embedding(4, 3, rng=1)
    assert lstmc.check_gradients(embedding, np.array([0, 2, 2]))
    dropout = lstmc.check_gradients(lstmc.Dropout(0.5), np.ones((5, 3)))
    assert dropout
    assert [t.name for t in dropout.tensors] == ["x"]


@pytest.mark.parametrize("kind", ["numbers", "a function", "random"])
def test_what_the_loss_may_be(dtype, kind):
    net, x, target, state = bare_case("lstm", 1, dtype)

    def cubes(y):
        assert y.dtype == np.float64
        return float((y**3).sum()), 3 * y**2

    targets = {"numbers": target, "a function": cubes, "random": None}[kind]
    report = lstmc.check_gradients(net, x, targets, state)
    assert report, str(report)
    y = net(x, state)[0].astype(np.float64)
    if kind != "random":
        loss = float(np.mean((y - target) ** 2)) if kind == "numbers" else float((y**3).sum())
        # The forward call that says so is in the layer's own type.
        assert abs(report.loss - loss) <= 1e-5 * abs(loss)


def test_gradients_of_nothing_are_right():
    """Where all of a gradient is zero, it is measured by what the loss is rounded by."""
    net = make_cell("rnn_relu", FEATURES, HIDDEN, 2, np.float64)
    net["bias_l1"][...] = -100
    report = lstmc.check_gradients(
        net, np.ones((STEPS, BATCH, FEATURES)), np.ones((STEPS, BATCH, HIDDEN))
    )
    assert report, str(report)
    assert all(t.backward == 0 == t.differences for t in report.tensors)


def test_a_longer_sequence_of_a_wider_layer():
    """Some thousand weights of each tensor, of which few are moved: no false alarm."""
    rng = np.random.default_rng(seed_of("wide"))
    net = lstmc.Sequential(
        lstmc.Embedding(30, 16, rng=rng), lstmc.LSTM(16, 32, 2, rng=rng), lstmc.Linear(32, 30, rng=rng)
    )  # fmt: skip
    x, targets = rng.integers(30, size=(2, 25, 4))
    report = lstmc.check_gradients(net, x, targets, samples=8)
    assert report, str(report)


def test_what_the_report_says_is_measured():
    """The differences are those of an independent loop, and backward's number is its own."""
    net, x, target, state = bare_case("rnn_tanh", 1, np.float64)
    report = lstmc.check_gradients(net, x, target, state, samples=None)
    y, _, trace = net.forward(x, state)
    net.backward(lstmc.squared_error(y, target)[1], trace)
    exact = numerical_gradient(lambda a: np.mean((net(a, state)[0] - target) ** 2), x)
    tensor = next(t for t in report.tensors if t.name == "x")
    assert abs(tensor.differences - exact[tensor.worst]) <= 1e-8 * np.abs(exact).max()
    for tensor in report.tensors[:3]:
        gradient = net.grad(tensor.name)
        assert tensor.backward == gradient[tensor.worst]
        error = abs(tensor.backward - tensor.differences) / np.abs(gradient).max()
        # Unless the gradient is smaller than the loss's rounding, which it is not here.
        assert abs(tensor.error - error) <= 1e-12


# --------------------------------------------------------------------------------------------------
# At a minimum
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1e-5, 1e-3])
@pytest.mark.parametrize(
    "residual", [0, 1e-6, *(pytest.param(size, marks=pytest.mark.slow) for size in (1e-7, 1e-5))]
)
@pytest.mark.parametrize("cell", CELLS)
def test_layers_that_are_right_near_a_minimum(cell, residual, step):
    """Where the third derivative of the loss is larger than the first."""
    net, x, target, state = bare_case(cell, 2, np.float64)
    near = net(x, state)[0] + residual * target
    report = lstmc.check_gradients(net, x, near, state, samples=10, step=step)
    assert report, str(report)


@pytest.mark.parametrize("residual", [1e-7, 1e-6, 1e-5])
@pytest.mark.parametrize("name", ["weight_hh_l1", "x"])
def test_one_wrong_element_near_a_minimum(name, residual):
    net, x, target, state = wrong_case(name)
    near = net(x, state)[0] + residual * target
    assert lstmc.check_gradients(net, x, near, state, samples=None).failed == [name]


def test_a_gradient_where_there_is_none():
    """At the minimum itself."""
    net, x, _, state = wrong_case("bias_l0", change=lambda value: value + 1e-6)
    report = lstmc.check_gradients(net, x, net(x, state)[0], state, samples=None)
    assert report.failed == ["bias_l0"]
    assert lstmc.check_gradients(lstmc.LSTM(3, 4, rng=1), x, samples=3)


@pytest.mark.parametrize("logit", [5, 20, 30, 100])
def test_a_cross_entropy_that_is_nearly_zero(logit):
    """Its logarithm is rounded as of 1."""
    net = lstmc.Sequential(lstmc.RNN(3, 4, rng=1), lstmc.Linear(4, 5, rng=2))
    net["1.bias"][2] = logit
    x = np.random.default_rng(seed_of("sure")).standard_normal((STEPS, BATCH, 3))
    report = lstmc.check_gradients(net, x, np.full((STEPS, BATCH), 2))
    assert report, str(report)


@pytest.mark.parametrize("step", [1e-300, 1e-13, 1.5, 1e300])
def test_steps_that_measure_nothing(step):
    net, x, target, state = bare_case("rnn_tanh", 1, np.float64)
    with pytest.raises(ValueError, match=r"step must be a number in \[1e-12, 1\], got"):
        lstmc.check_gradients(net, x, target, state, step=step)


def test_a_step_that_changes_nothing():
    net, x, target, state = bare_case("rnn_tanh", 1, np.float64)
    net["weight_ih_l0"][1, 2] = 1e6
    before = net.params.copy()
    with pytest.raises(ValueError, match="step must be large enough to change weight_ih_l0"):
        lstmc.check_gradients(net, x, target, state, step=1e-12)
    assert np.array_equal(net.params, before)


def as_nan(value):
    return math.nan


# --------------------------------------------------------------------------------------------------
# Wrong ones
# --------------------------------------------------------------------------------------------------


TENSORS = [*lstmc.LSTM(2, 3, 2).parameters(), "x", "state[0]", "state[1]"]


@pytest.mark.parametrize("name", TENSORS)
def test_one_wrong_element_is_found_where_it_is(name):
    """That in the middle by size, off by 1 %."""
    net, x, target, state = wrong_case(name, 0.5)
    report = lstmc.check_gradients(net, x, target, state, samples=None)
    assert not report
    assert report.failed == [name]
    tensor = next(t for t in report.tensors if t.name == name)
    assert tensor.checked == tensor.size
    assert tensor.worst == net.where
    assert abs(tensor.backward / tensor.differences - 1.01) < 1e-4
    assert f"WRONG: {name}" in str(report)
    assert "passed" in json.dumps(report.to_dict(), allow_nan=False)
    assert report.to_dict()["passed"] is False


@pytest.mark.parametrize("change", [by_one_percent, as_nan])
@pytest.mark.parametrize("name", TENSORS)
def test_one_wrong_element_that_no_sample_hits(name, change):
    """One element of each tensor is moved, another one is wrong: directions see it."""
    net, x, target, state = wrong_case(name, 0.5, change)
    for seed in range(3):  # until the sample is another element, which takes no luck
        report = lstmc.check_gradients(net, x, target, state, samples=1, rng=seed)
        tensor = next(t for t in report.tensors if t.name == name)
        assert tensor.checked == 1
        assert report.failed == [name]
        assert not tensor.direction_error <= 1e-6
        if change is as_nan:
            assert math.isnan(tensor.direction_error)
            assert math.isnan(tensor.error)
            break  # all of a tensor's errors are relative to its largest element: not a number
        if tensor.error <= 1e-6:
            break
    else:
        pytest.fail("every sample hit the wrong element")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_l1", "x", "state[1]"])
def test_a_gradient_that_is_not_finite(name, value):
    net, x, target, state = wrong_case(name, 0.3, lambda _: value)
    report = lstmc.check_gradients(net, x, target, state, samples=3)
    assert not report
    assert report.failed == [name]
    numbers = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    written = next(t for t in numbers["tensors"] if t["name"] == name)
    assert written["direction_error"] is None
    assert f"WRONG: {name}" in str(report)


def test_a_wrong_layer_within_a_network():
    net, *_ = wrong_case("weight_ih_l1")
    whole = lstmc.Sequential(
        lstmc.Embedding(CLASSES, FEATURES, dtype=np.float64, rng=1),
        lstmc.Sequential(net, lstmc.Linear(HIDDEN, CLASSES, dtype=np.float64, rng=1)),
    )
    x, targets = np.random.default_rng(1).integers(CLASSES, size=(2, STEPS, BATCH))
    report = lstmc.check_gradients(whole, x, targets, samples=10)
    assert report.failed == ["1.0.weight_ih_l1"]


def test_a_wrong_dx_spoils_all_below():
    """And nothing above or beside it."""
    net, *_ = wrong_case("x")
    own = {"dtype": np.float64, "rng": 2}
    below, above = lstmc.Linear(2, FEATURES, **own), lstmc.Linear(HIDDEN, 2, **own)
    x = np.random.default_rng(1).standard_normal((STEPS, BATCH, 2))
    report = lstmc.check_gradients(lstmc.Sequential(below, net, above), x, samples=10)
    assert report.failed == ["0.weight", "0.bias", "x"]
