"""Checks of numbers that a caller gives."""

import math
import sys

import numpy as np

__all__ = ["check_count", "check_limit", "check_norm", "check_number", "check_real"]


def check_number(name, value, low=0.0, high=math.inf, open_low=False):
    """Return a number as a float; refuse one outside [low, high), or (low, high) with `open_low`."""
    value = value.item() if isinstance(value, np.generic) else value
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (low < value if open_low else low <= value)
        or not value < high
        or value > sys.float_info.max
    ):
        bounds = f"{'above' if open_low else 'at least'} {low:g}" + (
            f" and below {high:g}" if high < math.inf else ""
        )
        raise ValueError(f"{name} must be a finite number {bounds}, got {value!r:.100}")
    return float(value)


def check_limit(name, value):
    """Return a limit as a float, or None; refuse 0 and what float32 rounds to it, which would be no limit."""
    least = float(np.finfo(np.float32).tiny)
    return None if value is None else check_number(name, value, least)


def check_real(name, value):
    """Return a number as a float, which may be infinite; refuse NaN and all else."""
    value = value.item() if isinstance(value, np.generic) else value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    most = sys.float_info.max  # of integers: those beyond are no floats
    if not number or not (-most <= value <= most or value in (-math.inf, math.inf)):
        raise ValueError(f"{name} must be a number, got {value!r:.100}")
    return float(value)


def check_norm(name, value):
    """Return the largest norm that gradients may have, a float; infinity stands for any."""
    try:
        positive = check_real(name, value) > 0
    except ValueError:
        positive = False
    if not positive:
        raise ValueError(f"{name} must be a positive number, got {value!r:.100}")
    return float(value)


def check_count(name, value):
    """Return an int; refuse all but integers of 0 or more."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integer or not 0 <= value < 2**53:
        raise ValueError(f"{name} must be an integer from 0 to 2**53, got {value!r:.100}")
    return int(value)
