"""The layers that are not recurrent. What a layer is, is in layer.py."""

from .activation import Activation
from .dropout import Dropout
from .embedding import Embedding
from .last import Last
from .linear import Linear

__all__ = ["Activation", "Dropout", "Embedding", "Last", "Linear"]
