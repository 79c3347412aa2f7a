"""Tests of check_gradients: right networks pass, and one wrong element of one gradient is found.

That backward is right is judged elsewhere (test_recurrent.py, test_network.py), so here a network
counts as right that is left alone, and as wrong that is made so.
"""

import copy
import json
import math

import numpy as np
import pytest
from cases import CELLS
from own_layers import Halve, Scale
from stacks import draw_state, parts_of, seed_of
from support import assert_same_bits, numerical_gradient

import lstmc

STEPS, BATCH, FEATURES, HIDDEN, CLASSES = 3, 2, 3, 4, 6
FORMS = ["time first", "batch first", "unbatched"]


def make_cell(cell, inputs, hidden, layers, dtype, **options):
    options = {"num_layers": layers, "dtype": dtype, "rng": 1, **options}
    return CELLS[cell].make(inputs, hidden, **options)


def bare_case(cell, layers, dtype, form="time first"):
    """Return a layer, what it reads, what it should give and its state."""
    rng = np.random.default_rng(seed_of(cell, layers, form))
    order = {"time first": (STEPS, BATCH), "batch first": (BATCH, STEPS), "unbatched": (STEPS,)}
    net = make_cell(cell, FEATURES, HIDDEN, layers, dtype, batch_first=form == "batch first")
    x, target = (rng.standard_normal((*order[form], n)).astype(dtype) for n in (FEATURES, HIDDEN))
    return net, x, target, draw_state(net, () if form == "unbatched" else (BATCH,), rng)


def token_case(name, dtype):
    rng = np.random.default_rng(seed_of(name))
    x, targets = rng.integers(CLASSES, size=(2, STEPS, BATCH))
    if name == "model":
        vocabulary = lstmc.Vocabulary(list("abcdef"), "char")
        net = lstmc.LanguageModel(vocabulary, "lstm", 2, HIDDEN, FEATURES, 0.4, dtype, rng)
        return net, x, targets, None
    own = {"dtype": dtype, "rng": rng}
    lstm, rnn = make_cell("lstm", FEATURES, HIDDEN, 2, dtype), lstmc.RNN(HIDDEN, 4, **own)
    net = lstmc.Sequential(
        lstmc.Embedding(CLASSES, FEATURES, **own),
        lstmc.Dropout(0.4, rng=1),
        lstmc.Sequential(lstm, lstmc.Dropout(0.4, rng=2)),
        rnn,
        lstmc.Linear(4, CLASSES, bias=False, **own),
    )
    state = draw_state(lstm, (BATCH,), rng), draw_state(rnn, (BATCH,), rng)
    return net, x, targets, (None, None, (state[0], None), state[1], None)


# --------------------------------------------------------------------------------------------------
# Right networks
# --------------------------------------------------------------------------------------------------


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
# Wrong ones
# --------------------------------------------------------------------------------------------------


class Wrong(lstmc.LSTM):
    """An LSTM whose backward changes one element of one gradient, chosen by its size in order."""

    def spoil(self, name, rank, change):
        self._spoilt = name, rank, change
        return self

    def backward(self, dy, trace, dstate=None):
        dx, departing = super().backward(dy, trace, dstate)
        name, rank, change = self._spoilt
        others = {"x": dx, "state[0]": departing[0], "state[1]": departing[1]}
        array = others[name] if name in others else self.grad(name)
        order = np.argsort(np.abs(array), axis=None)
        self.where = np.unravel_index(order[int(rank * (order.size - 1))], array.shape)
        array[self.where] = change(array[self.where])
        return dx, departing


def by_one_percent(value):
    return 1.01 * value


def as_nan(value):
    return math.nan


def wrong_case(name, rank=1.0, change=by_one_percent):
    _, x, target, state = bare_case("lstm", 2, np.float64)
    net = Wrong(FEATURES, HIDDEN, 2, dtype=np.float64, rng=1).spoil(name, rank, change)
    return net, x, target, state


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
            found = super().backward(dy, trace, dstate)
            self.raise_in("backward", 1)
            return found

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
        ({"net": Scale(FEATURES, np.float32)}, ValueError,
         "net must be float64 to check a layer of another maker, Scale"),
        ({"net": Wrong(FEATURES, HIDDEN)}, ValueError, "of another maker, Wrong"),
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
        self._params, self._grads = self.net._params, self.net._grads

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
