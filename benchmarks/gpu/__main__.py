"""Times lstmc on this machine's GPU beside PyTorch with cuDNN.

    python -m benchmarks.gpu                              everything; writes benchmarks/RESULTS-GPU.md
    python -m benchmarks.gpu --only "train H64" --quick   one workload, few rounds

Each workload is compared with lstmc on the CPU, and timed in float32 and in TF32.
"""

import argparse
import sys
from pathlib import Path

from ..report import Report
from ..timing import Result
from . import workers
from .report import limits_text, missed, summary, text, write
from .tasks import given_up, tasks_of, work
from .workloads import TABLE, select


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", action="append", default=[], metavar="NAME",
        help=f"workloads with these words in their names: {', '.join(w.name for w in TABLE)}")  # fmt: skip
    add("--quick", action="store_true", help="few rounds: rough numbers")
    add("--out", metavar="DIR",
        help="where to write RESULTS-GPU.md and results-gpu.json (default: benchmarks, when everything is "
        "run and not quickly; else nowhere)")  # fmt: skip
    return parser


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        workloads = select(args.only)
    except ValueError as error:
        parser.error(str(error))
    partial = ["a quick run: rough numbers"] if args.quick else []
    partial += [f"only {' and '.join(args.only)}"] if args.only else []
    report = Report(partial=", ".join(partial))
    out = args.out or (None if partial else Path(__file__).parent.parent)
    for done in workers.run(work, tasks_of(workloads, args.quick), given_up):
        if isinstance(done, Result):
            report.results.append(done)
            print(summary(done), flush=True)
        else:
            report.description, report.limits = done
            lines = [f"- {k}: {v}" for k, v in report.description.items()]
            print("\n".join(lines + limits_text(report.limits)), flush=True)
        if out:
            write(report, out)  # what is measured is kept, whatever comes next
    print("\n" + text(report))
    if out:
        print(f"written: {Path(out) / 'RESULTS-GPU.md'}")
    for title, lines in (("missed", missed(report)), ("DEFECTS", report.defects())):
        print(f"{title}: {'; '.join(lines) or 'none'}")
    # A floor that is missed is a fact; an answer that differs, or a crash, is somebody's defect.
    return int(bool(report.defects()))


if __name__ == "__main__":
    sys.exit(main())
