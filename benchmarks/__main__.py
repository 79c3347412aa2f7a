"""Times lstmc beside what a user would otherwise pick, on this machine.

    python -m benchmarks                                   everything; writes benchmarks/RESULTS.md
    python -m benchmarks step --hidden 256 --threads 1     one workload
    python -m benchmarks train --peers torch --quick       one kind, one peer, few rounds
    python -m benchmarks --against FOLDER step train       lstmc and another version of it, in turns

Without sizes, a kind means all its workloads in the table of workloads.py. FOLDER is another checkout of
lstmc, built in place, or a virtual environment, or its Python. python -m benchmarks.gpu times a GPU.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from lstmc._kernels.binding.core import instruction_sets

from . import isolation, memory, report, suite, timing
from .against import versions
from .machine import facts
from .peers import PEERS
from .peers.ours import LAYERS
from .workloads import DEFAULTS, TABLE, select

SIZES = ("inputs", "hidden", "steps", "batch", "layers", "vocabulary")
OPTIONS = ("dropout", "cell", "dtype", "bidirectional", "shortest", "resets")
KINDS = ("all", *DEFAULTS, "machine", "memory")


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    sizes = parser.add_argument_group("sizes of one workload")
    for name in SIZES:
        sizes.add_argument(f"--{name}", type=positive, metavar="N")
    sizes.add_argument("--dropout", type=share, metavar="P")
    sizes.add_argument("--bidirectional", action="store_true", default=None)
    sizes.add_argument("--shortest", type=positive, metavar="N",
        help="rows have lengths, drawn evenly from N to the number of steps")  # fmt: skip
    sizes.add_argument("--resets", type=share, metavar="P",
        help="the share of the steps before which a row is reset")  # fmt: skip
    sizes.add_argument("--cell", choices=tuple(LAYERS))
    sizes.add_argument("--dtype", choices=("float32", "float64"))
    add("--threads", type=counts, metavar="N[,N]",
        help="numbers of threads, each on a core of its own (default: 1,2; with --against 1)")  # fmt: skip
    add("--peers", type=names, default=PEERS, metavar="NAME[,NAME]",
        help=f"of {', '.join(PEERS)}; none: lstmc alone (default: all)")  # fmt: skip
    add("--isa", choices=instruction_sets(),
        help="time another instruction set of lstmc too (default: the next best, on one thread)")  # fmt: skip
    add("--quick", action="store_true", help="few rounds: rough numbers")
    add("--against", metavar="FOLDER", help="time another version of lstmc instead of peers")
    add(
        "--rounds",
        type=positive,
        metavar="N",
        help="with --against: how many, however long it takes",
    )
    add("--out", metavar="DIR",
        help="where to write RESULTS.md and results.png (default: benchmarks, when everything is run "
        "and not quickly; else nowhere)")  # fmt: skip
    return parser


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def share(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value


def counts(text):
    threads = [positive(part) for part in text.split(",")]
    cores = len(isolation.usable_cores())
    if max(threads) > cores:
        raise argparse.ArgumentTypeError(
            f"must be at most {cores}, the number of cores, got {text}"
        )
    return threads


def names(text):
    peers = tuple(text.split(",")) if text != "none" else ()
    if unknown := set(peers) - set(PEERS):
        raise argparse.ArgumentTypeError(
            f"must be of {', '.join(PEERS)}, got {', '.join(sorted(unknown))}"
        )
    return peers


def plan(args):
    """List the workloads that the arguments ask for.

    Raises
    ------
    ValueError
        A kind does not exist, or sizes are not those of one kind.
    """
    kinds = args.kinds or ["all"]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"KIND must be of {', '.join(KINDS)}, got {', '.join(unknown)}")
    sizes = {name: getattr(args, name) for name in (*SIZES, *OPTIONS)}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if sizes and (len(kinds) != 1 or kinds[0] not in DEFAULTS):
        raise ValueError(f"--{next(iter(sizes))} needs one kind: {', '.join(DEFAULTS)}")
    if "all" in kinds:
        return TABLE
    return [w for kind in kinds if kind in DEFAULTS for w in select(kind, sizes)]


def run_against(args, workloads):
    """Time lstmc against another version; return the exit status."""
    effort = versions.QUICK if args.quick else versions.EFFORT
    if args.rounds:
        effort = replace(effort, least=args.rounds, most=args.rounds)
    return versions.run(args.against, workloads, args.threads or [1], effort)


def run_peers(args, workloads):
    """Time lstmc beside its peers, and write what came out; return the exit status."""
    everything = not args.kinds or "all" in args.kinds
    done = report.Report(facts.describe())
    if args.quick:
        done.partial = "a quick run: few rounds, so rough numbers"
    effort = timing.QUICK if args.quick else timing.Effort()
    threads = args.threads or [1, 2][: len(isolation.usable_cores())]
    if args.kinds != ["memory"]:
        for n in threads:
            work = (done, n, workloads, args.peers, args.isa, effort)
            done = isolation.isolated(n, suite.run, *work)
    if everything or "memory" in args.kinds:
        peers = [p for p in memory.PEERS if p == "lstmc" or p in args.peers]
        for w in memory.WORKLOADS[: 1 if args.quick else None]:
            done.memory += [memory.measure(w, peer) for peer in peers]
    print("\n" + report.text(done))
    out = args.out
    if everything and not args.quick:
        out = out or Path(__file__).parent
    if out:
        report.write(done, out)
        print(f"written: {Path(out) / 'RESULTS.md'}")
    # An answer that differs is a defect of somebody's: not to be passed over.
    return int(bool(done.defects()))


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        workloads = plan(args)
        if args.against:
            return run_against(args, workloads)
    except ValueError as error:
        parser.error(str(error))
    return run_peers(args, workloads)


if __name__ == "__main__":
    sys.exit(main())
