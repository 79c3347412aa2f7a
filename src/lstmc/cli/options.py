"""What the commands share: converters of options, options that several have, and words for tokens."""

import argparse
import errno
import math
import os
import sys

from .._kernels.environment import MOST_THREADS

__all__ = [
    "UNITS",
    "UsageError",
    "add_model",
    "count",
    "natural",
    "not_negative",
    "number_text",
    "positive",
    "say",
    "share",
    "threads",
]

UNITS = {"char": "character", "word": "word", "token": "token"}  # by the level of a vocabulary


GONE = (errno.EPIPE, errno.EIO)  # of a pipe's reader, of a terminal


def say(text, file=None):
    """Print a line, at once, or nowhere if whoever read the output has gone: what is done is to be saved."""
    file = file or sys.stdout
    try:
        print(text, file=file, flush=True)
    except OSError as error:
        if error.errno not in GONE:
            raise
        discard(file)


def number_text(number, digits):
    """Return a number with so many digits after the point; a huge one as a power of ten."""
    return f"{number:.{digits}f}" if number < 1e6 else f"{number:.3g}"


def discard(file):
    """Send what is still buffered nowhere, or Python would try to write it once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


class UsageError(Exception):
    """Options that do not go together."""


def number(kind, expected, test):
    """Return a converter for argparse that refuses numbers that do not pass a test."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not test(value):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return convert


count = number(int, "a whole number, 1 or more", lambda n: n >= 1)
threads = number(int, f"a whole number from 1 to {MOST_THREADS}", lambda n: 1 <= n <= MOST_THREADS)
natural = number(int, "a whole number, 0 or more", lambda n: n >= 0)
share = number(float, "a number from 0 up to, not including, 1", lambda x: 0 <= x < 1)
positive = number(float, "a number above 0", lambda x: 0 < x < math.inf)
not_negative = number(float, "a number, 0 or above", lambda x: 0 <= x < math.inf)


def add_model(parser, nargs=None):
    """Add MODEL."""
    parser.add_argument("model", metavar="MODEL", nargs=nargs, help="a file that lstmc train wrote")
