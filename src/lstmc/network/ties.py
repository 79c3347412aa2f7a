"""Tied weights: a Linear whose weight is that of an earlier layer (Press and Wolf 2017, section 3)."""

from .._kernels.messages import shape_text
from ..layers import Linear

__all__ = ["check_ties", "tie"]


def _ties(layers):
    """Yield the tied layers with their own numbers, and those of the layers that they are tied to."""
    for i, layer in enumerate(layers):
        if isinstance(layer, Linear) and layer.tied_to is not None:
            yield i, layer, int(layer.tied_to)


def check_ties(layers, shapes):
    """Refuse a layer tied to one whose weight it cannot share.

    Parameters
    ----------
    layers : sequence of layers
    shapes : list of dict of name to shape
        Those of their own parameters.
    """
    for i, layer, to in _ties(layers):
        name = f"layers[{i}] ({type(layer).__name__})"
        if to >= len(layers):
            raise ValueError(f"{name} is tied to layers[{to}], and there are {len(layers)} layers")
        source = f"layers[{to}] ({type(layers[to]).__name__})"
        if to >= i:
            raise ValueError(f"{name} must be tied to a layer before it, got {source}")
        if getattr(layers[to], "tied_to", None) is not None:
            raise ValueError(
                f"{name} is tied to {source}, which is tied itself: name the same layer"
            )
        if "weight" not in shapes[to]:
            raise ValueError(f"{name} is tied to {source}, which has no weight")
        mine, shape = (layer.out_features, layer.in_features), tuple(shapes[to]["weight"])
        if mine != shape:
            raise ValueError(
                f"{name} is tied to {source}, whose weight is {shape_text(shape)}: its own must be that, "
                f"(out_features, in_features), and is {shape_text(mine)}"
            )


def tie(layers, params, grads):
    """Give tied layers the weights and their gradients, views by "number.name"."""
    for _, layer, to in _ties(layers):
        layer.tie(params[f"{to}.weight"], grads[f"{to}.weight"])
        # One thread at a time adds to a gradient, through whichever layer.
        layer.turns = getattr(layers[to], "turns", layer.turns)
