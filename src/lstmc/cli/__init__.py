"""The command line: train, next, sample, eval, inspect, bench, config.

Every command is a file here: HELP and EXAMPLE, ``add_options(parser)`` for those that it has beside
--threads, and ``run(args)``, which returns the exit code if it is not 0. Exit codes: 0 for success, 1 for
an error, 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
"""

import argparse
import os
import sys

from .. import __version__
from .._kernels.binding.core import check_environment, set_num_threads
from . import bench, config, evaluate, inspect, next as next_tokens, sample, train
from .options import UsageError, discard, say, threads

__all__ = ["main", "make_parser"]

COMMANDS = {
    "train": train,
    "next": next_tokens,
    "sample": sample,
    "eval": evaluate,
    "inspect": inspect,
    "bench": bench,
    "config": config,
}


def make_parser():
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="lstmc",
        description="Train a recurrent network on a text, and let it write on.",
        epilog="To begin: lstmc train --out run, then lstmc sample run/model.safetensors",
    )
    parser.add_argument("--version", action="version", version=f"lstmc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP[0].upper() + command.HELP[1:] + ".",
            epilog="example:\n" + command.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(run=command.run)
        command.add_options(subparser)
        subparser.add_argument(
            "--threads", type=threads, metavar="N",
            help="threads to compute with (default: the cores there are); the result does not depend on it",
        )  # fmt: skip
    return parser


def main(argv=None):
    """Run a command.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code.
    """
    mend_streams()
    args = make_parser().parse_args(argv)
    try:
        check_environment()
        if args.threads:
            set_num_threads(args.threads)
        code = args.run(args) or 0
        sys.stdout.flush()
        return code
    except UsageError as error:
        return complain(error, 2)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:  # as in `lstmc sample ... | head`: the reader has seen enough
        discard(sys.stdout)
        return 0
    except MemoryError as error:
        return complain(f"out of memory: {error}", 1)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # standard output itself failed
            discard(sys.stdout)
        where = f"{error.filename}: " if error.filename is not None else ""
        return complain(f"{where}{error.strerror or error}", 1)
    except (ValueError, TypeError, ArithmeticError) as error:
        return complain(error, 1)


def mend_streams():
    """Open closed standard streams, to nowhere; write ? for what the encoding of an output does not have."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed before Python began; nothing else may get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif mode == "w" and getattr(stream, "errors", None) in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def complain(error, code):
    """Print an error on one line; return the exit code."""
    say("lstmc: error: " + " ".join(str(error).split()), sys.stderr)
    return code
