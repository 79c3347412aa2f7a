"""The layers that are not recurrent: Linear, Embedding, Dropout, Last. What a layer is, is in layer.py."""

from .dropout import Dropout
from .embedding import Embedding
from .last import Last
from .linear import Linear

__all__ = ["Dropout", "Embedding", "Last", "Linear"]
