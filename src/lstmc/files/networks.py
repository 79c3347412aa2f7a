"""Networks from files: their own, those of language models, and checkpoints of training."""

import math

from .._kernels import cpu
from .._kernels.devices import copy_into
from .description import DEEPEST, FORMAT, OPTIONS, make
from .disk import read_safetensors

__all__ = ["check_kind", "load", "make_network"]

KINDS = ("network", "language model", "checkpoint")


def load(path, layers=None, dtype=None, device="cpu", verify=True):
    """Load a layer or a network from a file.

    Parameters
    ----------
    path : str or path
        What ``save`` of a layer, a network, a LanguageModel or a Trainer wrote.
    layers : dict of str to class, optional
        The classes of layers of your own, by name.
    dtype : float32 or float64, optional
        By default that of the file. Weights stored as float16 or bfloat16 become those of the layers.
    device : "cpu", "cuda" or "cuda:N"
    verify : bool
        Compare the checksum, which costs about as long as the reading.

    Returns
    -------
    Layer
        Its weights are those saved, to the bit.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is truncated, damaged or none of lstmc's, or has a layer whose class is not known.
    """
    arrays, metadata = read_safetensors(path, verify)
    try:
        kind = check_kind(metadata, KINDS)
        if kind == "checkpoint":
            prefix = "weights."
            arrays = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        net = make_network(metadata.get("network"), arrays, layers)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return (net if dtype is None else net.astype(dtype)).to(device)


def check_kind(metadata, kinds):
    """Return the kind of a file, which must be one of these; refuse other formats."""
    if metadata.get("format") is True or metadata.get("format") != FORMAT:
        raise ValueError(
            f"it is of format {metadata.get('format')!r}, and this lstmc reads {FORMAT}"
        )
    if metadata.get("kind") not in kinds:
        raise ValueError(f"it must be a {' or a '.join(kinds)}, and is {metadata.get('kind')!r}")
    return metadata["kind"]


def make_network(description, arrays, layers=None):
    """Return a new layer of a description, with weights by name.

    Nothing is made that is much larger than the arrays together: if one is missing, that can still be said.

    Raises
    ------
    ValueError
        The description is none, or the arrays are not its weights.
    """
    elements = sum(math.prod(array.shape) for array in arrays.values())
    description = _time_major_inside(description, layers or {})
    net = make(description, layers, room=2 * elements + 4096, tensors=len(arrays) + 64)
    _fill(net, arrays)
    return net


def _time_major_inside(description, own):
    """Return the description of a network with ``batch_first`` where it belongs.

    Early files have it at all recurrent layers of a network, instead of the network. `own` are the classes of
    others.
    """
    found = set()

    def inside(one, depth=0):
        name, options = (
            one.get(k) if isinstance(one, dict) else None for k in ("layer", "options")
        )
        if not isinstance(name, str) or not isinstance(options, dict) or name in own:
            return one
        if name == "Sequential" and isinstance(options.get("layers"), list) and depth < DEEPEST:
            layers = [inside(layer, depth + 1) for layer in options["layers"]]
            return {**one, "options": {**options, "layers": layers}}
        if name == "Sequential" or "batch_first" not in OPTIONS.get(name, ((), {}))[1]:
            return one
        found.add(options.get("batch_first") is True)
        return {**one, "options": {k: v for k, v in options.items() if k != "batch_first"}}

    moved = inside(description)
    if found != {True} or description["layer"] != "Sequential":
        return description
    moved["options"]["batch_first"] = True
    return moved


def _fill(net, arrays):
    """Copy arrays by name into the weights of a network; refuse others, before any is copied."""
    shapes = net.parameters()
    for name in sorted(shapes.keys() | arrays.keys()):
        if name not in arrays:
            raise ValueError(f"tensor {name!r} is missing")
        if name not in shapes:
            raise ValueError(f"tensor {name!r} is not one of the network's")
        try:
            cpu.checked(f"tensor {name!r}", arrays[name], net.dtype, shapes[name])
        except TypeError as error:
            raise ValueError(str(error)) from None
    for name, array in arrays.items():
        copy_into(net[name], array)
