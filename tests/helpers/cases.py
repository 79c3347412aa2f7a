"""The table of cells that every test of layers reads: a row says all that tests need to know of one.

A new cell is a row here and tests of its own equations. Deliberately without a look at the records
of lstmc itself: what judges a layer must not be wrong in the same way as the layer.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
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
    layer : class of lstmc
    options : dict
        What makes a layer of that class one of this cell; a function is one of the hidden units.
    states : tuple of str
        What a state holds.
    gates : tuple of str
        The row blocks of the weights.
    weights : tuple of str
        In the order of parameters().
    saved : tuple of str
        What the reference's forward returns, in order.
    forward, backward, step : functions
        The reference's: of (x, *first, *weights), (dy, *dlast, x, *saved, *weights without the bias) and
        (x, *state, *weights).
    moved_step : function of (from_x, r, bias, h, c, moved, *weights beside)
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
    keeps : function of gates, or None
        What multiplies c, or h where there is no c, from step to step.
    dsums_of_h : function of (dsums, gates)
        The gradients of what R makes of the sums, from those of what W makes.
    operands : function of (h_before, gates)
        What R multiplies to make each gate, in their order.
    own_biases : int
        The last gates that have a bias for their recurrent sum alone.
    coupled : dict of str to str
        The gates without rows that a trace has, and the gate that each is 1 minus.
    saved_beside : int
        The values of a unit that forward saves beside the states and the gates.
    """

    name: str
    kind: str
    layer: type
    states: tuple
    gates: tuple
    saved: tuple
    forward: Callable
    backward: Callable
    step: Callable
    moved_step: Callable
    factors: Callable
    options: dict = field(default_factory=dict)
    weights: tuple = ("weight_ih", "weight_hh", "bias")
    torch: tuple | None = None
    sigmoids: tuple = ()
    saturates: bool = True
    keeps: Callable | None = None
    dsums_of_h: Callable = lambda dsums, gates: dsums
    operands: Callable = lambda h_before, gates: [h_before] * max(1, len(gates))
    own_biases: int = 0
    coupled: dict = field(default_factory=dict)
    saved_beside: int = 0
    on_gpu: bool = True

    @property
    def biases(self):
        return len(self.gates) + self.own_biases

    @property
    def has_c(self):
        return "c" in self.states

    @property
    def bounded_below(self):
        """The gates that a trace has and that lie in (0, 1)."""
        return (*self.sigmoids, *self.coupled)

    def saturation(self, name):
        """Return beyond which values a gate, or h, is saturated: those at a limit of its sum are, too."""
        is_sigmoid = name in self.bounded_below
        low, high = (0.1 if is_sigmoid else -0.9), 0.9
        if name != "h" and "clip" in self.options:
            at = (sigmoid if is_sigmoid else np.tanh)(np.array([-1.0, 1.0]) * self.options["clip"])
            low, high = max(low, at[0] + 1e-6), min(high, at[1] - 1e-6)
        return np.float32(low), np.float32(high)

    @property
    def trace_gates(self):
        """The gates that a trace has: none where the only one is h itself."""
        return (*self.gates, *self.coupled) if "gates" in self.saved else ()

    def of(self, hidden):
        """Return the options of a layer of so many units."""
        return {k: v(hidden) if callable(v) else v for k, v in self.options.items()}

    def make(self, input_size, hidden_size, *arguments, **options):
        """Return a layer; it takes the options that all recurrent layers have."""
        return self.layer(input_size, hidden_size, *arguments, **self.of(hidden_size), **options)

    def is_of(self, layer):
        """Whether a layer is one of this cell, or of one that has more options."""
        return isinstance(layer, self.layer) and all(
            getattr(layer, name, None) == value
            for name, value in self.of(layer.hidden_size).items()
        )

    @property
    def least_hidden(self):
        """The units that a layer has at least: a projection is narrower than what it projects."""
        return 2 if "weight_hr" in self.weights else 1

    def units(self, state, hidden):
        """Return the units of a state: h may be projected."""
        return self.of(hidden).get("proj_size", hidden) if state == "h" else hidden

    def shapes(self, features, hidden):
        """Return the shapes of the weights of one direction, in their order."""
        rows, units = len(self.gates) * hidden, self.units("h", hidden)
        shapes = {
            "weight_ih": (rows, features),
            "weight_hh": (rows, units),
            "bias": (self.biases * hidden,),
            "weight_hr": (units, hidden),
            "peephole": (len(self.sigmoids) * hidden,),
        }
        return {name: shapes[name] for name in self.weights}


# --------------------------------------------------------------------------------------------------
# LSTM
# --------------------------------------------------------------------------------------------------


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def half(hidden):
    """Return the projected units of so many."""
    return hidden // 2


# Such that of the sums of random problems more than a third is limited, and some of layers as they are made.
CLIP = 0.8


def lstm(coupled=False, peephole=False, clipped=False, projected=False):
    """Return the row of an LSTM with these options."""
    words = {"coupled": coupled, "peephole": peephole, "clipped": clipped, "projected": projected}
    options = {"coupled": coupled, "peephole": peephole, "clip": CLIP if clipped else None}
    options |= {"proj_size": half if projected else None}
    weights = ("weight_hr",) * projected + ("peephole",) * peephole  # beside the usual ones
    clip = options["clip"]
    gates = ("i", "g", "o") if coupled else ("i", "f", "g", "o")

    def named(arrays):
        return {**dict(zip(weights, arrays, strict=True)), "coupled": coupled}

    def forward(x, h0, c0, weight_ih, weight_hh, bias, *beside):
        usual = weight_ih, weight_hh, bias
        return reference.lstm_forward(x, h0, c0, *usual, **named(beside), clip=clip)

    def step(x, h, c, weight_ih, weight_hh, bias, *beside):
        usual = weight_ih, weight_hh, bias
        return reference.lstm_step(x, h, c, *usual, **named(beside), clip=clip)

    def backward(dy, dh_n, dc_n, x, h, c, gates, *arrays, **more):
        inside, arrays = (None, arrays) if clip is None else (arrays[0], arrays[1:])
        usual = dy, dh_n, dc_n, x, h, c, gates, *arrays[:2]
        return reference.lstm_backward(*usual, **named(arrays[2:]), inside=inside, **more)

    def moved_step(from_x, r, bias, h, c, moved, *beside):
        beside = dict(zip(weights, beside, strict=True))

        def activated(function, sums):
            if clip is None:
                return function(sums)
            return function(np.where(abs(sums.real) < clip, sums, clip * np.sign(sums.real)))

        i, *f, g, o = np.split(from_x + h @ r + bias, len(gates), axis=-1)
        looks = beside.get("peephole", np.zeros(len(gates) - 1))
        p_i, *p_f, p_o = np.split(looks, len(gates) - 1, axis=-1)
        i = activated(sigmoid, i + p_i * c)
        f = 1 - i if coupled else activated(sigmoid, f[0] + p_f[0] * c)
        c = f * c + i * activated(np.tanh, g) + moved("dc")
        seen = c + moved("dc_through_h")
        h = activated(sigmoid, o + p_o * seen) * np.tanh(seen)
        if "weight_hr" in beside:
            h = h @ np.swapaxes(beside["weight_hr"], -1, -2)
        return h, c + moved("dc_later")

    def factors(h, c, gates):
        def slope(exact, sums):  # 0 at a limit
            return exact * (1 if clip is None else abs(sums) < clip * (1 - 1e-6))

        i, g, o = (gates[name] for name in "igo")
        result = {
            "f": 1 - i if coupled else gates["f"],
            "o (1 - tanh(c)^2)": o / np.cosh(c) ** 2,
            "1 - g^2": slope(1 / np.cosh(np.arctanh(g)) ** 2, np.arctanh(g)),
        }
        for s in gates.keys() - {"g"}:
            z = gates[s]
            result[f"{s} (1 - {s})"] = slope(z - z * z, np.log(z) - np.log1p(-z))
        return result

    return Cell(
        name="_".join(["lstm", *(word for word, is_so in words.items() if is_so)]),
        kind="lstm",
        layer=lstmc.LSTM,
        options={name: value for name, value in options.items() if value},
        states=("h", "c"),
        gates=gates,
        weights=("weight_ih", "weight_hh", "bias", *weights),
        saved=("h", "c", "gates") + ("inside",) * clipped,
        forward=forward,
        backward=backward,
        step=step,
        moved_step=moved_step,
        factors=factors,
        torch=None if coupled or peephole or clipped else ("LSTM", {}),
        sigmoids=("i", "o") if coupled else ("i", "f", "o"),
        coupled={"f": "i"} if coupled else {},
        keeps=lambda gates: gates["f"],
        operands=lambda h_before, _: [h_before] * len(gates),
        saved_beside=int(projected),
        on_gpu=not any(words.values()),
    )


# By name, with all combinations of options.
LSTMS = {
    cell.name: cell for cell in itertools.starmap(lstm, itertools.product([False, True], repeat=4))
}


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
    layer=lstmc.GRU,
    options={"reset_after": True},
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
    keeps=lambda gates: gates["z"],
    dsums_of_h=gru_dsums_of_h,
    own_biases=1,
    saved_beside=1,
    on_gpu=False,
)

GRU_BEFORE = Cell(
    name="gru_before",
    kind="gru",
    layer=lstmc.GRU,
    options={"reset_after": False},
    states=("h",),
    gates=("r", "z", "n"),
    saved=("h", "gates"),
    forward=reference.gru_before_forward,
    backward=reference.gru_before_backward,
    step=lambda *arrays: (reference.gru_before_step(*arrays),),
    moved_step=gru_before_moved_step,
    factors=gru_factors,
    sigmoids=("r", "z"),
    keeps=lambda gates: gates["z"],
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
        layer=lstmc.RNN,
        options={"nonlinearity": nonlinearity},
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
        LSTMS["lstm"],
        LSTMS["lstm_projected"],
        LSTMS["lstm_coupled_peephole_clipped_projected"],
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
# All that there are, for tests of how options go together.
ROWS = LSTMS | CELLS
KINDS = tuple(dict.fromkeys(cell.kind for cell in CELLS.values()))

# By name: the first cell of each kind, those that PyTorch has, and those that run on a GPU.
ONE_OF_EACH_KIND = tuple(
    next(cell.name for cell in CELLS.values() if cell.kind == kind) for kind in KINDS
)
IN_TORCH = tuple(cell.name for cell in CELLS.values() if cell.torch)
# Those that have every option at once.
OF_ALL_OPTIONS = tuple(cell.name for cell in CELLS.values() if len(cell.options) > 3)
ON_GPU = tuple(cell.name for cell in CELLS.values() if cell.on_gpu)


def cell_of(layer):
    """Return the row of a recurrent layer, the one with the most options; None of any other layer."""
    rows = [cell for cell in ROWS.values() if cell.is_of(layer)]
    return max(rows, key=lambda cell: len(cell.options), default=None)
