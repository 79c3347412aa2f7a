"""Networks: layers one after another over one flat array of parameters and one of gradients."""

from .layout import layout_of
from .place import Place
from .sequential import Sequential

__all__ = ["Place", "Sequential", "layout_of"]
