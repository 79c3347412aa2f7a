"""What the commands' options have in common: numbers within bounds, ``--threads``, help with an example."""

import argparse
import math

__all__ = [
    "UNITS",
    "UsageError",
    "add_command",
    "add_model",
    "add_threads",
    "count",
    "natural",
    "non_negative",
    "positive",
    "share",
]

UNITS = {"char": "character", "word": "word"}  # what a token is, by the level of a vocabulary


class UsageError(Exception):
    """Options that do not go together."""


def number(kind, expected, is_valid):
    """Return a converter for argparse that refuses numbers outside some bounds."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not is_valid(value):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return convert


count = number(int, "a whole number, 1 or more", lambda n: n >= 1)
natural = number(int, "a whole number, 0 or more", lambda n: n >= 0)
share = number(float, "a number from 0 up to, not including, 1", lambda x: 0 <= x < 1)
positive = number(float, "a number above 0", lambda x: 0 < x < math.inf)
non_negative = number(float, "a number, 0 or above", lambda x: 0 <= x < math.inf)


def add_command(commands, name, run, summary, example):
    """Add a command and return its parser.

    Parameters
    ----------
    commands
        The subparsers of ``lstmc``.
    name, summary : str
    run : function of the parsed arguments
        It returns the exit code, or None for 0.
    example : str
        Whole lines, which its help ends with.
    """
    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".",
        epilog="example:\n" + example, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


def add_model(parser, **kind):
    """Add MODEL."""
    parser.add_argument("model", metavar="MODEL", help="a file that lstmc train wrote", **kind)


def add_threads(parser):
    """Add ``--threads``, which ``main`` obeys."""
    parser.add_argument("--threads", type=count, metavar="N",
                        help="threads to compute with (default: the cores there are); "
                        "the result does not depend on it")  # fmt: skip
