"""Everything that one number of threads is asked for, in the process that is to run it."""

from lstmc._kernels.binding import core

from . import machine, timing
from .report import summary


def run(report, threads, workloads, peers, isa):
    """Measure the machine, then each workload; give the report with that in it."""
    here = machine.measure(threads, 0.2 if report.quick else 1.0)
    report.machines.append(here)
    lesser = core.instruction_sets()[core.instruction_sets().index(here.isa) + 1 :]
    if isa is None and lesser and threads == 1 and not report.quick:
        isa = lesser[0]
    effort = timing.QUICK if report.quick else timing.Effort()
    for workload in workloads:
        result = timing.measure(workload, threads, peers, isa, effort)
        report.results.append(result)
        print(summary(result, here), flush=True)
    return report
