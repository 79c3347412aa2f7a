"""Networks: layers made of layers, over one flat array of parameters and one of gradients."""

from .calls import BackwardCalls, ForwardCalls
from .composite import Composite
from .layout import layout_of
from .place import Place
from .sequential import Sequential

__all__ = ["BackwardCalls", "Composite", "ForwardCalls", "Place", "Sequential", "layout_of"]
