"""Tests of how far back a gradient reaches, its rate and its verdict: closed forms of linear networks."""

import json
import math

import numpy as np
import pytest
from flow_cases import STEPS, TOLERANCE, linear_flow, make_case
from support import assert_close

import lstmc
from lstmc import Reach


@pytest.mark.parametrize("factor", [0.5, 0.9, -0.8, 1.0, 1.25])
@pytest.mark.parametrize("at", [-1, 4, [9, 5]], ids=str)
def test_a_geometric_decay(dtype, factor, at):
    flow, dy = linear_flow(factor, at=at, dtype=dtype)
    chosen = [s % 10 for s in np.atleast_1d(at)]
    reach = flow.layers[0].reach
    sizes = [np.linalg.norm(dy[s].astype(np.float64)) for s in chosen]
    size = math.sqrt(np.mean(np.square(sizes)))
    expected = [abs(factor) ** k * size for k in range(max(chosen) + 2)]
    assert_close(reach.norms, expected, TOLERANCE[dtype])
    # Each norm is off by TOLERANCE at most, and the line's slope by no more than that.
    assert abs(reach.rate - math.log(abs(factor))) <= TOLERANCE[dtype]
    assert reach.fit > 1 - 1e-6
    assert abs(reach.kept - abs(factor) ** max(chosen)) <= 1e-4 * reach.kept
    if abs(factor) < 1:
        half_life = math.log(2) / -math.log(abs(factor))
        assert abs(reach.half_life - half_life) <= 1e-3 * half_life
    elif factor > 1:
        assert reach.half_life == math.inf


@pytest.mark.parametrize(
    ("factor", "verdict", "turn"),
    # 0.5^7 < 0.01 <= 0.5^6 after the first step back; 2^7 > 100 >= 2^6
    [(0.5, "vanishing", 8), (2.0, "exploding", 8), (-2.0, "exploding", 8), (0.7, "healthy", None),
     (1.6, "healthy", None), (1.0, "healthy", None), (1e-3, "vanishing", 2)],
)  # fmt: skip
def test_verdicts(dtype, factor, verdict, turn):
    flow, _ = linear_flow(factor, dtype=dtype)
    reach = flow.layers[0].reach
    assert (reach.verdict, reach.turn, flow.verdict) == (verdict, turn, verdict)
    first_line, sentence = str(flow).splitlines()[:2]
    assert first_line.endswith(verdict)
    assert f"l0: {verdict}" in sentence
    assert (f"from {turn} steps back on, state {10 - turn}" in sentence) if turn else True


@pytest.mark.parametrize("power", [-170, -290, 160, 290])
@pytest.mark.parametrize("at", [-1, [2, 3]], ids=str)
def test_norms_whose_squares_are_beyond_all_numbers(power, at):
    """Everything is as large as the gradient at the output, and nothing else changes."""
    case = make_case("bare", "lstm", 2, np.float64)
    _, _, trace = case.net.forward(case.x, case.state)
    scaled, whole = (
        lstmc.gradient_flow(case.net, trace=trace, dy=case.dy * factor, at=at)
        for factor in (10.0**power, 1)
    )
    for actual, expected in zip(scaled.layers, whole.layers, strict=True):
        assert_close(actual.reach.norms, expected.reach.norms * 10.0**power, 1e-12)
        assert actual.reach.verdict == expected.reach.verdict
        for name, norms in expected.weights.items():
            assert_close(actual.weights[name], norms * 10.0**power, 1e-12, name)
        assert_close(actual.dh, expected.dh * 10.0**power, 1e-12)


def test_no_gradient_at_all():
    net = make_case("tokens", "lstm", 1, np.float32).net
    net["4.weight"][...] = 0
    flow = lstmc.gradient_flow(net, np.zeros((3, 2), np.int64), np.zeros((3, 2), np.int64))
    reach = flow.layers[0].reach
    assert (reach.verdict, reach.turn, flow.verdict) == ("none", None, "none")
    assert math.isnan(reach.kept)
    assert math.isnan(reach.half_life)
    assert "no gradient of the loss at step 2 arrives" in str(flow)


def test_a_gradient_that_ends_at_once():
    """Nothing is left one step back already: this vanishes, from there on."""
    flow, _ = linear_flow(0.0, steps=5)
    reach = flow.layers[0].reach
    assert reach.norms[0] > 0
    assert not reach.norms[1:].any()
    assert (reach.verdict, reach.turn) == ("vanishing", 1)
    assert "nan" not in str(flow)


def test_a_gradient_that_overflows():
    """1e30 a step is beyond float32 after two."""
    flow, _ = linear_flow(1e30, steps=6, dtype=np.float32)
    reach = flow.layers[0].reach
    assert np.isfinite(reach.norms[:2]).all()
    assert not np.isfinite(reach.norms[2:]).any()
    assert (reach.verdict, reach.turn, flow.verdict) == ("exploding", 2, "exploding")
    assert reach.kept > 1 or math.isnan(reach.kept)
    numbers = json.loads(json.dumps(flow.to_dict(), allow_nan=False))
    assert numbers["layers"][0]["reach"]["norms"][2:] == [None] * 5


def test_a_gradient_that_overflows_in_words():
    """Of one that grew beyond all numbers, nothing "is left"."""
    flow, _ = linear_flow(1e30, steps=6, dtype=np.float32)
    assert "l0: exploding" in str(flow)
    assert "is left" not in str(flow)


@pytest.mark.parametrize(
    ("norms", "verdict", "turn"),
    [
        ([5, 1, 0.5, 0.02, 0.009], "vanishing", 4),
        ([5, 1, 0.001, 0.5, 0.009, 0.001], "vanishing", 4),
        ([1, 1, 100], "healthy", None),
        ([1, 1, 0.01], "healthy", None),
        ([1, 1, 101, 50, 102], "exploding", 4),
        ([1, 1, 2, math.inf, math.inf], "exploding", 3),
        ([1, 1, 2, math.nan], "exploding", 3),
        ([1, math.inf, math.inf], "exploding", 1),
        ([1, math.inf, math.nan, math.nan], "exploding", 1),
        ([1, 0.5], "healthy", None),
        ([0, 0, 0], "none", None),
    ],
    ids=str,
)
def test_verdicts_of_given_norms(norms, verdict, turn):
    """Judged from one step back on, at the farthest state; a turn is after the last step within."""
    reach = Reach(np.array(norms, float), math.nan, math.nan)
    assert (reach.verdict, reach.turn) == (verdict, turn)


@pytest.mark.parametrize("steps", [1, 2])
def test_two_points_have_no_rate(steps):
    """The state itself is none of the points of the line."""
    flow, _ = linear_flow(0.5, steps=steps)
    reach = flow.layers[0].reach
    assert len(reach.norms) == steps + 1
    assert all(math.isnan(a) for a in (reach.rate, reach.fit, reach.half_life))
    assert abs(reach.kept - 0.5 ** (steps - 1)) < 1e-12


def test_the_fit_of_a_line():
    """The rate and R squared are those of NumPy's least squares, without the state itself."""
    case = make_case("bare", "rnn_tanh", 2, np.float64)
    for layer in case.flow().layers:
        k, y = np.arange(1, STEPS + 1), np.log(layer.reach.norms[1:])
        slope, _ = np.polyfit(k, y, 1)
        fit = np.corrcoef(k, y)[0, 1] ** 2
        # polyfit solves by singular values: both round at 1e-16 times some tens.
        assert abs(layer.reach.rate - slope) <= 1e-12
        assert abs(layer.reach.fit - fit) <= 1e-12


def test_the_worst_layer_is_the_verdict():
    """One layer explodes, and the one above it forgets."""
    below = lstmc.RNN(2, 3, nonlinearity="identity", rng=1)
    above = lstmc.RNN(3, 4, nonlinearity="identity", rng=2)
    below["weight_hh_l0"][...] = 3 * np.eye(3)
    above["weight_hh_l0"][...] = 0.25 * np.eye(4)
    net = lstmc.Sequential(below, above)
    flow = lstmc.gradient_flow(net, np.ones((9, 2, 2), np.float32))
    assert [layer.reach.verdict for layer in flow.layers] == ["exploding", "vanishing"]
    assert flow.verdict == "exploding"
    assert "0.l0: exploding" in str(flow)
    assert "1.l0: vanishing" in str(flow)
