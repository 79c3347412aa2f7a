"""The benchmarks of the GPU path: what they compare and write, on the double of CuPy and on made-up numbers,
and the command that runs them, with doubles of Python and compute-sanitizer in their places.

How fast anything is, is never a matter of a test.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

gpu = pytest.importorskip("benchmarks.gpu", reason="no source tree")

from benchmarks import workloads as cpu_workloads  # noqa: E402
from benchmarks.gpu import (  # noqa: E402
    __main__ as command,
    device,
    measure,
    report,
    sanitized,
    tasks,
    workers,
    workloads,
)
from benchmarks.peers import Setting  # noqa: E402
from benchmarks.report import Report  # noqa: E402
from benchmarks.timing import Effort, Result, ignore  # noqa: E402
from benchmarks.workloads import Workload  # noqa: E402

SCRIPT = Path(gpu.__file__).parents[1] / "gpu.sh"
BRIEF = Effort(seconds=0.0, turn=0.0, least=2, most=2)
LIMITS = {"float32": 5e13, "tf32": 4e14, "copy": 3e12, "launch": 5e-6, "wait": 1e-5}
TRAIN = Workload("train", 6, 6, 3, 2, floor=1.0)
SMALL = [
    TRAIN,
    Workload("forward", 6, 6, 3, 2),
    Workload("step", 6, 6, batch=2, floor=1.5),
    Workload("model", 6, 6, 3, 2, 2, vocabulary=11),
    Workload("model", 6, 6, 3, 2, 2, vocabulary=11, dropout=0.5),
]
small = pytest.mark.parametrize("w", SMALL, ids=lambda w: f"{w.name} {w.dropout or ''}")


# -- what is timed --------------------------------------------------------------------------------


def test_workloads():
    names = [w.name for w in workloads.TABLE]
    assert len(set(names)) == len(names)
    assert set(workloads.PUBLISHED) <= set(names)
    models = {(w.shape) for w in cpu_workloads.TABLE if w.kind == "model"}
    assert {w.shape for w in workloads.TABLE if w.kind == "model"} == models
    assert workloads.select([]) == workloads.TABLE
    assert [w.name for w in workloads.select(["train H64"])] == ["train B64 T256 H64"]
    with pytest.raises(ValueError, match="is none of"):
        workloads.select(["train H64", "fly"])
    with pytest.raises(SystemExit):
        command.main(["--only", "fly"])


def test_sets_of_input_are_beyond_the_cache():
    for w in workloads.TABLE:
        sets = workloads.sets_beyond(w, 50 << 20)
        assert 2 <= sets <= workloads.MOST_SETS
        if w.kind == "train":
            assert sets * 2 * w.steps * w.batch * w.inputs * 4 >= 100 << 20


# -- answers and rounds ---------------------------------------------------------------------------


@small
def test_sides_agree_with_the_cpu(cupy, w):
    result = measure.agree(w, {}, ignore)
    ways = 5 if w.kind in workloads.WAYS_OF else 1
    assert not result.wrong
    assert not result.failed
    assert len(result.off) + len(result.notes) >= 2 * ways


@pytest.mark.parametrize("w", SMALL[:3] + SMALL[4:], ids=lambda w: w.name)
def test_everybody_is_timed(cupy, w):
    pytest.importorskip("torch")
    said = []
    precision = "float32" if w.kind == "step" else "tf32"
    result = measure.measure(w, precision, {}, said.append, BRIEF, peer_device="cpu")
    assert not result.wrong, result.off
    peers = 2 if w.kind == "step" else 1
    assert len(result.peers()) == peers
    assert {"lstmc", *result.peers()} <= set(result.rounds) <= set(said)
    assert all(len(times) == 2 and min(times) > 0 for times in result.rounds.values())
    assert result.best()[0] > 0
    if w.kind in workloads.WAYS_OF:
        assert result.way
        assert "lstmc graph" in result.rounds
        assert f"lstmc {result.way}" not in result.rounds  # it would be the same twice
    assert report.verdict(result) in ("met", "missed", "")


def test_without_pytorch_lstmc_is_compared_with_the_cpu(cupy, monkeypatch):
    make = measure.peers.make

    def missing(name, *args):
        if name == "torch":
            raise ImportError("none here")
        return make(name, *args)

    monkeypatch.setattr(measure.peers, "make", missing)
    result = measure.measure(SMALL[1], "float32", {}, ignore, BRIEF, peer_device="cpu")
    assert result.notes == ["torch left out: none here"]
    assert result.best() is None
    assert result.off["lstmc"] < 1e-5
    assert result.rounds["lstmc"]


def test_a_wrong_answer_is_not_timed(cupy, monkeypatch):
    monkeypatch.setitem(workloads.TOLERANCE, "float32", -1.0)
    banned = {"lstmc graph": "hung", "torch": "died"}
    result = measure.measure(TRAIN, "float32", banned, ignore, BRIEF, peer_device="cpu")
    assert {"lstmc", "lstmc steps"} <= set(result.wrong)
    assert result.failed == banned
    assert not result.rounds
    assert report.verdict(result) == "WRONG"


def test_a_task_in_its_process(cupy):
    result = tasks.work((SMALL[1], "CPU", True), {}, ignore)
    assert result.off
    assert tasks.given_up((SMALL[1], "CPU", True), "died").failed == {"lstmc": "died"}


def test_limits_and_description(cupy):
    limits = device.limits(size=8, megabytes=1, launches=2)
    assert limits.keys() == LIMITS.keys()
    assert min(limits.values()) > 0
    assert {"GPU", "driver", "CUDA", "CuPy", "commit", "date"} <= device.describe().keys()


def test_what_the_sanitizer_watches(cupy):
    assert not sanitized.run(sanitized.cases(("float32",), sanitized.SIZES[1:2]))
    names = [name for name, *_ in sanitized.cases()]
    for word in (
        "LSTM",
        "RNN",
        "persistent",
        "cooperative",
        "graph",
        "Adam",
        "dropout",
        "steps of",
    ):
        assert any(word in name for name in names)


# -- workers --------------------------------------------------------------------------------------


def misbehave(task, banned, say):
    name, how = task
    say(f"{name} good")
    if "bad" not in banned:
        say("bad")
        if how == "die":
            os._exit(3)
        if how == "hang":
            time.sleep(60)
        if how == "raise":
            raise RuntimeError("an illegal address")
    return name, dict(banned)


def given_up(task, why):
    return task[0], why


def test_who_breaks_is_left_out_and_the_rest_goes_on(capfd):
    tasks = [("a", "raise"), ("b", "hang"), ("c", "die"), ("d", "")]
    done = dict(workers.run(misbehave, tasks, given_up, patience=0.5))
    assert list(done) == ["a", "b", "c", "d"]
    assert "illegal address" in done["a"]["bad"]
    assert "killed" in done["b"]["bad"]
    assert "died" in done["c"]["bad"]
    assert done["d"] == {}


def never(task, banned, say):
    raise RuntimeError("no GPU")


def test_a_task_that_breaks_by_itself_is_given_up(capfd):
    assert list(workers.run(never, [("a", "")], given_up)) == [
        ("a", "the start: RuntimeError: no GPU")
    ]


# -- what is written ------------------------------------------------------------------------------


def made_up():
    train, missed, model = workloads.TABLE[0], workloads.TABLE[5], workloads.TABLE[-1]
    one = Result(train, Setting("cuda", precision="float32"), way="steps")
    one.rounds = {
        "lstmc": [2e-3, 2e-3, 8e-3],
        "lstmc graph": [1e-3, 1e-3, 4e-3],
        "torch": [3e-3, 3e-3, 12e-3],
    }
    one.off = {"lstmc": 1e-6, "lstmc graph": 1e-6, "lstmc persistent": 0.5, "lstmc steps": 1e-6}
    one.wrong = ["lstmc persistent"]
    two = Result(missed, Setting("cuda", precision="tf32"), way="steps")
    two.rounds = {"lstmc": [4e-2], "torch": [2e-2], "torch, SGD foreach": [1e-2]}
    two.off = {"lstmc": 1e-4}
    two.notes = ["lstmc persistent: the way does not fit"]
    failed = {"lstmc": "the process died"}
    three = Result(model, Setting("cuda", precision="float32"), failed=failed)
    off = {"lstmc float64": 1e-15, "lstmc float32": 1e-7}
    four = Result(train, Setting("cuda", precision="CPU"), off=off)
    return Report(
        {"GPU": "made up"}, limits=LIMITS, results=[one, two, three, four], partial="a quick run"
    )


def test_report_on_made_up_numbers(tmp_path):
    done = made_up()
    report.write(done, tmp_path)
    text = (tmp_path / "RESULTS-GPU.md").read_text()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert tuple(rows[0]) == report.COLUMNS
    best = ["train B64 T256 H64", "float32", "steps (default)", "2 ms", "3 ms", "1.50", "1", "met",
            "graph", "3.2%"]  # fmt: skip
    assert rows[2] == best
    assert rows[3][2:8] == ["graph", "1 ms", "3 ms", "3.00", "", ""]
    assert rows[4][2:8] == ["persistent", "", "", "", "", "WRONG"]
    assert rows[5][2:8] == [
        "steps (default)", "40 ms", "10 ms (torch, SGD foreach)", "0.25", "0.5", "missed",
    ]  # fmt: skip
    assert rows[6][7] == "FAILED"
    assert "This was a quick run." in text
    assert "FlashRNN fused 13.6 ms" in text
    assert "train B64 T256 H64, float32: lstmc persistent: WRONG, off by 5.0e-01" in text
    assert len(done.defects()) == 2
    assert report.missed(done) == ["train B16 T1024 H768, tf32"]
    numbers = json.loads((tmp_path / "results-gpu.json").read_text())
    assert numbers["results"][0]["ratios"]["lstmc"] == pytest.approx(1.5)
    assert [r["verdict"] for r in numbers["results"]] == ["met", "missed", "FAILED", ""]
    for result in done.results:
        assert result.workload.name in report.summary(result)


def test_main_writes_as_it_goes(tmp_path, monkeypatch, capsys):
    def run(work, tasks, given_up):
        assert [what for _, what, _ in tasks] == ["machine", "CPU", "float32", "tf32"]
        yield {"GPU": "made up"}, LIMITS
        assert (tmp_path / "RESULTS-GPU.md").exists()
        yield made_up().results[1]

    monkeypatch.setattr(command.workers, "run", run)
    assert command.main(["--only", "train H64", "--quick", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "DEFECTS: none" in printed
    assert "only train H64" in (tmp_path / "RESULTS-GPU.md").read_text()
    with pytest.raises(SystemExit, match="no GPU"):
        tasks.given_up((None, tasks.MACHINE, True), "no GPU")


def test_the_other_process_is_reached():
    """By the command as it is typed, on a machine without a GPU: it says so, and fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--quick", "--only", "step H128"],
        cwd=SCRIPT.parents[1], env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no GPU can be measured here: the start: " in done.stderr
    assert "there is no usable GPU here" in done.stderr or "CuPy" in done.stderr


# -- the command ----------------------------------------------------------------------------------

PYTHON = """#!/bin/bash
echo "python $*" >> "$CALLS"
case "$*" in
    *" pip "*) mkdir -p "$GPU_SITE" ;;
    *"-m pytest "*) exit "${TESTS:-0}" ;;
esac
"""
SANITIZER = """#!/bin/bash
echo "sanitizer $2" >> "$CALLS"
echo "========= ERROR SUMMARY: 0 errors"
if [ "$2" = "$BAD_TOOL" ]; then sleep "${SLEEP:-0}"; exit 1; fi
"""
bash = pytest.mark.skipif(
    not (SCRIPT.exists() and shutil.which("bash") and shutil.which("timeout")),
    reason="needs bash, timeout and benchmarks/gpu.sh",
)


@pytest.fixture
def run_script(tmp_path):
    """Return a function that runs the script with doubles of what it calls: output, status, calls."""
    for name, text in (("python", PYTHON), ("compute-sanitizer", SANITIZER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(*arguments, **more):
        calls = tmp_path / "calls"
        calls.write_text("")
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}",
                       "PYTHON": str(tmp_path / "python"), "CALLS": str(calls),
                       "GPU_SITE": str(tmp_path / "site"), "GPU_OUT": str(tmp_path / "out"),
                       **more}  # fmt: skip
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        return done.stdout + done.stderr, done.returncode, calls.read_text()

    return run


@bash
def test_script_and_its_usage(run_script):
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    text, status, calls = run_script("--help")
    assert (status, calls) == (0, "")
    stages = re.findall(r"^  ([a-z]+) {2,}\w", text.partition("Options")[0], re.MULTILINE)
    assert stages == ["build", "test", "sanitize", "time"]
    source = SCRIPT.read_text()
    for name in stages:
        assert re.search(rf"^run_{name}\(\) {{", source, re.MULTILINE)
    assert f"stages=({' '.join(stages)})" in source
    for variable in set(re.findall(r"\$\{(GPU_\w+|PYTHON):-", source)):
        assert variable in text
    for wrong in (["fly"], ["--only"]):
        assert run_script(*wrong)[1] == 2


@bash
def test_script_goes_on_after_a_failing_stage(run_script, tmp_path):
    text, status, calls = run_script(TESTS="1", BAD_TOOL="racecheck")
    assert status == 1
    assert text.rstrip().endswith("=== failed: test sanitize")
    assert "sanitize: racecheck failed, status 1" in text
    assert "sanitize: failed: racecheck" in text
    assert re.search(r"=== time: passed, \d+ s", text)
    assert re.findall("^sanitizer", calls, re.MULTILINE) == ["sanitizer"] * 4
    assert "-m pytest -q -m gpu tests" in calls
    assert f"-m benchmarks.gpu --out {tmp_path / 'out'}" in calls
    logs = {path.name for path in (tmp_path / "out").iterdir()}
    assert logs == {f"gpu-{name}.log" for name in ("build", "test", "sanitize", "time")}


@bash
def test_script_builds_what_a_stage_needs_once(run_script):
    text, status, calls = run_script("time", "--quick", "--only", "train H64")
    assert status == 0
    assert "=== build: passed" in text
    assert "-m benchmarks.gpu --quick --only train H64 --out" in calls
    text, status, calls = run_script("sanitize", GPU_TOOLS="memcheck", BAD_TOOL="memcheck", SLEEP="9",
                                     GPU_TOOL_LIMIT="0.3")  # fmt: skip
    assert status == 1
    assert "pip" not in calls
    assert "memcheck stopped after 0.3 s" in text
