"""Everything that one number of threads is asked for, in the process that is to run it."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from lstmc._kernels.binding import core

from . import peers
from .machine import rates
from .peers import Setting, Side, problems
from .report import summary
from .timing import (
    EQUAL,
    OURS,
    QUICK,
    TOLERANCE,
    UNITS_CHECKED,
    Effort,
    Result,
    answers_of,
    clocked,
    compare,
    race,
)


def run(report, threads, workloads, names, isa, effort):
    """Measure the machine, then each workload; return the report with that in it."""
    quick = effort.seconds <= QUICK.seconds
    machine = rates.measure(threads, 0.2 if quick else 1.0)
    report.machines.append(machine)
    lesser = core.instruction_sets()[core.instruction_sets().index(machine.isa) + 1 :]
    if isa is None and lesser and threads == 1 and not quick:
        isa = lesser[0]
    for workload in workloads:
        result = measure(workload, threads, names, isa, effort)
        report.results.append(result)
        print(summary(result, machine), flush=True)
    return report


def measure(w, threads, names, isa=None, effort=None):
    """Time a workload with some threads: lstmc, its twins, and the peers of these names."""
    result = Result(w, Setting(threads=threads))
    right = agreeing(result, names)
    problem = problems.make_problem(w)
    sides = {
        **peers.make("ours", w, problem, result.setting),
        **twins(w, problem, threads, isa),
        **right,
    }
    turns = {name: partial(clocked, side.run) for name, side in sides.items()}
    # What spins for work that will not come would take a core from the next one.
    result.rounds = race(turns, effort or Effort(), pause=threads > 1)
    result.packing = 0.0 if w.kind == "step" else rates.packing_seconds(w)
    return result


def agreeing(result, names):
    """Make peers and compare their answers with lstmc's; return the sides that are right, by name."""
    w, setting = result.workload, result.setting
    # What is dropped is drawn by each for itself: compared is without.
    plain, units = replace(w, dropout=0.0), UNITS_CHECKED[w.kind]
    problem = problems.make_problem(plain)
    expected = answers_of(peers.make("ours", plain, problem, setting)[OURS], units)
    right = {}
    for peer in names:
        try:
            sides = peers.make(peer, plain, problem, setting)
        except ImportError as error:
            result.notes.append(f"{peer} left out: {error}")
            continue
        makers = {name: lambda side=side: side for name, side in sides.items()}
        agreed = compare(result, makers, expected, TOLERANCE[w.dtype], units)
        if w.dropout and agreed:
            again = peers.make(peer, w, problem, setting)
            agreed = {name: again[name] for name in agreed}
        right |= agreed
    return right


def twins(w, problem, threads, isa):
    """Return lstmc in other ways, by name: one thread, float32, equal rows, another instruction set."""
    sides = {}
    if threads > 1:
        sides["lstmc, 1 thread"] = peers.make("ours", w, problem, Setting(threads=1))[OURS]
    setting = Setting(threads=threads)
    if w.dtype == "float64":
        single = replace(w, dtype="float32")
        sides["lstmc, float32"] = peers.make(
            "ours", single, problems.make_problem(single), setting
        )[OURS]
    if w.shortest or w.resets:
        plain = problems.equal(w)
        sides[EQUAL] = peers.make("ours", plain, problems.make_problem(plain), setting)[OURS]
    if isa:
        sides[f"lstmc, {isa}"] = with_instruction_set(
            isa, lambda: peers.make("ours", w, problem, setting)[OURS]
        )
    return sides


@contextmanager
def instruction_set(name):
    """Let lstmc use another instruction set within."""
    before = core.instruction_set()
    core.use_instruction_set(name)
    try:
        yield
    finally:
        core.use_instruction_set(before)


def with_instruction_set(name, make):
    """Make a side, and let it run, with the kernels of another instruction set."""
    with instruction_set(name):
        side = make()

    def run(n):
        with instruction_set(name):
            side.run(n)

    return Side(run, side.answers)
