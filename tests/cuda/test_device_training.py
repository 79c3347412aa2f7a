"""Learning on a GPU: language models, training, checkpoints, the command line.

The judge is the CPU, which other files judge; test_device_losses.py has losses, optimisers and dropout.
"""

import json
import math

import numpy as np
import pytest
from devices import (
    DEVICES,
    NEAR,
    TEXT,
    TOLERANCE,
    assert_reports_alike,
    assert_same_weights,
    make_model,
    to_device,
    to_host,
)
from stacks import arriving_state, as_type, make_layer, random_problem
from support import assert_close, assert_same_bits

import lstmc
from lstmc import cli
from lstmc.training import evaluate

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
    state = model.state
    first = model.step("o")
    assert not np.array_equal(model.step("o"), first)
    model.state = state
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
    [pytest.param({}, marks=pytest.mark.slow), pytest.param({"temperature": 0.7}, marks=pytest.mark.slow),
     {"top_k": 3, "temperature": 2.0}, {"temperature": 0}],
    ids=str,
)  # fmt: skip
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


@pytest.mark.parametrize(
    ("source", "target", "dropout"),
    [("cuda", "cuda", 0.4), ("cuda", "cpu", 0.0), ("cpu", "cuda", 0.0),
     *(pytest.param(*case, marks=pytest.mark.slow)
       for case in (("cuda", "cuda", 0.0), ("cuda", "cpu", 0.4), ("cpu", "cuda", 0.4)))],
)  # fmt: skip
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
    for data, device in ((to_device(cupy, problem), "cuda"), (problem, "cpu")):
        layer = make_layer(data, device=device)
        net = lstmc.Sequential(layer, lstmc.Linear(17, 5, dtype=dtype, rng=1, device=device))
        optimiser, state, losses = lstmc.SGD(net, 0.1, momentum=0.9), None, []
        for _ in range(3):
            y, state, trace = net.forward(data["x"], state)
            loss, dy = lstmc.squared_error(y, data["x"])
            net.zero_grad()
            dx, _ = net.backward(dy, trace, (arriving_state(data), None), consume=True)
            losses.append((float(loss), float(lstmc.clip_grad_norm(net, 0.5))))
            optimiser.step()
        results.append((net, np.array(losses), dx if device == "cpu" else to_host(cupy, dx)))
    (net, losses, dx), (judge, expected, dx_expected) = results
    assert_same_weights(net, judge, 10 * TOLERANCE[dtype])
    assert_close(losses, expected, 10 * TOLERANCE[dtype])
    assert_close(dx, dx_expected, 10 * TOLERANCE[dtype])
