"""Tests of what gradient_flow leaves alone and refuses, and of a flow in words and numbers."""

import copy
import json
import math

import numpy as np
import pytest
from flow_cases import BATCH, PARTS, STEPS, linear_flow, make_case
from own_layers import Scale
from stacks import seed_of
from support import assert_same_bits
from times import TIMES

import lstmc

# --------------------------------------------------------------------------------------------------
# Nothing is changed
# --------------------------------------------------------------------------------------------------


def snapshot(case, trace=None):
    """Copy everything that a flow may read: bytes of arrays, and the states of generators."""

    def arrays_of(value):
        if isinstance(value, np.ndarray):
            yield value.copy()
        elif isinstance(value, (tuple, list)):
            for one in value:
                yield from arrays_of(one)

    def kept(one):
        if one is None:
            return
        for value in vars(one).values():
            yield from arrays_of(value)
            for part in value if isinstance(value, (tuple, list)) else ():
                if hasattr(part, "__dict__"):
                    yield from kept(part)

    def generators(layer):
        if isinstance(layer, lstmc.Dropout):
            yield copy.deepcopy(layer.rng.bit_generator.state)
        for one in getattr(layer, "layers", ()):
            yield from generators(one)

    layer = case.layer
    given = (layer.params, layer.grads, case.x, case.state, case.targets, case.dy)
    return [*arrays_of(given), *kept(trace)], list(generators(layer))


@pytest.mark.parametrize("with_trace", [False, True], ids=["x", "a trace"])
@pytest.mark.parametrize(
    "name", ["bare", "tokens", "nested", "own layers", "layers of no class", "model"]
)
def test_the_network_is_left_as_it_was(dtype, name, with_trace):
    case = make_case(name, "lstm", 2, dtype)
    rng = np.random.default_rng(seed_of("gradients"))
    case.layer.grads[...] = rng.standard_normal(case.layer.grads.shape)
    trace = None
    if with_trace:
        y, _, trace = case.layer.forward(case.x, case.state)
        case.dy = rng.standard_normal(y.shape).astype(dtype)
    arrays, generators = snapshot(case, trace)
    assert len(arrays) > (9 if with_trace else 4)
    if with_trace:
        flow = lstmc.gradient_flow(case.net, trace=trace, dy=case.dy, at=[0, -1], arrays=True)
    else:
        flow = case.flow(at=[0, -1], arrays=True)
    str(flow), flow.to_dict()
    after, generators_after = snapshot(case, trace)
    assert_same_bits(after, arrays)
    assert generators_after == generators
    if with_trace:  # the trace is good for backward, as if nothing had happened
        case.layer.backward(case.dy, trace)


def test_threads_change_no_bit(dtype):
    rng = np.random.default_rng(seed_of("threads"))
    net = lstmc.Sequential(
        lstmc.Embedding(50, 40, dtype=dtype, rng=rng),
        lstmc.LSTM(40, 48, 2, dtype=dtype, rng=rng),
        lstmc.Linear(48, 50, dtype=dtype, rng=rng),
    )
    x, targets = rng.integers(50, size=(2, 20, 16))
    one, two = (
        lstmc.gradient_flow(net, x, targets, num_threads=n, arrays=True, at=[3, -1]) for n in (1, 2)
    )
    assert one.loss == two.loss
    for a, b in zip(one.layers, two.layers, strict=True):
        for part in PARTS:
            assert_same_bits(getattr(a, part), getattr(b, part), part)
            assert_same_bits(getattr(a.gradients, part), getattr(b.gradients, part), part)
        assert_same_bits(a.weights, b.weights)
        assert_same_bits(a.reach.norms, b.reach.norms)


# --------------------------------------------------------------------------------------------------
# Words and numbers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cell"), [("tokens", "lstm"), ("nested", "rnn_relu")])
@pytest.mark.parametrize("at", [None, [0, 3]], ids=str)
def test_to_dict(name, cell, at):
    case = make_case(name, cell, 2, np.float32)
    flow = case.flow(at=at)
    numbers = json.loads(json.dumps(flow.to_dict(), allow_nan=False))
    assert numbers["loss"] == flow.loss
    assert (numbers["steps"], numbers["batch"]) == (STEPS, BATCH)
    assert (numbers["at"], numbers["verdict"]) == (at or [STEPS - 1], flow.verdict)
    assert len(numbers["layers"]) == len(flow.layers)
    for written, layer in zip(numbers["layers"], flow.layers, strict=True):
        assert (written["name"], written["cell"]) == (layer.name, layer.cell)
        for part in PARTS:
            value = getattr(layer, part)
            assert written[part] == (None if value is None else value.tolist())
        assert written["weights"] == {kind: a.tolist() for kind, a in layer.weights.items()}
        reach = written["reach"]
        assert reach["norms"] == layer.reach.norms.tolist()
        for key in ("rate", "fit", "half_life", "kept", "verdict", "turn"):
            value = getattr(layer.reach, key)
            infinite = isinstance(value, float) and not math.isfinite(value)
            assert reach[key] == (None if infinite else value)


def test_a_flow_in_words():
    flow, _ = linear_flow(0.5, steps=10)
    lines = str(flow).splitlines()
    assert (
        lines[0]
        == "gradients vanish from 8 steps back on: the loss at step 9, followed back (10 steps, 2 rows)"
    )
    assert lines[1].startswith("  layer 0: vanishing, 0.002 of the gradient is left 10 steps back")
    assert "it halves every 1 steps (R2 1.00)" in lines[1]
    table = {int(line.split()[0]): line.split()[1] for line in lines[4:]}
    assert list(table) == [0, 1, 4, 10]
    assert table == {k: f"{flow.layers[0].reach.norms[k]:.2e}" for k in table}
    flow, _ = linear_flow(2.0, steps=10, at=[9, 3])
    assert "it doubles every" in str(flow)
    assert "of the loss at steps 9, 3" in str(flow)
    case = make_case("tokens", "lstm", 2, np.float64)
    assert f"loss {case.flow().loss:.4g}" in str(case.flow())
    assert all(name in str(case.flow()) for name in ("layer 0", "layer 1"))


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


def wrong(**options):
    """Follow the flow of an LSTM on what is good but for what is given."""
    net = options.pop("net", lstmc.LSTM(2, 3, rng=0))
    return lstmc.gradient_flow(net, **{"x": np.ones((4, 2, 2), np.float32), **options})


Y = np.ones((4, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"net": lstmc.Linear(2, 3)}, ValueError, "must have a recurrent layer, got a Linear"),
        ({"net": lstmc.Sequential(lstmc.Linear(2, 3))}, ValueError, "got a Sequential without one"),
        ({"net": 5}, ValueError, "net must have a recurrent layer, got a int"),
        ({"x": None}, ValueError, "x must be given, or the trace of a forward call"),
        ({"targets": Y, "dy": Y}, ValueError, "targets and dy exclude each other"),
        ({"x": np.ones((4, 2, 2))}, TypeError, "x must be float32, got float64"),
        ({"x": np.ones((4, 2, 5), np.float32)}, ValueError, r"x must be \(T, B, 2\)"),
        ({"x": [[1.0, 2.0]]}, TypeError, "x must be"),
        ({"x": np.ones((0, 2, 2), np.float32)}, ValueError, "x must have at least one step and one row"),
        ({"state": np.ones((1, 2, 3), np.float32)}, TypeError, r"state must be None or the tuple \(h, c\)"),
        ({"dy": Y[:3]}, ValueError, r"dy must be \(4, 2, 3\), got \(3, 2, 3\)"),
        ({"dy": Y.astype(float)}, TypeError, "dy must be float32, got float64"),
        ({"targets": Y[:3]}, ValueError, "target must be"),
        ({"targets": np.full((4, 2), 3)}, ValueError, "targets"),
        ({"targets": Y * np.nan}, ValueError, r"the loss is nan: .* lstmc.find_nonfinite\(\) names"),
        ({"targets": lambda y: (math.inf, y)}, ValueError, "the loss is inf"),
        ({"at": 4}, ValueError, r"at must be steps in \[0, 4\), or negative .* got 4"),
        ({"at": -5}, ValueError, "got -5"),
        ({"at": []}, ValueError, "at must name at least one step, got none"),
        ({"at": [0, 4]}, ValueError, r"got \[0, 4\]"),
        ({"at": 1.0}, ValueError, "got 1.0"),
        ({"at": True}, ValueError, "got True"),
        ({"at": "last"}, ValueError, "got 'last'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        wrong(**options)


def test_errors_of_a_trace():
    net, other = lstmc.LSTM(2, 3, rng=0), lstmc.LSTM(2, 3, rng=1)
    x = np.ones((4, 2, 2), np.float32)
    y, _, trace = net.forward(x)
    for options in ({"x": x}, {"targets": y}, {"state": (y[:1], y[:1])}):
        with pytest.raises(
            ValueError, match="x, targets, state, lengths and resets must not be given"
        ):
            lstmc.gradient_flow(net, trace=trace, dy=y, **options)
    with pytest.raises(ValueError, match="dy must be given with a trace"):
        lstmc.gradient_flow(net, trace=trace)
    with pytest.raises(ValueError, match=r"trace must come from this layer's forward\(\)"):
        lstmc.gradient_flow(other, trace=trace, dy=y)
    with pytest.raises(TypeError, match=r"trace must come from forward\(\), got ndarray"):
        lstmc.gradient_flow(net, trace=y, dy=y)
    with pytest.raises(ValueError, match=r"dy must be \(4, 2, 3\)"):
        lstmc.gradient_flow(net, trace=trace, dy=y[:, :1])
    net.backward(y, trace, consume=True)
    with pytest.raises(ValueError, match="trace was consumed by an earlier backward"):
        lstmc.gradient_flow(net, trace=trace, dy=y)
    y, _, trace = net.forward(x)
    net["bias_l0"][0] += 1
    with pytest.raises(ValueError, match="the weights have changed since forward"):
        lstmc.gradient_flow(net, trace=trace, dy=y)


def test_a_consumed_trace_of_a_network():
    case = make_case("tokens", "lstm", 2, np.float32)
    y, _, trace = case.net.forward(case.x)
    case.net.backward(y, trace, consume=True)
    with pytest.raises(ValueError, match="trace was consumed"):
        lstmc.gradient_flow(case.net, trace=trace, dy=y)


def test_a_trace_of_another_network():
    case, other = (make_case("tokens", "lstm", 2, np.float32) for _ in range(2))
    y, _, trace = other.net.forward(case.x)
    with pytest.raises(ValueError, match="got one of another Sequential"):
        lstmc.gradient_flow(case.net, trace=trace, dy=y)
    with pytest.raises(ValueError, match="got one of another LSTM"):
        lstmc.gradient_flow(case.net, trace=trace.layers[2], dy=y)


def test_a_failure_leaves_the_network_alone():
    """A layer of a user's own that raises on the way back, after it wrote its gradient."""

    class Raises(Scale):
        def backward(self, dy, trace, dstate=None):
            super().backward(dy, trace, dstate)
            raise ArithmeticError("here")

    net = lstmc.Sequential(lstmc.LSTM(2, 3, rng=0), Raises(3))
    net.grads[...] = 2
    before = net.params.copy(), net.grads.copy()
    with pytest.raises(ArithmeticError, match="here"):
        lstmc.gradient_flow(net, np.ones((4, 2, 2), np.float32))
    assert_same_bits((net.params, net.grads), before)


# --------------------------------------------------------------------------------------------------
# What is not a gradient that explodes or vanishes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["the weight weight_hh_l0", "x", "dy"])
def test_what_is_not_finite_is_refused_by_name(what):
    net = lstmc.LSTM(2, 3, rng=0)
    x, dy = np.ones((5, 1, 2), np.float32), np.ones((5, 1, 3), np.float32)
    array = {"x": x, "dy": dy}.get(what, net["weight_hh_l0"])
    array[(0,) * array.ndim] = np.nan
    with pytest.raises(ValueError, match=f"{what} is not finite: there is no gradient to follow"):
        lstmc.gradient_flow(net, x, dy=dy)


def test_a_large_loss_that_ends_sooner_leaves_no_cliff():
    net = lstmc.LSTM(2, 6, rng=0)
    net["bias_l0"][6:12] = 6  # forget gates that keep
    x = np.random.default_rng(3).standard_normal((60, 2, 2)).astype(np.float32)
    dy = np.random.default_rng(4).standard_normal((60, 2, 6)).astype(np.float32)
    dy[10] *= 1e4
    for at in (10, 59, [10, 59]):
        assert lstmc.gradient_flow(net, x, dy=dy, at=at).verdict == "healthy"


def test_a_gradient_that_neither_shrinks_nor_grows():
    net = lstmc.RNN(2, 3, nonlinearity="identity", dtype=np.float64, rng=0)
    net["weight_hh_l0"][...] = np.eye(3)
    text = str(lstmc.gradient_flow(net, np.ones((30, 2, 2))))
    assert "it neither shrinks nor grows" in text
    assert "doubles" not in text


def test_options_are_given_to_layers_that_take_them():
    class Own:
        def forward(self, x, state=None, training=True):
            return 2 * x, state, None

        def backward(self, dy, trace, dstate=None, need_grads=True):
            assert not need_grads
            return 2 * dy, dstate

    net = lstmc.Sequential(lstmc.LSTM(2, 3, rng=0), Own())
    plain = lstmc.gradient_flow(
        net.layers[0], np.ones((5, 1, 2), np.float32), dy=np.ones((5, 1, 3), "f")
    )
    own = lstmc.gradient_flow(net, np.ones((5, 1, 2), np.float32), dy=np.ones((5, 1, 3), "f"))
    assert np.allclose(own.layers[0].dh, 2 * plain.layers[0].dh, rtol=1e-6)


def test_where_a_bidirectional_network_began_not_to_be_finite():
    net = lstmc.Sequential(lstmc.Linear(3, 3, rng=1), lstmc.GRU(3, 4, 2, rng=0, bidirectional=True))
    x = np.ones((6, 5, 3), np.float32)
    x[3, 2, 1] = np.inf
    place = lstmc.find_nonfinite(net, x)
    assert (place.what, place.step, place.row) == ("x", 3, 2)
    rnn = lstmc.RNN(3, 4, 2, nonlinearity="identity", rng=0, bidirectional=True)
    rnn["weight_hh_l0_reverse"][...] = 1e38
    place = lstmc.find_nonfinite(rnn, np.ones((6, 5, 3), np.float32))
    assert "layer 0, reverse, at step 3" in str(place)


def farthest(length, resets, reverse):
    """Return how many steps back from its last one a direction of a row has a state, across no reset."""
    cuts = np.flatnonzero(resets[:length])
    if reverse:
        cuts = cuts[cuts > 0]
        return cuts[0] - 1 if len(cuts) else length
    return length - 1 - cuts[-1] if len(cuts) else length


@pytest.mark.parametrize("time", ["lengths", "resets", "lengths and resets"])
def test_rows_that_end_are_no_gradient_that_vanishes(time):
    """Where every row keeps its gradient, all is kept as far back as one of them goes."""
    steps, batch = 40, 9
    layer = lstmc.RNN(2, 3, nonlinearity="identity", bidirectional=True, rng=0, dtype=np.float64)
    for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
        layer[name][...] = np.eye(3)[[1, 2, 0]]
    rng, options = np.random.default_rng(0), TIMES[time](steps, batch)
    net, x = lstmc.Sequential(layer, lstmc.Last()), rng.standard_normal((steps, batch, 2))
    flow = lstmc.gradient_flow(net, x, dy=rng.standard_normal((batch, 6)), **options)
    lengths = options.get("lengths", np.full(batch, steps))
    resets = options.get("resets", np.zeros((steps, batch), bool))
    for one, reverse in zip(flow.layers, (False, True), strict=True):
        rows = [farthest(n, resets[:, b], reverse) for b, n in enumerate(lengths) if n]
        assert len(set(rows)) > 2
        assert len(one.reach.norms) == max(rows) + 1
        np.testing.assert_allclose(one.reach.norms[1:], one.reach.norms[1], rtol=1e-12)
        assert one.reach.verdict == "healthy"
