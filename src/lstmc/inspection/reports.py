"""How reports write counts and numbers, and numbers for JSON."""

import math

import numpy as np

__all__ = ["BEYOND", "count_of", "number_text", "plain"]

BEYOND = "beyond all numbers"  # infinity, and what is NaN because of one


def count_of(n, what):
    """Return a number of things as text: 1 row, 2 rows."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def number_text(value, form):
    """Return a number as text in a format such as ".3g", or the words for one that is not finite."""
    return format(value, form) if math.isfinite(value) else BEYOND


def plain(value):
    """Return an array as a list, and a number that is not finite as None, for JSON."""
    if value is None:
        return None
    if np.ndim(value):
        return [plain(v) for v in value]
    value = float(value)
    return value if math.isfinite(value) else None
