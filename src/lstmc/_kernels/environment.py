"""What the process and its environment say of kernels: cores, threads, the instruction set."""

import math
import os

import numpy as np

from .cgroups import cpu_quota

__all__ = ["check_threads", "default_threads", "preferred_instruction_set", "usable_cores"]

MOST_THREADS = 4096


def usable_cores():
    """Return how many cores this process may use, and what decides it, in words."""
    cores, decider = os.cpu_count() or 1, "the machine"
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < cores:
        cores, decider = len(os.sched_getaffinity(0)), "affinity"
    quota = cpu_quota()
    if quota is not None and math.ceil(quota) < cores:
        cores, decider = math.ceil(quota), f"a cgroup's CPU quota of {quota:g}"
    return cores, decider


def check_threads(name, n):
    """Return a number of threads as an int; refuse anything else, by its name."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= MOST_THREADS:
        raise ValueError(f"{name} must be an integer from 1 to {MOST_THREADS}, got {n!r}")
    return int(n)


def default_threads():
    """Return how many threads a call may use by default, and what decides it, in words.

    The cores that the process may use; OMP_NUM_THREADS before them; LSTMC_NUM_THREADS before both.

    Raises
    ------
    ValueError
        LSTMC_NUM_THREADS is not a number of threads. OMP_NUM_THREADS is other programs' too, and ignored
        where it is none.
    """
    if text := os.environ.get("LSTMC_NUM_THREADS"):
        try:
            if not (text.isascii() and text.strip().isdecimal()):  # int() takes more than digits
                raise ValueError
            return check_threads("LSTMC_NUM_THREADS", int(text)), "LSTMC_NUM_THREADS"
        except ValueError:
            raise ValueError(
                f"LSTMC_NUM_THREADS must be an integer from 1 to {MOST_THREADS}, got {text!r}"
            ) from None
    # A list has a number for each level of nested parallel regions.
    outermost = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if outermost.isdecimal() and len(outermost) < 9 and 1 <= int(outermost) <= MOST_THREADS:
        return int(outermost), "OMP_NUM_THREADS"
    return usable_cores()


def preferred_instruction_set():
    """Return LSTMC_ISA, or None where it is not set."""
    return os.environ.get("LSTMC_ISA") or None
