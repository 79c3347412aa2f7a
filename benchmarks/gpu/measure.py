"""What a GPU has of its own in measuring one workload: its clocks, its precisions, lstmc's ways through time.

Work is timed by CUDA events on the stream that all take part on, single steps by the clock on the wall, as a
caller of Python sees them, launches included.
"""

import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import lstmc

from .. import peers
from ..peers import Setting, problems
from ..timing import OURS, Effort, Result, answers_of, compare, ignore, race
from . import ways
from .workloads import (
    CPU_STEPS,
    CPU_TOLERANCE,
    PEER,
    TOLERANCE,
    UNITS_CHECKED,
    WAYS_OF,
    sets_beyond,
)

CPU = "CPU"  # instead of a precision: only how near lstmc's answers are to its kernels for the CPU
EFFORT = Effort(seconds=3.0, turn=0.05, least=5, most=41, warm=0.3)
QUICK = Effort(seconds=1.0, turn=0.01, least=3, most=9, warm=0.1)


def is_fatal(error):
    """Return whether it is an error of CUDA, after which the device is of no use to this process."""
    return type(error).__name__ in ("CUDARuntimeError", "CUDADriverError", "AcceleratorError")


@contextmanager
def products(precision):
    """Let lstmc and, if it is loaded, PyTorch compute products of float32 in this way, within."""
    backends = getattr(sys.modules.get("torch"), "backends", None)
    switches = (backends.cuda.matmul, backends.cudnn) if backends else ()
    before = [switch.allow_tf32 for switch in switches]
    ours = lstmc.get_matmul_precision()
    try:
        lstmc.set_matmul_precision(precision)
        for switch in switches:
            switch.allow_tf32 = precision == "tf32"
        yield
    finally:
        lstmc.set_matmul_precision(ours)
        for switch, allowed in zip(switches, before):
            switch.allow_tf32 = allowed


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


# -- the clocks -----------------------------------------------------------------------------------


def events(run, n):
    """Return the seconds of a unit on the GPU's own clock."""
    from cupy.cuda import Event, get_elapsed_time

    start, end = Event(), Event()
    start.record()
    run(n)
    end.record()
    end.synchronize()
    return get_elapsed_time(start, end) / 1e3 / n


def wall(run, n):
    """Return the seconds of a unit on the wall, with one wait for all n."""
    from cupy.cuda.runtime import deviceSynchronize

    deviceSynchronize()
    began = time.perf_counter()
    run(n)
    deviceSynchronize()
    return (time.perf_counter() - began) / n


# -- one workload ---------------------------------------------------------------------------------


def agree(w, banned, say):
    """Compare lstmc on the GPU with its kernels for the CPU, on few steps, in both types."""
    setting = Setting("cuda", precision=CPU)
    result = Result(w, setting)
    with products("float32"):
        for dtype, tolerance in CPU_TOLERANCE.items():
            few = replace(w, dtype=dtype, steps=min(w.steps, CPU_STEPS), dropout=0.0)
            problem = problems.make_problem(few, 2)
            expected = answers_of(peers.make("ours", few, problem, Setting())[OURS], UNITS_CHECKED)
            makers = ways.makers(few, problem, setting, w.kind in WAYS_OF)
            compare(
                result,
                makers,
                expected,
                tolerance,
                UNITS_CHECKED,
                banned,
                say,
                f" {dtype}",
                is_fatal,
            )
    result.notes = list(dict.fromkeys(result.notes))
    return result


def measure(w, precision, banned, say=ignore, effort=EFFORT, peer_device="cuda"):
    """Time a workload beside PyTorch.

    Parameters
    ----------
    w : Workload
    precision : "float32" or "tf32"
    banned : dict
        Sides that are not tried, and why.
    say : function
        Is told whose turn it is, so that somebody knows where it broke.
    effort : Effort
    peer_device : str
        Where PyTorch works.

    Returns
    -------
    Result
    """
    import cupy

    result = Result(w, Setting("cuda", precision=precision))
    cache = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["l2CacheSize"]
    problem = problems.make_problem(w, sets_beyond(w, cache))
    peer_setting = Setting(peer_device, precision=precision)
    plain = replace(w, dropout=0.0)  # what is dropped is drawn by each for itself
    theirs = _peer_sides(result, plain, problem, peer_setting, banned, say)
    with products(precision), on_one_stream(peer_device):
        right, expected = _right_peers(result, theirs, plain, problem, banned, say)
        ours = _right_ways(result, plain, problem, expected, banned, say)
        if w.dropout:
            again = ways.makers(w, problem.on(cupy), result.setting, w.kind in WAYS_OF)
            ours = {name: again[name]() for name in ours}
            with_dropout = peers.make(PEER, w, problem, peer_setting) if right else {}
            right = {name: with_dropout[name] for name in right}
        clock = wall if w.kind == "step" else events
        turns = {name: partial(clock, side.run) for name, side in {**ours, **right}.items()}
        result.rounds = race(turns, effort, say)
    return result


def _peer_sides(result, w, problem, setting, banned, say):
    """Make PyTorch's sides, but for those that broke."""
    result.failed |= {name: why for name, why in banned.items() if not name.startswith(OURS)}
    if PEER in banned:
        return {}
    say(PEER)
    try:
        sides = peers.make(PEER, w, problem, setting)
    except ImportError as error:
        result.notes.append(f"{PEER} left out: {error}")
        return {}
    return {name: side for name, side in sides.items() if name not in banned}


def _right_peers(result, theirs, w, problem, banned, say):
    """Compare PyTorch's sides with its first one.

    Returns
    -------
    right : dict
        Of sides.
    expected : list of ndarray
        The first one's answers; without PyTorch, those of lstmc on the CPU.
    """
    if not theirs:
        return {}, answers_of(peers.make("ours", w, problem, Setting())[OURS], UNITS_CHECKED)
    first, *others = theirs
    say(first)
    expected = answers_of(theirs[first], UNITS_CHECKED)
    makers = {name: lambda name=name: theirs[name] for name in others}
    tolerance = TOLERANCE[result.setting.precision]
    right = compare(
        result, makers, expected, tolerance, UNITS_CHECKED, banned, say, is_fatal=is_fatal
    )
    return {first: theirs[first], **right}, expected


def _right_ways(result, w, problem, expected, banned, say):
    """Compare lstmc's ways; note which it takes by itself, and return the sides that are right."""
    placed = problem.on(result.setting.arrays)
    makers = ways.makers(w, placed, result.setting, w.kind in WAYS_OF)
    tolerance = TOLERANCE[result.setting.precision]
    right = compare(
        result, makers, expected, tolerance, UNITS_CHECKED, banned, say, is_fatal=is_fatal
    )
    if OURS in right:
        taken = set()
        with ways.watched(taken):
            right[OURS].run(1)
        result.way = "+".join(sorted(taken))
        right.pop(f"{OURS} {result.way}", None)  # the same thing
    return right
