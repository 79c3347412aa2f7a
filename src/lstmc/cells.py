"""The cells as Python sees them: gates and what they do, states, and what forward saves.

This is the only list of cells in Python: layers, traces, reports and plots ask a record. The kernels of
the same name compute a cell, and ``reference`` is the specification of what they compute.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["CELLS", "Cell", "Gate", "lstm_cell"]

LOW, HIGH = 0.1, 0.9  # a sigmoid below or above is saturated; a tanh beyond HIGH on either side


class Gate(NamedTuple):
    """A gate: one row block of the weights.

    Attributes
    ----------
    name : str
        As in ``trace.layers[0].gates["i"]``.
    activation : "sigmoid", "tanh", "relu" or "identity"
    title : str
        As pictures label it: "input gate i".
    clip : float or None
        The limit of its sum on either side, where a layer has one.
    """

    name: str
    activation: str
    title: str
    clip: float | None = None

    @property
    def bounds(self):
        """The interval that its values lie in; None where it is not bounded."""
        return {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}.get(self.activation)

    @property
    def limits(self):
        """A pair: the gate is saturated below the first, above the second. None if it cannot be.

        At the limit of its sum, to six digits, it passes no gradient on and is saturated as well.
        """
        limits = {"sigmoid": (LOW, HIGH), "tanh": (-HIGH, HIGH)}.get(self.activation)
        if limits is None or self.clip is None:
            return limits
        low, high = self.bounds
        centre, span = (low + high) / 2, (high - low) / 2
        # Both are centre + span tanh(span x): sigmoid(x) = (1 + tanh(x / 2)) / 2.
        reach = (1 - 1e-6) * span * float(np.tanh(span * self.clip))
        return max(limits[0], centre - reach), min(limits[1], centre + reach)


class Cell(NamedTuple):
    """The record of a cell.

    Attributes
    ----------
    name : str
        The name of its kernels.
    kind : str
        As reports, files and the command line call it, "lstm". Several cells may be of one kind.
    gates : tuple of Gate
        In the order of the row blocks of the weights.
    states : tuple of str
        The parts of a state: "h", or "h" and "c".
    saved : tuple of str
        The values of a unit that forward saves for backward beside the states, in order: the activated
        gates by their names. Empty where the only gate is h itself.
    derivatives : function of (h, c, gates)
        Returns the factors by which one step multiplies a gradient, by name. Here and below c is None
        where there is none, and gates is a dict of arrays by name. An LSTM's takes its `clip`, too.
    keeps : str or None
        The gate that the state, c where there is one, is multiplied by at each step.
    writes : tuple of str
        The gates whose product is added to c.
    doors : tuple of (str, str)
        The gates that cut a unit off, nothing gets in or nothing gets out, while they are "shut" or, as a
        GRU's z, "open".
    dc_through_h : function of (dh, c, gates) or None
        Returns what a gradient at h, as the cell makes it, sends to c of the same step, but for peepholes.
    dsums_of_h : function of (dsums, gates) or None
        Returns the gradients of what R makes of the sums, from those of the sums W makes, both (T, B, G*H).
        None where each sum is one.
    coupled : tuple of (Gate, str)
        Gates without rows of their own, each with the name of the one that it is 1 minus.
    peepholes : tuple of str
        The gates that see c by a weight for each unit.
    own_biases : int
        How many of the last gates have a bias for their recurrent sum alone, beside the one that each has.
    operands : tuple of (str, str)
        The gates whose rows of R multiply something other than h before the step, each with the name of that
        saved value. Gates of one and the same are side by side.
    """

    name: str
    kind: str
    gates: tuple
    states: tuple
    saved: tuple
    derivatives: Callable
    keeps: str | None = None
    writes: tuple = ()
    doors: tuple = ()
    dc_through_h: Callable | None = None
    dsums_of_h: Callable | None = None
    coupled: tuple = ()
    peepholes: tuple = ()
    own_biases: int = 0
    operands: tuple = ()

    def __reduce__(self):
        return _named, (self.name,)  # there is one of each

    @property
    def has_c(self):
        """Whether there is a cell state beside h."""
        return "c" in self.states

    @property
    def all_gates(self):
        """The gates, those without rows of their own last."""
        return (*self.gates, *(gate for gate, _ in self.coupled))

    @property
    def biases(self):
        """S, the row blocks of the bias."""
        return len(self.gates) + self.own_biases

    @property
    def h(self):
        """The hidden state as reports show it, like a gate: its bounds, and where it saturates."""
        return Gate("h", "tanh", "state h") if self.saved else self.gates[0]

    def rows(self, name, hidden):
        """Return the rows of the weights, a slice, that make the gate of this name."""
        i = [gate.name for gate in self.gates].index(name)
        return slice(i * hidden, (i + 1) * hidden)


def _named(name):
    return CELLS[name]


def _lstm_dc_through_h(dh, c, gates):
    return dh * gates["o"] * (1 - np.tanh(c) ** 2)


def _lstm_derivatives(h, c, gates, clip=None):
    i, g, o = (gates[name] for name in "igo")
    f = gates.get("f", 1 - i)

    def slope(exact, tanh, argument=1):
        """Nothing where the sum, of a tanh of so many times it, is at its limit: to six digits."""
        if clip is None:
            return exact
        return np.where(np.abs(tanh) < (1 - 1e-6) * np.tanh(argument * clip), exact, 0)

    return {
        "f": f,
        "o (1 - tanh(c)^2)": _lstm_dc_through_h(1, c, gates),
        "1 - g^2": slope(1 - g**2, g),
        **{f"{n} (1 - {n})": slope(a * (1 - a), 2 * a - 1, 0.5) for n, a in zip("ifo", (i, f, o))},
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
    saved=("i", "f", "g", "o"),
    keeps="f",
    writes=("i", "g"),
    doors=(("i", "shut"), ("o", "shut")),
    dc_through_h=_lstm_dc_through_h,
    derivatives=_lstm_derivatives,
)


def _lstm_variants():
    """Yield the LSTM and its variants, by what they have beside it: see ``lstm_cell``."""
    for clipped in ("", "_clipped"):
        for coupled in ("", "_coupled"):
            for peephole in ("", "_peephole"):
                cell = _LSTM._replace(name=f"lstm{coupled}{peephole}{clipped}")
                if coupled:
                    forget = _LSTM.gates[1]
                    gates = tuple(gate for gate in _LSTM.gates if gate is not forget)
                    names = tuple(gate.name for gate in gates)
                    cell = cell._replace(gates=gates, saved=names, coupled=((forget, "i"),))
                if peephole:
                    cell = cell._replace(peepholes=tuple(n for n in cell.saved if n != "g"))
                yield cell


def lstm_cell(coupled=False, peephole=False, clipped=False):
    """Return the cell of an LSTM with coupled gates, with peepholes, with sums within a limit."""
    ends = zip(("coupled", "peephole", "clipped"), (coupled, peephole, clipped))
    return CELLS["_".join(["lstm", *(end for end, has in ends if has)])]


def _gru_derivatives(h, c, gates):
    r, z, n = (gates[name] for name in "rzn")
    return {
        "z": z,
        "1 - z": 1 - z,
        "1 - n^2": 1 - n**2,
        "r (1 - r)": r * (1 - r),
        "z (1 - z)": z * (1 - z),
    }


def _gru_dsums_of_h(dsums, gates):
    dsums, hidden = dsums.copy(), gates["r"].shape[-1]
    dsums[..., 2 * hidden :] *= gates["r"]  # of n, R's part is multiplied by r
    return dsums


_GRU = Cell(
    name="gru",
    kind="gru",
    gates=(
        Gate("r", "sigmoid", "reset gate r"),
        Gate("z", "sigmoid", "update gate z"),
        Gate("n", "tanh", "candidate n"),
    ),
    states=("h",),
    saved=("r", "z", "n", "n of h"),
    keeps="z",
    doors=(("z", "open"),),
    derivatives=_gru_derivatives,
    dsums_of_h=_gru_dsums_of_h,
    own_biases=1,
)

_GRU_BEFORE = _GRU._replace(
    name="gru_before",
    saved=("r", "z", "r h", "n"),
    dsums_of_h=None,
    own_biases=0,
    operands=(("n", "r h"),),
)


def _rnn(nonlinearity, slope):
    return Cell(
        name=f"rnn_{nonlinearity}",
        kind="rnn",
        gates=(Gate("h", nonlinearity, "state h"),),
        states=("h",),
        saved=(),
        derivatives=lambda h, c, gates: {f"{nonlinearity}'": slope(h)},
    )


CELLS = {
    cell.name: cell
    for cell in (
        *_lstm_variants(),
        _GRU,
        _GRU_BEFORE,
        _rnn("tanh", lambda h: 1 - h**2),
        _rnn("relu", lambda h: (h > 0) * 1.0),
        _rnn("identity", np.ones_like),
    )
}
