"""Tests of what check_gradients leaves alone, of its options and report, and of what it refuses."""

import copy
import importlib
import json
import math

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from gradient_cases import (
    BATCH,
    FEATURES,
    HIDDEN,
    STEPS,
    bare_case,
    make_cell,
    token_case,
    wrong_case,
)
from own_layers import Halve, Scale
from support import assert_same_bits

import lstmc

# --------------------------------------------------------------------------------------------------
# The network is left as it was
# --------------------------------------------------------------------------------------------------


def dropout_states(net):
    if isinstance(net, lstmc.Dropout):
        return [copy.deepcopy(net.rng.bit_generator.state)]
    return [state for layer in getattr(net, "layers", ()) for state in dropout_states(layer)]


def arrays_of(value):
    if isinstance(value, np.ndarray):
        return [value]
    return [a for part in value for a in arrays_of(part)] if isinstance(value, tuple) else []


@pytest.mark.parametrize("name", ["nested", "model"])
def test_nothing_is_changed(dtype, name):
    net, x, targets, state = token_case(name, dtype)
    layer = getattr(net, "net", net)
    layer.grads[...] = np.arange(layer.grads.size)
    arrays = [layer.params, layer.grads, x, targets, *arrays_of(state)]
    before, generators = [a.copy() for a in arrays], dropout_states(layer)
    assert generators
    lstmc.check_gradients(net, x, targets, state, samples=2)
    assert_same_bits(arrays, before)
    assert dropout_states(layer) == generators


@pytest.mark.parametrize("method", ["forward", "backward"])
@pytest.mark.parametrize("calls", [1, 2, 8])
def test_nothing_is_changed_where_a_layer_raises(method, calls):
    """At its first call, or later, when an element is moved."""

    class Raises(Scale):
        count = 0

        def forward(self, x, state=None, training=True):
            self.raise_in("forward", calls)
            return super().forward(x, state, training)

        def backward(self, dy, trace, dstate=None):
            actual = super().backward(dy, trace, dstate)
            self.raise_in("backward", 1)
            return actual

        def raise_in(self, where, at):
            self.count += where == method
            if method == where and self.count == at:
                raise ArithmeticError("here")

    lstm = make_cell("lstm", FEATURES, HIDDEN, 1, np.float64)
    net = lstmc.Sequential(lstm, Raises(HIDDEN, np.float64))
    net.grads[...] = 3
    x = np.ones((STEPS, BATCH, FEATURES))
    state = tuple(np.ones((1, BATCH, HIDDEN)) for _ in range(2)), None
    arrays = [net.params, net.grads, x, *state[0]]
    before = [a.copy() for a in arrays]
    with pytest.raises(ArithmeticError, match="here"):
        lstmc.check_gradients(net, x, None, state)
    assert_same_bits(arrays, before)


@pytest.mark.parametrize("part", ["x", "state"])
def test_what_was_given_is_not_what_is_moved(part):
    """Whatever happens while an input or a state is off its place."""

    class RaisesWhenMoved:
        def forward(self, x, state=None, training=True):
            if np.any((x if part == "x" else state) != 1):
                raise ArithmeticError("here")
            return 2 * x, state, x.shape

        def backward(self, dy, trace, dstate=None):
            return 2 * dy, np.zeros((BATCH, 2))

    net = lstmc.Sequential(RaisesWhenMoved(), make_cell("lstm", FEATURES, HIDDEN, 1, np.float64))
    x, state = np.ones((STEPS, BATCH, FEATURES)), np.ones((BATCH, 2))
    with pytest.raises(ArithmeticError, match="here"):
        lstmc.check_gradients(net, x, None, (state, None))
    assert np.all(x == 1)
    assert np.all(state == 1)


# --------------------------------------------------------------------------------------------------
# Options and the report
# --------------------------------------------------------------------------------------------------


def test_samples_and_directions():
    net, x, target, state = bare_case("lstm", 1, np.float64)
    report = lstmc.check_gradients(net, x, target, state, samples=None)
    assert all(t.checked == t.size for t in report.tensors)
    few = lstmc.check_gradients(net, x, target, state, samples=2, directions=1)
    assert [t.checked for t in few.tensors] == [2] * len(few.tensors)


def test_the_same_rng_moves_the_same_elements():
    net, x, target, state = bare_case("rnn_tanh", 1, np.float64)

    def numbers(rng):
        return lstmc.check_gradients(net, x, target, state, samples=3, rng=rng).to_dict()

    assert numbers(1) == numbers(1) == numbers(np.random.default_rng(1))
    assert numbers(1) != numbers(2)


def test_the_tolerance_is_what_is_allowed():
    net, x, target, state = wrong_case("weight_hh_l0")
    strict = lstmc.check_gradients(net, x, target, state, samples=None)
    assert not strict
    loose = lstmc.check_gradients(net, x, target, state, samples=None, tolerance=0.02)
    assert loose
    assert "allowed: 2e-02" in str(loose)
    # The largest element is off by 1 % of the right one: 0.01 / 1.01 of what backward says.
    error = next(t.error for t in strict.tensors if t.name == "weight_hh_l0")
    assert abs(error - 0.01 / 1.01) < 1e-6


@pytest.mark.parametrize("step", [1e-4, 1e-6])
def test_other_steps(step):
    """Their own error, step² / 6 or rounding over step, is 1e-8 or so of gradients of this size."""
    net, x, target, state = bare_case("lstm", 1, np.float64)
    report = lstmc.check_gradients(net, x, target, state, step=step, tolerance=1e-5)
    assert report, str(report)


def test_the_report():
    net, x, target, state = bare_case("lstm", 1, np.float64)
    report = lstmc.check_gradients(net, x, target, state, samples=20)
    assert report.passed is True
    assert bool(report) is True
    assert report.failed == []
    lines = str(report).splitlines()
    assert (
        lines[0]
        == f"gradients against central differences in float64, loss {report.loss:.6g}: right"
    )
    assert lines[-1] == "  allowed: 1e-06, of the largest element or of the norm"
    rows = [line.split() for line in lines[2:-1]]
    assert [row[:3] for row in rows] == [
        [t.name, str(t.checked), str(t.size)] for t in report.tensors
    ]
    numbers = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (numbers["passed"], numbers["tolerance"]) == (True, 1e-6)
    assert numbers["loss"] == report.loss
    for written, tensor in zip(numbers["tensors"], report.tensors, strict=True):
        assert written == {**vars(tensor), "worst": list(tensor.worst)}


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"net": 5}, TypeError, "net must be a layer or a network of layers, got int"),
        ({"net": Halve()}, TypeError, "net must be a layer or a network of layers, got Halve"),
        ({"x": None}, ValueError, "x must be given"),
        ({"x": np.ones((STEPS, BATCH, 9))}, ValueError, r"x must be \(T, B, 3\)"),
        ({"x": [[1.0]]}, TypeError, "x must be"),
        ({"targets": np.ones((STEPS, BATCH, 9))}, ValueError, "target must be"),
        ({"targets": np.full((STEPS, BATCH), HIDDEN)}, ValueError, r"targets\[0, 0\] must be in"),
        ({"targets": np.full((STEPS, BATCH, HIDDEN), np.nan)}, ValueError, "the loss is nan"),
        ({"targets": lambda y: (math.inf, y)}, ValueError, "the loss is inf"),
        ({"state": np.ones(3)}, TypeError, r"state must be None or the tuple \(h, c\)"),
        ({"samples": 0}, ValueError, "samples must be a positive integer, got 0"),
        ({"samples": 1.5}, TypeError, "samples must be a positive integer"),
        ({"directions": 0}, ValueError, "directions must be a positive integer, got 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_errors(options, error, message):
    net = make_cell("lstm", FEATURES, HIDDEN, 1, np.float64)
    before = net.params.copy(), net.grads.copy()
    with pytest.raises(error, match=message):
        lstmc.check_gradients(**{"net": net, "x": np.ones((STEPS, BATCH, FEATURES)), **options})
    assert_same_bits((net.params, net.grads), before)


# --------------------------------------------------------------------------------------------------
# What could be taken for right
# --------------------------------------------------------------------------------------------------


class Residual(lstmc.Layer):
    """y = net(x) + x; its backward forgets the second way. It is what is checked, not its `net`."""

    def __init__(self):
        super().__init__(np.float64)
        self.net = lstmc.Linear(3, 3, dtype=np.float64, rng=0)
        self.bind(*self.buffers(self.parameters()))

    def bind(self, params, grads):
        super().bind(params, grads)
        self.net.bind(params, grads)

    def parameters(self):
        return self.net.parameters()

    def forward(self, x, state=None, training=True):
        y, _, trace = self.net.forward(x)
        return y + x, state, trace

    def backward(self, dy, trace, dstate=None):
        return self.net.backward(dy, trace)[0], dstate


def test_a_layer_that_has_a_net_is_checked_itself():
    report = lstmc.check_gradients(Residual(), np.ones((4, 2, 3)))
    assert report.failed == ["x"]


def test_a_gradient_too_small_to_tell_is_named():
    net = lstmc.Linear(3, 2, dtype=np.float64, rng=0)
    x = np.ones((4, 2, 3)) * 1e-9
    report = lstmc.check_gradients(net, x, lambda y: (1 + float(y.sum()), np.ones_like(y)))
    told = {tensor.name: tensor.measurable for tensor in report.tensors}
    assert told == {"weight": False, "bias": True, "x": True}
    assert str(report).count("too small to tell") == 1


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, "a"])
@pytest.mark.parametrize("name", ["tolerance", "step"])
def test_what_is_no_positive_number(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive number, got"):
        lstmc.check_gradients(lstmc.Linear(1, 1), np.ones((2, 1), np.float32), **{name: value})


@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
@pytest.mark.parametrize("targets", [False, True], ids=["random", "targets"])
def test_a_network_over_rows_of_unequal_length(cell, targets):
    rng = np.random.default_rng(5)
    net = lstmc.Sequential(
        lstmc.Linear(2, 3, rng=rng),
        CELLS[cell].make(3, 4, 2, rng=rng, bidirectional=True),
        lstmc.Last() if targets else lstmc.Linear(8, 3, rng=rng),
        lstmc.Linear(8 if targets else 3, 3, rng=rng),
        batch_first=True,
    )
    x = rng.standard_normal((4, 5, 2)).astype("f4")
    options = {"lengths": [5, 0, 3, 1], "resets": rng.random((4, 5)) < 0.3}
    ids = rng.integers(3, size=4) if targets else None
    report = lstmc.check_gradients(net, x, ids, samples=4, **options)
    assert report, report
    wide = net.astype(np.float64)
    layer, original = wide.layers[1], type(wide.layers[1]).backward

    def wrong(self, *args, **more):
        out = original(self, *args, **more)
        self.grad("weight_hh_l1_reverse")[0, 0] += 1
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(layer), "backward", wrong)
        report = lstmc.check_gradients(wide, x.astype("f8"), ids, samples=4, **options)
    assert report.failed == ["1.weight_hh_l1_reverse"]


def test_targets_of_padding_are_not_read(monkeypatch):
    """Nor where a difference is off, and the rounding of the loss is asked for."""
    checking, asked = importlib.import_module("lstmc.inspection.gradient_check"), []
    net = lstmc.Sequential(lstmc.GRU(2, 3, rng=0), lstmc.Linear(3, 4, rng=1)).astype(np.float64)
    x, targets = np.ones((5, 2, 2)), np.ones((5, 2), int)
    targets[3:, 1] = 99
    original = checking._Loss.rounding
    monkeypatch.setattr(
        checking._Loss, "rounding", lambda self: asked.append(original(self)) or asked[-1]
    )
    lstmc.check_gradients(net, x, targets, lengths=[5, 3], step=0.1)
    targets[3:, 1] = 2
    expected, asked[:] = asked[:], []
    lstmc.check_gradients(net, x, targets, lengths=[5, 3], step=0.1)
    assert asked == expected
    assert asked
