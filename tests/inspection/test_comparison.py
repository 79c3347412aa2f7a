"""Tests of learning a problem and of comparing an LSTM with an RNN of equal size on it."""

import json
import math
import runpy
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from support import NAMES, assert_close, assert_same_bits, generator

import lstmc
from lstmc.inspection.comparison import Learning, compare, learn
from lstmc.inspection.contestants import equal_networks
from lstmc.inspection.problems import Problem, adding, copying, temporal_order

EXAMPLE = Path(__file__).parents[2] / "examples" / "long_term.py"


# -- networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hidden", [20, 32, 48, 64])
def test_networks_of_equal_size(name, hidden):
    problem = Problem(name, 50)
    lstm, rnn = equal_networks(problem, hidden)
    i, o, r = problem.inputs, problem.outputs, rnn.layers[0].hidden_size
    assert lstm.layers[0].hidden_size == hidden
    assert rnn.layers[0].nonlinearity == "tanh"
    one = 4 * hidden * (i + hidden + 1) + o * (hidden + 1)
    other = r * (i + r + 1) + o * (r + 1)
    assert lstm.num_parameters == one
    assert rnn.num_parameters == other
    assert abs(other / one - 1) < 0.02
    for near in (r - 1, r + 1):  # no other size comes nearer
        assert abs(near * (i + near + 1) + o * (near + 1) - one) >= abs(other - one)
    x, _ = problem.batch(generator(), 3)
    assert lstm(x)[0].shape == rnn(x)[0].shape == (problem.length, 3, o)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hidden", [32, 48, 64])
def test_a_gru_of_equal_size(name, hidden):
    problem = Problem(name, 50)
    gru, lstm = equal_networks(problem, hidden, kinds=("gru", "lstm"))
    i, o, near = problem.inputs, problem.outputs, gru.layers[0].hidden_size
    sizes = {h: 3 * h * (i + h) + 4 * h + o * (h + 1) for h in (near - 1, near, near + 1)}
    assert gru.num_parameters == sizes[near]
    assert min(sizes, key=lambda h: abs(sizes[h] - lstm.num_parameters)) == near
    assert abs(sizes[near] / lstm.num_parameters - 1) < 0.02
    x, _ = problem.batch(generator(), 3)
    assert gru(x)[0].shape == (problem.length, 3, o)


@pytest.mark.parametrize("kinds", [(), ("lstm", "lstm"), ("lstm", "cnn"), "transformer"])
def test_wrong_kinds_are_refused(kinds):
    for function in (equal_networks, compare):
        with pytest.raises(
            ValueError, match="kinds must be different ones of lstm, gru, rnn, got "
        ):
            function(Problem("adding", 10), kinds=kinds)


def test_the_forget_gates_at_first():
    problem = Problem("temporal_order", 100)
    plain, _ = equal_networks(problem, rng=3, forget=0)
    one, _ = equal_networks(problem, rng=3, forget=1)
    difference = one.params - plain.params
    assert np.count_nonzero(difference) == 48
    assert_close(one["0.bias_l0"][48:96], plain["0.bias_l0"][48:96] + 1, 1e-6)
    spread, _ = equal_networks(problem, rng=3)
    bias = spread["0.bias_l0"]
    assert_same_bits(bias[:48], -bias[48:96])
    assert bias[48:96].min() >= 0
    assert math.log(50) < bias[48:96].max() <= math.log(99)
    plain, spread = (
        equal_networks(problem, rng=3, forget=forget, kinds=["gru"])[0] for forget in (0, "spread")
    )
    hidden = spread.layers[0].hidden_size
    z = spread["0.bias_l0"][hidden : 2 * hidden]
    assert np.count_nonzero(spread.params != plain.params) == hidden  # z's bias alone
    assert z.min() >= 0
    assert math.log(50) < z.max() <= math.log(99)


def test_an_orthogonal_start():
    problem = Problem("adding", 50)
    _, rnn = equal_networks(problem, rng=1, start="orthogonal")
    w = rnn["0.weight_hh_l0"].astype(np.float64)
    assert_close(w @ w.T, np.eye(len(w)), 1e-5)
    assert not rnn["0.bias_l0"].any()
    _, usual = equal_networks(problem, rng=1)
    assert np.abs(usual["0.weight_hh_l0"]).max() <= 1 / math.sqrt(len(w))


# -- learning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cell"),
    [*product(NAMES[:2], ("lstm", "gru", "rnn")), *product(("copying",), ("lstm", "gru"))],
)
def test_short_sequences_are_learned(name, cell):
    problem = Problem(name, 10 if name != "copying" else 5, symbols=2)
    (net,) = equal_networks(problem, 24, kinds=[cell])
    result = learn(net, problem, 3000, lr=0.005, seconds=60)
    assert result.stopped == "solved"
    assert result.solved_at == result.updates[-1]
    assert problem.solved(result.scores[-1])
    assert not any(map(problem.solved, result.scores[:-1]))
    assert result.cell == cell
    assert result.parameters == net.num_parameters
    x, targets = problem.batch(
        generator(99), 2000
    )  # it did learn, and not only that look was lucky
    score = problem.score(net(x)[0], targets)
    assert score < 0.012 if name == "adding" else score > 0.985


def test_what_a_learning_says():
    problem = Problem("adding", 10)
    net, _ = equal_networks(problem, 24)
    result = learn(net, problem, 25, every=10, rows=20)
    assert result.updates == [10, 20, 25]
    assert len(result.losses) == len(result.scores) == 3
    assert (result.solved_at, result.stopped, result.skipped) == (None, "updates", 0)
    assert str(result).startswith(
        f"LSTM of 24 units, {net.num_parameters} parameters: not learned in 25 updates, "
    )
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["problem"] == {"name": "adding", "steps": 10, "symbols": 10, "alphabet": 2}
    assert told["scores"] == result.scores
    assert told["losses"] == result.losses


def test_the_losses_are_those_of_the_updates():
    problem = Problem("temporal_order", 10)
    net, _ = equal_networks(problem, 24)
    result = learn(
        net, problem, 4, every=2, rows=5, lr=0.0
    )  # nothing moves: the loss can be redone
    drawn = np.random.default_rng(np.random.SeedSequence(0).spawn(1)[0])
    batches = [problem.batch(drawn, 50) for _ in range(4)]
    losses = [problem.loss(net(x)[0], targets)[0] for x, targets in batches]
    assert result.losses == pytest.approx([np.mean(losses[:2]), np.mean(losses[2:])])


@pytest.mark.parametrize("clip", [0.02, math.inf])
def test_an_update_is_adam_on_clipped_gradients(clip):
    problem = Problem("adding", 10)
    net, _ = equal_networks(problem, 24)
    mine, _ = equal_networks(problem, 24)
    learn(net, problem, 5, clip=clip, batch=8, rows=5)
    drawn = np.random.default_rng(np.random.SeedSequence(0).spawn(1)[0])
    optimiser = lstmc.Adam(mine, 0.01)
    for _ in range(5):
        x, targets = adding(drawn, 10, 8)
        y, _, trace = mine.forward(x)
        dy = np.zeros_like(y)
        dy[-1, :, 0] = lstmc.squared_error(y[-1, :, 0].copy(), targets)[1]
        mine.zero_grad()
        mine.backward(dy, trace)
        assert lstmc.clip_grad_norm(mine, clip) > 0.02  # the smaller limit does bind
        optimiser.step()
    assert_same_bits(net.params, mine.params)


def test_no_update_is_begun_when_time_is_up():
    problem = Problem("temporal_order", 50)
    _, rnn = equal_networks(problem, 24)
    result = learn(rnn, problem, 10**6, seconds=0.2, rows=100, every=10**6)
    assert result.stopped == "seconds"
    assert result.solved_at is None
    assert 1 <= result.updates[-1] < 10**5
    assert 0.2 <= result.seconds < 5
    assert "(no more time)" in str(result)


@pytest.mark.parametrize("cell", [0, 1])
def test_learning_is_the_same_every_time(cell):
    problem = Problem("temporal_order", 12)

    def run(every=10, rows=50, seed=5, threads=1):
        net = equal_networks(problem, 24, rng=2)[cell]
        result = learn(net, problem, 40, every=every, rows=rows, seed=seed, num_threads=threads)
        return net.params.copy(), result

    params, result = run()
    again, other = run(threads=2)
    assert_same_bits(again, params)
    assert other.losses == result.losses
    assert other.scores == result.scores
    assert_same_bits(run(every=7, rows=3)[0], params)  # looking changes nothing
    assert not np.array_equal(run(seed=6)[0], params)


def test_learning_in_float64():
    problem = Problem("adding", 10)
    net = lstmc.Sequential(
        lstmc.LSTM(2, 8, dtype=np.float64, rng=0), lstmc.Linear(8, 1, dtype=np.float64, rng=0)
    )
    before = net.params.copy()
    result = learn(net, problem, 3, rows=5)
    assert math.isfinite(result.scores[-1])
    assert not np.array_equal(net.params, before)


def test_updates_that_are_not_finite_are_skipped():
    problem = Problem("adding", 40)
    net = lstmc.Sequential(
        lstmc.RNN(2, 4, nonlinearity="identity", rng=0), lstmc.Linear(4, 1, rng=0)
    )
    net["0.weight_hh_l0"][...] = 50 * np.eye(4)  # 50^40 is more than float32 holds
    before = net.params.copy()
    result = learn(net, problem, 4, rows=5)
    assert result.skipped == 4
    assert_same_bits(net.params, before)
    assert result.solved_at is None
    assert "4 updates skipped" in str(result)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["scores"] == [None]


# -- both -------------------------------------------------------------------------------------------


def test_compare_is_learn_for_each():
    problem = Problem("copying", 5, symbols=2)
    kinds = ("lstm", "gru", "rnn")
    comparison = compare(problem, 30, kinds=kinds, hidden=24, seed=3, every=10, rows=40)
    nets = equal_networks(problem, 24, 3, kinds=kinds)
    x, targets = problem.batch(generator(3), 50)
    flows = [lstmc.gradient_flow(net, x, targets) for net in nets]
    for mine, flow in zip(comparison.flows.values(), flows, strict=True):
        assert mine.loss == flow.loss
        assert_same_bits(mine.layers[0].reach.norms, flow.layers[0].reach.norms)
        assert mine.at == [problem.length - 1]
    for mine, net in zip(comparison.learnings.values(), nets, strict=True):
        alone = learn(net, problem, 30, seed=3, every=10, rows=40)
        assert isinstance(mine, Learning)
        assert (mine.cell, mine.updates, mine.losses, mine.scores) == (
            alone.cell, alone.updates, alone.losses, alone.scores,
        )  # fmt: skip
    told = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert set(told) == {"learnings", "flows", "forget", "start"}
    assert list(told["learnings"]) == list(told["flows"]) == ["lstm", "gru", "rnn"]
    assert told["learnings"]["rnn"]["losses"] == comparison.learnings["rnn"].losses
    assert told["flows"]["lstm"]["layers"][0]["cell"] == "lstm"
    text = str(comparison)
    assert text.startswith("copying, 5 steps of delay, 2 symbols of 2 kinds: learned when symbols")
    for learning in comparison.learnings.values():
        assert str(learning) in text
    assert (
        "  at first the LSTM's forget gates keep for 1 to 9 steps, the GRU's update gates keep for 1 to 9 "
        "steps, the RNN's recurrent matrix is uniform\n" in text
    )
    other = str(compare(problem, 1, hidden=24, rows=5, forget=1, start="orthogonal"))
    assert "have a bias raised by 1, the RNN's recurrent matrix is orthogonal" in other


def test_each_network_has_its_learning_rate():
    problem = Problem("adding", 10)

    def rates(**options):
        comparison = compare(problem, 1, hidden=24, rows=5, **options)
        return {kind: learning.lr for kind, learning in comparison.learnings.items()}

    assert rates() == {"lstm": 0.01, "rnn": 0.0003}
    assert rates(kinds=("gru",)) == {"gru": 0.01}
    assert rates(lr={"lstm": 0.02, "rnn": 0.004}) == {"lstm": 0.02, "rnn": 0.004}
    assert rates(kinds=("rnn", "gru"), lr={"gru": 0.03}) == {"rnn": 0.0003, "gru": 0.03}
    with pytest.raises(ValueError, match="lr must be of lstm, rnn, got 'gru'"):
        rates(lr={"gru": 0.03})


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_tells_before_training(name):
    problem = Problem(name, 100)
    x, targets = problem.batch(generator(), 20)
    kept = []
    for net in equal_networks(problem):
        flow = lstmc.gradient_flow(net, x, lambda y: problem.loss(y, targets))
        kept.append(flow.layers[0].reach.kept)
    assert kept[0] > 0.05
    assert kept[1] < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adding", "temporal_order"])
def test_an_lstm_learns_over_100_steps_and_an_rnn_does_not(name):
    comparison = compare(Problem(name, 100), updates=5000)
    assert comparison.learnings["lstm"].solved_at is not None
    assert comparison.learnings["rnn"].stopped == "updates"
    assert comparison.learnings["rnn"].updates[-1] == 5000


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: adding(0, 10, 1), TypeError, "rng must be a numpy Generator, got int"),
        (lambda: adding(generator(), 1, 1), ValueError, "steps must be at least 2, got 1"),
        (lambda: adding(generator(), 10, 0), ValueError, "batch must be a positive integer, got 0"),
        (lambda: temporal_order(generator(), 9, 1), ValueError, "steps must be at least 10, got 9"),
        (lambda: temporal_order(generator(), 10, 1.5), TypeError, "batch must be .* got 1.5"),
        (lambda: copying(generator(), 0, 1), ValueError, "delay must be .* got 0"),
        (lambda: copying(generator(), 1, 1, symbols=0), ValueError, "symbols must be .* got 0"),
        (lambda: copying(generator(), 1, 1, alphabet=1), ValueError, "alphabet must be .* got 1"),
        (lambda: Problem("parity"), ValueError, "name must be .*, got 'parity'"),
        (lambda: Problem("adding", "10"), TypeError, "steps must be .* got '10'"),
        (lambda: Problem("temporal_order", 9), ValueError, "steps must be at least 10, got 9"),
        (lambda: Problem("copying", 5, alphabet=1), ValueError, "alphabet must be at least 2"),
        (lambda: equal_networks("adding"), TypeError, "problem must be a Problem, got str"),
        (lambda: equal_networks(Problem("adding"), 0), ValueError, "hidden must be .* got 0"),
        (lambda: equal_networks(Problem("adding"), 2), ValueError, "hidden must be larger.* 2 %"),
        (lambda: equal_networks(Problem("adding"), forget="x"), ValueError, "forget must .* 'x'"),
        (lambda: equal_networks(Problem("adding"), forget=math.inf), ValueError, "forget .* inf"),
        (lambda: equal_networks(Problem("adding"), start="eye"), ValueError, "start must .* 'eye'"),
        (lambda: compare(Problem("adding"), seed=-1), ValueError, "seed .* negative, got -1"),
        (lambda: compare(Problem("adding"), seed="a"), TypeError, "seed .* integer, got 'a'"),
        (lambda: compare(Problem("adding"), 0), ValueError, "updates must .* got 0"),
        (lambda: compare(Problem("adding"), 1, batch=0), ValueError, "batch must .* got 0"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"updates": 1.5}, TypeError, "updates must be a positive integer, got 1.5"),
        ({"lr": -1}, ValueError, "lr must be a finite number at least 0, got -1"),
        ({"clip": 0}, ValueError, "clip must be a positive number, got 0"),
        ({"every": 0}, ValueError, "every must be a positive integer, got 0"),
        ({"rows": -1}, ValueError, "rows must be a positive integer, got -1"),
        ({"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
        ({"seconds": 0}, ValueError, "seconds must be None or a positive number, got 0"),
        ({"seconds": math.nan}, ValueError, "seconds must be None or a positive number, got nan"),
    ],
)
def test_bad_arguments_of_learn(options, error, message):
    problem = Problem("adding", 10)
    net, _ = equal_networks(problem, 24)
    before = net.params.copy()
    with pytest.raises(error, match=message):
        learn(net, problem, **options)
    assert_same_bits(net.params, before)


def test_networks_that_do_not_fit():
    net, _ = equal_networks(Problem("adding", 10), 24)
    with pytest.raises(ValueError, match=r"x must be \(T, B, 2\).* got \(10, 50, 8\)"):
        learn(net, Problem("temporal_order", 10), 1)
    with pytest.raises(ValueError, match=r"y must be \(T, B, 1\) for adding, got \(10, 50, 3\)"):
        learn(lstmc.LSTM(2, 3), Problem("adding", 10), 1)
    with pytest.raises(ValueError, match="net must have a recurrent layer"):
        learn(lstmc.Linear(2, 1), Problem("adding", 10), 1)


# -- the example ------------------------------------------------------------------------------------


def test_the_example(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    main = runpy.run_path(str(EXAMPLE), run_name="example")["main"]
    path = tmp_path / "picture.png"
    comparison = main(12, ("adding", "copying"), updates=20, path=path)
    assert [c.problem.name for c in comparison] == ["adding", "copying"]
    said = capsys.readouterr().out
    assert "".join(f"{c}\n" for c in comparison) + f"see {path}\n" == said
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert path.stat().st_size > 20_000


def test_the_example_without_matplotlib(tmp_path, capsys, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    main = runpy.run_path(str(EXAMPLE), run_name="example")["main"]
    main(12, ("adding",), updates=5, path=tmp_path / "picture.png")
    assert capsys.readouterr().out.endswith(
        "no picture: matplotlib is not installed: pip install lstmc[plot]\n"
    )
    assert not list(tmp_path.iterdir())
