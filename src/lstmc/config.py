"""What this installation is: type, instruction sets, threads, versions."""

import sys

import numpy as np

from ._kernels import _core

__all__ = ["show_config"]


def show_config(file=None):
    """Print the default type, the instruction set in use and those available, threads, OpenMP and versions.

    Parameters
    ----------
    file : text file, optional
        Where to print; standard output if not given.
    """
    from . import __version__

    openmp = _core.openmp_version()
    lines = {
        "lstmc": __version__,
        "type": "float32 by default; float64 complete",
        "instruction set": f"{_core.instruction_set()} (available: {', '.join(_core.instruction_sets())})",
        "threads": f"{_core.get_num_threads()} (cores this process may use: {_core.usable_cores()})",
        "OpenMP": f"yes, {openmp}" if openmp else "no: one thread",
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    for name, value in lines.items():
        print(f"{name:<16} {value}", file=file or sys.stdout)
