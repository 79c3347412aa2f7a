"""One workload: everybody's answers compared, then everybody timed in turns.

A contestant is a function of n that does its unit of work n times and gives the arrays of the last.
Times are medians over rounds; a ratio is the median of the ratios within a round, so that a machine
that slows down for a while does so for both sides of it.
"""

import gc
import time
from dataclasses import dataclass, field, replace

import numpy as np

from . import machine, peers
from .workloads import Workload

OURS = "lstmc"
TOLERANCE = {"float32": 2e-4, "float64": 1e-9}  # of the largest element; sums of up to 32,768 terms
CHECKED_UNITS = {"step": 3, "forward": 1, "train": 1, "model": 3}  # where a state is carried, some


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds a workload and a turn, and the rounds that are too few or enough."""

    seconds: float = 12.0
    turn: float = 0.02
    least: int = 5
    most: int = 51


QUICK = Effort(seconds=1.0, turn=0.005, least=3, most=9)


@dataclass
class Result:
    """What was measured of one workload."""

    workload: Workload
    threads: int
    rounds: dict[str, list[float]] = field(default_factory=dict)  # seconds a unit, by contestant
    packing: float = 0.0  # seconds
    notes: list[str] = field(default_factory=list)  # who is missing, and why

    def seconds(self, name=OURS):
        return float(np.median(self.rounds[name]))

    def ratio(self, name):
        """Tell how many times as long as lstmc a contestant takes."""
        return float(np.median(np.divide(self.rounds[name], self.rounds[OURS])))

    def best(self, names):
        """Give the lowest ratio of those that ran, or None."""
        return min((self.ratio(n) for n in names if n in self.rounds), default=None)


def wait_for_quiet(longest=0.5):
    """Sleep until no thread of this process spins; ONNX Runtime's and OpenBLAS's do for a while."""
    for _ in range(int(longest / 0.01)):
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.001:
            return


def race(contestants, effort, pause=False):
    """Time contestants in turns; give their seconds a unit, a list of rounds for each.

    pause: between turns, wait for the threads of the one before to fall asleep.
    """
    units = {name: units_of_a_turn(run, effort.turn) for name, run in contestants.items()}
    rounds = {name: [] for name in contestants}
    order, began = list(contestants), time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for number in range(effort.most):
            if number >= effort.least and time.perf_counter() - began > effort.seconds:
                break
            for name in order:
                if pause:
                    wait_for_quiet()
                rounds[name].append(turn(contestants[name], units[name]))
            order.append(order.pop(0))  # nobody always follows the same one
    finally:
        gc.enable()
    return rounds


def turn(run, n):
    """Time n units, after some that bring the data back to the caches; one fills a turn by itself."""
    if n > 1:
        run(-(-n // 4))
    began = time.perf_counter()
    run(n)
    return (time.perf_counter() - began) / n


def units_of_a_turn(run, seconds):
    """Find how many units take so long."""
    n = 1
    while True:
        began = time.perf_counter()
        run(n)
        took = time.perf_counter() - began
        if took >= seconds / 4:
            return max(1, round(n * seconds / took))
        n *= 4


# -- the answers ----------------------------------------------------------------------------------


def difference(answers, expected):
    """Give the largest difference of arrays, relative to the largest element of each."""
    worst = 0.0
    for ours, theirs in zip(expected, answers, strict=True):
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if ours.shape != theirs.shape or not np.isfinite(theirs).all():
            return np.inf
        worst = max(worst, np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-30))
    return worst


def agreeing(w, threads, wanted):
    """Make the peers; give those whose answers are lstmc's, and notes about the others."""
    # What is dropped is drawn by each for itself: compared is without.
    compared = replace(w, dropout=0.0)
    problem, units = peers.make_problem(compared), CHECKED_UNITS[w.kind]
    expected = peers.make("ours", compared, problem, threads)[OURS](units)
    expected = [np.array(array) for array in expected]
    found, notes = {}, []
    for peer in wanted:
        try:
            runs = peers.make(peer, compared, problem, threads)
        except ImportError as error:
            notes.append(f"{peer} left out: {error}")
            continue
        if w.dropout and runs:
            again = peers.make(peer, w, problem, threads)
        for name, run in runs.items():
            off = difference(run(units), expected)
            if off <= TOLERANCE[w.dtype]:
                found[name] = again[name] if w.dropout else run
            else:
                notes.append(f"{w.name}: {name} left out: its answer is off by {off:.1e}")
    return found, notes


def measure(w, threads, wanted, isa=None, effort=None):
    """Time a workload with so many threads: lstmc, its twins, and the peers that are wanted."""
    contestants, notes = agreeing(w, threads, wanted)
    problem = peers.make_problem(w)
    contestants = {
        **peers.make("ours", w, problem, threads),
        **peers.twins(w, problem, threads, isa),
        **contestants,
    }
    # What spins for work that will not come would take a core from the next one.
    rounds = race(contestants, effort or Effort(), pause=threads > 1)
    packing = 0.0 if w.kind == "step" else machine.packing_seconds(w)
    return Result(w, threads, rounds, packing, notes)
