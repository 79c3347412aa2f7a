"""What this installation is: type, instruction sets, threads, versions."""

import sys

import numpy as np

from ._kernels import kernels_for
from ._kernels.binding import core
from ._kernels.environment import usable_cores

__all__ = ["show_config"]


def _gpu():
    try:
        cupy = kernels_for("cuda").arrays
    except (ImportError, RuntimeError, ValueError) as error:
        return f"no: {error}"
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    return f"{properties['name'].decode()}, by CuPy {cupy.__version__}"


def show_config(file=None):
    """Print the default type, the instruction set in use and those available, threads, GPU and versions.

    Parameters
    ----------
    file : text file, optional
        Where to print; standard output if not given.
    """
    from . import __version__

    openmp = core.openmp_version()
    lines = {
        "lstmc": __version__,
        "type": "float32 by default; float64 complete",
        "instruction set": f"{core.instruction_set()} (available: {', '.join(core.instruction_sets())})",
        "threads": f"{core.get_num_threads()} (cores this process may use: {usable_cores()})",
        "OpenMP": f"yes, {openmp}" if openmp else "no: one thread",
        "GPU": _gpu(),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    for name, value in lines.items():
        print(f"{name:<16} {value}", file=file or sys.stdout)
