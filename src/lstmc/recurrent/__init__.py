"""The recurrent layers: RNN, LSTM and GRU, stacks of one cell."""

from .kinds import GRU, KINDS, LSTM, RNN
from .stack import Recurrent
from .windows import carry_back

__all__ = ["GRU", "KINDS", "LSTM", "RNN", "Recurrent", "carry_back"]
