"""Gates and memory: how far gates open, how long a unit keeps what it holds, and which tokens wrote it."""

import math
from dataclasses import dataclass, field

import numpy as np

from .._kernels.devices import host
from .._kernels.messages import shape_text
from ..layer import check_size
from ..passes import recurrent_layers, run
from .inputs import recurrent_network
from .plots import plot_gates, plot_histograms
from .reports import BEYOND, Report, count_of, layer_texts, number_text, plain

__all__ = ["GateReport", "LayerGates", "Write", "gate_statistics", "writers"]

STILL = 1e-3  # a unit whose h moves less than this is dead
BINS = 40


@dataclass(repr=False)
class LayerGates:
    """The gates of one layer of a stack over steps, rows and units.

    Attributes
    ----------
    name, cell : str
        As in a LayerFlow.
    means : dict of gate to ndarray (T, H)
        Over rows that have the step: "i", "f", "g" and "o" for an LSTM, and "h" for every cell.
    histograms : dict of gate to ndarray (40,)
        The share of all values in bins of equal width.
    ranges : dict of gate to (float, float)
        What the bins cover: the bounds of the gate, or all finite values of one without bounds. The h of a
        cell that carries it on may lie beyond its bounds, from an initial state that does.
    low, high : dict of gate to float
        The share below and above the limits of saturation: 0.1 and 0.9 for a sigmoid, -0.9 and 0.9 for a
        tanh, or what they are at the layer's ``clip``. What does not saturate has none.
    memory : ndarray (H,) or None
        Steps in which the product of a unit's forget gates falls to 1/e: 1 over the mean of -log f. Infinite
        where f is always 1. Of a cell without c, the gate that keeps h. None where no gate keeps a state.
    dead : list of int
        Units whose h, before it is projected, moves by less than 0.001 over all steps and rows, if there are
        several.
    shut : list of int
        Units cut off by a gate: nothing gets in, or nothing gets out. Of an LSTM an input or output gate
        stays below 0.1, of a GRU the update gate above 0.9.
    pegged : list of int
        Units whose tanh(c) (without c: h) stays saturated on one side.
    gates : dict of gate to Gate
        The records of the gates, and of h.
    beyond : dict of gate to float
        The share of values that are not finite. They are in no bin.
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
    gates: dict = field(default_factory=dict, compare=False)
    beyond: dict = field(default_factory=dict)

    def __repr__(self):
        units = ", ".join(f"{n}={getattr(self, n)!r}" for n in ("dead", "shut", "pegged"))
        return f"LayerGates({self.name!r}, {self.cell!r}, {', '.join(self.means)}, {units})"


@dataclass(repr=False)
class GateReport(Report):
    """What the gates of a network did on one input. Print it, ``plot`` it, or read its numbers."""

    steps: int
    batch: int
    layers: list

    def __str__(self):
        rows, texts = count_of(self.batch, "row"), layer_texts(one.name for one in self.layers)
        lines = [
            f"gates: how far each opens, and how often it is saturated ({self.steps} steps, {rows})"
        ]
        for layer in self.layers:
            count = len(next(iter(layer.means.values()))[0])
            lines.append(f"  {texts[layer.name]}: {count} units")
            for gate, mean in layer.means.items():
                with np.errstate(all="ignore"):
                    if not layer.beyond.get(gate):  # NaN: no row has the step
                        mean = mean[~np.isnan(mean).all(1)]
                    line = f"    {gate}: mean {number_text(mean.mean(), '6.3f')}"
                if gate in layer.low:
                    low, high = layer.gates[gate].limits
                    line += f", {layer.low[gate]:4.0%} below {low:g}"
                    line += f", {layer.high[gate]:4.0%} above {high:g}"
                if layer.beyond.get(gate):
                    line += f", {layer.beyond[gate]:.2g} of the values {BEYOND}"
                lines.append(line)
            if layer.memory is not None:
                quantiles = np.quantile(layer.memory, (0.1, 0.5, 0.9), method="nearest")
                steps = ", ".join("?" if math.isnan(q) else f"{q:.3g}" for q in quantiles)
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
        """Return all numbers as plain lists and floats, for JSON."""
        layers = [
            {
                "name": layer.name,
                "cell": layer.cell,
                "means": {gate: plain(a) for gate, a in layer.means.items()},
                "histograms": {gate: plain(a) for gate, a in layer.histograms.items()},
                "ranges": {gate: list(ends) for gate, ends in layer.ranges.items()},
                "beyond": layer.beyond,
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

    def plot(self, path=None):
        """Draw heat maps of the gates over time and unit: see ``Report``."""
        return plot_gates(self, path)

    def plot_histograms(self, path=None):
        """Draw the distribution of each gate, as ``plot`` does."""
        return plot_histograms(self, path)


def gate_statistics(net, x=None, state=None, *, trace=None, num_threads=None, lengths=None,
                    resets=None):  # fmt: skip
    """Describe the gates of every recurrent layer on one input.

    Parameters
    ----------
    net : recurrent layer, network or LanguageModel
    x : ndarray
        What the network takes.
    state : optional
    trace : Trace, instead of x, state, lengths and resets
        From the network's forward.
    num_threads : int, optional
    lengths, resets
        As for the network's forward. What lies beyond an end does not count.

    Returns
    -------
    GateReport

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, the trace is another network's, or the network has no recurrent layer.
    """
    net = recurrent_network(net)
    if trace is None:
        if x is None:
            raise ValueError("x must be given, or the trace of a forward call")
        trace = run(net, x, state, num_threads, lengths, resets)[2]
    elif any(one is not None for one in (x, state, lengths, resets)):
        raise ValueError(
            "trace holds what forward saw: x, state, lengths and resets must not be given"
        )
    net.check_trace(trace)
    layers = []
    for name, layer, layer_trace in recurrent_layers(net, trace):
        layer.check_trace(layer_trace)
        steps, batch = layer_trace.steps, layer_trace.batch
        if not steps or not batch:
            raise ValueError(
                f"x must have at least one step and one row, got {shape_text(layer_trace.x.shape)}"
            )
        if not layer_trace.sequences.rows.count:
            raise ValueError("lengths must leave at least one step, got zeros")
        for number, one in enumerate(layer_trace.layers):
            layers.append(_describe(f"{name}{layer.part_name(number)}", one))
    return GateReport(steps, batch, layers)


def _describe(name, trace):
    """Return the LayerGates of one layer of a stack."""
    with np.errstate(all="ignore"):  # the report says what is not finite
        return _statistics(name, trace)


def _statistics(name, trace):
    cell = trace.cell
    arrays = {name: host(a) for name, a in {**trace.gates, "h": trace.h}.items()}
    values = {gate: trace.real(a) for gate, a in arrays.items()}  # (n, H)
    gates = trace.gate_records
    histograms, ranges, low, high, beyond = {}, {}, {}, {}, {}
    for gate, a in values.items():
        bounds, limits = gates[gate].bounds, gates[gate].limits
        counts, ranges[gate], beyond[gate] = _histogram(a, bounds)
        histograms[gate] = counts / a.size
        if limits:
            low[gate], high[gate] = float((a < limits[0]).mean()), float((a > limits[1]).mean())
    h = values["h"]
    made = h if trace.m is None else trace.real(host(trace.m))  # by the units: h may be projected
    moves = np.ptp(made, axis=0) if len(made) > 1 else np.full(made.shape[1], np.inf)
    return LayerGates(
        name=name,
        cell=cell.kind,
        means={gate: _means(a, trace.sequences) for gate, a in arrays.items()},
        histograms=histograms,
        ranges=ranges,
        low=low,
        high=high,
        memory=_memory(values[cell.keeps]) if cell.keeps else None,
        dead=np.flatnonzero(moves < STILL).tolist(),
        shut=_shut(values, gates, cell.doors),
        pegged=_pegged(trace, h),
        gates=gates,
        beyond=beyond,
    )


def _means(array, of):
    """Return the mean over the rows that have each step, (T, H); NaN where none has."""
    rows = array.reshape(of.steps, of.batch, array.shape[-1])  # zeros beyond an end
    if of.lengths is None:
        return rows.mean(1, dtype=np.float64)
    counts = (np.arange(of.steps)[:, None] < of.lengths).sum(1)
    return rows.sum(1, dtype=np.float64) / counts[:, None]


def _histogram(values, bounds):
    """Return counts in bins within bounds (None: of all that is finite), the range, and what share is not."""
    finite = np.isfinite(values)
    beyond = float(1 - finite.mean())
    if beyond:
        values = values[finite]
    if bounds and values.size and not bounds[0] <= values.min() <= values.max() <= bounds[1]:
        bounds = min(bounds[0], float(values.min())), max(bounds[1], float(values.max()))
    if not bounds:
        bounds = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if (
            bounds[1] - bounds[0] > np.finfo(values.dtype).max
        ):  # a width that the type does not hold
            bounds, values = tuple(end / 4 for end in bounds), values / 4
            counts, edges = np.histogram(values, BINS, bounds)
            return counts, (4 * float(edges[0]), 4 * float(edges[-1])), beyond
    counts, edges = np.histogram(values, BINS, bounds)
    return counts, (float(edges[0]), float(edges[-1])), beyond


def _memory(forget):
    """Return the steps, by unit, in which the product of forget gates (n, H) falls to 1/e."""
    with np.errstate(divide="ignore"):
        decay = np.abs(np.log(forget.astype(np.float64)).mean(0))  # never -0
        return 1 / decay


def _shut(values, gates, doors):
    """Return the units that one of some gates, which stays shut or open, cuts off."""
    closed = []
    for name, side in doors:
        low, high = gates[name]._replace(clip=None).limits  # at its clip a gate is not shut
        beyond = values[name] < low if side == "shut" else values[name] > high
        closed.append(beyond.all(0))
    return np.flatnonzero(np.any(closed, axis=0)).tolist() if closed else []


def _pegged(trace, h):
    """Return the units whose h, or tanh(c), stays saturated on one side."""
    limits = trace.cell.h.limits
    if limits is None:
        return []
    state = np.tanh(trace.real(host(trace.c))) if trace.cell.has_c else h
    pegged = (state > limits[1]).all(0) | (state < limits[0]).all(0)
    return np.flatnonzero(pegged).tolist()


# -- which tokens wrote a unit ----------------------------------------------------------------------


@dataclass
class Write:
    """What one token wrote into the cell state of a unit, and how much of it is left at the end.

    Attributes
    ----------
    position : int
        The place of the token in the text, from 0.
    token : str
    written : float
        i * g at that step.
    kept : float
        The product of the forget gates after it.
    contribution : float
        written * kept. The contributions of all tokens add up to c, as the state starts at zeros.
    """

    position: int
    token: str
    written: float
    kept: float
    contribution: float


def writers(model, text, unit, layer=None, k=5):
    """Find the tokens of a text that wrote what one unit of a language model holds at its end.

    Parameters
    ----------
    model : LanguageModel
        Its cells must have a cell state, as those of an LSTM. It reads the text from a state of zeros;
        its own state does not change.
    text : str, or ndarray (n,) of token ids
    unit : int
        0 to H-1.
    layer : int, optional
        0 to L-1 from the input up; by default the last.
    k : int
        How many to return, the largest contributions in absolute value first.

    Returns
    -------
    list of Write

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the cells have no cell state.
    """
    ids = _token_ids(model, text)
    k = check_size("k", k)
    trace = run(model.net, ids[:, None])[2]
    stack = [one for _, _, part in recurrent_layers(model.net, trace) for one in part.layers]
    layer = len(stack) - 1 if layer is None else layer
    for name, value, end in (("layer", layer, len(stack)), ("unit", unit, stack[0].h.shape[-1])):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, np.integer))
            or not 0 <= value < end
        ):
            raise ValueError(f"{name} must be an integer in [0, {end}), got {value!r}")
    trace = stack[layer]
    if not trace.cell.writes:
        raise ValueError(
            f"model must have a cell state to write to, as an LSTM has: its cell is {trace.cell.name!r}"
        )
    gates = {name: host(a[:, 0, unit]).astype(np.float64) for name, a in trace.gates.items()}
    written = math.prod(gates[name] for name in trace.cell.writes)
    forget = gates[trace.cell.keeps]
    share = np.append(
        np.cumprod(forget[:0:-1])[::-1], 1.0
    )  # left of each step's after all later ones
    contributions = written * share
    order = np.argsort(-np.abs(contributions), kind="stable")[:k]
    tokens, ids = model.vocabulary.tokens, host(ids)
    return [
        Write(int(t), tokens[ids[t]], float(written[t]), float(share[t]), float(contributions[t]))
        for t in order
    ]


def _token_ids(model, text):
    """Return a text, or checked token ids, as ids where the model's network is; refuse an empty one."""
    kernels = model.net.kernels
    if hasattr(text, "dtype"):
        shape = text.shape[:1] or (1,)
        ids = kernels.checked_tokens("text", text, len(model.vocabulary), shape)
    else:
        ids = kernels.arrays.asarray(model.vocabulary.encode(text))
    if not len(ids):
        raise ValueError("text must have at least 1 token, got 0")
    return ids
