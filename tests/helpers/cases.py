"""The table of cells that every test of layers reads: a row says all that tests need to know of one.

A new cell is a row here and tests of its own equations. Deliberately without a look at the records
of lstmc itself: what judges a layer must not be wrong in the same way as the layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

import lstmc
from lstmc import reference


@dataclass(frozen=True)
class Cell:
    """What tests know of a cell.

    Attributes
    ----------
    name : str
        Of its problems and golden files.
    kind : str
        As reports, files and the command line call it.
    make : partial of a class of lstmc
        Takes input_size, hidden_size and the options that all recurrent layers have.
    states : tuple of str
        What a state holds.
    gates : tuple of str
        The row blocks of the weights.
    saved : tuple of str
        What the reference's forward returns, in order.
    forward, backward, step : functions
        The reference's: of (x, *first, W, R, b), (dy, *dlast, x, *saved, W, R) and (x, *state, W, R, b).
    moved_step : function of (from_x, r, bias, h, c, moved)
        One step over complex numbers that returns h and c: from_x and r are x W' and R';
        moved(what) is added to c where it is made ("dc"), to the c that h is made of ("dc_through_h")
        and to the c that only the next step reads ("dc_later").
    factors : function of (h, c, gates)
        The derivatives of a step by name, written otherwise than the library writes them.
    torch : (str, dict) or None
        PyTorch's module and its options; None where it has none, nor is there a golden file.
    sigmoids : tuple of str
        The gates that lie in (0, 1); all others in (-1, 1), if anything bounds them.
    saturates : bool
        Whether anything bounds its values.
    keeps : str or None
        The gate that multiplies c, or h where there is no c, from step to step.
    dsums_of_h : function of (dsums, gates)
        The gradients of what R makes of the sums, from those of what W makes.
    operands : function of (h_before, gates)
        What R multiplies to make each gate, in their order.
    own_biases : int
        The last gates that have a bias for their recurrent sum alone.
    saved_beside : int
        The values of a unit that forward saves beside the states and the gates.
    """

    name: str
    kind: str
    make: partial
    states: tuple
    gates: tuple
    saved: tuple
    forward: Callable
    backward: Callable
    step: Callable
    moved_step: Callable
    factors: Callable
    torch: tuple | None = None
    sigmoids: tuple = ()
    saturates: bool = True
    keeps: str | None = None
    dsums_of_h: Callable = lambda dsums, gates: dsums
    operands: Callable = lambda h_before, gates: [h_before] * max(1, len(gates))
    own_biases: int = 0
    saved_beside: int = 0
    on_gpu: bool = True

    @property
    def biases(self):
        return len(self.gates) + self.own_biases

    @property
    def has_c(self):
        return "c" in self.states

    @property
    def trace_gates(self):
        """The gates that a trace has: none where the only one is h itself."""
        return self.gates if "gates" in self.saved else ()

    def is_of(self, layer):
        """Whether a layer is one of this cell."""
        return isinstance(layer, self.make.func) and all(
            getattr(layer, name) == value for name, value in self.make.keywords.items()
        )


# --------------------------------------------------------------------------------------------------
# LSTM
# --------------------------------------------------------------------------------------------------


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_moved_step(from_x, r, bias, h, c, moved):
    i, f, g, o = np.split(from_x + h @ r + bias, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g) + moved("dc")
    h = sigmoid(o) * np.tanh(c + moved("dc_through_h"))
    return h, c + moved("dc_later")


def lstm_factors(h, c, gates):
    i, f, g, o = (gates[name] for name in "ifgo")
    return {
        "f": f,
        "o (1 - tanh(c)^2)": o / np.cosh(c) ** 2,
        "1 - g^2": 1 / np.cosh(np.arctanh(g)) ** 2,
        "i (1 - i)": i - i * i,
        "f (1 - f)": f - f * f,
        "o (1 - o)": o - o * o,
    }


LSTM = Cell(
    name="lstm",
    kind="lstm",
    make=partial(lstmc.LSTM),
    states=("h", "c"),
    gates=("i", "f", "g", "o"),
    saved=("h", "c", "gates"),
    forward=reference.lstm_forward,
    backward=reference.lstm_backward,
    step=reference.lstm_step,
    moved_step=lstm_moved_step,
    factors=lstm_factors,
    torch=("LSTM", {}),
    sigmoids=("i", "f", "o"),
    keeps="f",
)


# --------------------------------------------------------------------------------------------------
# GRU
# --------------------------------------------------------------------------------------------------


def gru_moved_step(from_x, r, bias, h, c, moved):
    hidden = h.shape[-1]
    bias = np.broadcast_to(bias, (*np.shape(bias)[:-1], 4 * hidden))
    b_r, b_z, b_n, b_h = np.split(bias, 4, axis=-1)
    (r_x, z_x, n_x), (r_h, z_h, n_h) = (np.split(a, 3, axis=-1) for a in (from_x, h @ r))
    r, z = sigmoid(r_x + r_h + b_r), sigmoid(z_x + z_h + b_z)
    n = np.tanh(n_x + b_n + r * (n_h + b_h))
    return n - z * n + z * h, c


def gru_before_moved_step(from_x, r, bias, h, c, moved):
    (of_r, of_z, of_n), (r_r, r_z, r_n) = (np.split(a, 3, axis=-1) for a in (from_x + bias, r))
    r, z = sigmoid(of_r + h @ r_r), sigmoid(of_z + h @ r_z)
    n = np.tanh(of_n + (r * h) @ r_n)
    return n - z * n + z * h, c


def gru_factors(h, c, gates):
    r, z, n = (gates[name] for name in "rzn")
    return {
        "z": z,
        "1 - z": 1 - z,
        "1 - n^2": 1 / np.cosh(np.arctanh(n)) ** 2,
        "r (1 - r)": r - r * r,
        "z (1 - z)": z - z * z,
    }


def gru_dsums_of_h(dsums, gates):
    d_r, d_z, d_n = np.split(dsums, 3, axis=-1)
    return np.concatenate([d_r, d_z, d_n * gates["r"]], axis=-1)


GRU = Cell(
    name="gru",
    kind="gru",
    make=partial(lstmc.GRU, reset_after=True),
    states=("h",),
    gates=("r", "z", "n"),
    saved=("h", "gates", "recurrent"),
    forward=reference.gru_forward,
    backward=reference.gru_backward,
    step=lambda *arrays: (reference.gru_step(*arrays),),
    moved_step=gru_moved_step,
    factors=gru_factors,
    torch=("GRU", {}),
    sigmoids=("r", "z"),
    keeps="z",
    dsums_of_h=gru_dsums_of_h,
    own_biases=1,
    saved_beside=1,
    on_gpu=False,
)

GRU_BEFORE = Cell(
    name="gru_before",
    kind="gru",
    make=partial(lstmc.GRU, reset_after=False),
    states=("h",),
    gates=("r", "z", "n"),
    saved=("h", "gates"),
    forward=reference.gru_before_forward,
    backward=reference.gru_before_backward,
    step=lambda *arrays: (reference.gru_before_step(*arrays),),
    moved_step=gru_before_moved_step,
    factors=gru_factors,
    sigmoids=("r", "z"),
    keeps="z",
    operands=lambda h_before, gates: [h_before, h_before, gates["r"] * h_before],
    saved_beside=1,
    on_gpu=False,
)


# --------------------------------------------------------------------------------------------------
# RNN
# --------------------------------------------------------------------------------------------------


def rnn(nonlinearity, activate, slope, **options):
    """Return the row of an RNN: its nonlinearity over complex numbers, and the slope, given h."""

    def moved_step(from_x, r, bias, h, c, moved):
        return activate(from_x + h @ r + bias), c

    return Cell(
        name=f"rnn_{nonlinearity}",
        kind="rnn",
        make=partial(lstmc.RNN, nonlinearity=nonlinearity),
        states=("h",),
        gates=("h",),
        saved=("h",),
        forward=lambda *arrays: (reference.rnn_forward(*arrays, nonlinearity),),
        backward=partial(reference.rnn_backward, nonlinearity=nonlinearity),
        step=lambda *arrays: (reference.rnn_step(*arrays, nonlinearity),),
        moved_step=moved_step,
        factors=lambda h, c, gates: {f"{nonlinearity}'": slope(h)},
        **options,
    )


def tanh_slope(h):
    return 1 / np.cosh(np.arctanh(np.clip(h, -0.999999, 0.999999))) ** 2


CELLS = {
    cell.name: cell
    for cell in (
        LSTM,
        GRU,
        GRU_BEFORE,
        rnn("tanh", np.tanh, tanh_slope, torch=("RNN", {"nonlinearity": "tanh"})),
        rnn(
            "relu",
            lambda z: z * (z.real > 0),
            lambda h: np.where(h > 0, 1.0, 0.0),
            torch=("RNN", {"nonlinearity": "relu"}),
            saturates=False,
        ),
        rnn("identity", lambda z: z, lambda h: h * 0 + 1, saturates=False),
    )
}
KINDS = tuple(dict.fromkeys(cell.kind for cell in CELLS.values()))

# By name: the first cell of each kind, those that PyTorch has, and those that run on a GPU.
ONE_OF_EACH_KIND = tuple(
    next(cell.name for cell in CELLS.values() if cell.kind == kind) for kind in KINDS
)
IN_TORCH = tuple(cell.name for cell in CELLS.values() if cell.torch)
ON_GPU = tuple(cell.name for cell in CELLS.values() if cell.on_gpu)


def cell_of(layer):
    """Return the row of a recurrent layer; None of any other layer."""
    return next((cell for cell in CELLS.values() if cell.is_of(layer)), None)
