"""How error messages write shapes and name what came in place of an array."""

import numpy as np

__all__ = ["kind_of", "located", "shape_text"]


def shape_text(shape):
    """Return a shape as text: (T, B, 64)."""
    inside = ", ".join(str(n) for n in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"


def kind_of(value):
    """Return the name of a value that came in place of an array."""
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


def located(error, index, layer):
    """Return an error of a layer's call as one that names the layer: "1.Linear: x must be ..."."""
    if type(error) not in (TypeError, ValueError):
        return error
    own = getattr(error, "is_located", False)  # in a network within this one
    text = f"{index}.{'' if own else type(layer).__name__ + ': '}{error}"
    error = type(error)(text)
    error.is_located = True
    return error
