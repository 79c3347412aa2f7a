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

import lstmc
from lstmc.inspection import NonFinite
from lstmc.training import streams, windows

# Norms and means of some tens of float32 numbers, a few steps deep.
TOLERANCE = 1e-5

STEPS, BATCH, HIDDEN, CLASSES = 6, 3, 4, 7


def make_net(dtype=np.float32, dropout=0.3, cell="lstm", layers=2):
    rng = np.random.default_rng(1)
    own = {"dtype": dtype, "rng": rng}
    recurrent = CELLS[cell].make(5, HIDDEN, layers, **own)
    return lstmc.Sequential(
        lstmc.Embedding(CLASSES, 5, **own),
        lstmc.Dropout(dropout, rng=2),
        recurrent,
        lstmc.Linear(HIDDEN, CLASSES, **own),
    )


def draw_tokens(*shape):
    return np.random.default_rng(seed_of("tokens", *shape)).integers(CLASSES, size=shape)


def linear(factor, inputs=1, hidden=1, layers=1, dtype=np.float32):
    """Return an RNN of R = factor times one and W = 1 that neither squashes nor shifts."""
    net = lstmc.RNN(inputs, hidden, layers, nonlinearity="identity", bias=False, dtype=dtype)
    net.params[...] = 0
    for k in range(layers):
        net[f"weight_ih_l{k}"][...] = np.eye(*net[f"weight_ih_l{k}"].shape)
        net[f"weight_hh_l{k}"][...] = factor * np.eye(hidden)
    return net


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
    for k, kept in enumerate(trace.layers[2].layers):
        seen, count, size = record[f"2.l{k}"], 0, 0
        for name, a in (kept.gates or {"h": kept.h}).items():
            low = dtype.type(0.1 if name in cell.sigmoids else -0.9)
            count += sum(bool(v < low or v > dtype.type(0.9)) for v in a.flat)
            size += a.size
        assert 0 < count < size
        assert seen["saturated"] == count / size
        if cell.keeps:
            assert (
                abs(seen["forget"] - kept.gates[cell.keeps].astype(np.float64).mean()) < TOLERANCE
            )
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
    wanted = {}
    for record in watch.records:
        wanted.setdefault("loss", []).append((record["window"], record["loss"]))
        for name in ("2.l0", "2.l1"):
            for what, value in record[name].items():
                if value is not None:
                    wanted.setdefault(f"{name}/{what}", []).append((record["window"], value))
    found = {
        tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in board.Tensors(tag)]
        for tag in board.Tags()["tensors"]
    }
    assert len(wanted["loss"]) == 2
    assert set(found) == set(wanted)
    for tag, values in wanted.items():
        assert [step for step, _ in found[tag]] == [window for window, _ in values]
        # It keeps float32.
        assert_close([v for _, v in found[tag]], [v for _, v in values], 1e-7, tag)


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
    told = f"the loss of window 2 is {loss}: a state is not finite: l0, at step 4, row 1"
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


# --------------------------------------------------------------------------------------------------
# The first number that is not finite
# --------------------------------------------------------------------------------------------------


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
    found = found_both_ways(net, draw_tokens(STEPS, BATCH))
    assert found == NonFinite("a weight", name)
    assert str(found) == f"a weight is not finite: {name}"


def test_the_input():
    """The earliest step, then the first row: of a network, at the recurrent layer that reads it."""
    x = np.zeros((STEPS, BATCH, 2), np.float32)
    x[4, 0, 1], x[3, 2, 0] = math.nan, math.inf
    found = found_both_ways(lstmc.LSTM(2, 3, rng=1), x)
    assert (found.what, found.step, found.row) == ("x", 3, 2)
    assert str(found) == "x is not finite, at step 3, row 2"
    net = lstmc.Sequential(lstmc.Linear(2, 2, rng=1), lstmc.LSTM(2, 3, rng=1))
    found = found_both_ways(net, x)
    assert (found.what, found.step, found.row) == ("x", 3, 2)
    assert str(found) == "x is not finite: of layer 1, at step 3, row 2"


@pytest.mark.parametrize("form", ["time first", "batch first", "unbatched"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_state_that_overflows(form, steps):
    """h becomes 1 at some step, and 1e60 two steps later."""
    net = linear(1e30)
    x = np.zeros((STEPS, BATCH, 1), np.float32)
    x[steps, 1] = 1
    row = 1
    if form == "batch first":
        net.batch_first, x = True, np.ascontiguousarray(x.swapaxes(0, 1))
    elif form == "unbatched":
        x, row = x[:, 1], 0
    found = found_both_ways(net, x)
    assert found == NonFinite("a state", "l0", steps + 2, row)
    assert str(found) == f"a state is not finite: l0, at step {steps + 2}, row {row}"


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
        found = lstmc.find_nonfinite(net, x, targets)
        assert str(found) == "the output is not finite"


@pytest.mark.parametrize("kind", ["dy", "numbers", "a function"])
def test_the_gradient_at_the_output(kind):
    net, x = linear(0.5), np.ones((STEPS, BATCH, 1), np.float32)
    dy = np.ones((STEPS, BATCH, 1), np.float32)
    dy[2, 1] = math.nan
    if kind == "dy":
        found = found_both_ways(net, x, dy=dy)
    else:
        found = lstmc.find_nonfinite(net, x, dy if kind == "numbers" else lambda y: (0.0, dy))
    assert str(found) == "the gradient of the loss at the output is not finite"


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
    found = found_both_ways(net, x, dy=dy)
    assert found == NonFinite("a gradient", name, last - 2, 2)
    assert str(found) == f"a gradient is not finite: {name}, at step {last - 2}, row 2"
    found = found_both_ways(net, x, dy=dy * np.float32(1e-30))  # which takes a step more
    assert found == NonFinite("a gradient", name, last - 3, 2)


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
    given = {"classes": classes, "a function": lambda y: (0.0, 0 * y)}
    assert lstmc.find_nonfinite(net, x, given.get(targets)) is None
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
        with pytest.raises(ValueError, match="x, targets and state must not be given"):
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
