"""Tests of Watch, by hand and in a Trainer, and of find_nonfinite.

What a Watch writes down is compared with closed forms, with loops over the trace and, for an LSTM's
gradient, with PyTorch-free central differences; where a number first is not finite is known because
the network is made to overflow there.
"""

import json
import math

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient
from watch_cases import BATCH, CLASSES, HIDDEN, STEPS, draw_tokens, linear, make_net

import lstmc
from lstmc.training import streams, windows

# Norms and means of some tens of float32 numbers, a few steps deep.
TOLERANCE = 1e-5


def read_lines(path):
    """Read a JSONL file as strictly as other readers do: NaN and Infinity are no JSON."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


# --------------------------------------------------------------------------------------------------
# What is seen
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, -0.9, 1.0, 1.5])
def test_the_gradient_of_a_linear_network(factor):
    """At h_t it is the sum of R^(s-t) dy_s; that of the last step alone is a power of R."""
    net = linear(factor, hidden=3)
    rng = np.random.default_rng(seed_of("linear"))
    x = rng.standard_normal((STEPS, BATCH, 1)).astype(np.float32)
    y, _, trace = net.forward(x)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    record = lstmc.Watch(net)(2.5, dy, trace)
    total, arriving = 0.0, np.zeros((BATCH, 3))
    for t in reversed(range(STEPS)):
        arriving = dy[t] + factor * arriving
        total += float((arriving**2).sum())
    assert (record["window"], record["loss"]) == (1, 2.5)
    seen = record["l0"]
    assert set(seen) == {"gradient", "half_life", "kept", "saturated", "forget", "weights"}
    assert abs(seen["gradient"] / math.sqrt(total) - 1) < TOLERANCE
    assert abs(seen["kept"] / abs(factor) ** (STEPS - 1) - 1) < TOLERANCE
    half_life = math.log(2) / -math.log(abs(factor)) if abs(factor) < 1 else None
    if half_life is None:
        assert seen["half_life"] is None
    else:
        assert abs(seen["half_life"] / half_life - 1) < 1e-4
    assert abs(seen["weights"] / (abs(factor) * math.sqrt(3)) - 1) < TOLERANCE
    assert seen["forget"] is None
    assert seen["saturated"] is None  # nothing saturates without tanh


@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_what_is_seen_of_gates(dtype, cell):
    net, cell = make_net(dtype, cell=cell), CELLS[cell]
    recurrent = net.layers[2]
    recurrent.params[...] *= 4  # so that some gates are saturated, and not all
    tokens, targets = draw_tokens(2, STEPS, BATCH)
    y, _, trace = net.forward(tokens)
    loss, dy = lstmc.softmax_cross_entropy(y, targets)
    record = lstmc.Watch(net)(loss, dy, trace)
    assert list(record) == ["window", "loss", "2.l0", "2.l1"]
    for k, layer_trace in enumerate(trace.layers[2].layers):
        seen, count, size = record[f"2.l{k}"], 0, 0
        for name, a in (layer_trace.gates or {"h": layer_trace.h}).items():
            low, high = map(dtype.type, cell.saturation(name))
            count += sum(bool(v < low or v > high) for v in a.flat)
            size += a.size
        assert 0 < count < size
        assert seen["saturated"] == count / size
        if cell.keeps:
            kept = cell.keeps(layer_trace.gates).astype(np.float64)
            assert abs(seen["forget"] - kept.mean()) < TOLERANCE
        else:
            assert seen["forget"] is None
        norm = math.sqrt((recurrent[f"weight_hh_l{k}"].astype(np.float64) ** 2).sum())
        assert abs(seen["weights"] / norm - 1) < TOLERANCE


def test_the_gradient_of_an_lstm():
    """By central differences: h_t is moved, its own dy is added, and the rest of the sequence runs."""
    rng = np.random.default_rng(seed_of("lstm"))
    net = lstmc.LSTM(2, HIDDEN, dtype=np.float64, rng=rng)
    x, dy = (rng.standard_normal((STEPS, BATCH, n)) for n in (2, HIDDEN))
    _, _, trace = net.forward(x)
    seen = lstmc.Watch(net)(1.0, dy, trace)["l0"]
    total, state = 0.0, None
    for t in range(STEPS):
        _, state = net(x[t : t + 1], state)

        def rest(h, t=t, c=state[1]):
            return float((net(x[t + 1 :], (h, c))[0] * dy[t + 1 :]).sum())

        total += float(((dy[t] + numerical_gradient(rest, state[0])[0]) ** 2).sum())
    # As good as central differences are; support.py says how good.
    assert abs(seen["gradient"] / math.sqrt(total) - 1) < 1e-7


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("shape", [(STEPS, BATCH), (0, BATCH), (STEPS, 0)])
def test_where_no_row_has_a_step_only_weights_are_seen(shape, directions, last):
    layer = lstmc.LSTM(2, HIDDEN, rng=1, bidirectional=directions == 2)
    net = lstmc.Sequential(layer, *[lstmc.Last()] * last)
    x, lengths = np.ones((*shape, 2), np.float32), np.zeros(shape[1], int)
    y, _, trace = net.forward(x, lengths=lengths)
    record = lstmc.Watch(net)(0.0, np.ones_like(y), trace)
    for name in ("0.l0", "0.l0_reverse")[:directions]:
        seen = record[name]
        assert seen.pop("weights") > 0
        assert seen == dict.fromkeys(("gradient", "half_life", "kept", "saturated", "forget"))


@pytest.mark.parametrize("factor", [1e30, 1e200])
def test_an_overflow_is_no_number(factor, tmp_path):
    """A gradient of 1e60 in float32, and weights whose squares overflow in float64."""
    dtype = np.float32 if factor == 1e30 else np.float64
    net = linear(factor, dtype=dtype)
    _, _, trace = net.forward(np.zeros((STEPS, BATCH, 1), dtype))
    watch = lstmc.Watch(net, path=tmp_path / "watch.jsonl")
    seen = watch(1.0, np.ones((STEPS, BATCH, 1), dtype), trace)["l0"]
    assert seen["gradient"] is None
    assert seen["kept"] is None
    assert abs(seen["weights"] / factor - 1) < TOLERANCE
    (line,) = read_lines(tmp_path / "watch.jsonl")
    assert line["l0"] == seen


def test_every_so_many_windows(tmp_path):
    """The first is looked at; all are counted; lines are added to a file that is there."""
    net, path = make_net(), tmp_path / "watch.jsonl"
    path.write_text('{"window": 0}\n')
    watch = lstmc.Watch(net, every=3, path=path)
    tokens, targets = draw_tokens(2, STEPS, BATCH)
    returned = []
    for _ in range(8):
        y, _, trace = net.forward(tokens)
        returned.append(watch(*lstmc.softmax_cross_entropy(y, targets), trace))
    assert [record and record["window"] for record in returned] == [
        1,
        None,
        None,
        4,
        None,
        None,
        7,
        None,
    ]
    assert watch.records == [record for record in returned if record]
    assert watch.window == 8
    assert read_lines(path) == [{"window": 0}, *watch.records]


def test_watching_changes_nothing():
    """It comes before backward, which then gives the same bits; the trace is not spent."""
    net, twin = make_net(), make_net()
    tokens, targets = draw_tokens(2, STEPS, BATCH)
    watch, grads = lstmc.Watch(net, every=1), []
    for one in (net, twin):
        y, _, trace = one.forward(tokens)
        loss, dy = lstmc.softmax_cross_entropy(y, targets)
        if one is net:
            before = one.params.copy(), dy.copy(), one.layers[1].rng.bit_generator.state
            watch(loss, dy, trace)
            assert_same_bits((one.params, dy), before[:2])
            assert one.layers[1].rng.bit_generator.state == before[2]
            assert not one.grads.any()
        one.backward(dy, trace, consume=True)
        grads.append(one.grads.copy())
        if one is net:
            with pytest.raises(ValueError, match="trace was consumed by an earlier backward"):
                watch(loss, dy, trace)
    assert_same_bits(grads[0], grads[1])


def test_a_language_model_and_a_bare_layer():
    model = lstmc.LanguageModel(lstmc.Vocabulary(list("abc"), "char"), layers=1, hidden=4, rng=1)
    y, _, trace = model.net.forward(np.zeros((3, 2), np.int64))
    watch = lstmc.Watch(model)
    assert watch.net is model.net
    assert list(watch(1.0, y, trace)) == ["window", "loss", "1.l0"]
    layer = lstmc.RNN(2, 3, 2, rng=1)
    y, _, trace = layer.forward(np.ones((3, 2), np.float32))  # unbatched
    assert list(lstmc.Watch(layer)(1.0, y, trace)) == ["window", "loss", "l0", "l1"]


def test_a_gradient_that_overflows_can_be_written_down(tmp_path):
    """The loss is finite, so nothing stops; the file is still JSON."""
    net, path = linear(1e18), tmp_path / "watch.jsonl"
    y, _, trace = net.forward(np.zeros((STEPS, 1, 1), np.float32))
    lstmc.Watch(net, path=path)(0.0, y + 1, trace)
    (line,) = read_lines(path)
    assert line["loss"] == 0.0
    assert line["l0"]["gradient"] is None
    assert line["l0"]["kept"] is None


def test_the_norm_of_large_weights():
    """Their squares are beyond float32, and their norm is not."""
    net = linear(1e25, hidden=4)
    y, _, trace = net.forward(np.zeros((1, 1, 1), np.float32))
    seen = lstmc.Watch(net)(0.0, y, trace)["l0"]
    assert abs(seen["weights"] / 2e25 - 1) < TOLERANCE


# --------------------------------------------------------------------------------------------------
# TensorBoard
# --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own imports, in some versions
def test_tensorboard(tmp_path):
    """What TensorBoard reads back is what the records hold."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    net = make_net()
    tokens, targets = draw_tokens(2, STEPS, BATCH)
    watch = lstmc.Watch(net, every=2, tensorboard=tmp_path / "board")
    for _ in range(3):
        y, _, trace = net.forward(tokens)
        watch(*lstmc.softmax_cross_entropy(y, targets), trace)
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    expected = {}
    for record in watch.records:
        expected.setdefault("loss", []).append((record["window"], record["loss"]))
        for name in ("2.l0", "2.l1"):
            for what, value in record[name].items():
                if value is not None:
                    expected.setdefault(f"{name}/{what}", []).append((record["window"], value))
    actual = {
        tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in board.Tensors(tag)]
        for tag in board.Tags()["tensors"]
    }
    assert len(expected["loss"]) == 2
    assert set(actual) == set(expected)
    for tag, values in expected.items():
        assert [step for step, _ in actual[tag]] == [window for window, _ in values]
        # It keeps float32.
        assert_close([v for _, v in actual[tag]], [v for _, v in values], 1e-7, tag)


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary", None)
    with pytest.raises(ImportError, match="tensorboard is not installed: pip install tensorboard"):
        lstmc.Watch(make_net(), tensorboard=tmp_path)


# --------------------------------------------------------------------------------------------------
# In a Trainer
# --------------------------------------------------------------------------------------------------

TEXT = np.random.default_rng(8).integers(CLASSES, size=200)  # 3 streams of 66: 11 windows of 6


def train(watched, epochs=2, **options):
    net = make_net()
    watch = lstmc.Watch(net, **options) if watched else None
    optimiser = lstmc.Adam(net, lr=0.01)
    trainer = lstmc.Trainer(net, optimiser, batch=BATCH, steps=STEPS, num_threads=1, watch=watch)
    history = trainer.fit(TEXT, epochs=epochs, progress=False)
    return net, history, watch


@pytest.mark.parametrize("every", [1, 4])
def test_a_watched_training_gives_the_same_bits(tmp_path, every):
    path = tmp_path / "watch.jsonl"
    net, history, watch = train(True, every=every, path=path)
    twin, alone, _ = train(False)
    assert_same_bits(net.params, twin.params)
    assert [e["train_loss"] for e in history] == [e["train_loss"] for e in alone]
    assert [e["grad_norm"] for e in history] == [e["grad_norm"] for e in alone]
    assert [record["window"] for record in watch.records] == list(range(1, 23, every))
    assert read_lines(path) == watch.records
    if every == 1:
        losses = np.array([record["loss"] for record in watch.records]).reshape(2, 11)
        weights = [6] * 10 + [5]  # the last window is a step shorter
        means = np.average(losses, axis=1, weights=weights)
        assert_close(means, [e["train_loss"] for e in history], 1e-12)
        by_hand = make_net()
        x, targets = next(windows(streams(TEXT, BATCH), STEPS))
        y, _, trace = by_hand.forward(x)
        first = lstmc.Watch(by_hand)(*lstmc.softmax_cross_entropy(y, targets), trace)
        assert first == watch.records[0]


def test_a_watch_of_another_net():
    net = make_net()
    with pytest.raises(ValueError, match="watch must be of this net, got one of another"):
        lstmc.Trainer(net, lstmc.SGD(net, lr=0.1), 2, 3, watch=lstmc.Watch(make_net()))


def test_a_watched_training_that_diverges():
    """It stops before a step is taken, and names the window and the place."""
    net = make_net(dropout=0.0)
    watch = lstmc.Watch(net)
    trainer = lstmc.Trainer(net, lstmc.SGD(net, lr=0.1), BATCH, STEPS, num_threads=1, watch=watch)
    trainer.fit(TEXT, progress=False)
    net["2.weight_hh_l1"][2, 1] = math.nan
    before = net.params.copy()
    with pytest.raises(
        FloatingPointError,
        match=r"the loss of window 12 is nan: a weight is not finite: 2\.weight_hh_l1",
    ):
        trainer.fit(TEXT, epochs=2, progress=False)
    assert_same_bits(net.params, before)
    assert (trainer.epoch, trainer.window) == (1, 0)

    watch.nonfinite = "warn"  # then it is the trainer that stops
    with pytest.warns(RuntimeWarning, match="the loss of window 13 is nan: a weight"), \
            pytest.raises(FloatingPointError, match="no step was taken"):  # fmt: skip
        trainer.fit(TEXT, epochs=2, progress=False)
    assert_same_bits(net.params, before)


# --------------------------------------------------------------------------------------------------
# A loss that is not finite
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("nonfinite", ["stop", "warn"])
def test_a_loss_that_is_not_finite(tmp_path, loss, nonfinite):
    """It is seen in any window, also in one that is not looked at, and nothing is written down."""
    net, path = linear(1e18), tmp_path / "watch.jsonl"
    watch = lstmc.Watch(net, every=10, path=path, nonfinite=nonfinite)
    x = np.zeros((STEPS, 2, 1), np.float32)
    y, _, trace = net.forward(x)
    watch(0.0, 0 * y, trace)
    x[1, 1] = 1  # h is 1, 1e18, 1e36 and then beyond float32
    y, _, trace = net.forward(x)
    told = f"the loss of window 2 is {loss}: a state is not finite: layer 0, at step 4, row 1"
    if nonfinite == "stop":
        with pytest.raises(FloatingPointError, match=f"^{told}$"):
            watch(loss, y, trace)
    else:
        with pytest.warns(RuntimeWarning, match=f"^{told}$"):
            assert watch(loss, y, trace) is None
        assert watch(0.0, np.zeros_like(y), net.forward(0 * x)[2]) is None  # it goes on
    assert len(watch.records) == len(read_lines(path)) == 1


def test_a_loss_whose_origin_is_elsewhere():
    net = linear(0.5)
    y, _, trace = net.forward(np.ones((STEPS, 2, 1), np.float32))
    with pytest.raises(FloatingPointError, match="but states and gradients are finite"):
        lstmc.Watch(net)(math.nan, y, trace)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"net": lstmc.Linear(2, 3)}, ValueError, "net must have a recurrent layer"),
        ({"every": 0}, ValueError, "every must be a positive integer, got 0"),
        ({"every": 1.5}, TypeError, "every must be a positive integer"),
        (
            {"nonfinite": "ignore"},
            ValueError,
            '^nonfinite must be "stop" or "warn", got \'ignore\'',
        ),
        ({"path": "no such folder/watch.jsonl"}, OSError, "no such folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_of_a_watch(options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        lstmc.Watch(**{"net": linear(1.0), **options})


def test_a_watch_of_the_trace_of_another_net():
    net = linear(1.0)
    y, _, trace = linear(1.0).forward(np.ones((STEPS, 2, 1), np.float32))
    for loss in (1.0, math.nan):
        with pytest.raises(ValueError, match=r"trace must come from this layer's forward\(\)"):
            lstmc.Watch(net)(loss, y, trace)
