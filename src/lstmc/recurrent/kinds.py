"""The recurrent layers, each by the name of its cell: see ``stack.Recurrent`` for what they do."""

import numpy as np

from ..cells import CELLS, lstm_cell
from ..files import built_in
from ..layer import check_flag, check_limit, fixed
from .stack import Recurrent

__all__ = ["GRU", "KINDS", "LSTM", "RNN"]

NONLINEARITIES = ("tanh", "relu", "identity")  # of an RNN


@built_in("input_size", "hidden_size", num_layers=1, nonlinearity="tanh", bias=True, batch_first=False,
          dtype="float32", bidirectional=False)  # fmt: skip
class RNN(Recurrent):
    """The simple recurrent network (Elman 1990): h = nonlinearity(W x + R h_before + b).

    Parameters
    ----------
    input_size : int
        I, the features of x.
    hidden_size : int
        H, the hidden units of each layer.
    num_layers : int
        L, stacked layers: each reads the h of the one below.
    nonlinearity : "tanh", "relu" or "identity"
    bias : bool
    batch_first : bool
        Whether x and y are (B, T, .) instead of (T, B, .). States are not affected.
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Draws the initial weights, uniform within 1/sqrt(H).
    device : "cpu", "cuda" or "cuda:N"
        Where the weights are, and all arrays of its calls: NumPy's, or CuPy's on the current GPU or GPU N.
    bidirectional : bool
        Whether each layer has a second direction, which reads the sequence from its end: D is 2 then. The
        layer above reads both, the forward one's h first, and y is (T, B, 2 H). A GPU does not have it yet.

    Raises
    ------
    TypeError, ValueError
        A size is not a positive integer, or the nonlinearity or the type is unknown.
    """

    nonlinearity = fixed("nonlinearity")

    def __init__(self, input_size, hidden_size, num_layers=1, nonlinearity="tanh", bias=True,
                 batch_first=False, dtype=np.float32, rng=None, device="cpu", *,
                 bidirectional=False):  # fmt: skip
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(
                f"nonlinearity must be one of {', '.join(NONLINEARITIES)}, got {nonlinearity!r}"
            )
        self._nonlinearity, self._cell = nonlinearity, CELLS[f"rnn_{nonlinearity}"]
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dtype, rng, device,
                         bidirectional=bidirectional)  # fmt: skip

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {**super().options(), "nonlinearity": self._nonlinearity}


@built_in("input_size", "hidden_size", num_layers=1, bias=True, batch_first=False, dtype="float32",
          bidirectional=False, peephole=False, coupled=False, proj_size=0, clip=None,
          grad_clip=None)  # fmt: skip
class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i, f, o = sigmoid(W x + R h_before + b) and g = tanh(...), by gate; c = f c_before + i g; h = o tanh(c).

    Parameters
    ----------
    input_size : int
        I, the features of x.
    hidden_size : int
        H, the hidden units of each layer.
    num_layers : int
        L, stacked layers: each reads the h of the one below.
    bias : bool
        One bias per gate: the sum of PyTorch's two.
    batch_first : bool
        Whether x and y are (B, T, .) instead of (T, B, .). States are not affected.
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Draws the initial weights, uniform within 1/sqrt(H).
    device : "cpu", "cuda" or "cuda:N"
        Where the weights are, and all arrays of its calls: NumPy's, or CuPy's on the current GPU or GPU N.
    bidirectional : bool
        Whether each layer has a second direction, which reads the sequence from its end: D is 2 then. The
        layer above reads both, the forward one's h first, and y is (T, B, 2 H). A GPU does not have it yet.

    Raises
    ------
    TypeError, ValueError
        A size is not a positive integer, or the type is unknown.
    """

    peephole, coupled, proj_size = map(fixed, ("peephole", "coupled", "proj_size"))

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False,
                 dtype=np.float32, rng=None, device="cpu", *, bidirectional=False, peephole=False,
                 coupled=False, proj_size=0, clip=None, grad_clip=None):  # fmt: skip
        self._peephole = check_flag("peephole", peephole)
        self._coupled = check_flag("coupled", coupled)
        self._clip = check_limit("clip", clip)
        self._proj_size = proj_size
        self._cell = lstm_cell(coupled, peephole, clip is not None)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dtype, rng, device,
                         bidirectional=bidirectional, grad_clip=grad_clip)  # fmt: skip

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        names = ("peephole", "coupled", "proj_size", "clip", "grad_clip")
        return super().options() | {name: getattr(self, name) for name in names}


@built_in("input_size", "hidden_size", num_layers=1, bias=True, batch_first=False, dtype="float32",
          bidirectional=False, reset_after=True)  # fmt: skip
class GRU(Recurrent):
    """The gated recurrent unit (Cho et al. 2014), its reset gate after the product with R or before it.

    r, z = sigmoid(W x + R h_before + b), by gate; h = (1 - z) n + z h_before. After the product, as in
    PyTorch and cuDNN, n = tanh(W x + b_n + r (R h_before + b_R)). Before it, as first published and in ONNX
    by default (linear_before_reset=0), n = tanh(W x + R (r h_before) + b_n).

    Parameters
    ----------
    input_size : int
        I, the features of x.
    hidden_size : int
        H, the hidden units of each layer.
    num_layers : int
        L, stacked layers: each reads the h of the one below.
    bias : bool
        Four biases a unit: of r and z the sums of PyTorch's two, of n the input's, then the recurrent one.
        Three, with the reset gate before the product: of r, z and n.
    batch_first : bool
        Whether x and y are (B, T, .) instead of (T, B, .). States are not affected.
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Draws the initial weights, uniform within 1/sqrt(H).
    device : "cpu", "cuda" or "cuda:N"
        Where the weights are. A GPU does not have this cell yet, and refuses it.
    bidirectional : bool
        Whether each layer has a second direction, which reads the sequence from its end: D is 2 then. The
        layer above reads both, the forward one's h first, and y is (T, B, 2 H).
    reset_after : bool
        Whether the reset gate comes after the product with R.

    Raises
    ------
    TypeError, ValueError
        A size is not a positive integer, the type is unknown, or the device does not have the cell.
    """

    reset_after = fixed("reset_after")

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False,
                 dtype=np.float32, rng=None, device="cpu", *, bidirectional=False,
                 reset_after=True):  # fmt: skip
        self._reset_after = check_flag("reset_after", reset_after)
        self._cell = CELLS["gru" if reset_after else "gru_before"]
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dtype, rng, device,
                         bidirectional=bidirectional)  # fmt: skip

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {**super().options(), "reset_after": self._reset_after}


KINDS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}  # the recurrent layers by the kind of their cells
