"""Tests of the files of checkpoints: whole or absent, and wrong ones refused."""

import math
import os
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from trainers import TRAIN, make_trainer

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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_no_space_left_leaves_the_old_checkpoint(checkpoint):
    before = checkpoint.read_bytes()
    temporary = checkpoint.with_name(checkpoint.name + ".tmp")
    temporary.symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot write: No space left on device"):
        make_trainer().save(checkpoint)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
