"""One workload at one precision: everybody's answers compared, then everybody timed in turns.

Times are medians over rounds; a ratio is the median of the ratios within a round. Work on the GPU is timed
by CUDA events on the stream that all take part on, single steps by the clock on the wall, as a caller of
Python sees them, launches included.
"""

import gc
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from lstmc._kernels import host

from ..workloads import flops
from .sides import Side, lstmc_side, products, torch_sides
from .workloads import CPU_STEPS, CPU_TOLERANCE, TOLERANCE, UNITS_CHECKED, make_problem, sets_beyond

OURS, PEER = "lstmc", "PyTorch"
CALLS = 200  # of a step, between two waits
WAYS_OF = ("train", "forward")  # kinds that are timed by every way through time


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds to warm up, for a workload, for a turn; rounds; calls of a step."""

    warm: float = 0.3
    seconds: float = 3.0
    turn: float = 0.05
    least: int = 5
    most: int = 41
    calls: int = CALLS


QUICK = Effort(warm=0.1, seconds=1.0, turn=0.01, least=3, most=9)


@dataclass
class Result:
    """What was measured of one workload; `precision` "CPU": only how near the CPU's answers were."""

    workload: str
    precision: str
    floor: float | None = None
    flops: float = 0.0
    way: str = ""  # that lstmc took by itself
    rounds: dict[str, list[float]] = field(default_factory=dict)  # seconds a unit, by side
    off: dict[str, float] = field(default_factory=dict)  # of the largest element, by side
    wrong: list[str] = field(default_factory=list)  # sides that are off by too much: not timed
    failed: dict[str, str] = field(default_factory=dict)  # sides that broke, and how
    notes: list[str] = field(default_factory=list)  # who is missing, and why

    def seconds(self, name=OURS):
        return float(np.median(self.rounds[name]))

    def peers(self):
        return [name for name in self.rounds if not name.startswith(OURS)]

    def ratio(self, name=OURS):
        """Tell how many times as long as a side of ours the best of PyTorch's takes, and which; or None."""
        if name not in self.rounds:
            return None
        ratios = [
            (float(np.median(np.divide(self.rounds[p], self.rounds[name]))), p)
            for p in self.peers()
        ]
        return min(ratios, default=None)


# -- the answers --------------------------------------------------------------------------------------


def difference(answers, expected):
    """Give the largest difference of arrays, relative to the largest element of each."""
    worst = 0.0
    for theirs, ours in zip(answers, expected, strict=True):
        theirs, ours = (np.asarray(_host(a), np.float64) for a in (theirs, ours))
        if theirs.shape != ours.shape or not np.isfinite(theirs).all():
            return float("inf")
        worst = max(worst, float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-30)))
    return worst


def _host(array):
    return array.cpu().numpy() if hasattr(array, "cpu") else host(array)


def answers_of(side):
    side.run(UNITS_CHECKED)
    return [np.array(_host(array)) for array in side.answers()]


def our_sides(w, problem, every_way):
    """Yield (name, how to make it) of lstmc: as it is by itself and, if asked for, by each way."""
    from lstmc._kernels.cuda.ways import WAYS, use_way

    def make(way):
        with use_way(way):
            side = lstmc_side(w, problem, "cuda")

        def run(n):
            with use_way(way):
                side.run(n)

        return Side(run, side.answers)

    yield OURS, lambda: make(None)
    if every_way:
        for way in WAYS:
            yield f"{OURS} {way}", lambda way=way: make(way)


def _checked(result, sides, expected, tolerance, banned, say, label=""):
    """Make sides and compare them; give those that are right, and note the others."""
    found = {}
    for name, make in sides:
        if name in banned:
            result.failed[name] = banned[name]
            continue
        say(name)
        try:
            side = make()
            off = difference(answers_of(side), expected)
        except Exception as error:
            if _is_broken(error):  # nothing that follows would work in this process
                raise
            if "does not fit" in str(error):
                result.notes.append(f"{name}: {error}")
            else:
                result.failed[name] = f"{type(error).__name__}: {error}"
            continue
        result.off[name + label] = off
        if off <= tolerance:
            found[name] = side
        else:
            result.wrong.append(name + label)
    return found


def _is_broken(error):
    """Tell an error of CUDA, after which the device is of no use to this process."""
    return type(error).__name__ in ("CUDARuntimeError", "CUDADriverError", "AcceleratorError")


def agree(w, banned, say):
    """Compare lstmc on the GPU with its kernels for the CPU, on few steps, in both types."""
    result = Result(w.name, "CPU")
    with products("float32"):
        for dtype, tolerance in CPU_TOLERANCE.items():
            few = replace(w, dtype=dtype, steps=min(w.steps, CPU_STEPS), dropout=0.0)
            problem = make_problem(few, 2)
            expected = answers_of(lstmc_side(few, problem, "cpu"))
            sides = our_sides(few, problem, w.kind in WAYS_OF)
            _checked(result, sides, expected, tolerance, banned, say, f" {dtype}")
    result.notes = list(dict.fromkeys(result.notes))
    return result


# -- the times ----------------------------------------------------------------------------------------


def on_one_stream(peer_device):
    """Let CuPy work on PyTorch's current stream, so that both wait for each other."""
    if peer_device != "cuda":
        return nullcontext()
    try:
        import torch
    except ImportError:
        return nullcontext()
    if not torch.cuda.is_available():
        return nullcontext()
    import cupy

    address = torch.cuda.current_stream().cuda_stream
    if not address:  # the default stream, as CuPy's
        return nullcontext()
    return cupy.cuda.ExternalStream(address)


def measure(w, precision, banned, say, effort, peer_device="cuda"):
    """Time a workload; say(name) is told whose turn it is, so that somebody knows where it broke."""
    import cupy

    result = Result(w.name, precision, w.floor, flops(w))
    compared = replace(w, dropout=0.0)  # what is dropped is drawn by each for itself
    cache = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["l2CacheSize"]
    problem = make_problem(w, sets_beyond(w, cache))
    try:
        theirs = _peers(result, compared, problem, peer_device, banned, say)
    except ImportError as error:
        theirs = {}
        result.notes.append(f"PyTorch left out: {error}")
    with products(precision), on_one_stream(peer_device):
        contestants = _right_ones(result, w, compared, problem, theirs, banned, say)
        if w.dropout and theirs:
            again = torch_sides(w, problem, peer_device)
            contestants |= {name: again[name] for name in contestants if name in again}
        result.rounds = race(contestants, w.kind == "step", effort, say)
    return result


def _peers(result, w, problem, device, banned, say):
    """Make PyTorch's sides, but for those that broke."""
    result.failed |= {name: why for name, why in banned.items() if not name.startswith(OURS)}
    if PEER in banned:
        return {}
    say(PEER)
    sides = torch_sides(w, problem, device)
    return {name: side for name, side in sides.items() if name not in banned}


def _right_ones(result, w, compared, problem, theirs, banned, say):
    """Compare everybody with PyTorch's nn.LSTM, or, without it, with lstmc on the CPU; give who is right."""
    import cupy

    from lstmc._kernels.cuda.ways import watch_ways

    tolerance = TOLERANCE[result.precision]
    if theirs:
        first, *others = theirs
        say(first)
        expected = answers_of(theirs[first])
        right = {first: theirs[first]}
        makers = [(name, lambda name=name: theirs[name]) for name in others]
        right |= _checked(result, makers, expected, tolerance, banned, say)
    else:
        expected, right = answers_of(lstmc_side(compared, problem, "cpu")), {}
    every_way = w.kind in WAYS_OF
    placed = problem.on(cupy)
    found = _checked(
        result, our_sides(compared, placed, every_way), expected, tolerance, banned, say
    )
    if OURS in found:
        with watch_ways() as taken:
            found[OURS].run(1)
        result.way = "+".join(sorted(set(taken)))
        found.pop(f"{OURS} {result.way}", None)  # the same thing
    if w.dropout:
        found = {name: dict(our_sides(w, placed, every_way))[name]() for name in found}
    return found | right


def race(contestants, by_wall, effort, say):
    """Time contestants in turns; give their seconds a unit, a list of rounds for each."""
    timer = wall if by_wall else events
    units = {}
    for name, side in contestants.items():
        say(name)
        units[name] = _units(side.run, timer, by_wall, effort)
    rounds = {name: [] for name in contestants}
    order, began = list(contestants), time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for number in range(effort.most if order else 0):
            if number >= effort.least and time.perf_counter() - began > effort.seconds:
                break
            for name in order:
                say(name)
                rounds[name].append(timer(contestants[name].run, units[name]))
            order.append(order.pop(0))  # nobody always follows the same one
    finally:
        gc.enable()
    return rounds


def _units(run, timer, by_wall, effort):
    """Warm up; tell how many units a turn takes."""
    n = effort.calls if by_wall else 1
    began = time.perf_counter()
    while time.perf_counter() - began < effort.warm:
        once = timer(run, n)
    once = timer(run, n)
    return n if by_wall else max(1, min(1000, round(effort.turn / max(once, 1e-6))))


def events(run, n):
    """Give the seconds of a unit on the GPU's own clock."""
    from cupy.cuda import Event, get_elapsed_time

    start, end = Event(), Event()
    start.record()
    run(n)
    end.record()
    end.synchronize()
    return get_elapsed_time(start, end) / 1e3 / n


def wall(run, n):
    """Give the seconds of a unit on the wall, with one wait for all n."""
    from cupy.cuda.runtime import deviceSynchronize

    deviceSynchronize()
    began = time.perf_counter()
    run(n)
    deviceSynchronize()
    return (time.perf_counter() - began) / n
