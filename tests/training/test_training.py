"""Training: windows, carried state, early stopping, and going on to the bit when interrupted."""

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

import lstmc
from lstmc.files import check_writable_folder, read_safetensors, write_safetensors
from lstmc.training import Interrupted, Trainer, evaluate, read_note, streams, windows

VOCABULARY = 5


def make_corpus(size, seed=0):
    """Give tokens that mostly count up, and now and then jump: easy to learn, not all of it."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(size) < 0.1, rng.integers(0, VOCABULARY, size), 1)
    return np.cumsum(steps) % VOCABULARY


TRAIN, VALID = make_corpus(603), make_corpus(150, seed=1)


def make_net(dropout=0.3):
    return lstmc.Sequential(
        lstmc.Embedding(VOCABULARY, 4, rng=1),
        lstmc.Dropout(dropout, rng=2),
        lstmc.LSTM(4, 9, 2, rng=3),
        lstmc.Dropout(dropout, rng=4),
        lstmc.Linear(9, VOCABULARY, rng=5),
    )


OPTIMISERS = {
    "sgd": lambda net: lstmc.SGD(net, 0.5, momentum=0.9, nesterov=True),
    "adam": lambda net: lstmc.Adam(net, 1e-2),
    "rmsprop": lambda net: lstmc.RMSprop(net, 5e-3, momentum=0.5),
}


def make_trainer(optimiser="adam", plateau=False, batch=4, steps=20, dropout=0.3, **options):
    net = make_net(dropout)
    optimiser = OPTIMISERS[optimiser](net)
    schedule = lstmc.PlateauDecay(optimiser, 0.5, threshold=1.0) if plateau else None
    return Trainer(net, optimiser, batch, steps, schedule=schedule, num_threads=1, **options)


def losses(history):
    return [(r["train_loss"], r["valid_loss"], r["lr"], r["grad_norm"]) for r in history]


def interrupt(trainer, at):
    """Have Ctrl-C pressed during the at-th step from now."""
    count, step = itertools.count(1), trainer.optimiser.step

    def stepping(threads=None):
        step(threads)
        if next(count) == at:
            signal.raise_signal(signal.SIGINT)

    trainer.optimiser.step = stepping


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


# -- what one sees --------------------------------------------------------------------------------


def test_the_bar_is_shown_where_it_is_asked_for(capsys):
    make_trainer().fit(TRAIN, VALID)
    assert capsys.readouterr() == ("", "")  # not a terminal
    make_trainer().fit(TRAIN, VALID, epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    for part in (
        "epoch 1/2",
        "epoch 2/2",
        "loss=",
        "perplexity=",
        "validation=",
        "tokens/s",
        "596/596",
    ):
        assert part in err


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


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


# -- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", list(OPTIMISERS))
@pytest.mark.parametrize("at", [1, 5, 8, 9, 20])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, optimiser, at):
    path = tmp_path / "checkpoint"
    whole = make_trainer(optimiser, plateau=True)
    expected = whole.fit(TRAIN, VALID, epochs=3)
    assert len({record["lr"] for record in expected}) > 1, "the schedule must have something to do"

    first = make_trainer(optimiser, plateau=True)
    interrupt(
        first, at
    )  # 8 windows an epoch: in the first, at its end, in the second, in the third
    with pytest.raises(Interrupted):
        first.fit(TRAIN, VALID, epochs=3, checkpoint=path)
    assert (first.epoch, first.window) == divmod(at, 8) if at % 8 else (at // 8 - 1, 8)

    resumed = make_trainer(optimiser, plateau=True)
    resumed.net.params[:] = 7
    resumed.load(path)
    history = resumed.fit(TRAIN, VALID, epochs=3)
    assert np.array_equal(resumed.net.params, whole.net.params)
    assert losses(history) == losses(expected)
    arrays, numbers = resumed.optimiser.state()
    assert numbers == whole.optimiser.state()[1]
    for name, array in whole.optimiser.state()[0].items():
        assert np.array_equal(arrays[name], array)
    # The trainer that was stopped can also go on itself.
    assert losses(first.fit(TRAIN, VALID, epochs=3)) == losses(expected)


@pytest.mark.parametrize("generator", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_every_generator_of_numpy_is_kept(tmp_path, generator):
    def trainer():
        trainer = make_trainer()
        trainer.net.layers[1].rng = np.random.Generator(getattr(np.random, generator)(6))
        return trainer

    whole, first, resumed = trainer(), trainer(), trainer()
    whole.fit(TRAIN, epochs=2)
    first.fit(TRAIN, checkpoint=tmp_path / "checkpoint")
    resumed.load(tmp_path / "checkpoint")
    resumed.fit(TRAIN, epochs=2)
    assert np.array_equal(resumed.net.params, whole.net.params)


def test_a_network_in_a_network_is_resumed_with_its_generators(tmp_path):
    def trainer():
        inner = lstmc.Sequential(lstmc.Dropout(0.5, rng=1), lstmc.RNN(4, 6, rng=2))
        net = lstmc.Sequential(
            lstmc.Embedding(VOCABULARY, 4, rng=3), inner, lstmc.Linear(6, 5, rng=4)
        )
        return Trainer(net, lstmc.Adam(net, 1e-2), 4, 20, num_threads=1)

    whole, first, resumed = trainer(), trainer(), trainer()
    whole.fit(TRAIN, epochs=2)
    interrupt(first, at=3)
    with pytest.raises(Interrupted):
        first.fit(TRAIN, epochs=2, checkpoint=tmp_path / "checkpoint")
    resumed.load(tmp_path / "checkpoint")
    resumed.fit(TRAIN, epochs=2)
    assert np.array_equal(resumed.net.params, whole.net.params)


def test_ctrl_c_while_validating_resumes_there(tmp_path):
    path = tmp_path / "checkpoint"
    expected = make_trainer().fit(TRAIN, VALID, epochs=2)
    trainer = make_trainer()
    forward = trainer.net.forward

    def interrupted_forward(x, state=None, training=True, **options):
        if not training:
            signal.raise_signal(signal.SIGINT)
        return forward(x, state, training, **options)

    trainer.net.forward = interrupted_forward
    with pytest.raises(Interrupted, match="stopped after window 8 of 8 of epoch 1"):
        trainer.fit(TRAIN, VALID, epochs=2, checkpoint=path)
    resumed = make_trainer()
    resumed.load(path)
    assert losses(resumed.fit(TRAIN, VALID, epochs=2)) == losses(expected)


def test_ctrl_c_says_how_to_go_on_and_leaves_the_handler_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    path = tmp_path / "checkpoint"
    trainer = make_trainer()
    interrupt(trainer, at=3)
    with pytest.raises(Interrupted, match=r"window 3 of 8 of epoch 1.*to go on, load it") as caught:
        trainer.fit(TRAIN, checkpoint=path, note={"level": "char"})
    assert caught.value.checkpoint == path
    assert str(path) in str(caught.value)
    assert read_note(path) == {"level": "char"}
    interrupt(trainer, at=1)
    with pytest.raises(Interrupted, match="nothing was saved; call fit again") as caught:
        trainer.fit(TRAIN)
    assert caught.value.checkpoint is None
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_ctrl_c_does_not_wait():
    trainer = make_trainer()
    interrupt(trainer, at=2)
    interrupt(trainer, at=2)  # around the first: both in one step
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.fit(TRAIN)
    assert not isinstance(caught.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_ctrl_c_from_outside_stops_a_long_training(tmp_path):
    path = tmp_path / "checkpoint"
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    trainer = make_trainer()
    timer.start()
    with pytest.raises(Interrupted):
        trainer.fit(TRAIN, epochs=100_000, checkpoint=path)
    timer.join()
    resumed = make_trainer()
    resumed.load(path)
    assert (resumed.epoch, resumed.window) == (trainer.epoch, trainer.window) > (0, 0)
    assert np.array_equal(resumed.net.params, trainer.net.params)


def test_training_works_outside_the_main_thread():
    trainers = [make_trainer(), make_trainer()]
    thread = threading.Thread(target=trainers[0].fit, args=(TRAIN,))
    thread.start()
    thread.join()
    trainers[1].fit(TRAIN)
    assert np.array_equal(trainers[0].net.params, trainers[1].net.params)


def test_another_text_batch_or_make_is_not_gone_on_with(tmp_path):
    path = tmp_path / "checkpoint"
    first = make_trainer(plateau=True)
    interrupt(first, at=3)
    with pytest.raises(Interrupted):
        first.fit(TRAIN, VALID, checkpoint=path)
    changed = TRAIN.copy()
    changed[-1] += 1
    for train, valid, name in (
        (TRAIN[:-1], VALID, "train must be .* 603 tokens .*got 602 tokens"),
        (changed, VALID, "train must be the text that training began with"),
        (TRAIN, TRAIN, "valid must be .* 150 tokens .*got 603 tokens"),
    ):
        resumed = make_trainer(plateau=True)
        resumed.load(path)
        with pytest.raises(ValueError, match=name):
            resumed.fit(train, valid)
    for trainer, message in (
        (
            make_trainer(batch=5, plateau=True),
            "batch must be 4, as it was when training began, got 5",
        ),
        (make_trainer(steps=21, plateau=True), "steps must be 20"),
        (make_trainer("sgd", plateau=True), "the optimiser must be Adam"),
        (make_trainer(), "the schedule must be PlateauDecay"),
    ):
        before = trainer.net.params.copy()
        with pytest.raises(ValueError, match=message):
            trainer.load(path)
        assert np.array_equal(trainer.net.params, before)


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    make_trainer().fit(TRAIN, checkpoint=path)
    return path


def test_a_file_gives_back_what_was_written(tmp_path):
    arrays = {
        "a.b": np.arange(6.0).reshape(2, 3),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "strided": np.arange(9)[::2],
        "none": np.zeros((0, 3)),
        "number": np.array(1.5),
    }
    metadata = {"x": [1, None, {"y": 0.1 + 0.2}], "big": 2**100, "infinite": math.inf, "é": "ü"}
    write_safetensors(tmp_path / "file", arrays, {**metadata, "array": np.arange(3)})
    found, words = read_safetensors(tmp_path / "file")
    assert words == {**metadata, "array": [0, 1, 2]}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_truncated_checkpoint_is_refused(checkpoint):
    data = checkpoint.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        checkpoint.write_bytes(data[:size])
        trainer = make_trainer()
        before = trainer.net.params.copy()
        for load in (trainer.load, read_note, read_safetensors):
            with pytest.raises(ValueError, match="is not a file of lstmc, or not all of it"):
                load(checkpoint)
        assert np.array_equal(trainer.net.params, before)


def test_something_else_is_refused(tmp_path):
    from safetensors.numpy import save

    path = tmp_path / "file"
    for data in (
        b"some text, longer than a header",
        os.urandom(1000),
        b"\x00" * 50,
        save({"a": np.zeros(3)}),
        save({"a": np.zeros(3)}, {"lstmc": "[]"}),
        save({"a": np.zeros(3)}, {"lstmc": "{"}),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"file is not a file of lstmc, or not all of it: \S+"):
            make_trainer().load(path)
    write_safetensors(path, {}, {"kind": "model"})
    for load in (make_trainer().load, read_note):
        with pytest.raises(ValueError, match="is not a checkpoint of training, but 'model'"):
            load(path)
    for load in (make_trainer().load, read_note, read_safetensors):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "none")
        with pytest.raises(OSError, match="directory"):
            load(tmp_path)


def test_wrong_tensors_are_refused(checkpoint):
    arrays, metadata = read_safetensors(checkpoint)
    weight = "weights.2.weight_hh_l1"
    for change, message in (
        ({weight: None}, rf"{weight} must be \(36, 9\), got None"),
        ({weight: arrays[weight].T.copy()}, rf"{weight} must be \(36, 9\), got \(9, 36\)"),
        ({weight: arrays[weight].astype(np.float64)}, f"{weight} must be float32, got float64"),
        ({"weights.9.bias": arrays[weight]}, "weights.9.bias must be None"),
        ({"optimiser.m": None}, "optimiser.m must be"),
        ({"best": arrays["optimiser.m"][1:]}, "best must be"),
    ):
        changed = {name: a for name, a in {**arrays, **change}.items() if a is not None}
        write_safetensors(checkpoint, changed, metadata)
        trainer = make_trainer()
        before = trainer.net.params.copy()
        with pytest.raises(ValueError, match=message):
            trainer.load(checkpoint)
        assert np.array_equal(trainer.net.params, before)
    for name in set(metadata) - {"kind"}:
        write_safetensors(checkpoint, arrays, {k: v for k, v in metadata.items() if k != name})
        with pytest.raises(ValueError, match=f"is not a whole checkpoint: KeyError\\('{name}'\\)"):
            make_trainer().load(checkpoint)


def test_an_output_that_can_not_be_written_is_found_before_training(tmp_path):
    (tmp_path / "plain").write_text("")
    places = [
        (tmp_path / "plain" / "model", NotADirectoryError),
        (tmp_path / "missing" / "model", FileNotFoundError),
        (tmp_path, IsADirectoryError),
    ]
    if sys.platform == "linux":
        places.append(("/proc/model", OSError))
    for path, error in places:
        with pytest.raises(error):
            check_writable_folder(path)
        for output in ("checkpoint", "metrics"):
            trainer = make_trainer()
            with pytest.raises(error):
                trainer.fit(TRAIN, **{output: path})
            assert trainer.optimiser.steps == 0
    check_writable_folder(tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["plain"]


@contextmanager
def small_files(limit):
    """Let no file grow beyond so many bytes: writing fails midway, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint(checkpoint):
    before = checkpoint.read_bytes()
    trainer = make_trainer()
    trainer.load(checkpoint)
    with (
        small_files(1000),
        pytest.raises(OSError, match=r"cannot write: .*checkpoint\.safetensors"),
    ):
        trainer.fit(TRAIN, epochs=2, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_no_space_left_leaves_the_old_checkpoint(checkpoint):
    before = checkpoint.read_bytes()
    temporary = checkpoint.with_name(checkpoint.name + ".tmp")
    temporary.symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot write: No space left on device"):
        make_trainer().save(checkpoint)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


# -- kill -9 --------------------------------------------------------------------------------------


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import test_training as t
trainer = t.make_trainer(plateau=True)
trainer.checkpoint_seconds = 0
print("begun", flush=True)
trainer.fit(t.TRAIN, t.VALID, epochs={epochs}, checkpoint=sys.argv[1], metrics=sys.argv[2])
"""


def kill_at_random(folder, moments, epochs=10):
    """Kill a training so many times, each from its start; give how many had not finished yet."""
    whole = make_trainer(plateau=True)
    expected = whole.fit(TRAIN, VALID, epochs=epochs)
    timed, began = make_trainer(plateau=True), time.monotonic()
    timed.checkpoint_seconds = 0
    timed.fit(TRAIN, VALID, epochs=epochs, checkpoint=folder / "timed")
    seconds = time.monotonic() - began
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}, a whole run takes {seconds:.3f} s")
    rng, killed = random.Random(seed), 0
    program = PROGRAM.format(tests=os.path.dirname(__file__), epochs=epochs)
    for i in range(moments):
        path, metrics = folder / f"checkpoint{i}", folder / f"metrics{i}.jsonl"
        with subprocess.Popen(
            [sys.executable, "-c", program, path, metrics], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline().strip() == b"begun"
            time.sleep(rng.uniform(0, seconds))
            process.kill()
        killed += process.returncode == -signal.SIGKILL
        resumed = make_trainer(plateau=True)
        if path.exists():  # else it was killed before the first window had ended
            resumed.load(path)
            print(f"killed after epoch {resumed.epoch}, window {resumed.window}")
        history = resumed.fit(TRAIN, VALID, epochs=epochs, checkpoint=path, metrics=metrics)
        assert np.array_equal(resumed.net.params, whole.net.params)
        assert losses(history) == losses(expected)
        lines = [line["epoch"] for line in read_lines(metrics) if "window" not in line]
        assert lines == list(range(1, epochs + 1))
    return killed


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a matter of POSIX")
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    assert kill_at_random(tmp_path, 3) > 0


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a matter of POSIX")
def test_a_training_killed_at_twenty_moments_goes_on_to_the_same_bits(tmp_path):
    assert kill_at_random(tmp_path, 20) >= 10
