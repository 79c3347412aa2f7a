"""The command ``lstmc``: its parser, errors and exit codes.

The exit code is 0 for success, 1 for an error, 2 for wrong usage, 130 after Ctrl-C. Each command has a
file of its own, with its options and what it does.
"""

import argparse
import os
import sys

from .. import __version__, set_num_threads
from .bench import add_bench
from .config import add_config
from .evaluate import add_eval
from .inspect import add_inspect
from .next import add_next
from .options import UsageError
from .sample import add_sample
from .train import add_train

__all__ = ["main", "make_parser"]

COMMANDS = (add_train, add_next, add_sample, add_eval, add_inspect, add_bench, add_config)


def make_parser():
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="lstmc",
        description="Train a recurrent network on a text, and let it write on.",
        epilog="To begin: lstmc train --out run, then lstmc sample run/model.safetensors",
    )
    parser.add_argument("--version", action="version", version=f"lstmc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
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
    args = make_parser().parse_args(argv)
    try:
        if getattr(args, "threads", None):
            set_num_threads(args.threads)
        code = args.run(args) or 0
        sys.stdout.flush()
        return code
    except UsageError as error:
        return complain(error, 2)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:  # as in `lstmc sample ... | head`: the reader has seen enough
        discard_output()
        return 0
    except MemoryError as error:
        return complain(f"out of memory: {error}", 1)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # standard output itself failed
            discard_output()
        where = f"{error.filename}: " if error.filename is not None else ""
        return complain(f"{where}{error.strerror or error}", 1)
    except (ValueError, TypeError, ArithmeticError) as error:
        return complain(error, 1)


def discard_output():
    """Send what is still buffered nowhere, or Python would try to write it once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(error, code):
    """Print an error on one line and return the exit code."""
    print("lstmc: error: " + " ".join(str(error).split()), file=sys.stderr)
    return code
