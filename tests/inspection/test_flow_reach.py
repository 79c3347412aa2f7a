"""Tests of how far back a gradient reaches, its rate and its verdict: closed forms of linear networks."""

import json
import math

import numpy as np
import pytest
from flow_cases import STEPS, TOLERANCE, linear_flow, make_case
from own_layers import Scale
from rows import TIMES
from stacks import seed_of
from support import assert_close, assert_same_bits

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
    words = {"vanishing": "vanish", "exploding": "explode", "healthy": "survive"}
    since = "" if turn is None else f" from {turn} steps back on"
    assert first_line.startswith(f"gradients {words[verdict]}{since}: ")
    assert f"layer 0: {verdict}" in sentence
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
    assert "layer 0: exploding" in str(flow)
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
    assert "layer 0: exploding" in str(flow)
    assert "layer 1: vanishing" in str(flow)


# --------------------------------------------------------------------------------------------------
# Rows of unequal length, and one prediction a row
# --------------------------------------------------------------------------------------------------

LENGTHS, LONGEST = TIMES.lengths, TIMES.steps


def make_rows(dtype, last, turned):
    """Return a network with two recurrent layers, x (T, B, I), and dy at its output, time first."""
    rng = np.random.default_rng(seed_of("rows", last))
    net = lstmc.Sequential(
        lstmc.Linear(2, 3, dtype=dtype, rng=rng),
        lstmc.Sequential(lstmc.LSTM(3, 4, 2, dtype=dtype, rng=rng), lstmc.Dropout(0.5, rng=1)),
        lstmc.LSTM(4, 5, dtype=dtype, rng=rng),
        Scale(5, dtype),
        *([lstmc.Last()] if last else []),
        lstmc.Linear(5, 2, dtype=dtype, rng=rng),
        batch_first=turned,
    )
    x = rng.standard_normal((LONGEST, len(LENGTHS), 2)).astype(dtype)
    dy = rng.standard_normal((*([] if last else [LONGEST]), len(LENGTHS), 2)).astype(dtype)
    return net, x, dy


def turn(array, turned):
    return np.ascontiguousarray(array.swapaxes(0, 1)) if turned else array


def norm_over_rows(curves):
    """Return the norm over rows of what is a norm for each of them, shorter ones filled up with zeros."""
    squares = np.zeros(max(map(len, curves)))
    for curve in curves:
        squares[: len(curve)] += curve**2
    return np.sqrt(squares)


def reach_over_rows(curves):
    """Return the norms of a reach: where rows end, the others count as they do one step back."""

    def norm(k, length):
        return math.hypot(*(curve[k] for curve in curves if len(curve) > length))

    return [norm(k, k) * norm(1, 1) / norm(1, max(1, k)) for k in range(max(map(len, curves)))]


@pytest.mark.parametrize("turned", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize(
    ("last", "at"),
    [(False, at) for at in (None, -1, -2, 0, 2, [3, -2])] + [(True, None), (True, -1)],
    ids=str,
)
def test_rows_of_unequal_length(dtype, last, turned, at):
    """Steps back are counted from where the loss of each row is: norms are those over the rows alone."""
    net, x, dy = make_rows(dtype, last, turned)
    padded, arriving = x.copy(), dy.copy()
    padded[TIMES.beyond] = np.nan
    if not last:
        arriving[TIMES.beyond] = 1e6  # nothing looks at it
    arguments = {"lengths": LENGTHS, "dy": arriving if last else turn(arriving, turned)}
    flow = lstmc.gradient_flow(net, turn(padded, turned), at=at, **arguments)
    assert flow.at == ([-1] if at is None else list(np.atleast_1d(at)))
    twin = make_rows(dtype, last, False)[0]
    each = {}
    for s in flow.at:
        each[s] = []
        for b, n in enumerate(LENGTHS):
            if (0 <= s < n) or (s < 0 and n >= -s):
                part = dy[b : b + 1] if last else np.ascontiguousarray(dy[:n, b : b + 1])
                row = np.ascontiguousarray(x[:n, b : b + 1])
                each[s].append(lstmc.gradient_flow(twin, row, dy=part, at=s))
        assert len(each[s]) > 1
    for i, layer in enumerate(flow.layers):
        curves = [
            reach_over_rows([f.layers[i].reach.norms for f in rows]) for rows in each.values()
        ]
        expected = curves[0]
        if len(curves) > 1:
            size = math.sqrt(np.mean([curve[1] ** 2 for curve in curves]))
            relative = [
                [curve[k] / curve[1] for curve in curves if k < len(curve)]
                for k in range(max(map(len, curves)))
            ]
            expected = [size * math.sqrt(np.mean(np.square(one))) for one in relative]
        assert_close(layer.reach.norms, expected, TOLERANCE[dtype])
        if at is None:
            whole = norm_over_rows([f.layers[i].dh for f in each[-1]])
            assert_close(layer.dh, whole, TOLERANCE[dtype])
    if at is None:
        assert "norm of the gradient of the loss at the last step of each row" in str(flow)


@pytest.mark.parametrize("turned", [False, True], ids=["time first", "batch first"])
def test_one_prediction_a_row(dtype, turned):
    """Without lengths its loss is that of a network at every step, followed from the last."""
    net, x, dy = make_rows(dtype, True, turned)
    every = make_rows(dtype, False, False)[0]
    every.params[:] = net.params
    at_end = np.zeros((LONGEST, *dy.shape), dtype)
    at_end[-1] = dy
    expected = lstmc.gradient_flow(every, x, dy=at_end)
    for at in (None, -1, LONGEST - 1, [-1, LONGEST - 1]):
        flow = lstmc.gradient_flow(net, turn(x, turned), dy=dy, at=at)
        assert flow.at == [LONGEST - 1]
        for one, other in zip(flow.layers, expected.layers, strict=True):
            assert_same_bits(one.reach.norms, other.reach.norms)
            assert_same_bits(one.dh, other.dh)
    y, _, trace = net.forward(turn(x, turned))
    watch = lstmc.Watch(net)
    seen = watch(1.0, dy, trace)
    assert seen["2.l0"]["kept"] > 0
    with pytest.raises(
        ValueError, match=r"at must be -1 after a Last, as the loss .* got \[2, -1\]"
    ):
        lstmc.gradient_flow(net, turn(x, turned), at=[2, -1])
    targets = np.arange(len(y)) % 2
    loss, _ = lstmc.softmax_cross_entropy(net(turn(x, turned))[0], targets)
    assert lstmc.gradient_flow(net, turn(x, turned), targets).loss == loss


def test_only_what_is_real_counts_in_the_loss(dtype):
    net, x, dy = make_rows(dtype, False, True)
    real = ~TIMES.beyond.T
    y, _ = net(turn(x, True), lengths=LENGTHS)
    for targets, loss in (
        (np.where(real, 1, 99), lstmc.softmax_cross_entropy),
        (np.where(real[..., None], turn(dy, True), np.nan), lstmc.squared_error),
    ):
        expected, dreal = loss(np.ascontiguousarray(y[real]), np.ascontiguousarray(targets[real]))
        flow = lstmc.gradient_flow(net, turn(x, True), targets, lengths=LENGTHS)
        assert abs(flow.loss - expected) <= 1e-5 * expected
        dall = np.zeros_like(y)
        dall[real] = dreal
        other = lstmc.gradient_flow(net, turn(x, True), dy=dall, lengths=LENGTHS)
        for one, two in zip(flow.layers, other.layers, strict=True):
            assert_close(one.dh, two.dh, TOLERANCE[dtype])


def test_padding_is_no_finding():
    net, x, _ = make_rows(np.dtype(np.float32), False, False)
    x[TIMES.beyond] = np.nan
    assert lstmc.find_nonfinite(net, x, lengths=LENGTHS) is None
    assert lstmc.find_nonfinite(net, x).what == "x"
    x[0, 0] = np.inf
    assert lstmc.find_nonfinite(net, x, lengths=LENGTHS).what == "x"
    with pytest.raises(ValueError, match="x is not finite"):
        lstmc.gradient_flow(net, x, lengths=LENGTHS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [0] * 5}, "lengths must leave at least one step, got zeros"),
        ({"lengths": [2, 3, 0, 1, 2], "at": 4}, "at must be steps that a row has, got 4"),
        ({"lengths": [2, 3, 0, 1, 2], "at": [0, -4]}, r"at must be steps that a row has, got \[0, -4\]"),
        ({"lengths": [2, 3, 0, 1, 7]}, r"lengths must be integers in \[0, 6\], got 7 at row 4"),
    ],
)  # fmt: skip
def test_lengths_that_are_refused(options, message):
    net, x, _ = make_rows(np.dtype(np.float32), False, False)
    with pytest.raises(ValueError, match=message):
        lstmc.gradient_flow(net, x, **options)
    y, _, trace = net.forward(x)
    with pytest.raises(
        ValueError, match="trace holds what forward saw: x, targets, state, lengths"
    ):
        lstmc.gradient_flow(net, trace=trace, dy=y, lengths=LENGTHS)


# --------------------------------------------------------------------------------------------------
# Both directions
# --------------------------------------------------------------------------------------------------


def from_the_end(array, lengths):
    """Return the steps of each row from its end on, zeros after them."""
    out = np.zeros_like(array)
    for b, n in enumerate(lengths):
        out[:n, b] = array[:n, b][::-1]
    return out


@pytest.mark.parametrize("last", [False, True], ids=["every step", "last"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_the_reverse_direction_is_a_layer_that_reads_from_the_end(dtype, lengths, last):
    rng = np.random.default_rng(seed_of("reverse", last))
    both = lstmc.LSTM(3, 4, dtype=dtype, rng=rng, bidirectional=True)
    alone = [lstmc.LSTM(3, 4, dtype=dtype) for _ in range(2)]
    for layer, ending in zip(alone, ("", "_reverse"), strict=True):
        for name in layer:
            layer[name] = both[name + ending]
    net = lstmc.Sequential(both, *([lstmc.Last()] if last else []))
    x = rng.standard_normal((LONGEST, 5, 3)).astype(dtype)
    dy = rng.standard_normal((*([] if last else [LONGEST]), 5, 8)).astype(dtype)
    ends = np.full(5, LONGEST) if lengths is None else lengths
    for at in (None,) if last else (None, 1, -2):
        flow = lstmc.gradient_flow(net, x, dy=dy, at=at, lengths=lengths)
        assert [layer.name for layer in flow.layers] == ["0.l0", "0.l0_reverse"]
        curves, total = [[], []], np.zeros((2, LONGEST))
        for b, n in enumerate(ends):
            s = n - 1 if at is None else at if at >= 0 else n + at
            if not 0 <= s < n:
                continue
            for d in range(2):
                row = np.ascontiguousarray(x[:n, b : b + 1][:: -1 if d else 1])
                part = np.zeros((n, 1, 4), dtype)
                own = s if not d else n - 1 if last else n - 1 - s
                if last:
                    part[-1] = dy[b, 4 * d : 4 * d + 4]
                else:
                    part[:, 0] = dy[:n, b, 4 * d : 4 * d + 4][:: -1 if d else 1]
                of_row = lstmc.gradient_flow(alone[d], row, dy=part, at=own).layers[0]
                curves[d].append(of_row.reach.norms)
                total[d, :n] += of_row.dh[:: -1 if d else 1] ** 2
        for d, layer in enumerate(flow.layers):
            assert_close(layer.reach.norms, reach_over_rows(curves[d]), TOLERANCE[dtype])
            if at is None:
                assert_close(layer.dh, np.sqrt(total[d]), TOLERANCE[dtype])
    seen = lstmc.Watch(net)(1.0, dy, net.forward(x, lengths=lengths)[2])
    assert set(seen) == {"window", "loss", "0.l0", "0.l0_reverse"}
    expected = lstmc.gradient_flow(net, x, dy=dy, lengths=lengths).layers[1].reach.kept
    assert abs(seen["0.l0_reverse"]["kept"] - expected) <= 1e-5 * expected


def test_what_each_step_adds_to_the_weights_of_a_bidirectional_stack():
    """Against the outer products themselves, in float64, with lengths and resets."""
    rng = np.random.default_rng(seed_of("added"))
    stack = lstmc.GRU(3, 4, 2, dtype=np.float64, rng=rng, bidirectional=True)
    x = rng.standard_normal((LONGEST, 5, 3))
    dy = rng.standard_normal((LONGEST, 5, 8))
    times = {"lengths": LENGTHS, "resets": TIMES.resets}
    flow = lstmc.gradient_flow(stack, x, dy=dy, arrays=True, **times)
    stack.zero_grad()
    stack.backward(dy, stack.forward(x, **times)[2])
    trace = stack.forward(x, **times)[2]
    for number, layer in enumerate(flow.layers):
        g, of_h = layer.gradients.dgates, layer.gradients.dgates_of_h
        one, below = trace.layers[number], trace.input_of(number // 2)
        for kind, pairs in {"weight_ih": (g, below), "weight_hh": (of_h, one.h_before)}.items():
            each = np.einsum("tbg,tbi->tgi", *pairs)
            assert_close(layer.weights[kind], np.sqrt((each**2).sum((1, 2))), 1e-10)
            assert_close(each.sum(0), stack.grad(stack.named(kind, number)), 1e-12)


@pytest.mark.parametrize("lengths", [None, [3, 1, 4, 2, 4]], ids=["whole", "lengths"])
def test_both_directions_are_printed(lengths):
    """At the last step the reverse direction has one state behind it, the forward one all."""
    layer = lstmc.GRU(3, 4, 2, rng=1, bidirectional=True)
    x = np.random.default_rng(1).standard_normal((6, 5, 3)).astype(np.float32)
    lines = str(lstmc.gradient_flow(layer, x, lengths=lengths)).splitlines()
    assert lines[-1].split()[-1] == "-"
    spectrum = lstmc.jacobian_spectrum(
        lstmc.GRU(3, 4, rng=1, bidirectional=True), x, lengths=lengths
    )
    assert "layer 0, reverse: spectral norm" in str(spectrum)
    gates = lstmc.gate_statistics(layer, x, lengths=lengths)
    assert "beyond all numbers" not in str(spectrum) + str(gates)


def test_padding_of_targets_and_of_dy_is_no_finding():
    net, x, dy = make_rows(np.dtype(np.float32), False, True)
    x, dy = turn(x, True), turn(dy, True)
    x[TIMES.beyond.T] = dy[TIMES.beyond.T] = np.nan
    ids = np.where(TIMES.beyond.T, 77, 1)
    for options in ({"targets": dy}, {"targets": ids}, {"dy": dy}):
        assert lstmc.find_nonfinite(net, x, lengths=LENGTHS, **options) is None
        assert math.isfinite(
            lstmc.gradient_flow(net, x, lengths=LENGTHS, **options).layers[0].dh.sum()
        )
    trace = net.forward(x, lengths=LENGTHS)[2]
    assert lstmc.find_nonfinite(net, trace=trace, dy=dy) is None
    assert lstmc.gradient_flow(net, trace=trace, dy=dy).layers
    assert lstmc.check_gradients(net, x, np.where(ids == 77, -1, 1), lengths=LENGTHS, samples=20)
    dy[0, 0] = np.inf
    assert "gradient of the loss" in str(lstmc.find_nonfinite(net, trace=trace, dy=dy))
