"""Times lstmc beside what a user would otherwise pick, on this machine.

    python -m benchmarks                                   everything; writes benchmarks/RESULTS.md
    python -m benchmarks step --hidden 256 --threads 1     one workload
    python -m benchmarks train --peers torch --quick       one kind, one peer, few rounds

Without sizes, a kind means those of its workloads that the table in workloads.py has.
"""

import argparse
import sys
from pathlib import Path

from lstmc._kernels.binding.core import instruction_sets

from . import isolation
from .peers import PEERS
from .workloads import DEFAULTS, GATES, TABLE, select

SIZES = ("inputs", "hidden", "steps", "batch", "layers", "vocabulary")


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("kind", nargs="?", default="all", choices=("all", *DEFAULTS, "machine", "memory"))
    sizes = parser.add_argument_group("sizes of one workload")
    for name in SIZES:
        sizes.add_argument(f"--{name}", type=positive, metavar="N")
    sizes.add_argument("--dropout", type=float, metavar="P")
    sizes.add_argument("--cell", choices=tuple(GATES))
    sizes.add_argument("--dtype", choices=("float32", "float64"))
    add("--threads", type=counts, metavar="N[,N]",
        help="numbers of threads, each pinned to a core of its own (default: 1,2)")  # fmt: skip
    add("--peers", type=names, default=PEERS, metavar="NAME[,NAME]",
        help=f"of {', '.join(PEERS)}; none: lstmc alone (default: all)")  # fmt: skip
    add("--isa", choices=instruction_sets(),
        help="time another instruction set of lstmc too (default: the next best, on one thread)")  # fmt: skip
    add("--quick", action="store_true", help="few rounds: rough numbers")
    add("--out", metavar="DIR",
        help="where to write RESULTS.md and results.png (default: benchmarks, when everything is run "
        "and not quickly; else nowhere)")  # fmt: skip
    return parser


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def counts(text):
    found = [positive(part) for part in text.split(",")]
    cores = len(isolation.usable_cores())
    if max(found) > cores:
        raise argparse.ArgumentTypeError(
            f"must be {cores} or less, the cores there are, got {text}"
        )
    return found


def names(text):
    found = tuple(text.split(",")) if text != "none" else ()
    if unknown := set(found) - set(PEERS):
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)}; there are {', '.join(PEERS)}"
        )
    return found


def plan(args):
    """List the workloads that the arguments ask for."""
    given = {name: getattr(args, name) for name in (*SIZES, "dropout", "cell", "dtype")}
    given = {name: value for name, value in given.items() if value is not None}
    if args.kind in DEFAULTS:
        return select(args.kind, given)
    if given:
        raise ValueError(f"--{next(iter(given))} needs a kind: one of {', '.join(DEFAULTS)}")
    return TABLE if args.kind == "all" else ()


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        workloads = plan(args)
    except ValueError as error:
        parser.error(str(error))
    from . import machine, memory, report, suite

    done = report.Report(machine.describe(), quick=args.quick)
    threads = args.threads or [1, 2][: len(isolation.usable_cores())]
    if args.kind != "memory":
        for n in threads:
            done = isolation.isolated(n, suite.run, done, n, workloads, args.peers, args.isa)
    if args.kind in ("all", "memory"):
        peers = [p for p in memory.PEERS if p == "lstmc" or p in args.peers]
        for w in memory.WORKLOADS[: 1 if args.quick else None]:
            done.memory += [memory.measure(w, peer) for peer in peers]
    print("\n" + report.text(done))
    out = args.out
    if args.kind == "all" and not args.quick:
        out = out or Path(__file__).parent
    if out:
        report.write(done, out)
        print(f"written: {Path(out) / 'RESULTS.md'}")
    # An answer that differs is a defect of somebody's: not to be passed over.
    return int(any("off by" in note for r in done.results for note in r.notes))


if __name__ == "__main__":
    sys.exit(main())
