"""The benchmarks: how they measure, what they write, and that everybody's answers agree.

How fast anything is, is never a matter of a test.
"""

import os
import shutil

import numpy as np
import pytest

pytest.importorskip("cffi")
if not os.path.exists("/sys/devices/system/cpu/cpu0/cache/index0"):
    pytest.skip(
        "the benchmarks need to know the caches, as Linux tells them", allow_module_level=True
    )
benchmarks = pytest.importorskip("benchmarks", reason="no source tree")

from benchmarks import (  # noqa: E402
    isolation,
    machine,
    memory,
    peers,
    report,
    suite,
    timing,
)
from benchmarks.machine import facts, rates  # noqa: E402
from benchmarks.peers import Setting, Side, problems  # noqa: E402
from benchmarks.workloads import Workload  # noqa: E402
from lstmc._kernels.binding.core import instruction_sets  # noqa: E402

BRIEF = timing.Effort(seconds=0.001, turn=0.0001, least=2, most=2)
ONE = Setting(threads=1)
SMALL = [
    Workload("step", 5, 7, batch=3),
    Workload("step", 5, 7, layers=2),
    Workload("forward", 5, 7, 6, 3, 2),
    Workload("train", 5, 7, 6, 3, 2),
    Workload("step", 5, 7, layers=2, cell="gru"),
    Workload("forward", 5, 7, 6, 3, 2, cell="gru"),
    Workload("train", 5, 7, 6, 3, 2, cell="gru"),
    Workload("train", 5, 7, 6, 3, 2, cell="rnn"),
    Workload("train", 5, 7, 6, 3, 2, dtype="float64"),
    Workload("forward", 5, 7, 6, 3, 2, bidirectional=True),
    Workload("train", 5, 7, 6, 3, 2, "gru", bidirectional=True),
    Workload("forward", 5, 7, 9, 3, 2, shortest=2),
    Workload("train", 5, 7, 9, 3, 2, shortest=2),
    Workload("train", 5, 7, 9, 3, 2, "gru", shortest=2, bidirectional=True),
    Workload("train", 5, 7, 9, 3, 2, resets=0.3),
    Workload("train", 5, 7, 9, 3, 2, "gru", shortest=2, resets=0.3),
    Workload("train", 5, 7, 9, 3, 2, bidirectional=True, resets=0.3),
    Workload("model", 5, 7, 6, 3, 2, vocabulary=11),
    Workload("model", 5, 7, 6, 3, 2, vocabulary=11, dropout=0.5),
    Workload("model", 5, 7, 6, 3, 2, "gru", vocabulary=11),
]
small = pytest.mark.parametrize("w", SMALL, ids=lambda w: f"{w.name} {w.dropout or ''}")


# -- timing ---------------------------------------------------------------------------------------


def test_all_take_their_turns():
    calls = []

    def turn_of(name):
        def turn(n):
            calls.append(name)
            return 1e-9

        return turn

    effort = timing.Effort(seconds=0, turn=0, least=3, most=9)
    rounds = timing.race({name: turn_of(name) for name in "ab"}, effort)
    assert {name: len(times) for name, times in rounds.items()} == {"a": 3, "b": 3}
    assert calls == [*"ab", *"ab", *"ba", *"ab"]  # the first two to know how long they take


def test_a_turn_has_as_many_units_as_fill_it():
    asked = []

    def turn(n):
        asked.append(n)
        return 0.001

    assert timing.units_of_a_turn(turn, timing.Effort(turn=0.02)) == 20
    assert asked == [1, 4, 16]


def test_ratios_are_taken_within_a_round():
    rounds = {"lstmc": [1.0, 10.0, 1.0], "a": [3.0, 20.0, 2.0], "b": [4.0, 40.0, 4.0]}
    rounds["lstmc, v3"] = [2.0, 20.0, 2.0]
    result = timing.Result(SMALL[0], ONE, rounds)
    assert (result.seconds(), result.ratio("a"), result.ratio("b")) == (1.0, 2.0, 4.0)
    assert result.peers() == ["a", "b"]
    assert result.best() == (2.0, "a")
    assert result.best(("b", "c")) == (4.0, "b")
    assert result.best(side="lstmc, v3") == (1.0, "a")
    assert result.best(("c",)) is None
    assert result.best(side="lstmc, 1 thread") is None


def test_a_wrong_answer_is_seen():
    right = [np.arange(6.0).reshape(2, 3), np.float32(2)]
    assert timing.difference(right, right) == 0
    assert timing.difference([right[0] + 0.5, right[1]], right) == pytest.approx(0.1)
    for wrong in (right[0].T, right[0] * np.nan):
        assert timing.difference([wrong, right[1]], right) == np.inf


def test_pytorch_runs_rows_that_end_in_every_way():
    pytest.importorskip("torch")
    one = Workload("train", 5, 7, 9, 4, shortest=1)
    both = Workload("train", 5, 7, 9, 4, shortest=1, bidirectional=True)
    for w, others in ((one, ["torch, sorted", "torch, padded"]), (both, ["torch, sorted"])):
        assert list(suite.agreeing(timing.Result(w, ONE), ("torch",))) == ["torch", *others]


def side_with(*answers):
    return Side(lambda n: None, lambda: answers)


def test_who_is_wrong_or_breaks_is_left_out():
    def breaks():
        raise RuntimeError("no")

    def does_not_fit():
        raise timing.LeftOut("too large")

    result, said = timing.Result(SMALL[0], ONE), []
    makers = {"right": lambda: side_with(1.0), "wrong": lambda: side_with(2.0), "breaks": breaks,
              "large": does_not_fit, "banned": breaks}  # fmt: skip
    right = timing.compare(result, makers, [1.0], 0.1, 1, {"banned": "it hung"}, said.append)
    assert list(right) == ["right"]
    assert said == ["right", "wrong", "breaks", "large"]
    assert result.off == {"right": 0.0, "wrong": 1.0}
    assert result.defects() == [
        "wrong: WRONG, off by 1.0e+00", "breaks: RuntimeError: no", "banned: it hung"
    ]  # fmt: skip
    assert result.notes == ["large: too large"]
    with pytest.raises(RuntimeError, match="no"):
        timing.compare(result, makers, [1.0], 0.1, 1, is_fatal=lambda error: True)


def test_a_peer_with_a_wrong_answer_is_left_out(monkeypatch, abacus):
    make = peers.make

    def other(name, w, problem, setting):
        if name != "other":
            return make(name, w, problem, setting)
        return {"wrong": side_with(np.ones((3, 7)), *np.ones((2, 1, 3, 7)))}

    monkeypatch.setattr(peers, "make", other)
    result = timing.Result(SMALL[0], ONE)
    assert suite.agreeing(result, ("other",)) == {}
    assert result.wrong == ["wrong"]
    assert "WRONG" in report.summary(suite.measure(SMALL[0], 1, ("other",), None, BRIEF), abacus)


def test_inputs_are_taken_in_turn():
    assert list(peers.Turns("a").take(3)) == ["a"] * 3
    turns = peers.Turns("abc")
    assert [*turns.take(2), *turns.take(3)] == [*"abcab"]


@small
def test_a_problem_is_the_same_at_every_call(w):
    one, two = (problems.make_problem(w, 3) for _ in range(2))
    assert len(one.sets) == 3
    assert not np.array_equal(one.sets[0][0], one.sets[1][0])
    for left, right in zip(one.sets, two.sets, strict=True):
        assert all(map(np.array_equal, left, right))
    shapes = {
        "step": [(3, 5)], "forward": [(6, 3, 5)], "train": [(6, 3, 5), (6, 3, 7)], "model": [(6, 3)] * 2
    }  # fmt: skip
    assert one.times.keys() == {
        name for name, has in (("lengths", w.shortest), ("resets", w.resets)) if has
    }
    for name, array in one.times.items():
        assert np.array_equal(array, two.times[name])
    if w.batch == 3 and w.is_plain:
        assert [array.shape for array in one.sets[0]] == shapes[w.kind]


@small
def test_every_kind_of_workload_runs(w):
    result = suite.measure(w, 1, (), None, BRIEF)
    twin = {"lstmc, float32"} if w.dtype == "float64" else set()
    if w.shortest or w.resets:
        twin = {"lstmc, equal rows"}
    assert set(result.rounds) == {"lstmc"} | twin
    assert result.seconds() > 0
    assert (result.packing > 0) == (w.kind != "step")


@small
@pytest.mark.parametrize("peer", peers.PEERS)
def test_peers_have_the_same_answers(peer, w):
    if peer == "onnxruntime":
        pytest.importorskip("onnx")
    pytest.importorskip(peer)
    result = timing.Result(w, ONE)
    right = suite.agreeing(result, (peer,))
    assert result.defects() == result.notes == []
    trains = w.kind in ("train", "model")
    if not w.is_plain:  # there are no states between resets of both directions
        assert bool(right) == (peer == "torch" and not (w.bidirectional and w.resets))
    elif peer == "torch" or not trains or (peer == "jax" and w.kind == "train"):
        assert right


def test_twins():
    w = SMALL[2]
    isa = instruction_sets()[-1]
    twins = suite.twins(w, problems.make_problem(w), 2, isa)
    assert list(twins) == ["lstmc, 1 thread", f"lstmc, {isa}"]
    ours = peers.make("ours", w, problems.make_problem(w), ONE)["lstmc"]
    expected = timing.answers_of(ours, 1)
    for side in twins.values():
        assert timing.difference(timing.answers_of(side, 1), expected) < 1e-5


# -- the machine, memory, processes ---------------------------------------------------------------


def test_the_machine_is_described():
    assert {"cpu", "cores", "caches", "versions", "date"} <= set(facts.describe())


@pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler")
def test_the_machine_is_measured(monkeypatch):
    monkeypatch.setattr(rates, "cache_sizes", lambda cores: [("L1", 1 << 14)])
    monkeypatch.setattr(rates, "MEMORY", 1 << 16)
    monkeypatch.setattr(rates, "BLAS_SIZES", (64,))
    here = rates.measure(1, seconds=0.001)
    assert [level.name for level in here.levels] == ["L1, half of it", "L1, all of it", "memory"]
    reached = [*here.blas.values(), *here.kernel.values(), here.activation]
    assert min(reached + [level.bandwidth for level in here.levels]) > 0


def test_caches_are_counted_once():
    cores = isolation.usable_cores()
    assert dict(facts.cache_sizes(cores)).keys() == dict(facts.cache_sizes(cores[:1])).keys()
    assert facts.cache_sizes(cores * 2) == facts.cache_sizes(cores)


def test_a_whole_part(monkeypatch, capsys, abacus):
    monkeypatch.setattr(rates, "measure", lambda threads, seconds: abacus)
    done = suite.run(report.Report(), 1, SMALL[:2], (), None, BRIEF)
    assert done.machines == [abacus]
    assert [r.workload for r in done.results] == SMALL[:2]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [w.name for w in SMALL[:2]]


def test_a_process_of_its_own_is_pinned():
    before = os.sched_getaffinity(0)
    assert len(isolation.isolated(1, os.sched_getaffinity, 0)) == 1
    assert os.sched_getaffinity(0) == before
    assert isolation.isolated(1, os.getenv, "OMP_NUM_THREADS") == "1"


def test_memory_of_training_grows_with_time():
    w = Workload("train", 64, 64, 64, 64)
    result = memory.measure(w, "lstmc", units=1)
    trace = 6 * result.state_bytes  # four gates, h and c of every step
    assert result.growth > trace
    assert result.extra > trace * w.steps


def test_memory_goes_by_the_sum_of_lengths():
    """Padding as long as the rest is in what backward needs, 7 numbers a unit and step, in none of them.

    It is in y and dx, a number each, and beside them dy is copied.
    """
    plain = Workload("train", 64, 64, 64, 64)
    padded = Workload("train", 64, 64, 128, 64, shortest=1)
    one, other = (memory.measure(w, "lstmc", units=1) for w in (plain, padded))
    assert one.growth < other.growth < one.growth + 6 * one.state_bytes


# -- the report -----------------------------------------------------------------------------------


def made_up(abacus):
    done = report.Report({"cpu": "an abacus"}, [abacus])
    step = Workload("step", 64, 64, floor=2, against=("onnxruntime",), of_limit=0.5)
    times = {"lstmc": [2e-5] * 3, "torch": [1e-4] * 3, "onnxruntime": [3e-5] * 3}
    done.results.append(timing.Result(step, ONE, times))
    train = Workload("train", 16, 16, 10, 100, floor=1.5, against=("torch",))
    times = {"lstmc": [2.0] * 3, "torch": [4.0] * 3, "lstmc, v3": [2.2] * 3}
    notes = ["jax left out: it is not there"]
    done.results.append(timing.Result(train, ONE, times, packing=0.2, notes=notes))
    done.memory.append(memory.Memory(train, "lstmc", 3 << 20, 6 * 16 * 100 * 4))
    return done


def cells(lines, name):
    """Return the first row of a table that begins with a name, as a dict by the header above it."""
    row = next(i for i, line in enumerate(lines) if line.startswith(f"| {name} "))
    header = next(i for i in reversed(range(row)) if lines[i].startswith("|:")) - 1
    split = [[cell.strip() for cell in lines[i].split("|")[1:-1]] for i in (header, row)]
    return dict(zip(*split, strict=True))


def test_the_tables(abacus):
    lines = report.text(made_up(abacus)).splitlines()
    step = cells(lines, "step B1 H64")
    assert step["lstmc"] == "20 µs"
    assert step["torch"] == "100 µs (5.00×)"
    assert step["best peer"] == "1.50×"
    assert step["of limit"] == "66%"
    assert step["target"] == "≥ 2× onnxruntime: missed; ≥ 50% of limit: met"
    train = cells(lines, "train B100 T10 H16")
    assert train["packing"] == "10.0%"
    assert train["lstmc, v3"] == "2.2 s (1.10×)"
    assert train["target"] == "≥ 1.5× torch: met"
    assert (
        cells(
            lines[lines.index("## Peak memory, beyond weights, gradients and inputs") :],
            "train B100 T10 H16",
        )["B·H·L numbers a step"]
        == "6.0"
    )
    assert "- cpu: an abacus" in lines
    assert "- jax left out: it is not there" in lines
    assert report.summary(made_up(abacus).results[0], abacus).startswith(
        "step B1 H64, 1 thread: 20 µs, 66% of"
    )


def test_rows_that_end_are_asked_to_be_as_fast_as_others(abacus):
    w = Workload("train", 5, 7, 9, 3, shortest=2, of_equal=0.9)
    for equal, met in ((0.91, True), (0.89, False)):
        times = {"lstmc": [1.0], "lstmc, equal rows": [equal]}
        verdict = report.verdicts(timing.Result(w, ONE, times), abacus)
        assert verdict == f"≥ 0.9× equal rows: {'met' if met else 'missed'}"


def test_two_threads_are_asked_to_be_faster_where_there_is_enough_work(abacus):
    machine_of_two = machine.Machine(**{**vars(abacus), "threads": 2})
    for one, two, met in (
        (1.0, 0.5, True),
        (1.0, 0.6, False),
        (1e-4, 9e-5, True),
        (1e-4, 2e-4, False),
    ):
        times = {"lstmc": [two], "lstmc, 1 thread": [one]}
        verdict = report.verdicts(
            timing.Result(SMALL[3], Setting(threads=2), times), machine_of_two
        )
        assert verdict.endswith("met" if met else "missed")
        assert ("≥ 1.8×" in verdict) == (one > 2e-3)


@pytest.mark.parametrize("ratio", [0.25, 0.97, 1.0, 1.02, 300.0])
def test_a_ratio_near_one_is_drawn(ratio, abacus, monkeypatch, tmp_path):
    """At its place, and within the axes, like one far from 1."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), save(f, *a, **k)))
    done = made_up(abacus)
    done.results[1].rounds["torch"] = [2.0 * ratio] * 3
    report.draw(done, tmp_path / "results.png")
    (axes,) = figures[0].axes
    dots = [x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata()]
    assert sorted(dots) == pytest.approx(sorted([5.0, 1.5, ratio]))
    low, high = axes.get_xlim()
    assert low < min(ratio, 0.95)
    assert ratio < high
    assert low <= 0.81


def test_the_report_is_written(tmp_path, abacus):
    pytest.importorskip("matplotlib")
    report.write(made_up(abacus), tmp_path / "new")
    assert "![ratios](results.png)" in (tmp_path / "new" / "RESULTS.md").read_text()
    assert (tmp_path / "new" / "results.png").read_bytes().startswith(b"\x89PNG")
