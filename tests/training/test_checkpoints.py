"""Tests of the files of checkpoints: whole or absent, and wrong ones refused."""

import copy
import errno
import math
import os
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from trainers import TRAIN, VALID, make_trainer

import lstmc
from lstmc.files import check_writable_folder, read_safetensors, write_safetensors
from lstmc.training import read_note


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
    arrays_read, words = read_safetensors(tmp_path / "file")
    assert words == {**metadata, "array": [0, 1, 2]}
    assert arrays_read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert arrays_read[name].dtype == array.dtype
        assert arrays_read[name].shape == array.shape
        assert np.array_equal(arrays_read[name], array)
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
        np.random.default_rng(0).bytes(1000),
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
        with pytest.raises(
            ValueError, match="is not a checkpoint of training: it is of format None"
        ):
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
    for name in set(metadata) - {"kind", "format"}:
        write_safetensors(checkpoint, arrays, {k: v for k, v in metadata.items() if k != name})
        with pytest.raises(ValueError, match=f"is not a whole checkpoint: KeyError\\('{name}'\\)"):
            make_trainer().load(checkpoint)


# -- damage ----------------------------------------------------------------------------------------


def places(data, path=()):
    """Yield the path to every part of nested data."""
    parts = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


def changed(data, path, value=None, delete=False):
    data = copy.deepcopy(data)
    part = data
    for key in path[:-1]:
        part = part[key]
    if delete:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return data


@pytest.fixture
def full(tmp_path):
    """A checkpoint with all there can be in it: a schedule, best weights, metrics, a state, a note."""
    path = tmp_path / "full.safetensors"
    trainer = make_trainer(plateau=True)
    trainer.fit(TRAIN, VALID, epochs=2, patience=9, checkpoint=path, metrics=tmp_path / "metrics",
                note={"a": [1]})  # fmt: skip
    batch = TRAIN[:80].reshape(20, 4)
    trainer.progress.state = trainer.net.forward(batch, training=False)[1]
    trainer.save(path)
    return path


def error_of(function, *args):
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return None


def test_a_damaged_checkpoint_changes_nothing(full):
    """Whatever is damaged: all is read and checked before the trainer changes."""
    arrays, metadata = read_safetensors(full)
    before = make_trainer(plateau=True)
    before.save(full.with_name("before"))
    expected = full.with_name("before").read_bytes()
    trainer, refused = make_trainer(plateau=True), 0
    values = (None, math.nan, -1, 10**400, [], {}, "x", 0.5, True, [[[]]])
    cases = [(path, {"delete": True}) for path in places(metadata)]
    cases += [(path, {"value": value}) for path in places(metadata) for value in values]
    rng = np.random.default_rng(0)
    for i in rng.permutation(len(cases))[:300]:
        path, change = cases[i]
        damaged = changed(metadata, path, **change)
        if damaged == metadata:
            continue
        write_safetensors(full, arrays, damaged)
        error = error_of(trainer.load, full)
        if error is not None:
            refused += 1
            assert str(full) in error
            trainer.save(full.with_name("after"))
            assert full.with_name("after").read_bytes() == expected, (path, change)
        else:  # another number that could have been there
            assert path[0] in ("history", "note", "corpus", "metrics", "sums", "best", "decay",
                               "numbers", "random", "epoch", "window", "state"), (path, change)  # fmt: skip
            trainer = make_trainer(plateau=True)
    assert refused > 200


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("numbers", "lr"), math.nan, "lr must be"),
        (("numbers", "lr"), -1, "lr must be"),
        (("numbers", "steps"), -1, "steps must be an integer from 0 to .*, got -1"),
        (("numbers",), {"steps": 1}, "numbers must be lr and steps"),
        (("decay", "epochs"), 1.5, "epochs must be an integer"),
        (("decay", "best"), math.nan, "best must be a number, got nan"),
        (("history",), 5, "history must be a list, got 5"),
        (("history",), [5], r"history\[0\] must be a dict"),
        (("history",), [{"epoch": "x"}], r"history\[0\].epoch must be a number"),
        (("history",), [{"epoch": 1}], r"history\[0\] must have epoch and losses"),
        (("numbers", "steps"), 10**30, "steps must be an integer from 0"),
        (("window",), 10**30, "window must be an integer from 0"),
        (("epoch",), -1, "epoch must be an integer from 0"),
        (("window",), "one", "window must be an integer from 0"),
        (("note",), [], "note must be a dict"),
        (("sums",), {}, "sums must have tokens, classes, loss, norm, seconds"),
        (("sums", "loss"), None, "sums.loss must be a number"),
        (("best", "waited"), 0.5, "best.waited must be an integer"),
        (("corpus", "train"), [1], "corpus.train must be four numbers"),
        (("metrics", "checksum"), 0.5, "metrics.checksum must be an integer"),
        (("best", "epoch"), -1, "best.epoch must be an integer"),
        (("asked",), "no", "asked must be an integer"),
        (("random",), [], "random must have 2 states, got 0"),
        (("random", 1, "state"), {"state": 10**400, "inc": 1}, "random must hold states"),
        (("state",), "weights.0.weight", "state must have an entry for each of 5 layers"),
        (("state", 2), "state.9", "state must name arrays of the file, got 'state.9'"),
        (("state", 2), ["state.2.0"], r"state\[2\] must be None or the tuple"),
    ],
)
def test_what_is_damaged_is_named(full, path, value, message):
    arrays, metadata = read_safetensors(full)
    write_safetensors(full, arrays, changed(metadata, path, value))
    with pytest.raises(ValueError, match=message):
        make_trainer(plateau=True).load(full)


def test_data_nested_too_deeply_are_refused(full):
    from safetensors.numpy import save

    full.write_bytes(save({}, {"lstmc": '{"kind": "checkpoint", "format": 1, "x": ' + "[" * 10**5}))
    for load in (make_trainer().load, read_note, lstmc.LanguageModel.load, lstmc.load):
        with pytest.raises(ValueError, match=r"full\.safetensors"):
            load(full)


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [("MT19937", "pos", 2 * 10**9), ("Philox", "buffer_pos", -5 * 10**8)],
)
def test_places_beyond_the_buffer_of_a_generator(tmp_path, kind, place, value):
    """NumPy takes them, and ends the process at the next number."""
    rng = np.random.Generator(getattr(np.random, kind)(1))
    net = lstmc.Sequential(lstmc.Embedding(5, 4), lstmc.Dropout(0.5, rng=rng), lstmc.Linear(4, 5))
    trainer = lstmc.Trainer(net, lstmc.SGD(net, 0.1), 2, 3)
    trainer.save(tmp_path / "checkpoint")
    arrays, metadata = read_safetensors(tmp_path / "checkpoint")
    state = metadata["random"][0]
    (state if place in state else state["state"])[place] = value
    write_safetensors(tmp_path / "checkpoint", arrays, metadata)
    with pytest.raises(ValueError, match=f"{place} must be from 0 to"):
        trainer.load(tmp_path / "checkpoint")


def test_states_of_networks_within_networks_are_checked(tmp_path):
    inner = lstmc.Sequential(lstmc.LSTM(4, 4), lstmc.Linear(4, 4))
    net = lstmc.Sequential(lstmc.Embedding(5, 4), inner, lstmc.Linear(4, 5))
    trainer = lstmc.Trainer(net, lstmc.SGD(net, 0.1), 2, 3)
    trainer.fit(np.arange(40) % 5, epochs=1)
    trainer.progress.state = net(np.zeros((3, 2), np.int64))[1]
    trainer.save(tmp_path / "checkpoint")
    arrays, metadata = read_safetensors(tmp_path / "checkpoint")
    trainer.load(tmp_path / "checkpoint")
    for part in ([], [None, "state.1.0.0"], ["state.1.0.0", None]):
        write_safetensors(tmp_path / "bad", arrays, {**metadata, "state": [None, part, None]})
        with pytest.raises(ValueError, match=r"state\[1\]"):
            trainer.load(tmp_path / "bad")


def test_numbers_of_numpy_are_numbers(tmp_path):
    net = lstmc.Sequential(lstmc.Embedding(5, 4), lstmc.Linear(4, 5))
    trainer = lstmc.Trainer(net, lstmc.SGD(net, 0.1), 2, 3, clip=np.float32(5))
    trainer.save(tmp_path / "checkpoint")
    lstmc.Trainer(net, lstmc.SGD(net, 0.1), 2, 3, clip=5).load(tmp_path / "checkpoint")


# -- what must be as it was ------------------------------------------------------------------------


def other_net(**options):
    trainer = make_trainer()
    net = lstmc.Sequential(
        lstmc.Embedding(5, 4),
        lstmc.Dropout(options.get("p", 0.3)),
        options.get("recurrent", lstmc.LSTM(4, 9, 2)),
        lstmc.Dropout(0.3),
        lstmc.Linear(9, 5),
    )
    optimiser = options.get("optimiser", lstmc.Adam)(net, 1e-2, **options.get("with", {}))
    limits = {"clip": options.get("clip", 5.0), "clip_value": options.get("clip_value")}
    return lstmc.Trainer(net, optimiser, trainer.batch, trainer.steps, **limits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.5}, r"network.options.layers\[1\].options must be {'p': 0.3}, .*, got {}"),
        ({"recurrent": lstmc.RNN(4, 9, 2)}, r"layers\[2\].layer must be 'LSTM', .* got 'RNN'"),
        ({"optimiser": lstmc.AdamW}, "optimiser.type must be 'Adam', .* got 'AdamW'"),
        ({"with": {"betas": (0.5, 0.9)}}, r"optimiser.options.betas\[0\] must be 0.9, .*, got 0.5"),
        ({"with": {"weight_decay": 0.1}}, "optimiser.options.weight_decay must be 0.0, .* got 0.1"),
        ({"clip": 1.0}, "clip must be 5.0, as it was when training began, got 1.0"),
        ({"clip": None}, "clip must be 5.0, as it was when training began, got None"),
        ({"clip_value": 2}, "clip_value must be None, as it was when training began, got 2.0"),
    ],
)
def test_another_network_or_optimiser_is_refused(checkpoint, options, message):
    trainer = other_net(**options)
    before = trainer.net.params.copy()
    with pytest.raises(ValueError, match=message):
        trainer.load(checkpoint)
    assert np.array_equal(trainer.net.params, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda o: lstmc.PlateauDecay(o, 0.25, threshold=1.0),
            "schedule.options.factor must be 0.5",
        ),
        (lambda o: lstmc.PlateauDecay(o, 0.5, 3, 1.0), "schedule.options.patience must be 1"),
        (lambda o: lstmc.ExponentialDecay(o, 0.5), "schedule.* must be .*PlateauDecay"),
    ],
)
def test_another_schedule_is_refused(full, make, message):
    trainer = make_trainer()
    trainer.schedule = make(trainer.optimiser)
    with pytest.raises(ValueError, match=message):
        trainer.load(full)


def test_the_rate_the_threads_the_epochs_and_the_patience_may_be_others(full):
    trainer = make_trainer(plateau=True)
    trainer.optimiser.lr, trainer.num_threads = 123.0, 2
    trainer.load(full)
    assert trainer.optimiser.lr == read_safetensors(full)[1]["numbers"]["lr"] != 123
    assert len(trainer.fit(TRAIN, VALID, epochs=3, patience=1)) == 3


def test_a_checkpoint_of_the_version_before_is_refused_by_name(checkpoint):
    arrays, metadata = read_safetensors(checkpoint)
    del metadata["format"]
    write_safetensors(checkpoint, arrays, metadata)
    for load in (make_trainer().load, read_note):
        with pytest.raises(ValueError, match=r"is a checkpoint of lstmc 0\.1"):
            load(checkpoint)


# -- outputs ---------------------------------------------------------------------------------------


def test_an_output_that_cannot_be_written_is_found_before_training(tmp_path):
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


def test_no_space_left_leaves_the_old_checkpoint(checkpoint, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = checkpoint.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write: No space left on device: .*checkpoint\.saf"):
        make_trainer().save(checkpoint)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
