"""The benchmarks of two versions of lstmc: this one, in both places.

How fast anything is, is never a matter of a test.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lstmc

pytest.importorskip("cffi")
versions = pytest.importorskip("benchmarks.against.versions", reason="no source tree")

from benchmarks.peers import Setting  # noqa: E402
from benchmarks.timing import Effort, Result  # noqa: E402
from benchmarks.workloads import Workload  # noqa: E402

BRIEF = Effort(seconds=0.001, turn=0.0001, least=4, most=4)
HERE = (sys.executable, os.pathsep.join([str(Path(lstmc.__file__).parents[1]), *sys.path[1:]]))
STEP = Workload("step", 5, 7, batch=3)
SMALL = [STEP, Workload("train", 5, 7, 6, 3, 2, cell="rnn"),
         Workload("model", 5, 7, 6, 3, 2, vocabulary=11, dropout=0.5)]  # fmt: skip


@pytest.fixture(autouse=True)
def same_version(monkeypatch):
    """Let processes import the lstmc that is tested, wherever it is."""
    monkeypatch.setenv("PYTHONPATH", HERE[1])


@pytest.mark.parametrize(
    "w", [*SMALL[:2], pytest.param(SMALL[2], marks=pytest.mark.slow)], ids=lambda w: w.name
)
def test_one_version_against_itself(w):
    result = versions.measure(w, 1, HERE, BRIEF)
    assert result.defects() == []
    assert result.notes == ["same bits"]
    assert {name: len(times) for name, times in result.rounds.items()} == {"lstmc": 4, "other": 4}
    line = versions.line_of(result)
    assert line.startswith(f"{w.name}, 1 thr.")
    assert line.endswith("same bits")


def test_a_version_that_cannot_do_a_workload_is_reported():
    result = versions.measure(replace(STEP, cell="none"), 1, HERE, BRIEF)
    assert list(result.failed) == ["lstmc", "other"]
    assert "no none" in result.failed["other"]
    assert not result.rounds


def test_a_process_that_dies_is_reported(tmp_path):
    nowhere = str(tmp_path)
    worker = versions.Worker(
        sys.executable, {**os.environ, "PYTHONPATH": nowhere, "PYTHONHOME": nowhere}
    )
    try:
        with pytest.raises(versions.Failed, match="ended with status"):
            worker.call("version")
    finally:
        worker.close()


def test_a_row():
    result = Result(STEP, Setting(threads=2), {"other": [2e-6, 4e-6, 6e-6], "lstmc": [2e-6] * 3})
    result.off["other"] = 1e-7
    line = versions.line_of(result)
    assert "2.000 [1.500, 2.500]    3  off by 1e-07" in line
    result.wrong.append("other")
    assert versions.line_of(result).endswith("other: WRONG, off by 1.0e-07")


def test_answers_that_differ(monkeypatch):
    class Double:
        def __init__(self, *answers):
            self.answers = answers

        def send(self, *args):
            pass

        def receive(self):
            pass

        def call(self, name, units):
            return self.answers

    for theirs, right, notes in (
        (2.0, False, []),
        (1 + 1e-6, True, []),
        (1.0, True, ["same bits"]),
    ):
        result = Result(STEP, Setting(threads=1))
        workers = {"lstmc": Double(np.float64(1)), "other": Double(np.float64(theirs))}
        assert versions.agree(result, STEP, workers) == right
        assert result.notes == notes


def test_where_another_version_is(tmp_path):
    (tmp_path / "checkout" / "src" / "lstmc").mkdir(parents=True)
    assert versions.other_version(tmp_path / "checkout") == (
        sys.executable, str(tmp_path / "checkout" / "src"),
    )  # fmt: skip
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for name in (python, python.parents[1]):
        assert versions.other_version(name) == (str(python), "")
    with pytest.raises(
        ValueError, match="a checkout, a virtual environment or a Python executable"
    ):
        versions.other_version(tmp_path)


def test_all_rows_are_summed_up(capsys, monkeypatch):
    monkeypatch.setattr(versions, "other_version", lambda folder: HERE)
    assert versions.run("here", SMALL[:1], [1], BRIEF) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"lstmc: {lstmc.__version__}, ")
    assert lines[-3].startswith(STEP.name)
    assert lines[-1].startswith("of 1 rows: median ")
