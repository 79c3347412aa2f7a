"""Runs that are made longer, stopped by the clock or by a signal, moved, or that diverge."""

import io
import math
import os
import shutil
import signal
import threading

import numpy as np
import pytest
from trainers import (
    TRAIN,
    VALID,
    interrupt,
    losses,
    make_net,
    make_trainer,
    read_lines,
)

import lstmc
from lstmc.training import Interrupted, evaluate

# -- best weights, and those to go on from ----------------------------------------------------------


def test_a_run_that_shows_its_best_weights_goes_on_from_its_last(tmp_path):
    """fit(3), fit(6) is fit(6), though patience put the best weights into the network in between."""
    whole, halves, loaded = (make_trainer("sgd") for _ in range(3))
    for trainer in (whole, halves, loaded):
        trainer.optimiser.lr = 2.0  # the second epoch is worse than the first
    expected = whole.fit(TRAIN, VALID, epochs=6, patience=6)
    valid = [record["valid_loss"] for record in expected]
    assert min(valid) < valid[2], "the third epoch must not be the best"

    halves.fit(TRAIN, VALID, epochs=3, patience=6)
    shown = halves.net.params.copy()
    halves.save(tmp_path / "between")
    assert losses(halves.fit(TRAIN, VALID, epochs=6, patience=6)) == losses(expected)
    assert np.array_equal(halves.net.params, whole.net.params)

    loaded.load(tmp_path / "between")
    assert np.array_equal(loaded.net.params, shown)
    assert losses(loaded.fit(TRAIN, VALID, epochs=6, patience=6)) == losses(expected)


def test_weights_that_were_changed_meanwhile_are_those_to_go_on_from():
    trainer = make_trainer()
    trainer.fit(TRAIN, VALID, epochs=2, patience=2)
    trainer.net.params[:] = 0
    trainer.use_best()
    assert np.array_equal(trainer.progress.last_params, np.zeros_like(trainer.net.params))
    nobody = make_trainer()
    before = nobody.net.params.copy()
    nobody.use_best()  # nothing to use
    assert np.array_equal(nobody.net.params, before)


def test_a_run_that_patience_ended_can_be_made_longer():
    trainer = make_trainer("sgd")
    trainer.optimiser.lr = 4.0
    first = trainer.fit(TRAIN, VALID, epochs=40, patience=1)
    assert trainer.ended == "patience"
    assert 1 < len(first) < 40
    assert losses(trainer.fit(TRAIN, VALID, epochs=40, patience=1)) == losses(first)
    assert trainer.ended == "patience"
    more = trainer.fit(TRAIN, VALID, epochs=41, patience=1)  # more than were asked for
    assert len(more) > len(first)
    patient = trainer.fit(TRAIN, VALID, epochs=len(more) + 1, patience=5)
    assert len(patient) == len(more) + 1
    assert trainer.ended == "epochs"
    best = min(record["valid_loss"] for record in patient)
    assert evaluate(trainer.net, VALID, 4, 20) == pytest.approx(best, rel=1e-6)


def test_patience_that_ends_with_the_epochs_is_not_begun_anew():
    """fit(n), fit(40) stops where fit(40) does, whatever n is."""
    whole = make_trainer("sgd")
    whole.optimiser.lr = 4.0
    expected = whole.fit(TRAIN, VALID, epochs=40, patience=2)
    assert whole.ended == "patience"
    for first in range(1, len(expected) + 1):
        halves = make_trainer("sgd")
        halves.optimiser.lr = 4.0
        halves.fit(TRAIN, VALID, epochs=first, patience=2)
        assert losses(halves.fit(TRAIN, VALID, epochs=40, patience=2)) == losses(expected)
        halves.fit(TRAIN, VALID, epochs=1, patience=2)  # fewer: no new beginning either
        assert len(halves.fit(TRAIN, VALID, epochs=40, patience=2)) == len(expected)


def test_the_best_epoch_is_known_without_patience():
    trainer = make_trainer()
    history = trainer.fit(TRAIN, VALID, epochs=5)
    last = trainer.net.params.copy()
    trainer.use_best()
    best = min(record["valid_loss"] for record in history)
    assert evaluate(trainer.net, VALID, 4, 20) == pytest.approx(best, rel=1e-6)
    trainer.fit(TRAIN, VALID, epochs=5)
    assert np.array_equal(trainer.net.params, last)


# -- refused ----------------------------------------------------------------------------------------


def test_a_fit_that_is_refused_changes_nothing(tmp_path):
    trainer = make_trainer("sgd")
    trainer.optimiser.lr = 2.0
    trainer.fit(TRAIN, VALID, epochs=3, patience=5, note={"a": 1})
    before = trainer.net.params.copy()
    (tmp_path / "binary").touch()
    with open(tmp_path / "binary", "wb") as binary, open(tmp_path / "binary") as reading:
        for wrong, error in (
            ({"note": {"x": {1}}}, TypeError),
            ({"note": 3}, TypeError),
            ({"progress": binary}, TypeError),
            ({"progress": reading}, OSError),
            ({"metrics": tmp_path}, OSError),
            ({"epochs": 0}, ValueError),
        ):
            with pytest.raises(error):
                trainer.fit(TRAIN, VALID, **{"epochs": 5, "patience": 5, **wrong})
            assert np.array_equal(trainer.net.params, before)
            assert (trainer.note, trainer.progress.asked) == ({"a": 1}, 3)


# -- stopped ----------------------------------------------------------------------------------------


def test_the_clock_stops_after_a_window_at_least(tmp_path):
    path, trainer, whole = tmp_path / "checkpoint", make_trainer(), make_trainer()
    trainer.fit(TRAIN, VALID, epochs=2, patience=2, checkpoint=path, minutes=1e-9)
    assert (trainer.ended, trainer.epoch, trainer.window) == ("minutes", 0, 1)
    resumed = make_trainer()
    resumed.load(path)
    assert resumed.window == 1
    expected = whole.fit(TRAIN, VALID, epochs=2, patience=2)
    assert losses(resumed.fit(TRAIN, VALID, epochs=2, patience=2, minutes=1e300)) == losses(
        expected
    )
    for wrong in (0, -1, math.nan, "1"):
        with pytest.raises(ValueError, match="minutes must be"):
            trainer.fit(TRAIN, minutes=wrong)


def test_the_clock_does_not_stop_a_validation_twice(tmp_path):
    """A fit that trains no window ends its validation, or runs of a minute each would never pass it."""
    path, trainer = tmp_path / "checkpoint", make_trainer()
    for _ in range(2 * 9):
        trainer.fit(TRAIN, VALID, epochs=2, checkpoint=path, metrics=tmp_path / "m", minutes=1e-9)
        last, trainer = trainer, make_trainer()
        trainer.load(path)
    assert last.ended == "epochs"
    lines = [(line["epoch"], line.get("window")) for line in read_lines(tmp_path / "m")]
    assert lines == [(e, w) for e in (1, 2) for w in [*range(1, 9), None]]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_that_end_a_program_wait_for_the_window(tmp_path, name):
    path, trainer = tmp_path / "checkpoint", make_trainer()
    number = getattr(signal, name)
    before = signal.getsignal(number)
    interrupt(trainer, at=3, number=number)
    with pytest.raises(Interrupted) as stopped:
        trainer.fit(TRAIN, epochs=2, checkpoint=path)
    assert (stopped.value.signal, trainer.window) == (number, 3)
    assert signal.getsignal(number) == before
    again = make_trainer()
    again.load(path)
    assert again.window == 3


def test_a_second_ctrl_c_does_not_wait_and_other_signals_do(tmp_path):
    """A terminal that is closed sends SIGHUP twice."""
    for second, expected in ((signal.SIGHUP, Interrupted), (signal.SIGINT, KeyboardInterrupt)):
        trainer = make_trainer()
        interrupt(trainer, at=3, number=signal.SIGHUP)
        stepping = trainer.optimiser.step

        def twice(threads=None, stepping=stepping, trainer=trainer, second=second):
            stepping(threads)
            if trainer.window == 2:
                signal.raise_signal(second)

        trainer.optimiser.step = twice
        with pytest.raises(expected) as stopped:
            trainer.fit(TRAIN)
        assert (type(stopped.value), trainer.window) == (
            expected,
            3 if second == signal.SIGHUP else 2,
        )


def test_a_signal_after_the_last_window_is_not_lost():
    class Log(io.StringIO):
        def write(self, text):
            if text.startswith("epoch 2/2: "):
                signal.raise_signal(signal.SIGTERM)

    trainer = make_trainer()
    with pytest.raises(Interrupted, match="stopped after epoch 2: nothing was saved"):
        trainer.fit(TRAIN, epochs=2, progress=Log())
    assert len(trainer.history) == 2


def test_a_handler_of_the_programs_own_is_left_alone():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *given: seen.append(given[0]))
    try:
        trainer = make_trainer()
        interrupt(trainer, at=3, number=signal.SIGTERM)
        trainer.fit(TRAIN)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (seen, trainer.epoch) == ([signal.SIGTERM], 1)


def test_a_checkpoint_is_there_before_the_first_window(tmp_path):
    path, trainer = tmp_path / "checkpoint", make_trainer()
    step = trainer.optimiser.step

    def stepping(threads=None):
        assert path.exists()
        step(threads)

    trainer.optimiser.step = stepping
    trainer.fit(TRAIN, checkpoint=path)


def test_names_that_are_too_long_are_refused_before_training(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    trainer = make_trainer()
    for name in ("checkpoint", "metrics"):
        with pytest.raises(OSError, match=r"cannot write x+ into this folder: File name too long"):
            trainer.fit(TRAIN, **{name: tmp_path / ("x" * (longest + 1))})
    assert trainer.epoch == 0
    trainer.fit(TRAIN, checkpoint=tmp_path / ("x" * longest), metrics=tmp_path / ("y" * longest))


def test_training_in_a_thread_leaves_signals_alone():
    trainer = make_trainer()
    thread = threading.Thread(target=trainer.fit, args=(TRAIN,))
    thread.start()
    thread.join()
    assert trainer.epoch == 1


# -- moved, and watched -----------------------------------------------------------------------------


def test_metrics_of_a_run_that_was_moved_have_every_epoch_once(tmp_path):
    old, new = tmp_path / "a", tmp_path / "b"
    old.mkdir()
    trainer = make_trainer()
    trainer.fit(TRAIN, epochs=2, checkpoint=old / "early", metrics=old / "metrics")
    trainer.fit(TRAIN, epochs=3, checkpoint=old / "late", metrics=old / "metrics")
    shutil.move(old, new)
    resumed = make_trainer()
    resumed.load(new / "early")
    history = resumed.fit(TRAIN, epochs=4, checkpoint=new / "early", metrics=new / "metrics")
    assert [line["epoch"] for line in read_lines(new / "metrics")] == [1, 2, 3, 4]
    assert read_lines(new / "metrics")[2:] == history[2:]


def test_metrics_that_are_not_those_of_the_run_are_only_added_to(tmp_path):
    trainer = make_trainer()
    trainer.fit(TRAIN, epochs=2, checkpoint=tmp_path / "checkpoint", metrics=tmp_path / "metrics")
    other = tmp_path / "other"
    other.write_text('{"epoch": "of another run"}\n' * 50)
    trainer.fit(TRAIN, epochs=3, metrics=other)
    assert [line["epoch"] for line in read_lines(other)] == ["of another run"] * 50 + [3]


def test_a_run_stopped_before_its_first_line_takes_nothing_from_other_files(tmp_path):
    """Its place is that of no bytes, which every file begins with."""
    trainer = make_trainer()
    trainer.watch = lstmc.Watch(trainer.net, path=tmp_path / "watch")
    trainer.net.params[:] = math.nan
    with pytest.raises(FloatingPointError):
        trainer.fit(TRAIN, checkpoint=tmp_path / "checkpoint", metrics=tmp_path / "metrics")
    (tmp_path / "metrics").write_text("{}\n" * 3)  # of windows that the checkpoint does not have
    for name in ("mine", "watched"):
        (tmp_path / name).write_text("{}\n" * 3)
    for name, left in (("mine", 3), ("metrics", 0)):
        again = make_trainer()
        again.watch = lstmc.Watch(again.net, path=tmp_path / "watched")
        again.load(tmp_path / "checkpoint")
        again.net.params[:] = make_net().params
        again.fit(TRAIN, metrics=tmp_path / name)
        assert len(read_lines(tmp_path / name)) == left + 1
    assert read_lines(tmp_path / "watched")[:3] == [{}] * 3


def test_trainers_that_share_a_metrics_file_only_add_to_it(tmp_path):
    one, other = make_trainer(), make_trainer()
    one.fit(TRAIN, epochs=2, metrics=tmp_path / "metrics")
    other.fit(TRAIN, epochs=2, metrics=tmp_path / "metrics")
    one.fit(TRAIN, epochs=3, metrics=tmp_path / "metrics")
    assert [line["epoch"] for line in read_lines(tmp_path / "metrics")] == [1, 2, 1, 2, 3]


def test_a_line_that_was_left_open_is_closed(tmp_path):
    (tmp_path / "metrics").write_text('{"a": 1}')
    make_trainer().fit(TRAIN, metrics=tmp_path / "metrics")
    assert [*read_lines(tmp_path / "metrics")[0]] == ["a"]


def test_a_watch_goes_on_where_it_was(tmp_path):
    """Of windows 1, 6, 11 and 16, those due after a checkpoint are recorded once, in the file too."""

    def watched(path):
        trainer = make_trainer()
        trainer.watch = lstmc.Watch(trainer.net, every=5, path=path)
        return trainer

    whole = watched(tmp_path / "whole")
    whole.fit(TRAIN, epochs=2)
    expected = read_lines(tmp_path / "whole")
    assert [record["window"] for record in expected] == [1, 6, 11, 16]

    first = watched(tmp_path / "halves")
    first.fit(TRAIN, epochs=1, checkpoint=tmp_path / "checkpoint")
    first.fit(TRAIN, epochs=2)  # not in the checkpoint: taken back
    second = watched(tmp_path / "halves")
    second.load(tmp_path / "checkpoint")
    assert second.watch.window == 8
    second.fit(TRAIN, epochs=2)
    assert read_lines(tmp_path / "halves") == expected
    assert second.watch.records == expected[2:]
    first.load(tmp_path / "checkpoint")  # in the same process
    assert first.watch.records == expected[:2]


# -- diverging --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "at"), [(2, 2), (50, 3)])
def test_a_loss_far_above_guessing_stops_the_run(epochs, at):
    """At the last epoch, or once 20 windows, eight an epoch, have shown it."""
    trainer = make_trainer("sgd")
    trainer.optimiser.lr = 1000.0
    message = rf"has diverged: the mean loss of epoch {at} is .* guessing evenly 1\.609"
    with pytest.raises(FloatingPointError, match=message):
        trainer.fit(TRAIN, VALID, epochs=epochs)
    assert len(trainer.history) == at - 1


def test_a_run_that_diverged_does_not_pass_when_it_is_resumed(tmp_path):
    trainer = make_trainer("sgd")
    trainer.optimiser.lr = 1000.0
    interrupt(trainer, at=8)
    with pytest.raises(Interrupted):
        trainer.fit(TRAIN, checkpoint=tmp_path / "checkpoint")
    again = make_trainer("sgd")
    again.load(tmp_path / "checkpoint")
    with pytest.raises(FloatingPointError, match="has diverged"):
        again.fit(TRAIN)


def test_a_long_epoch_that_diverges_is_stopped_within():
    trainer = make_trainer("sgd", batch=1, steps=3)
    trainer.optimiser.lr = 1000.0
    with pytest.raises(FloatingPointError, match="training has diverged"):
        trainer.fit(TRAIN)
    assert trainer.window == 20
