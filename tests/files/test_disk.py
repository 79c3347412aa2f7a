"""Files: whole or absent whoever writes and reads at the same time, and read with care."""

import json
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest

import lstmc
from lstmc.files import read_safetensors, write_safetensors

ONE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(2.5)}


@pytest.fixture
def path(tmp_path):
    """A file with ONE and {"x": 1}."""
    write_safetensors(tmp_path / "model", ONE, {"x": 1})
    return tmp_path / "model"


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


# -- writing ---------------------------------------------------------------------------------------


def write_for(path, seconds, number):
    arrays, count = {"a": np.full(50_000, number, np.float32)}, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        write_safetensors(path, arrays, {"number": number})
        count += 1
    return count


def test_two_processes_write_and_a_third_reads_whole_files(tmp_path):
    path = tmp_path / "model"
    write_for(path, 0, 0)
    write_safetensors(path, {"a": np.zeros(50_000, np.float32)}, {"number": 0})
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        writing = [pool.apply_async(write_for, (path, 1.5, number)) for number in (1, 2)]
        read = set()
        while not all(one.ready() for one in writing):
            arrays, metadata = read_safetensors(path)
            assert (arrays["a"] == metadata["number"]).all()
            read.add(metadata["number"])
        assert all(one.get() > 5 for one in writing)
    assert read >= {1, 2}
    assert names_in(tmp_path) == ["model"]


def test_threads_write_one_path(tmp_path):
    errors = []

    def write():
        try:
            write_for(tmp_path / "model", 0.3, 1)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names_in(tmp_path) == ["model"]


def test_names_that_others_use_are_left_alone(path):
    other = path.with_name("other")
    other.write_text("mine")
    path.with_name("model.tmp").symlink_to(other)
    write_safetensors(path, {}, {"x": 2})
    assert read_safetensors(path)[1] == {"x": 2}
    assert other.read_text() == "mine"
    assert names_in(path.parent) == ["model", "model.tmp", "other"]


def test_what_a_link_points_to_is_replaced(path):
    link = path.with_name("link")
    link.symlink_to("model")
    write_safetensors(link, {}, {"x": 2})
    assert link.is_symlink()
    assert read_safetensors(path)[1] == {"x": 2}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_stay(path):
    before = os.umask(0o027)
    try:
        write_safetensors(path.with_name("new"), {}, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.with_name("new").stat().st_mode) == 0o640
    for mode in (0o600, 0o664):
        path.chmod(mode)
        write_safetensors(path, {}, {"x": 2})
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a regular file"):
        write_safetensors(tmp_path / "pipe", {}, {})
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names_in(tmp_path) == ["pipe"]


def test_a_long_name_is_written(tmp_path):
    write_safetensors(tmp_path / ("n" * 255), ONE, {})
    assert read_safetensors(tmp_path / ("n" * 255))[0]["b"] == 2.5


# -- reading ---------------------------------------------------------------------------------------


def test_every_flipped_bit_of_the_data_is_noticed(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for i in range(start, len(data)):
        spoilt = bytearray(data)
        spoilt[i] ^= 1 << i % 8
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="its data are damaged"):
            read_safetensors(path)
        read_safetensors(path, verify=False)


def test_changed_metadata_are_noticed(path):
    path.write_bytes(path.read_bytes().replace(rb"\"x\":1", rb"\"x\":2"))
    with pytest.raises(ValueError, match="its data are damaged"):
        read_safetensors(path)
    assert read_safetensors(path, verify=False)[1] == {"x": 2}


def test_a_file_without_a_checksum_is_read(tmp_path):
    from safetensors.numpy import save

    (tmp_path / "model").write_bytes(save(ONE, {"lstmc": json.dumps({"x": 1})}))
    arrays, metadata = read_safetensors(tmp_path / "model")
    assert metadata == {"x": 1}
    assert np.array_equal(arrays["a"], ONE["a"])


def test_halves_are_widened(tmp_path):
    exact = np.array([1.0, -2.5, 0.0, np.inf], "<f4")
    half, brain = exact.astype("<f2").tobytes(), (exact.view("<u4") >> 16).astype("<u2").tobytes()
    header = json.dumps(
        {
            "__metadata__": {"lstmc": "{}"},
            "half": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]},
            "brain": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
        }
    ).encode()
    (tmp_path / "model").write_bytes(len(header).to_bytes(8, "little") + header + half + brain)
    arrays, _ = read_safetensors(tmp_path / "model")
    for name, shape in (("half", (4,)), ("brain", (2, 2))):
        assert arrays[name].dtype == np.float32
        assert np.array_equal(arrays[name], exact.reshape(shape))


def test_arrays_do_not_hang_on_the_file(path):
    """What is read may be written to, and does not change when the file does."""
    arrays, _ = read_safetensors(path)
    path.write_bytes(b"")
    arrays["a"] += 1
    assert np.array_equal(arrays["a"], ONE["a"] + 1)


READER = """
import sys
from lstmc.files import read_safetensors
print("begun", flush=True)
whole = refused = 0
while True:
    try:
        arrays, metadata = read_safetensors(sys.argv[1])
        assert (arrays["a"] == metadata["number"]).all()
        whole += 1
    except FileNotFoundError:
        break
    except ValueError:
        refused += 1
print(whole, refused)
"""


def test_a_file_that_is_overwritten_in_place_is_refused_or_whole(tmp_path):
    """As `cp` does it, while another process reads: a mapped file would end that process by SIGBUS."""
    path = tmp_path / "model"
    for number in (1, 2):
        write_safetensors(path, {"a": np.full(500_000, number, np.float32)}, {"number": number})
        path.rename(tmp_path / str(number))
    both = [(tmp_path / str(number)).read_bytes() for number in (1, 2)]
    path.write_bytes(both[0])
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        reader.stdout.readline()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            for data in both:
                with open(path, "wb") as file:
                    file.write(data)
                time.sleep(0.002)
        path.unlink()
        whole, refused = map(int, reader.communicate()[0].split())
    assert reader.returncode == 0
    assert whole + refused > 3


def test_metadata_nested_too_deeply_are_refused(tmp_path):
    from safetensors.numpy import save

    (tmp_path / "model").write_bytes(save(ONE, {"lstmc": "[" * 100_000}))
    with pytest.raises(ValueError, match="is not a file of lstmc"):
        read_safetensors(tmp_path / "model")


# -- paths of other things -------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="permissions and pipes of POSIX")
def test_a_private_file_is_private_while_it_is_written(path, monkeypatch):
    path.chmod(0o600)
    seen, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.fstat(fd).st_mode), real(fd)))
    write_safetensors(path, ONE, {})
    assert stat.S_IMODE(seen[0]) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="permissions and pipes of POSIX")
def test_a_folder_that_cannot_be_opened_takes_files(path, monkeypatch):
    real = os.open

    def refuse(name, flags, *mode):
        if os.path.isdir(name):
            raise PermissionError(13, "no", name)
        return real(name, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    write_safetensors(path, ONE, {"x": 2})
    assert read_safetensors(path)[1] == {"x": 2}


@pytest.mark.skipif(os.name != "posix", reason="permissions and pipes of POSIX")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="it is not a regular file"):
            read_safetensors(name)


def test_a_large_file_of_something_else_is_not_read(tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.write(b"\xff" * 8)
        file.truncate(1 << 40)  # without blocks on the disk
    with pytest.raises(ValueError, match="its header is too long"):
        read_safetensors(tmp_path / "large")


def test_the_name_of_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError):
        write_safetensors(f"{tmp_path}/new{os.sep}", ONE, {})
    assert names_in(tmp_path) == []


def test_many_layers_of_a_stack_cost_little_memory(tmp_path):
    """Each of them is small beside the elements of the file, and their names are not made."""
    arrays = {"weight_ih_l0": np.zeros((200_000, 1), np.float32)}
    stack = {"input_size": 1, "hidden_size": 1, "num_layers": 200_000}
    network = {"layer": "RNN", "options": stack}
    write_safetensors(
        tmp_path / "net", arrays, {"format": 1, "kind": "network", "network": network}
    )
    tracemalloc.start()
    with pytest.raises(ValueError, match="num_layers is 200000, and there are not as many tensors"):
        lstmc.load(tmp_path / "net")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
