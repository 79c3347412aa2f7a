"""Where in time the gradient lives: what arrives at every state, from where, and how far back it reaches.

Nothing is computed here that backward does not compute: it records the gradients at the states of every
step, and these are their norms. The network does not change by a bit: neither its parameters and gradients
nor its states and random generators.
"""

import math
from dataclasses import dataclass

import numpy as np

from .._kernels.devices import host
from ..passes import recurrent_layers, run_back
from .inputs import loss_and_trace, recurrent_network
from .plots import plot_flow
from .reach import Reach, ends_of, exponents_of, norms_over_time, only_at, reach_of
from .reports import BEYOND, Report, count_of, layer_texts, plain

__all__ = ["GradientFlow", "LayerFlow", "gradient_flow"]

HEADLINES = {
    "vanishing": "gradients vanish",
    "exploding": "gradients explode",
    "healthy": "gradients survive",
    "none": "no gradient arrives",
}
NORMS = ("dh", "dh_above", "dh_later", "dc", "dc_through_h", "dc_later")


# -- the report -------------------------------------------------------------------------------------


@dataclass(repr=False)
class LayerFlow:
    """The gradient at one layer of a stack: norms over rows and units, one entry per step.

    Attributes
    ----------
    name : str
        As its weights are named: "1.l0" is the first of the stack that is layer 1 of a network,
        "1.l0_reverse" its reverse direction. Text and picture count the layers of all stacks from the
        input up instead: "layer 0", "layer 0, reverse".
    cell : str
        The kind of its cell, such as "lstm".
    dh : ndarray (T,)
        The gradient of the loss with respect to h after each step: dh_above + dh_later.
    dh_above, dh_later : ndarray (T,)
        What arrives from the layer above (or the loss) at that step, and from the next step in this layer.
    dc, dc_through_h, dc_later : ndarray (T,) or None
        Likewise of c: all of it, what arrives through h of the same step, and through c of the next step.
        None where the cell has no c.
    dx : ndarray (T,)
        The gradient with respect to the layer's input at each step.
    weights : dict of name to ndarray (T,)
        What each step adds to the gradients of weight_ih, weight_hh and bias.
    reach : Reach
        How far back the loss of the chosen steps alone reaches.
    gradients : StateGradients or None
        The arrays themselves, if they were asked for.
    """

    name: str
    cell: str
    dh: np.ndarray
    dh_above: np.ndarray
    dh_later: np.ndarray
    dc: np.ndarray | None
    dc_through_h: np.ndarray | None
    dc_later: np.ndarray | None
    dx: np.ndarray
    weights: dict
    reach: Reach
    gradients: object = None

    def __repr__(self):
        return (
            f"LayerFlow({self.name!r}, {self.cell!r}, steps={len(self.dh)}, reach={self.reach!r})"
        )


@dataclass(repr=False)
class GradientFlow(Report):
    """Where in time the gradient lives, by layer. Print it, ``plot`` it, or read its numbers.

    Attributes
    ----------
    loss : float or None
        The loss of all steps; None if a gradient was passed instead.
    steps, batch : int
    at : list of int
        The steps whose loss alone is followed back, for half-lives and the verdict. With lengths, negative
        ones count from each row's own end.
    layers : list of LayerFlow
        From the input up.
    """

    loss: float | None
    steps: int
    batch: int
    at: list
    layers: list

    @property
    def verdict(self):
        """The worst of the layers' verdicts: "exploding", "vanishing", "healthy" or "none"."""
        verdicts = {layer.reach.verdict for layer in self.layers}
        return next(v for v in ("exploding", "vanishing", "healthy", "none") if v in verdicts)

    def sentence(self, layer):
        """Return a layer's verdict in words, with the numbers behind it."""
        reach, name = layer.reach, layer_texts(one.name for one in self.layers)[layer.name]
        back = len(reach.norms) - 1
        if reach.verdict == "none":
            return f"{name}: no gradient of {self.asked} arrives"
        if not math.isfinite(reach.kept):
            size = f"the gradient is {BEYOND}"
        elif reach.kept > 1:
            size = f"the gradient is {reach.kept:.2g} times as large"
        else:
            size = f"{reach.kept:.2g} of the gradient is left"
        text = f"{name}: {reach.verdict}, {size} {count_of(back, 'step')} back"
        if reach.turn is not None:
            limit = "below 1 %" if reach.verdict == "vanishing" else "above 100 times"
            text += f" ({limit} from {reach.turn} steps back on"
            is_one = len(self.at) == 1 and self.at[0] >= 0
            text += f", state {self.at[0] + 1 - reach.turn})" if is_one else ")"
        if abs(reach.rate) * back < 0.01:
            text += "; it neither shrinks nor grows"
        elif reach.is_steady:
            change = "halves" if reach.rate < 0 else "doubles"
            every = math.log(2) / abs(reach.rate) if reach.rate else math.inf
            text += f"; it {change} every {every:.3g} steps (R2 {reach.fit:.2f})"
        elif math.isfinite(reach.rate):
            text += f"; no steady rate (R2 {reach.fit:.2f})"
        return text

    def _headline(self):
        """Return the verdict with how far back it begins: "gradients vanish from 9 steps back on"."""
        text = HEADLINES[self.verdict]
        turns = [one.reach.turn for one in self.layers if one.reach.verdict == self.verdict]
        return text if turns[0] is None else f"{text} from {min(turns)} steps back on"

    @property
    def asked(self):
        """The steps whose loss alone is followed back, in words."""
        if len(self.at) > 4:
            return f"the loss at {len(self.at)} steps"
        if self.at == [-1]:
            return "the loss at the last step of each row"
        steps = ", ".join(str(s) for s in self.at)
        return f"the loss at step{'s' * (len(self.at) > 1)} {steps}"

    def __str__(self):
        loss = "" if self.loss is None else f", loss {self.loss:.4g}"
        rows = count_of(self.batch, "row")
        lines = [
            f"{self._headline()}: {self.asked}, followed back ({self.steps} steps, {rows}{loss})"
        ]
        lines += ["  " + self.sentence(layer) for layer in self.layers]
        most = max(len(layer.reach.norms) for layer in self.layers)
        shown = [0] + [4**i for i in range(32) if 4**i < most - 1] + [most - 1]
        names = layer_texts(layer.name for layer in self.layers).values()
        widths = [max(9, len(name)) for name in names]
        lines.append(f"  norm of the gradient of {self.asked}, at the state so many steps before:")
        lines.append("    steps  " + "  ".join(f"{name:>{n}}" for name, n in zip(names, widths)))
        curves = [layer.reach.norms for layer in self.layers]  # directions go back differently far
        for k in dict.fromkeys(shown):
            numbers = (
                f"{format(norms[k], '.2e') if k < len(norms) else '-':>{width}}"
                for norms, width in zip(curves, widths)
            )
            lines.append(f"    {k:5}  " + "  ".join(numbers).rstrip())
        return "\n".join(lines)

    def to_dict(self):
        """Return all numbers as plain lists and floats, for JSON."""
        layers = []
        for layer in self.layers:
            reach = layer.reach
            numbers = {name: plain(getattr(layer, name)) for name in (*NORMS, "dx")}
            weights = {name: plain(norms) for name, norms in layer.weights.items()}
            numbers_of_reach = {
                "norms": plain(reach.norms),
                "rate": plain(reach.rate),
                "fit": plain(reach.fit),
                "half_life": plain(reach.half_life),
                "kept": plain(reach.kept),
                "verdict": reach.verdict,
                "turn": reach.turn,
            }
            layers.append(
                {
                    "name": layer.name,
                    "cell": layer.cell,
                    **numbers,
                    "weights": weights,
                    "reach": numbers_of_reach,
                }
            )
        return {
            "loss": plain(self.loss),
            "steps": self.steps,
            "batch": self.batch,
            "at": list(self.at),
            "verdict": self.verdict,
            "layers": layers,
        }

    def plot(self, path=None):
        """Draw how far back the loss reaches, and the total over time: see ``Report``."""
        return plot_flow(self, path)


# -- making it --------------------------------------------------------------------------------------


def gradient_flow(net, x=None, targets=None, state=None, *, lengths=None, resets=None, trace=None,
                  dy=None, at=None, weights=True, arrays=False, num_threads=None):  # fmt: skip
    """Follow the gradient of a loss back through time, by layer.

    Parameters
    ----------
    net : recurrent layer, network or LanguageModel
        It runs as in inference: nothing is dropped.
    x : ndarray
        What the network takes, a sequence (T, B, ...) or, unbatched, (T, ...).
    targets : ndarray or callable, optional
        Integers are classes, for the softmax cross-entropy; floats are for the squared error; a function maps
        y to (loss, dy). Without targets and without `dy`, a random gradient is followed.
    state : optional
        The initial state.
    lengths, resets : optional
        As for the network's forward.
    trace : Trace, instead of x, targets, state, lengths and resets
        From the network's forward, beside `dy`. The network is not run forward again.
    dy : ndarray, in the shape of the output
        The gradient of the loss with respect to the output, instead of `targets`.
    at : int or list of int, optional
        Steps s (0 to T-1, negative from the end, with lengths from each row's own) whose loss alone is
        followed back, to see how far it reaches; by default the last. The gradient of a loss at every step
        does not shrink even where the network forgets: that total is shown, not judged. Of a network with a
        Last, whose loss is at the last step of each row, all of it is followed, and no other step can be
        asked for.
    weights : bool
        Also report what each step adds to the weights' gradients.
    arrays : bool
        Also return the gradients themselves, not only their norms.
    num_threads : int, optional

    Returns
    -------
    GradientFlow

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, the trace is another network's, the loss is not finite, or the network has
        no recurrent layer.

    Notes
    -----
    The norm of what step t adds to a weight's gradient is computed without that matrix: of dW_t = dG' X it is
    the root of the sum of (dG dG') * (X X') over pairs of rows, in float64. A gradient is vanishing where
    the farthest state gets less than 1 % of what one step back gets (Hochreiter 1991; Bengio et al. 1994),
    exploding where it gets more than 100 times as much (Pascanu et al. 2013).
    """
    net = recurrent_network(net)
    times = {"lengths": lengths, "resets": resets}
    loss, dy, trace = loss_and_trace(net, x, targets, state, trace, dy, num_threads, **times)
    with np.errstate(all="ignore"):  # the report says what overflows
        return _follow(net, loss, dy, trace, at, weights, arrays, num_threads)


def _follow(net, loss, dy, trace, at, weights, arrays, num_threads):
    recurrent = list(recurrent_layers(net, trace))
    steps, batch = recurrent[0][2].steps, recurrent[0][2].batch
    lengths = getattr(trace, "lengths", None)
    chosen = _chosen_steps(at, steps, lengths, net.keeps_time)
    ends = [ends_of(s, steps, lengths) for s in chosen]
    total = run_back(net, dy, trace, num_threads)
    alone = []
    for end in ends:
        only = only_at(net, recurrent[-1][2].unbatched, dy, end)
        alone.append(run_back(net, only, trace, num_threads))
    layers = []
    for i, (name, layer, layer_trace) in enumerate(recurrent):
        for number, gradients in enumerate(total[i].stack):
            runs = [(end, records[i], number) for end, records in zip(ends, alone)]
            reach = reach_of(runs, net.keeps_time)
            added = _added(layer, layer_trace, number, gradients) if weights else {}
            layers.append(
                LayerFlow(
                    f"{name}{layer.part_name(number)}", layer.cell.kind, **_norms(gradients), weights=added,
                    reach=reach, gradients=gradients if arrays else None,
                )
            )  # fmt: skip
    return GradientFlow(loss, steps, batch, chosen, layers)


def _chosen_steps(at, steps, lengths, keeps_time):
    if not steps:
        raise ValueError("x must have at least one step, got none")
    if lengths is not None and not np.any(lengths):
        raise ValueError("lengths must leave at least one step, got zeros")
    chosen = [-1] if at is None else list(at) if np.ndim(at) else [at]
    if not chosen:
        raise ValueError("at must name at least one step, got none")
    for s in chosen:
        if isinstance(s, bool) or not isinstance(s, (int, np.integer)) or not -steps <= s < steps:
            raise ValueError(
                f"at must be steps in [0, {steps}), or negative from the end, got {at!r}"
            )
        if not keeps_time and s != -1 and (lengths is not None or s != steps - 1):
            raise ValueError(
                f"at must be -1 after a Last, as the loss is at each row's last step, got {at!r}"
            )
        if lengths is not None and not ends_of(s, steps, lengths).any():
            raise ValueError(f"at must be steps that a row has, got {at!r}")
    return list(dict.fromkeys(int(s) if lengths is not None else int(s) % steps for s in chosen))


def _norms(g):
    """Return the norms, step by step, of the StateGradients of one layer, by the names of a LayerFlow."""
    through = g.dc_through_h
    parts = {
        "dh": g.dh,
        "dh_above": g.dh_above,
        "dh_later": g.dh_later,
        "dc": None if through is None else through + g.dc_later,
        "dc_through_h": through,
        "dc_later": g.dc_later,
        "dx": g.dx,
    }
    return {name: None if a is None else norms_over_time(a) for name, a in parts.items()}


def _added(layer, trace, number, g):
    """Return the norms, step by step, of what is added to the gradients of one layer's weights, by name."""
    below, of_h = trace.input_of(number // layer.num_directions), g.dgates_of_h
    by_operand = [
        contribution_norms(of_h[..., columns], operand)
        for columns, operand in trace.layers[number].operands()
    ]
    added = {
        "weight_ih": contribution_norms(g.dgates, below),
        "weight_hh": np.hypot.reduce(by_operand),
    }
    if layer.bias:
        parts = [g.dgates.sum(1, dtype=np.float64)]
        if own := layer.cell.own_biases * layer.hidden_size:  # of R's part of the last gates
            parts.append(of_h[..., -own:].sum(1, dtype=np.float64))
        added["bias"] = norms_over_time(layer.kernels.arrays.concatenate(parts, axis=-1))
    of_layer, hidden = trace.layers[number], layer.hidden_size
    if of_layer.all_m is not None:
        added["weight_hr"] = contribution_norms(g.dh, of_layer.on_grid(of_layer.all_m))
    if layer.cell.peepholes:
        before, after = (
            of_layer.on_grid(read(of_layer.all_c)).astype(np.float64)
            for read in (of_layer.rows_before, of_layer.states)
        )
        seen = [
            g.dgates[..., layer.cell.rows(name, hidden)] * (after if name == "o" else before)
            for name in layer.cell.peepholes
        ]
        added["peephole"] = norms_over_time(np.concatenate(seen, axis=-1).sum(1))
    return added


def contribution_norms(dgates, x):
    """Return the norm, step by step, of what is added to a weight's gradient.

    Parameters
    ----------
    dgates : ndarray (T, B, G*H)
    x : ndarray (T, B, I)

    Returns
    -------
    ndarray (T,) of float64
    """
    out = np.empty(len(x))
    at_once = max(1, 2**20 // max(1, dgates[0].size + x[0].size + len(x[0]) ** 2))
    for t in range(0, len(x), at_once):
        g, v = (a[t : t + at_once].astype(np.float64) for a in (dgates, x))
        norms = host(_product_norms(g, v))
        if x.dtype == np.float64:  # squares of float32 do not leave the range of float64
            odd = ~((norms > 1e-140) & (norms < math.inf))
            g, v = (host(a)[odd] for a in (g, v))
            exponents = [exponents_of(a) for a in (g, v)]
            g, v = (np.ldexp(a, -e[:, None, None]) for a, e in zip((g, v), exponents))
            norms[odd] = np.ldexp(_product_norms(g, v), sum(exponents))
        out[t : t + at_once] = norms
    return out


def _product_norms(g, v):
    """Return the norm of each g' v, of g (T, B, G*H) and v (T, B, I), without these matrices."""
    squares = ((g @ g.swapaxes(1, 2)) * (v @ v.swapaxes(1, 2))).sum((1, 2))
    return np.sqrt(np.maximum(squares, 0))
