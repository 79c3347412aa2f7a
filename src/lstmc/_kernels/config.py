"""A description of this installation: types, instruction sets, threads, GPU, versions."""

import sys

import numpy as np

from . import kernels_for
from .binding import core
from .environment import usable_cores

__all__ = ["__version__", "show_config"]

__version__ = "0.2.0.dev0"


def _gpu():
    try:
        cupy = kernels_for("cuda").arrays
    except (ImportError, RuntimeError, ValueError) as error:
        return f"no: {error}"
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    return f"{properties['name'].decode()}, by CuPy {cupy.__version__}"


def show_config(file=None):
    """Print the types, the instruction sets, the threads, the GPU and the versions of this installation.

    Parameters
    ----------
    file : text file, optional
        Where to print; by default standard output.
    """
    cores, cores_from = usable_cores()
    lines = {
        "lstmc": __version__,
        "type": "float32 by default; float64 complete",
        "instruction set": f"{core.instruction_set()} (available: {', '.join(core.instruction_sets())})",
        "threads": f"{core.get_num_threads()} (decided by {core.threads_from()})",
        "cores": f"{cores} (decided by {cores_from})",
        "team": core.team_kind(),
        "GPU": _gpu(),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    for name, value in lines.items():
        print(f"{name:<16} {value}", file=file or sys.stdout)
