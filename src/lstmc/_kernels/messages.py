"""How messages name what they got: shapes, and what stands where an array should."""

import numpy as np

__all__ = ["kind_of", "shape_text"]


def shape_text(shape):
    """Return a shape as messages write it: (T, B, 64)."""
    inside = ", ".join(str(n) for n in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"


def kind_of(value):
    """Return what to call a value that is not the array it should be."""
    kind = type(value)
    if kind is np.ndarray:
        return "a NumPy array"
    if kind.__module__ == "builtins":
        name = kind.__name__
    else:
        name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    if getattr(value, "__cuda_array_interface__", None) is not None:
        name += ": this is on the CPU, and that on a GPU"
    return name
