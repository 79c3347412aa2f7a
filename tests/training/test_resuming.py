"""Tests of going on: after Ctrl-C, from a checkpoint and after kill -9, a run ends with the same bits."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import trainers
from trainers import (
    OPTIMISERS,
    TRAIN,
    VALID,
    VOCABULARY,
    interrupt,
    losses,
    make_trainer,
    read_lines,
)

import lstmc
from lstmc.training import Interrupted, Trainer, read_note

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
        (
            make_trainer("sgd", plateau=True),
            "optimiser.type must be 'Adam', .* got 'SGD'",
        ),
        (make_trainer(), "schedule must be .*PlateauDecay.*, got None"),
    ):
        before = trainer.net.params.copy()
        with pytest.raises(ValueError, match=message):
            trainer.load(path)
        assert np.array_equal(trainer.net.params, before)


# -- kill -9 --------------------------------------------------------------------------------------


PROGRAM = """
import sys
sys.path.insert(0, {helpers!r})
import trainers as t
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
    seed = int(os.environ.get("LSTMC_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"LSTMC_TEST_SEED={seed} draws these moments again; a whole run takes {seconds:.3f} s")
    rng, killed = random.Random(seed), 0
    program = PROGRAM.format(helpers=os.path.dirname(trainers.__file__), epochs=epochs)
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
@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a matter of POSIX")
def test_a_training_killed_at_twenty_moments_goes_on_to_the_same_bits(tmp_path):
    assert kill_at_random(tmp_path, 20) >= 10
