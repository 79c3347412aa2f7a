"""How reports write counts, and numbers for JSON."""

import math

import numpy as np

__all__ = ["count_of", "plain"]


def count_of(n, what):
    """Return a number of things as text: 1 row, 2 rows."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def plain(value):
    """Return an array as a list, and a number that is not finite as None, for JSON."""
    if value is None:
        return None
    if np.ndim(value):
        return [plain(v) for v in value]
    value = float(value)
    return value if math.isfinite(value) else None
