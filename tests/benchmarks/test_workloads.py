"""The workloads of the benchmarks: what is asked for on the command line, its operations and its limits."""

import os

import pytest

pytest.importorskip("cffi")
if not os.path.exists("/sys/devices/system/cpu/cpu0/cache/index0"):
    pytest.skip(
        "the benchmarks need to know the caches, as Linux tells them", allow_module_level=True
    )
pytest.importorskip("benchmarks", reason="no source tree")

from benchmarks import __main__ as command, limits, workloads
from benchmarks.peers import problems
from benchmarks.workloads import Workload

# -- operations and limits ------------------------------------------------------------------------


def test_operations():
    t, b, i, h = 5, 3, 11, 7
    assert limits.flops(Workload("forward", i, h, t, b)) == 8 * t * b * h * (i + h)
    assert limits.flops(Workload("train", i, h, t, b)) == 3 * 8 * t * b * h * (i + h)
    assert limits.flops(Workload("forward", i, h, t, b, cell="rnn")) == 2 * t * b * h * (i + h)
    assert limits.flops(Workload("train", i, h, t, b, cell="gru")) == 3 * 6 * t * b * h * (i + h)
    two = 8 * t * b * h * (i + h) + 8 * t * b * h * 2 * h
    assert limits.flops(Workload("forward", i, h, t, b, layers=2)) == two
    model = 3 * (8 * t * b * h * (i + h) + 2 * t * b * h * 13)
    assert limits.flops(Workload("model", i, h, t, b, vocabulary=13)) == model


def test_operations_of_both_directions_and_of_rows_that_end():
    t, b, i, h = 9, 3, 11, 7
    plain = Workload("train", i, h, t, b)
    both = Workload("train", i, h, t, b, layers=2, bidirectional=True)
    assert limits.flops(both) == 3 * 2 * 8 * t * b * h * (i + h + 2 * h + h)
    ends = Workload("train", i, h, t, b, shortest=2)
    lengths = problems.times_of(ends)["lengths"]
    assert lengths.shape == (b,)
    assert lengths.min() >= 2
    assert limits.flops(ends) == limits.flops(plain) * lengths.sum() / (t * b)
    assert limits.activations(ends) == limits.activations(plain) * lengths.sum() / (t * b)
    again = Workload("train", i, h, t, b, resets=0.3)
    assert limits.flops(again) == limits.flops(plain)


def test_steps_that_must_follow_one_another():
    """To the next reset, or to the end."""
    w = Workload("train", 5, 7, 40, 4, shortest=3, resets=0.1)
    times = problems.times_of(w)
    assert times["resets"].any()
    assert not times["resets"][0].any()
    longest = 0
    for row, length in zip(times["resets"].T, times["lengths"]):
        run = 0
        for reset in row[:length]:
            run = 1 if reset else run + 1
            longest = max(longest, run)
    assert problems.rows_of(w) == (times["lengths"].sum(), longest)
    assert problems.equal(w) == Workload("train", 5, 7, round(times["lengths"].sum() / 4), 4)


def test_many_rows_are_bound_by_operations(abacus):
    w = Workload("train", 16, 16, 10, 100)
    assert limits.limit(w, abacus) == pytest.approx(limits.flops(w) / 1e11)
    double = Workload("train", 16, 16, 10, 100, dtype="float64")
    assert limits.limit(double, abacus) == pytest.approx(limits.flops(double) / 5e10)


def test_a_step_is_bound_by_reading_its_weights(abacus):
    """All of them, from the level that holds all of them."""
    nbytes = 16 * 64 * (64 + 64)  # in memory
    assert limits.limit(Workload("step", 64, 64), abacus) == pytest.approx(nbytes / 1e10)
    nbytes = 16 * 50 * 100 + 16 * 50  # in L2
    assert limits.limit(Workload("step", 1, 50), abacus) == pytest.approx(
        (16 * 50 * 50 + 16 * 50) / 1e11
    )


def test_a_sequence_reads_its_recurrent_weights_at_every_step(abacus):
    t, i, h = 100, 64, 64  # each matrix in L2
    matrix = 16 * h * i
    products = 8 * t * h * i / 1e11
    expected = max(products, matrix / 1e11) + max(products, t * matrix / 1e11)
    assert limits.limit(Workload("forward", i, h, t), abacus) == pytest.approx(expected)
    training = expected * 2 + 2 * max(products, matrix / 1e11)
    assert limits.limit(Workload("train", i, h, t), abacus) == pytest.approx(training)


def test_activations():
    """LSTM: four gates and tanh(c), which backward needs again; GRU: three gates; RNN: one."""
    states = 6 * 3 * 7 * 2
    assert limits.activations(Workload("forward", 5, 7, 6, 3, 2)) == 5 * states
    assert limits.activations(Workload("train", 5, 7, 6, 3, 2)) == 6 * states
    assert limits.activations(Workload("train", 5, 7, 6, 3, 2, "gru")) == 3 * states
    assert limits.activations(Workload("train", 5, 7, 6, 3, 2, "rnn")) == states


# -- options --------------------------------------------------------------------------------------


def planned(line):
    return list(command.plan(command.make_parser().parse_args(line.split())))


def test_everything_is_the_table():
    assert planned("") == list(workloads.TABLE)
    assert len({w.name for w in workloads.TABLE}) == len(workloads.TABLE)
    for kind in ("machine", "memory"):
        assert planned(kind) == []
    parts = [w for kind in ("step", "streams", "forward", "train", "model") for w in planned(kind)]
    assert set(parts) == set(workloads.TABLE)
    assert planned("forward train") == planned("forward") + planned("train")


def test_sizes_make_one_workload():
    (w,) = planned("step --hidden 256 --threads 1")
    assert w in workloads.TABLE  # with what is asked of it
    assert (w.inputs, w.hidden, w.batch) == (256, 256, 1)
    (w,) = planned(
        "train --inputs 3 --hidden 4 --steps 5 --batch 6 --layers 2 --cell rnn --dtype float64"
    )
    assert w == Workload("train", 3, 4, 5, 6, 2, "rnn", "float64")
    assert w.name == "train rnn B6 T5 I3 H4 L2 float64"
    (w,) = planned("streams --hidden 32")
    assert (w.kind, w.inputs, w.hidden, w.batch) == ("step", 32, 32, 64)
    line = "train --inputs 128 --hidden 128 --steps 100 --batch 32 --layers 2 --bidirectional"
    (w,) = planned(line)
    assert w in workloads.TABLE
    assert w.name == "train B32 T100 H128 L2 bidirectional"
    (w,) = planned("train --hidden 256 --steps 200 --batch 64 --shortest 1")
    assert w in workloads.TABLE
    assert w.name == "train B64 T1..200 H256"
    (w,) = planned("train --hidden 128 --steps 128 --batch 64 --resets 0.02")
    assert w in workloads.TABLE
    assert w.name == "train B64 T128 H128 resets 2%"


@pytest.mark.parametrize(
    "line",
    [
        "fly",
        "step --hidden 0",
        "--threads 100000",
        "--peers cobol",
        "--hidden 3",
        "step train --hidden 3",
        "step --bidirectional",
        "model --resets 0.1",
        "train --resets 1",
        "train --steps 5 --shortest 6",
        "--against /nowhere",
    ],
)
def test_wrong_options_are_refused(line, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(line.split())
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err
