"""Times lstmc against another version of itself: two processes take turns on the same cores.

    python -m benchmarks --against FOLDER [KIND...] [--rounds N] [--threads N]

FOLDER is a checkout whose extension was built in place, a virtual environment in which the other version is
installed, or a Python executable. Each row is timed by several pairs of fresh processes, because where
memory happens to lie makes a process some percent faster or slower than its twin for as long as it lives.
"""

import os
import pickle
import statistics
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from lstmc.cli.bench import time_text

from .. import isolation
from ..peers import Setting
from ..timing import OURS, TOLERANCE, UNITS_CHECKED, Effort, Result, difference, race

ROOT = Path(__file__).parents[2]
OTHER = "other"
PAIRS = 2
EFFORT = Effort(seconds=6.0, turn=0.02, least=4, most=120)
QUICK = Effort(seconds=1.0, turn=0.01, least=2, most=20)


class Failed(Exception):
    """A version cannot do what it was asked for."""


class Worker:
    """A process that works with one version of lstmc; calls wait for their replies."""

    def __init__(self, python, environment):
        command = [python, "-m", "benchmarks.against.worker"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def send(self, name, *args):
        """Ask for something, and do not wait."""
        with suppress(BrokenPipeError):  # receive() says why
            pickle.dump((name, args), self._process.stdin)
            self._process.stdin.flush()

    def receive(self):
        """Return the reply to what was asked for."""
        try:
            kind, value = pickle.load(self._process.stdout)
        except EOFError:
            raise Failed(f"the process ended with status {self._process.wait()}") from None
        if kind == "failed":
            raise Failed(value)
        return value

    def call(self, name, *args):
        self.send(name, *args)
        return self.receive()

    def close(self):
        """End the process."""
        with suppress(BrokenPipeError):  # it has ended already, with something left to read
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def other_version(folder):
    """Return the Python executable and the PYTHONPATH of another version of lstmc.

    Raises
    ------
    ValueError
        The folder has none.
    """
    path = Path(folder).absolute()  # not resolved: a virtual environment's Python is a link
    if (path / "src" / "lstmc").is_dir():
        return sys.executable, str(path / "src")
    python = path / "bin" / "python" if path.is_dir() else path
    if not os.access(python, os.X_OK):
        raise ValueError(
            f"--against must be a checkout, a virtual environment or a Python executable, got {folder}"
        )
    return str(python), ""


def start(version, threads):
    """Start the two workers; return them by name."""
    python, path = version
    with isolation.pinned(threads):
        return {
            OURS: Worker(sys.executable, dict(os.environ)),
            OTHER: Worker(python, {**os.environ, "PYTHONPATH": path}),
        }


def measure(w, threads, version, effort):
    """Time a workload by both versions.

    Returns
    -------
    Result
        Of the sides "lstmc" and "other"; it says whether the other's answers differ, and who failed.
    """
    result = Result(w, Setting(threads=threads))
    effort = replace(effort, seconds=effort.seconds / PAIRS, least=-(-effort.least // PAIRS),
                     most=-(-effort.most // PAIRS))  # fmt: skip
    for number in range(PAIRS):
        workers = start(version, threads)
        try:
            if number == 0 and not agree(result, w, workers):
                return result
            for worker in workers.values():
                worker.send("make", w, threads)
            for worker in workers.values():
                worker.receive()
            turns = {name: turn_of(worker) for name, worker in workers.items()}
            for name, rounds in race(turns, effort).items():
                result.rounds.setdefault(name, []).extend(rounds)
        except Failed as error:
            result.failed["pair"] = str(error)
            return result
        finally:
            for worker in workers.values():
                worker.close()
    return result


def turn_of(worker):
    return lambda n: worker.call("turn", n)


def agree(result, w, workers):
    """Compare the answers of both; what is dropped is drawn anew by each, so compared is without."""
    plain, units = replace(w, dropout=0.0), UNITS_CHECKED[w.kind]
    answers = {}
    for worker in workers.values():
        worker.send("make", plain, result.setting.threads)
    for name, worker in workers.items():
        try:
            worker.receive()
            answers[name] = worker.call("answers", units)
        except Failed as error:
            result.failed[name] = str(error)
    if result.failed:
        return False
    off = difference(answers[OTHER], answers[OURS])
    result.off[OTHER] = off
    if off > TOLERANCE[w.dtype]:
        result.wrong.append(OTHER)
    elif all(map(np.array_equal, answers[OTHER], answers[OURS])):
        result.notes.append("same bits")
    return not result.wrong


def line_of(result):
    """Write a row: the ratio other / lstmc with its quartiles, above 1 where lstmc is faster."""
    head = f"{result.workload.name}, {result.setting.threads} thr."
    if defects := result.defects():
        return f"{head:<42} {'; '.join(defects)}"
    low, middle, high = np.quantile(result.ratios(OTHER), (0.25, 0.5, 0.75))
    times = " ".join(f"{time_text(result.seconds(name)):>9}" for name in (OTHER, OURS))
    bits = "same bits" if result.notes else f"off by {result.off[OTHER]:.0e}"
    return f"{head:<42} {times}  {middle:6.3f} [{low:.3f}, {high:.3f}] {len(result.rounds[OURS]):4}  {bits}"


def run(folder, workloads, threads, effort):
    """Time workloads with each number of threads, print them, and return an exit status.

    Parameters
    ----------
    folder : str
        Where the other version is.
    workloads : sequence of Workload
    threads : sequence of int
    effort : Effort
        Of a row, both versions and all pairs together.
    """
    version = other_version(folder)
    workers = start(version, threads[0])
    for name, worker in workers.items():
        path, number = worker.call("version")
        print(f"{name}: {number}, {path}")
        worker.close()
    print("the ratio is the time of the other over that of lstmc: above 1 lstmc is faster\n")
    head = f"{'workload':<42} {OTHER:>9} {OURS:>9}  {'ratio':>6} {'[quartiles]':<14} {'rounds':>6}"
    print(head, flush=True)
    results = []
    for n in threads:
        for w in workloads:
            results.append(measure(w, n, version, effort))
            print(line_of(results[-1]), flush=True)
    medians = [r.ratio(OTHER) for r in results if r.rounds and not r.defects()]
    if medians:
        print(f"\nof {len(medians)} rows: median {statistics.median(medians):.3f}, "
              f"minimum {min(medians):.3f}")  # fmt: skip
    return int(any(r.defects() for r in results))
