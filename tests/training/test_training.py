"""Training: windows, carried state, early stopping, and going on to the bit when interrupted."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from trainers import (
    OPTIMISERS,
    TRAIN,
    VALID,
    interrupt,
    losses,
    make_corpus,
    make_net,
    make_trainer,
    read_lines,
)

import lstmc
from lstmc.training import Interrupted, Trainer, display, evaluate, streams, windows

# -- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("steps", [1, 2, 5, 100])
@pytest.mark.parametrize("size", [14, 15, 30, 41])
def test_windows_hold_every_token_of_a_stream_once(size, batch, steps):
    tokens = np.arange(100, 100 + size)
    stream = streams(tokens, batch)
    length = size // batch
    assert stream.shape == (length, batch)
    assert stream.dtype == np.int64
    assert stream.flags.c_contiguous
    seen, targets = [], []
    for x, following in windows(stream, steps):
        assert x.shape == following.shape
        assert x.shape[1] == batch
        assert 1 <= len(x) <= steps
        seen.extend(x.tolist())
        targets.extend(following.tolist())
    at = [[100 + b * length + t for b in range(batch)] for t in range(length)]  # by the definition
    assert seen == at[:-1]
    assert targets == at[1:]


def test_a_corpus_without_one_window_is_refused_with_numbers():
    with pytest.raises(ValueError, match="tokens is empty"):
        streams(np.array([], np.int64), 2)
    with pytest.raises(ValueError, match="4 streams need at least 8 tokens, got 7"):
        streams(np.arange(7), 4)
    with pytest.raises(ValueError, match="must be a 1-D array of integers, got 1-D float64"):
        streams(np.zeros(9), 2)
    with pytest.raises(ValueError, match="must be a 1-D array of integers, got 2-D int64"):
        streams(np.zeros((9, 2), np.int64), 2)
    with pytest.raises(ValueError, match="batch must be a positive integer, got 0"):
        streams(np.arange(7), 0)
    with pytest.raises(ValueError, match="steps must be a positive integer, got 0"):
        next(windows(np.zeros((3, 2), np.int64), 0))
    trainer = make_trainer()
    for corpus in ([], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"is empty|is shorter than one window"):
            trainer.fit(np.array(corpus, np.int64))
    with pytest.raises(ValueError, match="valid must hold at least 2 tokens, got 1"):
        trainer.fit(TRAIN, TRAIN[:1])
    assert trainer.optimiser.steps == 0


def test_evaluation_does_not_depend_on_the_length_of_windows():
    net = make_net()
    x, targets = streams(VALID, 3)[:-1], streams(VALID, 3)[1:]
    expected, _ = lstmc.softmax_cross_entropy(net(x)[0], targets)
    before = net.layers[1].rng.bit_generator.state
    for steps in (1, 7, 1000):
        # Both are means of some 150 float32 losses: each good to 1e-7 of its size.
        assert evaluate(net, VALID, batch=3, steps=steps) == pytest.approx(expected, rel=1e-6)
    assert net.layers[1].rng.bit_generator.state == before
    assert evaluate(net, VALID[:3], batch=20) > 0  # fewer streams than asked for


# -- training -------------------------------------------------------------------------------------


def test_training_learns_more_than_frequencies():
    corpus = make_corpus(4000)
    shares = np.bincount(corpus) / len(corpus)
    entropy = -(shares * np.log(shares)).sum()
    trainer = make_trainer(batch=8, dropout=0.0)
    history = trainer.fit(corpus, VALID, epochs=6)
    assert history[0]["train_loss"] > history[-1]["train_loss"]
    # What is left to guess is a jump, a tenth of the time: 0.33 + 0.16 nats; frequencies give 1.61.
    assert history[-1]["valid_loss"] < 0.5 * entropy
    assert history[-1]["perplexity"] == math.exp(history[-1]["valid_loss"])
    assert history[-1]["valid_loss"] == evaluate(trainer.net, VALID, 8, 20)
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert all(record["tokens_per_second"] > 0 < record["seconds"] for record in history)


def train_by_hand(epochs, carried=True, zeroed=True):
    """Do what Trainer does, in the open."""
    net = make_net()
    optimiser = OPTIMISERS["sgd"](net)
    means, state = [], None
    for _ in range(epochs):
        total = count = 0
        if zeroed:
            state = None
        for x, targets in windows(streams(TRAIN, 4), 20):
            logits, state, trace = net.forward(x, state if carried else None)
            loss, dlogits = lstmc.softmax_cross_entropy(logits, targets)
            net.zero_grad()
            net.backward(dlogits, trace)
            lstmc.clip_grad_norm(net, 0.05)
            optimiser.step()
            total, count = total + loss * x.size, count + x.size
        means.append(total / count)
    return net.params, means


def test_the_state_is_carried_across_windows_and_zeroed_at_the_start_of_an_epoch():
    trainer = make_trainer("sgd", clip=0.05)
    history = trainer.fit(TRAIN, epochs=2)
    assert history[0]["grad_norm"] > 0.05, "the limit must have something to do"
    params, means = train_by_hand(2)
    assert np.array_equal(trainer.net.params, params)
    assert [record["train_loss"] for record in history] == means
    for wrong in ({"carried": False}, {"zeroed": False}):
        assert not np.array_equal(params, train_by_hand(2, **wrong)[0])


def test_gradients_are_clipped_by_value_and_then_by_their_norm():
    limits, norms = {"clip_value": 1e-3, "clip": 0.01}, []
    trainer, net = make_trainer("sgd", dropout=0.0, **limits), make_net(0.0)
    optimiser = OPTIMISERS["sgd"](net)
    for x, targets in itertools.islice(windows(streams(TRAIN, 4), 20), 1):
        logits, _, trace = net.forward(x)
        net.backward(lstmc.softmax_cross_entropy(logits, targets)[1], trace)
        assert np.abs(net.grads).max() > 1e-3
        net.grads[...] = np.clip(net.grads, -1e-3, 1e-3)
        norms.append(lstmc.clip_grad_norm(net, 0.01))
        assert norms[0] > 0.01
        optimiser.step()
    interrupt(trainer, 1)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TRAIN)
    assert np.array_equal(trainer.net.params, net.params)


def test_one_and_two_threads_train_to_the_same_bits():
    trainers = [make_trainer(), make_trainer()]
    trainers[1].num_threads = 2
    for trainer in trainers:
        trainer.fit(TRAIN, VALID, epochs=2)
    assert np.array_equal(trainers[0].net.params, trainers[1].net.params)
    assert losses(trainers[0].history) == losses(trainers[1].history)


def test_early_stopping_puts_the_best_weights_back(tmp_path):
    # Half of it counts down: what is learnt from the third epoch on makes that half worse.
    valid = np.concatenate([VALID[::-1][:75], VALID[:75]])
    best = make_trainer()
    best.fit(TRAIN, valid, epochs=3)
    trainer = make_trainer()
    history = trainer.fit(TRAIN, valid, epochs=20, patience=2)
    assert len(history) == 5
    assert min(history, key=lambda record: record["valid_loss"])["epoch"] == 3
    assert np.array_equal(trainer.net.params, best.net.params)
    assert (
        len(trainer.fit(TRAIN, valid, epochs=20, patience=2)) == 5
    )  # it has stopped, and stays so

    path = tmp_path / "checkpoint"
    cut = make_trainer()
    interrupt(cut, at=4 * 8 + 3)
    with pytest.raises(Interrupted):
        cut.fit(TRAIN, valid, epochs=20, patience=2, checkpoint=path)
    resumed = make_trainer()
    resumed.load(path)
    assert losses(resumed.fit(TRAIN, valid, epochs=20, patience=2)) == losses(history)
    assert np.array_equal(resumed.net.params, best.net.params)


def test_the_best_weights_are_put_back_when_the_epochs_run_out_too():
    valid = np.concatenate([VALID[::-1][:75], VALID[:75]])
    best, trainer = make_trainer(), make_trainer()
    best.fit(TRAIN, valid, epochs=3)
    assert len(trainer.fit(TRAIN, valid, epochs=4, patience=2)) == 4
    assert np.array_equal(trainer.net.params, best.net.params)


def test_watching_a_loss_needs_a_text_to_measure_it_on():
    with pytest.raises(ValueError, match="valid must be given: patience"):
        make_trainer().fit(TRAIN, patience=1)
    with pytest.raises(ValueError, match="valid must be given: PlateauDecay"):
        make_trainer(plateau=True).fit(TRAIN)


def test_a_loss_that_is_not_finite_stops_before_the_step():
    trainer = make_trainer()
    trainer.fit(TRAIN)
    trainer.net["4.bias"][2] = np.inf
    before = trainer.net.params.copy()
    with pytest.raises(
        FloatingPointError, match=r"window 1 \(a weight is not finite: 4.bias\): no step"
    ):
        trainer.fit(TRAIN, epochs=2)
    assert np.array_equal(trainer.net.params, before)
    assert trainer.optimiser.steps == 8


def test_what_does_not_belong_together_is_refused():
    net, other = make_net(), make_net()
    with pytest.raises(ValueError, match="optimiser must be of this net"):
        Trainer(net, lstmc.Adam(other), 4, 20)
    with pytest.raises(ValueError, match="schedule must be of this optimiser"):
        Trainer(net, lstmc.Adam(net), 4, 20, schedule=lstmc.StepDecay(lstmc.Adam(net), 0.5))
    with pytest.raises(ValueError, match="clip must be a positive number"):
        Trainer(net, lstmc.Adam(net), 4, 20, clip=0)
    with pytest.raises(ValueError, match="clip_value must be a positive number, got -1"):
        Trainer(net, lstmc.Adam(net), 4, 20, clip_value=-1)


# -- what one sees --------------------------------------------------------------------------------


def test_lines_are_shown_where_they_are_asked_for(capsys, tmp_path):
    make_trainer().fit(TRAIN, VALID)
    make_trainer().fit(TRAIN, VALID, progress=False)
    assert capsys.readouterr() == ("", "")  # not a terminal
    history = make_trainer().fit(TRAIN, VALID, epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    for record, line in zip(history, err.splitlines(), strict=True):
        losses = f"training {record['train_loss']:.4f}, validation {record['valid_loss']:.4f}"
        assert line.startswith(f"epoch {record['epoch']}/2: {losses} (best), ")
        assert re.search(r" [\d,]+ tokens/s$", line)
        assert len(line) < 80
    with open(tmp_path / "log", "w") as log:
        make_trainer().fit(TRAIN, progress=log)
        assert "epoch 1/1: training" in Path(log.name).read_text()  # at once
    assert capsys.readouterr() == ("", "")


def test_a_long_epoch_has_lines_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(display, "LINE_SECONDS", 0)
    make_trainer().fit(TRAIN, epochs=1, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8 + 1  # windows, and the epoch
    assert re.fullmatch(
        r"epoch 1/1, 13%: training \d\.\d{4}, [\d,]+ tokens/s, 0 min left", lines[0]
    )
    assert lines[7].startswith("epoch 1/1, 100%")


def test_metrics_are_a_line_per_epoch(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"before": 1}\n')
    history = make_trainer().fit(TRAIN, VALID, epochs=3, metrics=path)
    assert read_lines(path) == [{"before": 1}, *history]


def test_metrics_go_on_without_a_gap_or_a_line_twice(tmp_path):
    metrics, checkpoint = tmp_path / "metrics.jsonl", tmp_path / "checkpoint"

    def positions():
        return [(line["epoch"], line.get("window")) for line in read_lines(metrics)]

    trainer = make_trainer()
    trainer.checkpoint_seconds = 0
    interrupt(trainer, at=11)
    with pytest.raises(Interrupted):
        trainer.fit(TRAIN, VALID, epochs=3, metrics=metrics, checkpoint=checkpoint)
    expected = [*((1, w) for w in range(1, 9)), (1, None), (2, 1), (2, 2), (2, 3)]
    assert positions() == expected
    with metrics.open("a") as file:  # what a killed run wrote after its last checkpoint
        file.write('{"epoch": 2, "window": 4}\n{"epoch": 2, "win')
    resumed = make_trainer()
    resumed.load(checkpoint)
    history = resumed.fit(TRAIN, VALID, epochs=3, metrics=metrics, checkpoint=checkpoint)
    assert positions() == [*expected, (2, None), (3, None)]
    assert [line for line in read_lines(metrics) if "window" not in line] == history


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("batch_first", r"net must take windows \(T, B\), but Sequential is batch_first"),
        ("Last", "net must predict at every step, but its output has no axis of time"),
    ],
)
def test_a_network_of_another_form_is_refused(form, message):
    """Windows are (T, B): it would train with steps and rows swapped, or on one prediction."""
    net = lstmc.Sequential(
        lstmc.Embedding(5, 4, rng=1),
        lstmc.LSTM(4, 4, rng=1),
        *([lstmc.Last()] if form == "Last" else []),
        lstmc.Linear(4, 5, rng=1),
        batch_first=form == "batch_first",
    )
    with pytest.raises(ValueError, match=message):
        Trainer(net, lstmc.SGD(net, 0.1), batch=2, steps=3)
    with pytest.raises(ValueError, match=message):
        evaluate(net, np.arange(20) % 5)
