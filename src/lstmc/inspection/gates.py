"""Gates and memory: how far they open, how long a cell keeps what it holds, and who wrote it."""

from dataclasses import dataclass

import numpy as np

from .._kernels import host
from .._kernels.messages import shape_text
from ..layer import check_size
from .flow import count_of, plain
from .passes import network_of, recurrent_layers, run

__all__ = ["GateReport", "LayerGates", "Write", "gate_statistics", "writers"]

LOW, HIGH = 0.1, 0.9  # below and above, a gate is saturated
STILL = 1e-3  # a unit whose h moves less than this is dead
BINS = 40


@dataclass
class LayerGates:
    """The gates of one layer of a stack over steps, rows and units.

    Attributes
    ----------
    name, cell : str
        As in a LayerFlow.
    means : dict of gate to ndarray (T, H)
        Over rows: "i", "f", "g", "o" of an LSTM, and "h" of both.
    histograms : dict of gate to ndarray (40,)
        The share of all values in bins of equal width.
    ranges : dict of gate to (float, float)
        From where to where: 0 to 1 for "i", "f" and "o", else -1 to 1; all values of the h of an RNN whose
        nonlinearity is not tanh.
    low, high : dict of gate to float
        The share below 0.1 and above 0.9; of "g" and "h", below -0.9 and above 0.9. Not of the h of an RNN
        whose nonlinearity is not tanh, which does not saturate.
    memory : ndarray (H,) or None
        Steps in which the product of a unit's forget gates falls to 1/e: 1 over the mean of -log f. Infinite
        where f is 1 throughout. None for an RNN.
    dead : list of int
        Units whose h moves by less than 0.001 over all steps and rows, where there are several.
    shut : list of int
        Units whose input or output gate stays below 0.1: nothing gets in, or nothing out.
    pegged : list of int
        Units whose tanh(c) (of a tanh RNN: h) stays beyond 0.9 on one side.
    """

    name: str
    cell: str
    means: dict
    histograms: dict
    ranges: dict
    low: dict
    high: dict
    memory: np.ndarray | None
    dead: list
    shut: list
    pegged: list


@dataclass
class GateReport:
    """What the gates of a network did on one input. Print it, ``plot`` it, or read its numbers."""

    steps: int
    batch: int
    layers: list

    def __str__(self):
        lines = [f"gates over {self.steps} steps, {count_of(self.batch, 'row')}"]
        for layer in self.layers:
            count = len(next(iter(layer.means.values()))[0])
            lines.append(f"  {layer.name}: {count} units")
            for gate, mean in layer.means.items():
                line = f"    {gate}: mean {mean.mean():6.3f}"
                if gate in layer.low:
                    ends = (
                        ("below 0.1", "above 0.9") if gate in "ifo" else ("below -0.9", "above 0.9")
                    )
                    line += f", {layer.low[gate]:4.0%} {ends[0]}, {layer.high[gate]:4.0%} {ends[1]}"
                lines.append(line)
            if layer.memory is not None:
                quantiles = np.quantile(layer.memory, (0.1, 0.5, 0.9), method="nearest")
                steps = ", ".join(f"{q:.3g}" for q in quantiles)
                lines.append(
                    f"    memory, steps to 1/e: {steps} (10 %, median and 90 % of the units)"
                )
            for what in ("dead", "shut", "pegged"):
                units = getattr(layer, what)
                if units:
                    shown = ", ".join(map(str, units[:10])) + (", ..." if len(units) > 10 else "")
                    lines.append(f"    {what}: {count_of(len(units), 'unit')} ({shown})")
        return "\n".join(lines)

    def to_dict(self):
        """Give all numbers as plain lists and floats, as JSON can hold them."""
        layers = [
            {
                "name": layer.name,
                "cell": layer.cell,
                "means": {gate: plain(a) for gate, a in layer.means.items()},
                "histograms": {gate: plain(a) for gate, a in layer.histograms.items()},
                "ranges": {gate: list(ends) for gate, ends in layer.ranges.items()},
                "low": layer.low,
                "high": layer.high,
                "memory": plain(layer.memory),
                "dead": layer.dead,
                "shut": layer.shut,
                "pegged": layer.pegged,
            }
            for layer in self.layers
        ]
        return {"steps": self.steps, "batch": self.batch, "layers": layers}

    def plot(self, path):
        """Draw heat maps of the gates over time and unit into a PNG file. Needs matplotlib."""
        from .plots import plot_gates

        plot_gates(path, self)

    def plot_histograms(self, path):
        """Draw the distribution of each gate into a PNG file. Needs matplotlib."""
        from .plots import plot_histograms

        plot_histograms(path, self)


def gate_statistics(net, x=None, state=None, *, trace=None, num_threads=None):
    """Describe the gates of every recurrent layer on one input.

    Parameters
    ----------
    net : LSTM, RNN, Sequential or LanguageModel
    x : ndarray
        What the network takes.
    state : optional
    trace : Trace, instead of x and state
        Of the network's forward.
    num_threads : int, optional

    Returns
    -------
    GateReport

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the trace is another network's; the network has no recurrent layer.
    """
    net = network_of(net)
    if trace is None:
        if x is None:
            raise ValueError("x must be given, or the trace of a forward call")
        trace = run(net, x, state, num_threads)[2]
    elif x is not None or state is not None:
        raise ValueError("trace holds what forward saw: x and state must not be given")
    net._check_trace(trace)
    layers = []
    for name, layer, kept in recurrent_layers(net, trace):
        layer._check_trace(kept)
        if not kept.x.shape[0] or not kept.x.shape[1]:
            raise ValueError(
                f"x must have at least one step and one row, got {shape_text(kept.x.shape)}"
            )
        for number, one in enumerate(kept.layers):
            layers.append(_describe(f"{name}l{number}", layer, one))
    steps, batch = kept.x.shape[:2]
    return GateReport(steps, batch, layers)


def _describe(name, layer, kept):
    hidden = layer.hidden_size
    values = {
        gate: host(a).reshape(len(a), -1, hidden)
        for gate, a in (*kept.gates.items(), ("h", kept.h))
    }
    saturates = layer.cell.kind == "lstm" or layer.nonlinearity == "tanh"
    histograms, ranges, low, high = {}, {}, {}, {}
    for gate, a in values.items():
        start, end = (0.0, 1.0) if gate in "ifo" else (-1.0, 1.0)
        if not saturates:
            start, end = float(a.min()), float(a.max())
        counts, edges = np.histogram(a, BINS, (start, end))
        histograms[gate], ranges[gate] = counts / a.size, (float(edges[0]), float(edges[-1]))
        if saturates:
            low[gate] = float((a < (LOW if gate in "ifo" else -HIGH)).mean())
            high[gate] = float((a > HIGH).mean())
    h = values["h"]
    moves = np.ptp(h, axis=(0, 1)) if h[..., 0].size > 1 else np.full(hidden, np.inf)
    pegged_by, memory, shut = h, None, []
    if layer.cell.kind == "lstm":
        pegged_by = np.tanh(host(kept.c).reshape(h.shape))
        with np.errstate(divide="ignore"):
            decay = np.abs(np.log(values["f"].astype(np.float64)).mean((0, 1)))  # never -0
            memory = 1 / decay
        closed = [(values[gate] < LOW).all((0, 1)) for gate in "io"]
        shut = np.flatnonzero(closed[0] | closed[1]).tolist()
    pegged = (pegged_by > HIGH).all((0, 1)) | (pegged_by < -HIGH).all((0, 1))
    pegged &= saturates
    return LayerGates(
        name=name,
        cell=layer.cell.kind,
        means={gate: a.mean(1, dtype=np.float64) for gate, a in values.items()},
        histograms=histograms,
        ranges=ranges,
        low=low,
        high=high,
        memory=memory,
        dead=np.flatnonzero(moves < STILL).tolist(),
        shut=shut,
        pegged=np.flatnonzero(pegged).tolist(),
    )


# -- who wrote this unit ----------------------------------------------------------------------------


@dataclass
class Write:
    """What one token wrote into a unit's cell, as much as is left of it at the end.

    Attributes
    ----------
    position : int
        Of the token in the text, from 0.
    token : str
    written : float
        i * g at that step.
    kept : float
        The product of the forget gates since.
    contribution : float
        written * kept. Those of all tokens add up to c: the state begins at zeros.
    """

    position: int
    token: str
    written: float
    kept: float
    contribution: float


def writers(model, text, unit, layer=None, k=5):
    """Tell which tokens of a text wrote what one unit of a language model holds at its end.

    Parameters
    ----------
    model : LanguageModel
        Of LSTM cells. It reads the text from a state of zeros; its own state is left alone.
    text : str, or ndarray (n,) of token ids
    unit : int
        0 to H-1.
    layer : int, optional
        0 to L-1 from the input up; by default the last.
    k : int
        How many, the largest contributions in absolute value first.

    Returns
    -------
    list of Write

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the cells are not LSTMs.
    """
    kernels = model.net._kernels
    if hasattr(text, "dtype"):
        shape = text.shape[:1] or (1,)
        ids = kernels.checked_tokens("text", text, len(model.vocabulary), shape)
        if not len(ids):
            raise ValueError("text must have at least 1 token, got 0")
    else:
        ids = kernels.arrays.asarray(model._encode("text", text, least=1))
    k = check_size("k", k)
    trace = run(model.net, ids[:, None])[2]
    stack = [
        (recurrent, one)
        for _, recurrent, kept in recurrent_layers(model.net, trace)
        for one in kept.layers
    ]
    layer = len(stack) - 1 if layer is None else layer
    for name, value, end in (("layer", layer, len(stack)), ("unit", unit, stack[0][0].hidden_size)):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, np.integer))
            or not 0 <= value < end
        ):
            raise ValueError(f"{name} must be an integer in [0, {end}), got {value!r}")
    recurrent, kept = stack[layer]
    if recurrent.cell.kind != "lstm":
        raise ValueError("model must be of LSTM cells: an RNN has no cell state to write to")
    i, f, g = (host(kept.gates[gate][:, 0, unit]).astype(np.float64) for gate in "ifg")
    written = i * g
    since = np.append(np.cumprod(f[:0:-1])[::-1], 1.0)  # of the steps after each one
    contributions = written * since
    order = np.argsort(-np.abs(contributions), kind="stable")[:k]
    tokens, ids = model.vocabulary.tokens, host(ids)
    return [
        Write(int(t), tokens[ids[t]], float(written[t]), float(since[t]), float(contributions[t]))
        for t in order
    ]
