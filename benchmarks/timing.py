"""One workload: everybody's answers compared, then everybody timed in turns; on every device.

Times are medians over rounds; a ratio is the median of the ratios within a round, so that a machine
that slows down for a while does so for both sides of it.
"""

import gc
import time
from dataclasses import dataclass, field

import numpy as np

from .peers import Setting
from .workloads import Workload

OURS = "lstmc"
EQUAL = "lstmc, equal rows"  # as many, in steps of B: without lengths and resets
TOLERANCE = {"float32": 2e-4, "float64": 1e-9}  # of the largest element; sums of up to 32,768 terms
UNITS_CHECKED = {"step": 3, "forward": 1, "train": 1, "model": 3}  # more where a state is carried


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    seconds: of a workload. turn: seconds of one turn. least, most: rounds. warm: seconds of each side before
    its turns are counted.
    """

    seconds: float = 12.0
    turn: float = 0.02
    least: int = 5
    most: int = 51
    warm: float = 0.0


QUICK = Effort(seconds=1.0, turn=0.005, least=3, most=9)


@dataclass
class Result:
    """What was measured of one workload in one setting; a side is known by its name."""

    workload: Workload
    setting: Setting
    rounds: dict[str, list[float]] = field(default_factory=dict)  # seconds a unit
    off: dict[str, float] = field(
        default_factory=dict
    )  # largest difference, of the largest element
    wrong: list[str] = field(default_factory=list)  # sides that are off by too much: not timed
    failed: dict[str, str] = field(default_factory=dict)  # sides that broke, and how
    notes: list[str] = field(default_factory=list)  # who is missing, and why
    packing: float = 0.0  # seconds, of the CPU's weights
    way: str = ""  # through time, that lstmc took by itself on a GPU

    def seconds(self, name=OURS):
        """Return the median."""
        return float(np.median(self.rounds[name]))

    def ratios(self, name, side=OURS):
        """Return for each round how many times as long as a side another takes."""
        return np.divide(self.rounds[name], self.rounds[side])

    def ratio(self, name, side=OURS):
        """Return the median of the ratios."""
        return float(np.median(self.ratios(name, side)))

    def peers(self):
        """List those that were timed and are not lstmc."""
        return [name for name in self.rounds if not name.startswith(OURS)]

    def best(self, names=None, side=OURS):
        """Return the lowest ratio to a side and whose it is, of all peers or of some; or None."""
        if side not in self.rounds:
            return None
        names = self.peers() if names is None else [n for n in names if n in self.rounds]
        return min(((self.ratio(name, side), name) for name in names), default=None)

    def defects(self):
        """List who is wrong or broke, a line each."""
        wrong = {name: f"WRONG, off by {self.off[name]:.1e}" for name in self.wrong}
        return [f"{name}: {what}" for name, what in {**wrong, **self.failed}.items()]


class LeftOut(Exception):
    """A side cannot do a workload, and need not."""


def ignore(*_):
    """Do nothing: where nobody needs to know whose turn it is."""


# -- the answers ----------------------------------------------------------------------------------


def host(array):
    """Return an array of any library, on any device, as NumPy's."""
    if hasattr(array, "detach"):  # PyTorch's
        array = array.detach().cpu().numpy()
    elif hasattr(array, "get"):  # CuPy's
        array = array.get()
    return np.array(array)


def answers_of(side, units):
    """Return copies of a side's answers after some units."""
    side.run(units)
    return [host(array) for array in side.answers()]


def difference(answers, expected):
    """Return the largest difference of arrays, relative to the largest element of each."""
    worst = 0.0
    for theirs, ours in zip(answers, expected, strict=True):
        theirs, ours = (np.asarray(host(a), np.float64) for a in (theirs, ours))
        if theirs.shape != ours.shape or not np.isfinite(theirs).all():
            return float("inf")
        worst = max(worst, float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-30)))
    return worst


def compare(result, makers, expected, tolerance, units, banned=(), say=ignore, label="",
            is_fatal=ignore):  # fmt: skip
    """Make sides and compare their answers; note those that are wrong or fail.

    Parameters
    ----------
    result : Result
        What came out is written to it.
    makers : dict
        Of functions that make a side, by its name.
    expected : list of ndarray
        The answers after as many units.
    tolerance : float
        Of the largest element.
    units : int
    banned : dict
        Sides that are not tried, and why.
    say : function
        Is told each name before its turn.
    label : str
        Follows the names where answers are noted.
    is_fatal : function
        Returns whether an error makes it pointless to go on in this process; it is then raised.

    Returns
    -------
    dict
        The sides whose answers are right, by name.
    """
    right = {}
    for name, make in makers.items():
        if name in banned:
            result.failed[name] = banned[name]
            continue
        say(name)
        try:
            side = make()
            off = difference(answers_of(side, units), expected)
        except LeftOut as reason:
            result.notes.append(f"{name}: {reason}")
            continue
        except Exception as error:
            if is_fatal(error):
                raise
            result.failed[name] = f"{type(error).__name__}: {error}"
            continue
        result.off[name + label] = off
        if off <= tolerance:
            right[name] = side
        else:
            result.wrong.append(name + label)
    return right


# -- the times ------------------------------------------------------------------------------------


def clocked(run, n, clock=time.perf_counter):
    """Return the seconds a unit of n, after some that bring the data back to the caches.

    A unit that fills a turn by itself has no others before it.
    """
    if n > 1:
        run(-(-n // 4))
    began = clock()
    run(n)
    return (clock() - began) / n


def wait_for_quiet(longest=0.5):
    """Sleep until no thread of this process spins; ONNX Runtime's and OpenBLAS's do for a while."""
    for _ in range(int(longest / 0.01)):
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.001:
            return


def race(turns, effort, say=ignore, pause=False):
    """Let sides take turns.

    Parameters
    ----------
    turns : dict
        Of functions of n, by name: each does n units and returns the seconds a unit.
    effort : Effort
    say : function
        Is told each name before its turn.
    pause : bool
        Between turns, wait for the threads of the one before to fall asleep.

    Returns
    -------
    dict
        The seconds a unit, a list of rounds for each name.
    """
    units = {}
    for name, turn in turns.items():
        say(name)
        units[name] = units_of_a_turn(turn, effort)
    rounds = {name: [] for name in turns}
    order, began = list(turns), time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for number in range(effort.most if order else 0):
            if number >= effort.least and time.perf_counter() - began > effort.seconds:
                break
            for name in order:
                say(name)
                if pause:
                    wait_for_quiet()
                rounds[name].append(turns[name](units[name]))
            order.append(order.pop(0))  # nobody always follows the same one
    finally:
        gc.enable()
    return rounds


def units_of_a_turn(turn, effort):
    """Warm up, and return how many units take as long as a turn should."""
    n, began = 1, time.perf_counter()
    while True:
        took = turn(n) * n
        if took < effort.turn / 4:
            n *= 4
        elif time.perf_counter() - began >= effort.warm:
            return max(1, round(n * effort.turn / max(took, 1e-9)))
