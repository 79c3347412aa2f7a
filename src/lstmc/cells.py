"""What a recurrent cell is, as Python sees it: its gates and what they do, its states, what it saves.

The one list of cells in Python. Layers, traces, reports, plots and the command line ask a record; nothing
else names a cell. The kernels of the same name compute it, and ``reference`` says what they compute.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["CELLS", "Cell", "Gate", "cell_named"]

LOW, HIGH = 0.1, 0.9  # a sigmoid below or above is saturated; a tanh beyond HIGH on either side


@dataclass(frozen=True)
class Gate:
    """One row block of the weights: its name, its activation, and what to call it.

    Attributes
    ----------
    name : str
        "i"
    activation : "sigmoid", "tanh", "relu" or "identity"
    title : str
        "input gate"
    """

    name: str
    activation: str
    title: str

    @property
    def bounds(self):
        """The interval that its values lie in: (0, 1), (-1, 1), or None where there is none."""
        return {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}.get(self.activation)

    @property
    def limits(self):
        """It is saturated below the first and above the second; None where it does not saturate."""
        return {"sigmoid": (LOW, HIGH), "tanh": (-HIGH, HIGH)}.get(self.activation)


@dataclass(frozen=True)
class Cell:
    """The record of a cell.

    Attributes
    ----------
    name : str
        Of its kernels.
    kind : str
        As reports, files and the command line call it: "lstm"; several cells may be of one kind.
    gates : tuple of Gate
        In the order of the row blocks of the weights.
    states : tuple of str
        What a state holds: "h", or "h" and "c".
    saves_gates : bool
        Whether forward saves the activated gates for backward; otherwise the only gate is h itself.
    keeps : str or None
        The gate that multiplies c from step to step.
    writes : tuple of str
        The gates whose product is added to c.
    doors : tuple of str
        The gates that shut a unit off: nothing gets in, or nothing out.
    dc_per_dh : function of (c, gates) or None
        The derivative of h by c of the same step; gates is a dict of arrays by name.
    derivatives : function of (h, c, gates)
        The factors by which one step multiplies a gradient, by name.
    """

    name: str
    kind: str
    gates: tuple
    states: tuple
    saves_gates: bool
    derivatives: Callable
    keeps: str | None = None
    writes: tuple = ()
    doors: tuple = ()
    dc_per_dh: Callable | None = None

    @property
    def has_c(self):
        """Whether there is a cell state beside h."""
        return "c" in self.states

    @property
    def h(self):
        """H as reports show it beside the gates: what bounds it, and whether it saturates."""
        activation = self.gates[0].activation if not self.saves_gates else "tanh"
        return Gate("h", activation, "state h")


def _lstm_dc_per_dh(c, gates):
    return gates["o"] * (1 - np.tanh(c) ** 2)


def _lstm_derivatives(h, c, gates):
    i, f, g, o = (gates[name] for name in "ifgo")
    return {
        "f": f,
        "o (1 - tanh(c)^2)": _lstm_dc_per_dh(c, gates),
        "1 - g^2": 1 - g**2,
        "i (1 - i)": i * (1 - i),
        "f (1 - f)": f * (1 - f),
        "o (1 - o)": o * (1 - o),
    }


_LSTM = Cell(
    name="lstm",
    kind="lstm",
    gates=(
        Gate("i", "sigmoid", "input gate i"),
        Gate("f", "sigmoid", "forget gate f"),
        Gate("g", "tanh", "candidate g"),
        Gate("o", "sigmoid", "output gate o"),
    ),
    states=("h", "c"),
    saves_gates=True,
    keeps="f",
    writes=("i", "g"),
    doors=("i", "o"),
    dc_per_dh=_lstm_dc_per_dh,
    derivatives=_lstm_derivatives,
)


def _rnn(nonlinearity, slope):
    return Cell(
        name=f"rnn_{nonlinearity}",
        kind="rnn",
        gates=(Gate("h", nonlinearity, "state h"),),
        states=("h",),
        saves_gates=False,
        derivatives=lambda h, c, gates: {f"{nonlinearity}'": slope(h)},
    )


CELLS = {
    cell.name: cell
    for cell in (
        _LSTM,
        _rnn("tanh", lambda h: 1 - h**2),
        _rnn("relu", lambda h: (h > 0) * 1.0),
        _rnn("identity", np.ones_like),
    )
}


def cell_named(name):
    """Return the record of a cell; refuse a name that is none."""
    if name not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {name!r}")
    return CELLS[name]
