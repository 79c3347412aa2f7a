"""Tests of what gradient_flow refuses, and of what is no gradient that explodes or vanishes."""

import math

import numpy as np
import pytest
from flow_cases import make_case
from own_layers import Scale
from support import assert_same_bits

import lstmc

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
        with pytest.raises(ValueError, match="x, targets and state must not be given"):
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
