"""Where in time the gradient lives: what arrives at every state, from where, and how far back it reaches.

Nothing is computed here that backward does not compute: it hands out the gradients at the states of every
step, and these are their norms. The network is left as it was, to the bit: parameters, gradients, states
and random states. Its neighbours: jacobians.py, gates.py, gradient_check.py and watch.py.
"""

import math
from dataclasses import dataclass

import numpy as np

from .._kernels import host
from .passes import network_of, recurrent_layers, run_back, seeded

__all__ = ["GradientFlow", "LayerFlow", "Reach", "gradient_flow"]

VANISHED, EXPLODED = 1e-2, 1e2  # what is left of the gradient one step back, at the farthest state
STEADY = 0.5  # R squared from which on a rate is one
NORMS = ("dh", "dh_above", "dh_later", "dc", "dc_through_h", "dc_later")


# -- the report -------------------------------------------------------------------------------------


@dataclass
class Reach:
    """How far back the gradient of the loss at some steps reaches.

    Attributes
    ----------
    norms : ndarray (K+1,)
        ``norms[k]``: the norm of the gradient with respect to the state (h, and c beside it) k steps before;
        of several steps, the root of the mean square of theirs, each relative to its own one step back. The
        last is at the initial state.
    rate : float
        Mean change of its logarithm a step, by least squares over k >= 1; NaN with fewer than three points.
    fit : float
        R squared of that line: 1 where the gradient changes by one factor a step.
    """

    norms: np.ndarray
    rate: float
    fit: float

    @property
    def half_life(self):
        """Steps after which half of the gradient is left; infinite where it does not shrink."""
        return (
            -math.log(2) / self.rate if self.rate < 0 else math.inf if self.rate >= 0 else math.nan
        )

    @property
    def kept(self):
        """What is left at the initial state, as a share of what there is one step back."""
        with np.errstate(all="ignore"):
            return float(self.norms[-1] / self._first) if self._first else math.nan

    @property
    def _first(self):
        """The norm one step back; where it is zero or not finite there, at the step itself."""
        one = self.norms[1]
        return one if one and math.isfinite(one) else self.norms[0]

    @property
    def verdict(self):
        """Tell "vanishing", "exploding", "healthy", or "none" where no gradient arrives at all."""
        if not np.isfinite(self.norms).all() or self.kept > EXPLODED:
            return "exploding"
        if not self.norms.any():
            return "none"
        return "vanishing" if not self.kept >= VANISHED else "healthy"

    @property
    def turn(self):
        """Steps back from where on the gradient stays beyond the limit of its verdict; None if healthy."""
        first, verdict = self._first, self.verdict
        if verdict == "vanishing":
            beyond = ~(self.norms >= VANISHED * first)
        elif verdict == "exploding":
            beyond = ~(self.norms <= EXPLODED * first)
        else:
            return None
        within = np.flatnonzero(~beyond)
        return int(within[-1]) + 1 if len(within) else 0


@dataclass
class LayerFlow:
    """The gradient at one layer of a stack: norms over rows and units, an entry a step.

    Attributes
    ----------
    name : str
        As its weights are named: "1.l0" is the first of the stack that is layer 1 of a Sequential.
    cell : str
        "lstm" or "rnn".
    dh : ndarray (T,)
        Of the gradient of the loss with respect to h after each step: dh_above + dh_later.
    dh_above, dh_later : ndarray (T,)
        What arrives from the layer above (or the loss) at that step, and from the step after in this layer.
    dc, dc_through_h, dc_later : ndarray (T,) or None
        Likewise of c: all of it, what comes through h of the same step, and through c of the step after.
        None for an RNN.
    dx : ndarray (T,)
        Of the gradient with respect to the layer's input at each step.
    weights : dict of name to ndarray (T,)
        What each step adds to the gradient of weight_ih, weight_hh and bias.
    reach : Reach
        How far back the loss of the chosen steps alone reaches.
    gradients : recurrent.StateGradients or None
        The arrays themselves, where they were asked for.
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


@dataclass
class GradientFlow:
    """Where in time the gradient lives, by layer. Print it, ``plot`` it, or read its numbers.

    Attributes
    ----------
    loss : float or None
        Of all steps; None where a gradient was given instead.
    steps, batch : int
    at : list of int
        The steps whose loss alone is followed back, for half-lives and the verdict.
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
        """Tell the worst of the layers' verdicts: exploding, vanishing, healthy, or none."""
        found = {layer.reach.verdict for layer in self.layers}
        return next(v for v in ("exploding", "vanishing", "healthy", "none") if v in found)

    def sentence(self, layer):
        """Write a layer's verdict in words, with the numbers behind it."""
        reach = layer.reach
        back = len(reach.norms) - 1
        if reach.verdict == "none":
            return f"{layer.name}: no gradient of {self.asked} arrives"
        if not math.isfinite(reach.kept):
            size = "the gradient is beyond all numbers"
        elif reach.kept > 1:
            size = f"the gradient is {reach.kept:.2g} times as large"
        else:
            size = f"{reach.kept:.2g} of the gradient is left"
        text = f"{layer.name}: {reach.verdict}, {size} {back} steps back"
        if reach.turn is not None:
            limit = "below 1 %" if reach.verdict == "vanishing" else "above 100 times"
            text += f" ({limit} from {reach.turn} steps back on"
            text += f", state {self.at[0] + 1 - reach.turn})" if len(self.at) == 1 else ")"
        if abs(reach.rate) * back < 0.01:
            text += "; it neither shrinks nor grows"
        elif reach.fit < STEADY:
            text += f"; no steady rate (R2 {reach.fit:.2f})"
        elif math.isfinite(reach.rate):
            change = "halves" if reach.rate < 0 else "doubles"
            every = math.log(2) / abs(reach.rate) if reach.rate else math.inf
            text += f"; it {change} every {every:.3g} steps (R2 {reach.fit:.2f})"
        return text

    @property
    def asked(self):
        """Name the steps whose loss alone is followed back."""
        if len(self.at) > 4:
            return f"the loss at {len(self.at)} steps"
        steps = ", ".join(str(s) for s in self.at)
        return f"the loss at step{'s' * (len(self.at) > 1)} {steps}"

    def __str__(self):
        loss = "" if self.loss is None else f", loss {self.loss:.4g}"
        rows = count_of(self.batch, "row")
        lines = [f"gradient flow over {self.steps} steps, {rows}{loss}: {self.verdict}"]
        lines += ["  " + self.sentence(layer) for layer in self.layers]
        most = max(len(layer.reach.norms) for layer in self.layers)
        shown = [0] + [2**i for i in range(64) if 2**i < most - 1] + [most - 1]
        names = [layer.name for layer in self.layers]
        lines.append(f"  norm of the gradient of {self.asked}, at the state so many steps before:")
        lines.append("    steps  " + "  ".join(f"{name:>9}" for name in names))
        for k in dict.fromkeys(shown):
            lines.append(
                f"    {k:5}  " + "  ".join(f"{layer.reach.norms[k]:>9.2e}" for layer in self.layers)
            )
        return "\n".join(lines)

    def to_dict(self):
        """Give all numbers as plain lists and floats, as JSON can hold them."""
        layers = []
        for layer in self.layers:
            reach = layer.reach
            numbers = {name: plain(getattr(layer, name)) for name in (*NORMS, "dx")}
            weights = {name: plain(norms) for name, norms in layer.weights.items()}
            found = {
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
                    "reach": found,
                }
            )
        return {
            "loss": self.loss,
            "steps": self.steps,
            "batch": self.batch,
            "at": list(self.at),
            "verdict": self.verdict,
            "layers": layers,
        }

    def plot(self, path):
        """Draw it into a PNG file: how far back the loss reaches, and the total over time."""
        from .plots import plot_flow

        plot_flow(path, self)


def count_of(n, what):
    """Write a number of things: 1 row, 2 rows."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def plain(value):
    """Give arrays as lists and numbers that are not finite as None, as JSON has them."""
    if value is None:
        return None
    if np.ndim(value):
        return [plain(v) for v in value]
    value = float(value)
    return value if math.isfinite(value) else None


# -- making it --------------------------------------------------------------------------------------


def gradient_flow(net, x=None, targets=None, state=None, *, trace=None, dy=None, at=None,
                  weights=True, arrays=False, num_threads=None):  # fmt: skip
    """Follow the gradient of a loss back through time, by layer.

    Parameters
    ----------
    net : LSTM, RNN, Sequential or LanguageModel
        Run as in inference: nothing is dropped.
    x : ndarray
        What the network takes, a sequence (T, B, ...) or, unbatched, (T, ...).
    targets : ndarray or callable, optional
        Integers: classes, for the softmax cross-entropy. Floats: for the squared error. A function: from
        y to (loss, dy). Without, and without `dy`, a random gradient is followed.
    state : optional
        The initial state.
    trace : Trace, instead of x, targets and state
        Of the network's forward; with it `dy`, the gradient at its output. Nothing is run forward again.
    dy : ndarray, in the shape of the output
        The gradient of the loss with respect to the output, instead of `targets`.
    at : int or list of int, optional
        Steps s (0 to T-1, negative from the end) whose loss alone is followed back, for how far it
        reaches; by default the last. The gradient of a loss at every step does not shrink even where the
        network forgets: that total is shown, not judged.
    weights : bool
        Tell too what each step adds to the weights' gradients.
    arrays : bool
        Keep the gradients themselves, not only their norms.
    num_threads : int, optional

    Returns
    -------
    GradientFlow

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the trace is another network's; the loss is not finite; the network has no
        recurrent layer.

    Notes
    -----
    The norm of what step t adds to a weight's gradient is found without that matrix: of dW_t = dG' X it is
    the root of the sum of (dG dG') * (X X') over pairs of rows, in float64. A gradient is vanishing where
    the farthest state gets less than 1 % of what one step back gets (Hochreiter 1991; Bengio et al. 1994),
    exploding where it gets more than 100 times as much (Pascanu et al. 2013).
    """
    net = network_of(net)
    loss, dy, trace = seeded(net, x, targets, state, trace, dy, num_threads)
    with np.errstate(all="ignore"):  # what overflows is told in the report
        return _follow(net, loss, dy, trace, at, weights, arrays, num_threads)


def _follow(net, loss, dy, trace, at, weights, arrays, num_threads):
    found = list(recurrent_layers(net, trace))
    steps, batch = found[0][2].x.shape[:2]
    chosen = _chosen_steps(at, steps)
    total = run_back(net, dy, trace, num_threads)
    alone = []
    for s in chosen:
        only, where = np.zeros_like(dy), at_step(found[-1], s)
        only[where] = dy[where]
        alone.append(run_back(net, only, trace, num_threads))
    layers = []
    for i, (name, layer, kept) in enumerate(found):
        for number, gradients in enumerate(total[i].stack):
            reach = reach_of([(s, one[i], number) for s, one in zip(chosen, alone)])
            layers.append(
                _layer_flow(
                    f"{name}l{number}", layer, kept, number, gradients, reach, weights, arrays
                )
            )
    return GradientFlow(loss, steps, batch, chosen, layers)


def at_step(top, s):
    """Give the index of step s in the output of a network whose highest recurrent layer is `top`."""
    _, layer, kept = top
    return (slice(None),) * (layer.batch_first and not kept.unbatched) + (s,)


def _chosen_steps(at, steps):
    if not steps:
        raise ValueError("x must have at least one step, got none")
    chosen = [steps - 1] if at is None else list(at) if np.ndim(at) else [at]
    if not chosen:
        raise ValueError("at must name at least one step, got none")
    for s in chosen:
        if isinstance(s, bool) or not isinstance(s, (int, np.integer)) or not -steps <= s < steps:
            raise ValueError(
                f"at must be steps in [0, {steps}), or negative from the end, got {at!r}"
            )
    return list(dict.fromkeys(int(s) % steps for s in chosen))


def norms_over_time(*arrays):
    """Give the norm over all but the first axis, of several arrays together, in float64, on the host."""
    squares = sum(
        np.square(a, dtype=np.float64).reshape(len(a), -1).sum(1) for a in arrays if a is not None
    )
    return host(np.sqrt(squares))


def reach_of(runs):
    """Gather the norms by distance. runs: (step, Record, number in the stack) of each loss alone.

    Of several losses each counts relative to its own gradient one step back: a large one that ends sooner
    leaves no cliff behind.
    """
    found = []
    for s, record, number in runs:
        g = record.stack[number]
        now = norms_over_time(g.dh[: s + 1], None if g.dc_later is None else g.dc_later[: s + 1])
        parts = record.dstate if isinstance(record.dstate, tuple) else (record.dstate,)
        first = norms_over_time(*(part[number][None] for part in parts))
        found.append(np.concatenate([now[::-1], first]))
    norms = found[0]
    if len(found) > 1:
        found = [one for one in found if one[1]] or found[:1]
        size = math.sqrt(np.mean([one[1] ** 2 for one in found])) or 1.0
        squares, counts = np.zeros(max(map(len, found))), np.zeros(max(map(len, found)))
        for one in found:
            squares[: len(one)] += (one / (one[1] or 1.0)) ** 2
            counts[: len(one)] += 1
        norms = size * np.sqrt(squares / counts)
    return Reach(norms, *_fit(norms))


def _fit(norms):
    """Fit a line to the logarithm over k >= 1: slope and R squared. Zeros, which have none, are left out."""
    k = np.arange(len(norms))
    usable = (k >= 1) & np.isfinite(norms) & (norms > 0)
    if usable.sum() < 3:
        return math.nan, math.nan
    k, y = k[usable].astype(float), np.log(norms[usable])
    k, y = k - k.mean(), y - y.mean()
    slope = (k @ y) / (k @ k)
    spread = y @ y
    left = y - slope * k
    # A line that is flat but for rounding explains all there is to explain.
    fit = 1.0 if spread <= 1e-20 * len(y) else 1 - (left @ left) / spread
    return float(slope), float(fit)


def _layer_flow(name, layer, trace, number, g, reach, weights, arrays):
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
    added = {}
    if weights:
        below = trace.layers[number - 1].all_h[1:] if number else trace.x
        added["weight_ih"] = contribution_norms(g.dgates, below)
        added["weight_hh"] = contribution_norms(g.dgates, trace.layers[number].all_h[:-1])
        if layer.bias:
            added["bias"] = norms_over_time(g.dgates.sum(1, dtype=np.float64))
    norms = {part: None if a is None else norms_over_time(a) for part, a in parts.items()}
    return LayerFlow(
        name, layer.cell.kind, **norms, weights=added, reach=reach, gradients=g if arrays else None
    )


def contribution_norms(dgates, x):
    """Give the norm, step by step, of what it adds to a weight's gradient.

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
        squares = ((g @ g.swapaxes(1, 2)) * (v @ v.swapaxes(1, 2))).sum((1, 2))
        out[t : t + at_once] = host(np.sqrt(np.maximum(squares, 0)))
    return out
