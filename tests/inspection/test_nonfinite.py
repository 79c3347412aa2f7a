"""Tests of find_nonfinite: networks made to overflow or hold NaN where it is known."""

import math

import numpy as np
import pytest
from stacks import batch_first
from watch_cases import BATCH, STEPS, draw_tokens, linear, make_net

import lstmc
from lstmc.inspection import NonFinite


def found_both_ways(net, x, targets=None, state=None, dy=None):
    """Look by x and by the trace of a forward call; assert that both say the same, and give it."""
    layer = getattr(net, "net", net)
    with np.errstate(all="ignore"):
        _, _, trace = layer.forward(x, state)
    by_x = lstmc.find_nonfinite(net, x, targets, state, dy=dy)
    if targets is None:
        assert lstmc.find_nonfinite(net, trace=trace, dy=dy) == by_x
    return by_x


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["0.weight", "2.weight_hh_l1", "2.bias_l0", "3.bias"])
def test_a_weight(name, value):
    net = make_net(dropout=0.0)
    net[name].reshape(-1)[-1] = value
    first = found_both_ways(net, draw_tokens(STEPS, BATCH))
    assert first == NonFinite("a weight", name)
    assert str(first) == f"a weight is not finite: {name}"


def test_the_input():
    """The earliest step, then the first row: of a network, at the recurrent layer that reads it."""
    x = np.zeros((STEPS, BATCH, 2), np.float32)
    x[4, 0, 1], x[3, 2, 0] = math.nan, math.inf
    first = found_both_ways(lstmc.LSTM(2, 3, rng=1), x)
    assert (first.what, first.step, first.row) == ("x", 3, 2)
    assert str(first) == "x is not finite, at step 3, row 2"
    net = lstmc.Sequential(lstmc.Linear(2, 2, rng=1), lstmc.LSTM(2, 3, rng=1))
    first = found_both_ways(net, x)
    assert (first.what, first.step, first.row) == ("x", 3, 2)
    assert str(first) == "x is not finite: of net.layers[1], at step 3, row 2"


@pytest.mark.parametrize("form", ["time first", "batch first", "unbatched"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_state_that_overflows(form, steps):
    """h becomes 1 at some step, and 1e60 two steps later."""
    net = linear(1e30)
    x = np.zeros((STEPS, BATCH, 1), np.float32)
    x[steps, 1] = 1
    row = 1
    if form == "batch first":
        net, x = batch_first(net), np.ascontiguousarray(x.swapaxes(0, 1))
    elif form == "unbatched":
        x, row = x[:, 1], 0
    first = found_both_ways(net, x)
    assert first == NonFinite("a state", "l0", steps + 2, row)
    assert str(first) == f"a state is not finite: layer 0, at step {steps + 2}, row {row}"


@pytest.mark.parametrize(("part", "what"), [(0, "a state"), (1, "a state")])
def test_an_initial_state(part, what):
    """It shows at the first step, of c as of h; c may be infinite where h is not."""
    net = lstmc.LSTM(1, 3, rng=1)
    state = tuple(np.zeros((1, BATCH, 3), np.float32) for _ in range(2))
    state[part][0, 2, 1] = math.inf if part else math.nan
    x = np.zeros((STEPS, BATCH, 1), np.float32)
    assert found_both_ways(net, x, state=state) == NonFinite(what, "l0", 0, 2)


def test_the_layer_where_it_begins():
    """In a stack, in a network and in a network within one; the lower layer if at the same step."""
    x = np.zeros((STEPS, BATCH, 1), np.float32)
    x[1, 2] = 1
    stack = linear(0.5, layers=2)
    stack["weight_hh_l1"][...] = 1e30
    assert found_both_ways(stack, x) == NonFinite("a state", "l1", 3, 2)
    net = lstmc.Sequential(linear(0.5), lstmc.Sequential(linear(1e30), linear(1e30)))
    assert found_both_ways(net, x) == NonFinite("a state", "1.0.l0", 3, 2)
    # The upper one overflows a step before the lower one.
    net = lstmc.Sequential(linear(1e15), linear(1e30))
    assert found_both_ways(net, x) == NonFinite("a state", "1.l0", 3, 2)


def test_the_output():
    """Only x tells it from the gradient there: a trace does not hold y."""
    net = lstmc.Sequential(linear(1.0), lstmc.Linear(1, 2, rng=1))
    net["1.weight"][...] = 3e38
    x = np.full((STEPS, BATCH, 1), 2, np.float32)
    for targets in (None, np.zeros((STEPS, BATCH), np.int64)):
        first = lstmc.find_nonfinite(net, x, targets)
        assert str(first) == "the output is not finite"


@pytest.mark.parametrize("kind", ["dy", "numbers", "a function"])
def test_the_gradient_at_the_output(kind):
    net, x = linear(0.5), np.ones((STEPS, BATCH, 1), np.float32)
    dy = np.ones((STEPS, BATCH, 1), np.float32)
    dy[2, 1] = math.nan
    if kind == "dy":
        first = found_both_ways(net, x, dy=dy)
    else:
        first = lstmc.find_nonfinite(net, x, dy if kind == "numbers" else lambda y: (0.0, dy))
    assert str(first) == "the gradient of the loss at the output is not finite"


@pytest.mark.parametrize("last", [STEPS - 1, STEPS - 2])
@pytest.mark.parametrize("where", ["alone", "stack", "network"])
def test_a_gradient_on_the_way_back(where, last):
    """A one, sent back from some step, is 1e60 two steps before; forward all is zero."""
    if where == "stack":
        net, name = linear(1e30, layers=2), "l1"
        net["weight_hh_l0"][...] = 0.5
    elif where == "network":
        net, name = lstmc.Sequential(linear(0.5), linear(1e30), linear(0.5)), "1.l0"
    else:
        net, name = linear(1e30), "l0"
    x = np.zeros((STEPS, BATCH, 1), np.float32)
    dy = np.zeros((STEPS, BATCH, 1), np.float32)
    dy[last, 2] = 1
    first = found_both_ways(net, x, dy=dy)
    assert first == NonFinite("a gradient", name, last - 2, 2)
    text = {"l0": "layer 0", "l1": "layer 1", "1.l0": "layer 0 of net.layers[1]"}[name]
    assert str(first) == f"a gradient is not finite: {text}, at step {last - 2}, row 2"
    first = found_both_ways(net, x, dy=dy * np.float32(1e-30))  # which takes a step more
    assert first == NonFinite("a gradient", name, last - 3, 2)


def test_a_gradient_that_a_dead_unit_stops():
    """It is infinite at a step where relu lets nothing through, and no sum before it is."""
    net = lstmc.RNN(1, 1, nonlinearity="relu", bias=False)
    net["weight_ih_l0"][...], net["weight_hh_l0"][...] = 1, 1e30
    x = np.array([-1, 1e-30, 0, -0.99e30], np.float32).reshape(4, 1, 1)  # h: 0, 1e-30, 1, 1e28
    dy = np.zeros_like(x)
    dy[3] = 1e-30
    assert found_both_ways(net, x, dy=dy) == NonFinite("a gradient", "l0", 0, 0)


def test_gradients_of_opposite_signs():
    """Infinite ones from above and from later, whose sum is not a number: found without a warning."""
    net = linear(1e30, layers=2)
    net["weight_hh_l0"][...] = -2e30
    x, dy = np.zeros((2, STEPS, 1, 1), np.float32)
    dy[-1] = 1
    assert found_both_ways(net, x, dy=dy) == NonFinite("a gradient", "l1", STEPS - 3, 0)


def test_weights_come_first_and_then_the_way_forward():
    net, x = linear(1e30), np.zeros((STEPS, BATCH, 1), np.float32)
    x[0, 1] = 1
    dy = np.full((STEPS, BATCH, 1), math.nan, np.float32)
    assert found_both_ways(net, x, dy=dy) == NonFinite("a state", "l0", 2, 1)
    net["weight_ih_l0"][...] = math.nan
    assert found_both_ways(net, x, dy=dy) == NonFinite("a weight", "weight_ih_l0")


@pytest.mark.parametrize("targets", [None, "classes", "a function"])
def test_nothing_is_found(targets):
    net = make_net()
    x, classes = draw_tokens(2, STEPS, BATCH)
    net.grads[...] = 3
    generator = net.layers[1].rng.bit_generator.state
    arguments = {"classes": classes, "a function": lambda y: (0.0, 0 * y)}
    assert lstmc.find_nonfinite(net, x, arguments.get(targets)) is None
    assert net.layers[1].rng.bit_generator.state == generator
    assert np.all(net.grads == 3)
    y, _, trace = net.forward(x)
    assert lstmc.find_nonfinite(net, trace=trace) is None
    assert lstmc.find_nonfinite(net, trace=trace, dy=y) is None


def test_a_language_model():
    model = lstmc.LanguageModel(lstmc.Vocabulary(list("abc"), "char"), layers=1, hidden=4, rng=1)
    x = np.zeros((3, 2), np.int64)
    assert lstmc.find_nonfinite(model, x, x) is None
    model.net["1.bias_l0"][0] = math.nan
    assert lstmc.find_nonfinite(model, x) == NonFinite("a weight", "1.bias_l0")


def test_errors_of_find_nonfinite():
    net, x = linear(0.5), np.ones((STEPS, BATCH, 1), np.float32)
    y, state, trace = net.forward(x)
    with pytest.raises(ValueError, match="net must have a recurrent layer"):
        lstmc.find_nonfinite(lstmc.Linear(1, 1), x)
    for options in ({"x": x}, {"targets": y}, {"state": state}):
        with pytest.raises(
            ValueError, match="x, targets, state, lengths and resets must not be given"
        ):
            lstmc.find_nonfinite(net, trace=trace, **options)
    with pytest.raises(ValueError, match="targets and dy exclude each other"):
        lstmc.find_nonfinite(net, x, y, dy=y)
    with pytest.raises(ValueError, match=r"trace must come from this layer's forward\(\)"):
        lstmc.find_nonfinite(linear(0.5), trace=trace)
    with pytest.raises(TypeError, match=r"trace must come from forward\(\), got ndarray"):
        lstmc.find_nonfinite(net, trace=x)
    with pytest.raises(ValueError, match="dy must be"):
        lstmc.find_nonfinite(net, trace=trace, dy=y[:2])
    with pytest.raises(TypeError, match="x must be float32, got float64"):
        lstmc.find_nonfinite(net, x.astype(float))
    with pytest.raises((TypeError, ValueError), match="x must be"):
        lstmc.find_nonfinite(net)
    net.backward(y, trace, consume=True)
    with pytest.raises(ValueError, match="trace was consumed by an earlier backward"):
        lstmc.find_nonfinite(net, trace=trace)
