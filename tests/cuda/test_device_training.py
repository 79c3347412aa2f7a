"""Learning on a GPU: losses, optimisers, dropout, language models, training.

The judge is the CPU, which other files judge; test_device_layers.py has the layers.
"""

import json
import math

import numpy as np
import pytest
from devices import (
    NEAR,
    TEXT,
    TOLERANCE,
    assert_reports_alike,
    assert_same_weights,
    draw,
    make_model,
    to_device,
    to_host,
)
from stacks import arriving_state, as_type, make_layer, random_problem
from support import assert_close, assert_same_bits
from test_optim import CASES, IDS

import lstmc
from lstmc import cli
from lstmc.training import evaluate

DEVICES = [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")]


def assert_number(cupy, actual, expected, tolerance):
    """Assert that a loss or a norm is an array () on the device, and near a number of the CPU's."""
    assert isinstance(actual, cupy.ndarray)
    assert actual.shape == ()
    assert abs(float(actual) - expected) <= tolerance * max(1, abs(expected))


# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["new", "given", "logits"])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(5, 3, 17), (2, 300), (4, 1), (70, 5), (0, 4), (6,)], ids=str)
def test_softmax_cross_entropy(cupy, dtype, shape, kind, out):
    logits = 3 * draw(dtype, *shape)
    targets = np.random.default_rng(1).integers(shape[-1], size=shape[:-1]).astype(kind)
    if targets.size > 2:
        targets.reshape(-1)[1] = -1
    expected, gradient = lstmc.softmax_cross_entropy(logits, targets)
    given = cupy.asarray(logits)
    into = {"new": None, "given": cupy.full_like(given, np.nan), "logits": given}[out]
    loss, dlogits = lstmc.softmax_cross_entropy(given, cupy.asarray(targets), out=into)
    assert_number(cupy, loss, expected, TOLERANCE[dtype])
    assert dlogits.dtype == dtype
    assert dlogits.shape == shape
    # Rows share the weight 1; where a probability is near 1, what is left of it is rounded as it is.
    error = np.abs(dlogits.get() - gradient)
    assert (error <= TOLERANCE[dtype] / max(1, np.count_nonzero(targets != -1))).all()
    if out == "new":
        assert_same_bits(given.get(), logits)
    else:
        assert dlogits is into


@pytest.mark.parametrize("ignored", [-1, -100, 2])
def test_ignored_targets(cupy, dtype, ignored):
    """They count neither in the mean nor in the gradient, whatever their logits."""
    logits, targets = draw(dtype, 6, 5), np.array([0, ignored, 4, 1, ignored, 3])
    logits[[1, 4]] = np.nan
    expected, gradient = lstmc.softmax_cross_entropy(logits, targets, ignored)
    loss, dlogits = lstmc.softmax_cross_entropy(*to_device(cupy, (logits, targets)), ignored)
    assert_number(cupy, loss, expected, TOLERANCE[dtype])
    assert_close(dlogits.get(), gradient, TOLERANCE[dtype])
    assert not dlogits[1].any()
    nothing, none = lstmc.softmax_cross_entropy(
        *to_device(cupy, (logits, np.full(6, ignored))), ignored
    )
    assert float(nothing) == 0
    assert not none.any()


@pytest.mark.parametrize("place", [(0, 0), (1, 2)])
@pytest.mark.parametrize("value", [4, -2, 2**40])
def test_targets_out_of_range(cupy, place, value):
    """The first is named with its position, as on the CPU."""
    logits, targets = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), np.int64)
    targets[place] = targets[1, 2] = value
    with pytest.raises(ValueError, match=r"targets\[.*\] must be in \[0, 4\) or -1") as expected:
        lstmc.softmax_cross_entropy(logits, targets)
    with pytest.raises(ValueError) as found:
        lstmc.softmax_cross_entropy(*to_device(cupy, (logits, targets)))
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("shape", [(5, 3, 7), (9001,), (0, 3), ()], ids=str)
def test_squared_error(cupy, dtype, shape):
    y, target = draw(dtype, 2, *shape)[:2] if shape else draw(dtype, 2)
    y, target = np.asarray(y), np.asarray(target)
    expected, gradient = lstmc.squared_error(y, target)
    loss, dy = lstmc.squared_error(*to_device(cupy, (y, target)))
    assert_number(cupy, loss, expected, TOLERANCE[dtype])
    assert_close(dy.get(), gradient, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a[0], ValueError, r"target must be \(2, 3\), got \(3,\)"),
        (lambda a: a.astype(float), TypeError, "target must be float32, got float64"),
        (lambda a: None, TypeError, "target must be a float32 array.*got NoneType"),
    ],
)
def test_what_squared_error_refuses(cupy, change, error, message):
    y = cupy.ones((2, 3), np.float32)
    with pytest.raises(error, match=message):
        lstmc.squared_error(y, change(y))


# --------------------------------------------------------------------------------------------------
# Optimisers
# --------------------------------------------------------------------------------------------------


def twins(dtype, **options):
    """Return the same layer on the device and on the CPU."""
    return tuple(
        lstmc.Linear(7, 33, dtype=dtype, rng=1, device=d, **options) for d in ("cuda", "cpu")
    )


def give_gradients(cupy, step, *layers):
    for layer in layers:
        for name, shape in layer.parameters().items():
            drawn = np.random.default_rng([step, len(name)]).standard_normal(shape)
            drawn = drawn.astype(layer.dtype)
            layer.grad(name)[...] = drawn if layer.device == "cpu" else cupy.asarray(drawn)


@pytest.mark.parametrize(("make", "judge", "options"), CASES, ids=IDS)
def test_optimisers(cupy, dtype, make, judge, options):
    layer, twin = twins(dtype)
    one, other = make(layer, **options), make(twin, **options)
    for step in range(4):
        give_gradients(cupy, step, layer, twin)
        grads = layer.grads.get()
        one.step()
        other.step()
        assert_same_bits(layer.grads.get(), grads)
        assert_same_weights(layer, twin, TOLERANCE[dtype])
    assert one.steps == other.steps == 4
    arrays, numbers = one.state()
    assert numbers == other.state()[1]
    for name, value in other.state()[0].items():
        found = arrays[name] if isinstance(arrays[name], np.ndarray) else arrays[name].get()
        assert_close(found, value, TOLERANCE[dtype], name)
    for name in layer.parameters():
        layer[name][...] = 0
    assert not layer.params.any(), "the padding"


@pytest.mark.parametrize(("source", "target"), DEVICES)
@pytest.mark.parametrize(("make", "judge", "options"), CASES[3:], ids=IDS[3:])
def test_the_state_of_an_optimiser_goes_across(cupy, dtype, make, judge, options, source, target):
    """One that takes the state of another, wherever that is, goes on as that one does."""
    first, second = (
        lstmc.Linear(7, 33, dtype=dtype, rng=1, device=device) for device in (source, target)
    )
    one = make(first, **options)
    give_gradients(cupy, 0, first)
    one.step()
    one.lr /= 2
    arrays, numbers = one.state()
    for name in first.parameters():
        value = first[name] if source == "cpu" else first[name].get()
        second[name][...] = value if target == "cpu" else cupy.asarray(value)
    other = make(second, **options)
    other.load_state(arrays, dict(numbers))
    assert (other.lr, other.steps) == (one.lr, 1)
    for step in (1, 2):
        give_gradients(cupy, step, first, second)
        one.step()
        other.step()
    assert_same_weights(second, first, TOLERANCE[dtype])


@pytest.mark.parametrize(("source", "target"), [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize(("make", "judge", "options"), CASES[2:], ids=IDS[2:])
def test_an_optimiser_of_before_a_move_does_not_step(cupy, make, judge, options, source, target):
    net = lstmc.Sequential(lstmc.Linear(7, 33, rng=1, device=source))
    optimiser = make(net, **options)
    net.to(target)
    net.grads[...] = 1
    before = net.params.copy()
    with pytest.raises(ValueError, match="make a new one"):
        optimiser.step()
    assert optimiser.steps == 0
    assert bool((net.params == before).all())
    make(net, **options).step()
    assert not bool((net.params == before).all())


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (130, 90)], ids=str)
def test_clipping(cupy, dtype, size):
    layer, twin = (lstmc.Linear(*size, dtype=dtype, device=d) for d in ("cuda", "cpu"))
    give_gradients(cupy, 0, layer, twin)
    before = layer.grads.get()
    norm = lstmc.clip_grad_norm(twin, math.inf)
    for most in (math.inf, norm * 1.001):
        assert_number(cupy, lstmc.clip_grad_norm(layer, most), norm, TOLERANCE[dtype])
        assert_same_bits(layer.grads.get(), before)
    lstmc.clip_grad_norm(twin, norm / 3)
    assert_number(cupy, lstmc.clip_grad_norm(layer, norm / 3), norm, TOLERANCE[dtype])
    for name in twin.parameters():
        assert_close(layer.grad(name).get(), twin.grad(name), TOLERANCE[dtype], name)
    assert_number(cupy, lstmc.clip_grad_norm(layer, math.inf), norm / 3, TOLERANCE[dtype])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_clipping_what_is_not_finite(cupy, dtype, value):
    """The norm says so and the gradients stay."""
    layer, _ = twins(dtype)
    give_gradients(cupy, 0, layer)
    layer.grad("weight")[4, 2] = value
    before = layer.grads.get()
    assert not math.isfinite(lstmc.clip_grad_norm(layer, 0.5))
    assert_same_bits(layer.grads.get(), before)


def test_clipping_large_numbers(cupy):
    """Their squares overflow float32."""
    layer = lstmc.Linear(2, 3, device="cuda")
    for name in layer.parameters():
        layer.grad(name)[...] = 1e30
    assert_close(float(lstmc.clip_grad_norm(layer, 1.0)), 3e30, 1e-6)
    assert_close(layer.grad("weight").get(), np.full((3, 2), 1 / 3), 1e-5)


# --------------------------------------------------------------------------------------------------
# Dropout
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9])
def test_dropout(cupy, dtype, p):
    layer, n = lstmc.Dropout(p, rng=1), 9 * 1009
    x, arriving = cupy.full((9, 1009), 2, dtype), draw(dtype, 9, 1009)
    y, state, trace = layer.forward(x, "the state")
    dx, dstate = layer.backward(cupy.asarray(arriving), trace, "its gradient")
    assert (state, dstate) == ("the state", "its gradient")
    y, dx, kept = y.get(), dx.get(), y.get() != 0
    assert y.dtype == dx.dtype == dtype
    # Four standard deviations of a mean of n coin tosses; neighbours overlap.
    assert abs(kept.mean() - (1 - p)) <= 4 * np.sqrt(p * (1 - p) / n)
    for neighbours in (kept[1:] & kept[:-1], kept[:, 1:] & kept[:, :-1]):
        assert abs(neighbours.mean() - (1 - p) ** 2) <= 8 * np.sqrt(p * (1 - p) / n)
    assert_close(y[kept], np.full(kept.sum(), 2 / (1 - p)), TOLERANCE[dtype])
    assert_close(dx, np.where(kept, arriving / (1 - p), 0), TOLERANCE[dtype])
    assert (x == 2).all()


def test_masks_of_dropout(cupy, dtype):
    """By the seed; another one in every call; none in inference."""
    x = cupy.asarray(1 + np.abs(draw(dtype, 50, 7)))
    first, second = (lstmc.Dropout(0.4, rng=seed) for seed in (1, 1))
    masks = []
    for _ in range(3):
        y, again = first.forward(x)[0].get(), second.forward(x)[0].get()
        assert_same_bits(y, again)
        masks.append((y != 0).tobytes())
    masks.append((lstmc.Dropout(0.4, rng=2).forward(x)[0] != 0).tobytes())
    assert len(set(masks)) == 4
    before = first.rng.bit_generator.state
    for y in (first(x)[0], first.forward(x, training=False)[0], first.stepper(50)(x)):
        assert_same_bits(y.get(), x.get())
    assert first.rng.bit_generator.state == before


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)], ids=str)
def test_dropout_of_little(cupy, dtype, shape):
    layer = lstmc.Dropout(0.5, rng=1)
    y, _, trace = layer.forward(cupy.ones(shape, dtype))
    assert y.shape == shape
    assert layer.backward(cupy.ones(shape, dtype), trace)[0].shape == shape


def test_dropout_of_what_is_not_a_number(cupy, dtype):
    x = cupy.ones((40, 9), dtype)
    kept = lstmc.Dropout(0.5, rng=3).forward(x)[0].get() != 0
    x[...] = np.nan
    y = lstmc.Dropout(0.5, rng=3).forward(x)[0].get()
    assert np.isnan(y[kept]).all()
    cpu = lstmc.Dropout(0.5, rng=3).forward(x.get())[0]
    assert np.isnan(y).all() == np.isnan(cpu).all()


# --------------------------------------------------------------------------------------------------
# Language models
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"cell": "rnn", "dropout": 0.3, "layers": 1}], ids=str)
def test_a_language_model(cupy, dtype, options):
    model, judge = (make_model(device, dtype=dtype, **options) for device in ("cuda", "cpu"))
    assert model.net.device == "cuda:0"
    assert_same_weights(model.net, judge.net, 0)
    for net in (model.net, judge.net):  # sharper, so that text is not noise
        net.params[...] *= 3
    for character in "the d":
        p = model.step(character)
        assert isinstance(p, np.ndarray)
        assert p.dtype == dtype
        assert_close(p, judge.step(character), TOLERANCE[dtype])
    kept = model.state
    first = model.step("o")
    assert not np.array_equal(model.step("o"), first)
    model.state = kept
    assert_same_bits(model.step("o"), first)
    model.reset()
    judge.reset()
    assert_close(model.step(2), judge.step(2), TOLERANCE[dtype])
    for (token, p), (expected, q) in zip(
        model.continuations("the c", 4), judge.continuations("the c", 4), strict=True
    ):
        assert token == expected
        assert abs(p - q) <= TOLERANCE[dtype]
    for measure in ("loss", "perplexity"):
        a, b = (getattr(m, measure)(TEXT) for m in (model, judge))
        assert type(a) is float
        assert abs(a / b - 1) <= TOLERANCE[dtype]
    model.net["0.weight"][...] *= 0.5  # is seen at once
    judge.net["0.weight"][...] *= 0.5
    model.reset()
    judge.reset()
    assert_close(model.step("t"), judge.step("t"), TOLERANCE[dtype])


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.7}, {"top_k": 3, "temperature": 2.0}, {"temperature": 0}],
    ids=str,
)
def test_samples(cupy, options):
    """The same weights and seed write the same text as on the CPU."""
    model, judge = (make_model(device, dtype=np.float64) for device in ("cuda", "cpu"))
    texts = [m.sample("the ", length=60, rng=1, **options) for m in (model, judge)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("the ")
    assert len(texts[0]) == 64
    if options.get("temperature") != 0:
        assert model.sample("the ", length=60, rng=2, **options) != texts[0]


def test_errors_of_a_language_model(cupy):
    model = make_model("cuda")
    with pytest.raises(ValueError, match=r"\[0, \d+\), got -1"):
        model.step(-1)
    model.net["2.bias"][3] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        model.sample("the")


@pytest.mark.parametrize(("source", "target"), DEVICES)
def test_files_of_a_language_model(cupy, dtype, tmp_path, source, target):
    model = make_model(source, dtype=dtype, dropout=0.2)
    model.save(tmp_path / "model")
    loaded = lstmc.LanguageModel.load(tmp_path / "model", device=target)
    assert loaded.net.device == {"cuda": "cuda:0"}.get(target, target)
    assert loaded.config == model.config
    assert_same_weights(loaded.net, model.net, 0)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()
    assert_close(loaded.step("t"), model.step("t"), TOLERANCE[dtype])
    loaded.net.to("cpu")
    loaded.reset()
    model.reset()
    assert_close(loaded.step("h"), model.step("h"), TOLERANCE[dtype])


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------

TRAIN, VALID = (np.random.default_rng(seed).integers(5, size=n) for seed, n in ((1, 123), (2, 45)))


def make_trainer(device, dropout=0.0, watched=False, cell=lstmc.LSTM):
    own = {"dtype": np.float64, "device": device}
    net = lstmc.Sequential(
        lstmc.Embedding(5, 4, rng=1, **own),
        lstmc.Dropout(dropout, rng=2),
        cell(4, 9, 2, rng=3, **own),
        lstmc.Linear(9, 5, rng=4, **own),
    )
    watch = lstmc.Watch(net, every=2) if watched else None
    return lstmc.Trainer(net, lstmc.Adam(net, 1e-2), batch=3, steps=8, clip=0.5, watch=watch)


def assert_same_history(actual, expected):
    names = ("epoch", "train_loss", "valid_loss", "perplexity", "lr", "grad_norm")
    for a, b in zip(actual, expected, strict=True):
        json.dumps(a)  # plain numbers
        assert_reports_alike({n: a[n] for n in names}, {n: b[n] for n in names})


@pytest.mark.parametrize("cell", [lstmc.LSTM, lstmc.RNN])
def test_training_like_the_cpu(cupy, cell):
    trainer, judge = (make_trainer(d, watched=True, cell=cell) for d in ("cuda", "cpu"))
    before = evaluate(trainer.net, VALID, 3, 8)
    assert abs(before - evaluate(judge.net, VALID, 3, 8)) < NEAR
    assert_same_history(*(t.fit(TRAIN, VALID, epochs=2) for t in (trainer, judge)))
    assert_same_weights(trainer.net, judge.net, NEAR)
    assert len(trainer.watch.records) == 5  # of ten windows
    json.dumps(trainer.watch.records)
    assert_reports_alike(trainer.watch.records, judge.watch.records)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(("source", "target"), DEVICES)
def test_going_on_from_a_checkpoint(cupy, tmp_path, source, target, dropout):
    """On the device it goes on to the bit, dropout and all; elsewhere by nearly the same numbers."""
    first = make_trainer(source, dropout)
    first.fit(TRAIN, VALID, epochs=1)
    first.save(tmp_path / "checkpoint")
    second = make_trainer(target, dropout)
    second.load(tmp_path / "checkpoint")
    assert_same_weights(second.net, first.net, 0)
    assert second.optimiser.steps == 5
    second.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "checkpoint").read_bytes()
    histories = [t.fit(TRAIN, VALID, epochs=2) for t in (second, first)]
    if source == target:
        assert_same_weights(second.net, first.net, 0)
    if source == target or not dropout:  # the masks of a device are its own
        assert_same_history(*histories)
        assert_same_weights(second.net, first.net, NEAR)


@pytest.mark.parametrize("watched", [True, False])
def test_what_is_not_finite_stops_before_the_step(cupy, watched):
    trainer = make_trainer("cuda", watched=watched)
    trainer.fit(TRAIN, epochs=1)
    trainer.net["3.bias"][2] = np.nan
    before = trainer.net.params.get()
    with pytest.raises(FloatingPointError, match=r"a weight is not finite: 3\.bias"):
        trainer.fit(TRAIN, epochs=2)
    assert_same_bits(trainer.net.params.get(), before)
    assert trainer.optimiser.steps == 5


def test_a_watch_by_hand(cupy, tmp_path):
    """With the loss as it comes, an array; the file is the CPU's."""
    records = []
    for device in ("cuda", "cpu"):
        net = make_trainer(device).net
        tokens = np.random.default_rng(3).integers(5, size=(2, 6, 3))
        x, targets = tokens if device == "cpu" else cupy.asarray(tokens)
        y, _, trace = net.forward(x)
        loss, dy = lstmc.softmax_cross_entropy(y, targets)
        watch = lstmc.Watch(net, path=tmp_path / device)
        record = watch(loss, dy, trace)
        assert type(record["loss"]) is float
        assert json.loads((tmp_path / device).read_text()) == record
        assert not net.grads.any()
        records.append(record)
        with pytest.raises(FloatingPointError, match="the loss"):
            watch(loss * np.nan, dy * np.nan, trace)
    assert_reports_alike(*records)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_command_line(cupy, tmp_path, monkeypatch, capsys):
    """It trains on the device; the model is for everyone, and the run goes on elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 3)
    small = "--hidden 12 --embed 6 --layers 1 --batch 8 --steps 10 --dtype float64"
    begin = ["train", "text.txt", *small.split(), "--epochs", "1", "--out"]
    assert cli.main([*begin, "there", "--device", "cuda"]) == 0
    assert cli.main([*begin, "here"]) == 0
    losses = []
    for folder in ("there", "here"):
        model = lstmc.LanguageModel.load(f"{folder}/model.safetensors")
        assert model.net.device == "cpu"
        losses.append(model.loss(TEXT))
    assert abs(losses[0] - losses[1]) < NEAR
    before = (tmp_path / "there/model.safetensors").read_bytes()
    for device, epochs in (("cpu", 2), ("cuda", 3)):
        going_on = ["train", "--out", "there", "--resume", "--epochs", str(epochs)]
        assert cli.main([*going_on, "--device", device]) == 0
    assert (tmp_path / "there/model.safetensors").read_bytes() != before
    lines = read_lines(tmp_path / "there/metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert cli.main(["train", "--out", "here", "--resume", "--epochs", "3"]) == 0
    whole = read_lines(tmp_path / "here/metrics.jsonl")
    assert_same_history(lines, whole)
    capsys.readouterr()
    assert cli.main([*begin, "nowhere", "--device", "gpu"]) in (1, 2)
    assert "'gpu'" in capsys.readouterr().err


def test_training_by_hand(cupy, dtype):
    """A state carried across windows, a gradient through it, and a step, as on the CPU."""
    problem = as_type(random_problem("lstm", 4, 3, 5, 17, 2), dtype)
    results = []
    for given, device in ((to_device(cupy, problem), "cuda"), (problem, "cpu")):
        layer = make_layer(given, device=device)
        net = lstmc.Sequential(layer, lstmc.Linear(17, 5, dtype=dtype, rng=1, device=device))
        optimiser, state, losses = lstmc.SGD(net, 0.1, momentum=0.9), None, []
        for _ in range(3):
            y, state, trace = net.forward(given["x"], state)
            loss, dy = lstmc.squared_error(y, given["x"])
            net.zero_grad()
            dx, _ = net.backward(dy, trace, (arriving_state(given), None), consume=True)
            losses.append((float(loss), float(lstmc.clip_grad_norm(net, 0.5))))
            optimiser.step()
        results.append((net, np.array(losses), dx if device == "cpu" else to_host(cupy, dx)))
    (net, losses, dx), (judge, expected, dx_expected) = results
    assert_same_weights(net, judge, 10 * TOLERANCE[dtype])
    assert_close(losses, expected, 10 * TOLERANCE[dtype])
    assert_close(dx, dx_expected, 10 * TOLERANCE[dtype])
