"""What the process and its environment say of kernels: cores, threads, the instruction set."""

import os

import numpy as np

__all__ = ["check_threads", "default_threads", "preferred_instruction_set", "usable_cores"]

MOST_THREADS = 4096


def usable_cores():
    """Count the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(name, n):
    """Return a number of threads as an int; refuse anything else, by its name."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= MOST_THREADS:
        raise ValueError(f"{name} must be an integer from 1 to {MOST_THREADS}, got {n!r}")
    return int(n)


def default_threads():
    """Return LSTMC_NUM_THREADS, or the number of usable cores where it is not set."""
    text = os.environ.get("LSTMC_NUM_THREADS")
    if not text:
        return usable_cores()
    try:
        return check_threads("LSTMC_NUM_THREADS", int(text))
    except ValueError:
        raise ValueError(
            f"LSTMC_NUM_THREADS must be an integer from 1 to {MOST_THREADS}, got {text!r}"
        ) from None


def preferred_instruction_set():
    """Return LSTMC_ISA, or None where it is not set."""
    return os.environ.get("LSTMC_ISA") or None
