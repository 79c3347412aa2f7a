"""How kernels of a GPU are compiled and launched, whatever they compute.

Sources are compiled by NVRTC when they are first needed; CuPy caches the result in memory and on disk.
"""

import functools
import re
from pathlib import Path

import cupy
import numpy as np

__all__ = [
    "GROUPS",
    "NULL",
    "THREADS",
    "TYPES",
    "flat_kernel",
    "i32",
    "i64",
    "kernel",
    "launch",
    "launch_whole",
    "let_share",
    "number",
    "or_null",
    "properties",
    "source_text",
]

FOLDER = Path(__file__).parent
THREADS = 256  # of a block that shares out elements
MOST_BLOCKS = 4096
ALWAYS_SHARED = 48 << 10  # bytes of shared memory that a block may have without asking
NULL = np.uint64(0)  # an absent array: CuPy cannot pass None
i32, i64, number = np.int32, np.int64, np.float64
# What is compiled together. Those of "cooperative" are launched with all blocks resident, or not at all.
GROUPS = {
    "steps": ("begin_forward", "forward_step", "begin_backward", "backward_step"),
    "stepper": ("step_rows", "step_tiles", "step_sums"),
    "persistent": ("persistent_forward", "persistent_backward", "persistent_sizes"),
    "cooperative": ("cooperative_forward", "cooperative_backward"),
    "flat": ("embedding_forward", "embedding_backward", "masked", "add_bias", "sum_rows", "add_sums",
             "softmax_rows", "squares", "scaled_norm", "scale", "clip", "sgd", "adam", "rmsprop"),
    "flat of no type": ("check_tokens", "dropout_mask", "weight_of_targets", "add_up", "fingerprint"),
}  # fmt: skip
TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def source_text(name):
    """Return a source with what it includes put in its place, each file once."""
    seen = set()

    def read(file):
        if file in seen:
            return ""
        seen.add(file)
        text = (FOLDER / file).read_text(encoding="utf-8")
        return re.sub(r'^#include "(.+)"$', lambda line: read(line[1]), text, flags=re.MULTILINE)

    return read(name)


@functools.cache
def _module(file, group, dtype, defines):
    names = tuple(_full_name(name, dtype) for name in GROUPS[group])
    return cupy.RawModule(
        code=source_text(file),
        options=("--std=c++17", *(f"-D{key}={value}" for key, value in defines)),
        name_expressions=names,
        enable_cooperative_groups=group == "cooperative",
    )


def _full_name(name, dtype):
    return name if dtype is None else f"{name}<{TYPES[dtype]}>"


@functools.cache
def kernel(file, name, dtype=None, defines=()):
    """Return a kernel of a source file, for an element type if it has one.

    Parameters
    ----------
    file, name : str
    dtype : numpy dtype, optional
        None for a kernel that is no template.
    defines : tuple of (name, value)
    """
    if dtype is not None and dtype not in TYPES:
        raise TypeError(f"kernel {name} must be of float32 or float64, got {dtype}")
    (group,) = (group for group, names in GROUPS.items() if name in names)
    return _module(file, group, dtype, defines).get_function(_full_name(name, dtype))


def flat_kernel(name, dtype=None):
    """Return a kernel of flat arrays."""
    return kernel("flat.cu", name, dtype)


def or_null(array):
    """Return an array as an argument of a kernel, NULL for None."""
    return NULL if array is None else array


@functools.cache
def properties(device):
    """Return what CUDA says of a device, by its number: a dict."""
    return cupy.cuda.runtime.getDeviceProperties(device)


def launch(run, n, *arguments):
    """Launch a kernel over n elements, on the current stream."""
    if n:
        run((min(-(-n // THREADS), MOST_BLOCKS),), (THREADS,), arguments)


def let_share(run, shared):
    """Let a kernel's blocks have so many bytes of shared memory, which above 48 KiB must be asked for."""
    if shared > ALWAYS_SHARED:
        run.max_dynamic_shared_size_bytes = shared


def launch_whole(run, blocks, threads, shared, arguments):
    """Launch blocks that need all of what they have on chip: threads, and bytes of shared memory."""
    let_share(run, shared)
    run((blocks,), (threads,), arguments, shared_mem=shared)
