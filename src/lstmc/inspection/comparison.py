"""Why there are LSTMs and GRUs: they learn what needs a long memory, and a tanh RNN of their size does not.

The problems are in problems.py, the networks in contestants.py.
"""

import math
import time
from dataclasses import dataclass, field

import numpy as np

from ..layer import check_size
from ..optim import Adam, clip_grad_norm
from ..passes import recurrent_layers
from .contestants import CONTESTANTS, PAIR, check_kinds, equal_networks, is_finite
from .flow import gradient_flow
from .inputs import recurrent_network
from .plots import plot_comparisons
from .problems import Problem, check_problem
from .reports import Report, plain

__all__ = ["Comparison", "Learning", "compare", "learn"]


# -- learning ---------------------------------------------------------------------------------------


@dataclass(repr=False)
class Learning(Report):
    """How a network learned a problem.

    Attributes
    ----------
    problem : Problem
    cell : str
        The kind of its cells, such as "lstm".
    hidden, parameters : int
    lr : float
    updates : list of int
        After which updates it was evaluated.
    losses : list of float
        Mean loss of the updates since the last evaluation.
    scores : list of float
        On sequences drawn for this evaluation, as ``problem.measure`` says.
    solved_at : int or None
        Updates after which the score met the criterion.
    stopped : str
        What ended it: "solved", "updates" or "seconds".
    skipped : int
        Updates left out because the gradient was not finite.
    seconds : float
        Wall-clock time, evaluations included.
    """

    problem: Problem
    cell: str
    hidden: int
    parameters: int
    lr: float
    updates: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    scores: list = field(default_factory=list)
    solved_at: int | None = None
    stopped: str = "updates"
    skipped: int = 0
    seconds: float = 0.0

    def __str__(self):
        text = f"{self.cell.upper():<4} of {self.hidden} units, {self.parameters} parameters: "
        if self.solved_at is not None:
            text += f"learned after {self.solved_at} updates"
        else:
            text += f"not learned in {self.updates[-1]} updates"
        text += f", {self.seconds:.1f} s"
        if self.stopped == "seconds":
            text += " (no more time)"
        text += f"; {self.problem.measure} at last {_score_text(self.problem, self.scores[-1])}"
        if self.skipped:
            text += f"; {self.skipped} updates skipped, their gradient was not finite"
        return text

    def to_dict(self):
        """Return all of it as plain numbers, lists and strings, for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["problem"] = {n: getattr(self.problem, n) for n in Problem.__dataclass_fields__}
        return fields | {"losses": plain(self.losses), "scores": plain(self.scores)}


def _score_text(problem, score):
    return f"{score:.3g}" if problem.name == "adding" else f"{100 * score:.1f} %"


def learn(net, problem, updates=5000, *, lr=None, batch=50, clip=1.0, every=100, rows=1000, seed=0,
          seconds=None, num_threads=1):  # fmt: skip
    """Train on new batches until the criterion is met on new sequences, or updates or time run out.

    Parameters
    ----------
    net : Sequential
        With one recurrent layer, as from ``equal_networks``; its weights change.
    problem : Problem
    updates : int
        At most so many.
    lr : float, optional
        The learning rate of Adam; by default 0.01 for an LSTM or GRU and 0.0003 for an RNN.
    batch : int
        Sequences per update.
    clip : float
        Norm to which gradients are clipped (Pascanu et al. 2013).
    every : int
        Evaluate after every so many updates, and after the last one.
    rows : int
        Sequences per evaluation, drawn anew for each.
    seed : int
        For all batches: the training data does not depend on `every` and `rows`.
    seconds : float, optional
        Wall-clock time after which no update is begun.
    num_threads : int, optional

    Returns
    -------
    Learning
        The same to the bit for the same arguments, ``seconds`` aside.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit.

    Notes
    -----
    An update whose gradient is not finite is skipped and counted: over long delays an RNN's may overflow.
    """
    check_problem(problem)
    net = recurrent_network(net)
    _, layer, _ = next(recurrent_layers(net))
    updates, batch = check_size("updates", updates), check_size("batch", batch)
    every, rows = check_size("every", every), check_size("rows", rows)
    if not isinstance(clip, (int, float, np.number)) or not clip > 0:
        raise ValueError(f"clip must be a positive number, got {clip!r}")
    seed = _check_seed(seed)
    if seconds is not None and not (is_finite(seconds) and seconds > 0):
        raise ValueError(f"seconds must be None or a positive number, got {seconds!r}")
    kind = layer.cell.kind
    if lr is None:
        if kind not in CONTESTANTS:
            raise ValueError(f"lr must be given for a network of kind {kind!r}")
        lr = CONTESTANTS[kind].lr
    optimiser = Adam(net, lr)
    learning = Learning(problem, kind, layer.hidden_size, net.num_parameters, optimiser.lr)
    training, evaluation = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    began = time.perf_counter()
    losses = []
    for update in range(1, updates + 1):
        x, targets = problem.batch(training, batch)
        x = x.astype(net.dtype, copy=False)
        y, _, trace = net.forward(x, num_threads=num_threads)
        loss, dy = problem.loss(y, targets)
        net.zero_grad()
        net.backward(dy, trace, need_dx=False, consume=True, num_threads=num_threads)
        if math.isfinite(clip_grad_norm(net, clip, num_threads)):
            optimiser.step(num_threads)
        else:
            learning.skipped += 1
        losses.append(loss)
        late = seconds is not None and time.perf_counter() - began >= seconds
        if update % every and update < updates and not late:
            continue
        score = _score(net, problem, evaluation, rows, num_threads)
        learning.updates.append(update)
        learning.losses.append(float(np.mean(losses)))
        learning.scores.append(score)
        losses.clear()
        if problem.solved(score):
            learning.solved_at, learning.stopped = update, "solved"
            break
        if late and update < updates:
            learning.stopped = "seconds"
            break
    learning.seconds = time.perf_counter() - began
    return learning


def _check_seed(seed):
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    return int(seed)


def _score(net, problem, rng, rows, num_threads):
    x, targets = problem.batch(rng, rows)
    x = x.astype(net.dtype, copy=False)
    y, _, _ = net.forward(x, training=False, num_threads=num_threads)
    return problem.score(y, targets)


# -- both -------------------------------------------------------------------------------------------


@dataclass(repr=False)
class Comparison(Report):
    """Networks of equal size on one problem. Print it, ``plot`` it, or read its numbers.

    Attributes
    ----------
    problem : Problem
    learnings : dict of kind to Learning
    flows : dict of kind to GradientFlow
        The flow of the loss at the last step, before training: from how far back each could learn.
    forget, start
        How the networks started, as for ``equal_networks``.
    """

    problem: Problem
    learnings: dict
    flows: dict
    forget: object = "spread"
    start: str = "uniform"

    @property
    def sides(self):
        """All networks: name, Learning and GradientFlow."""
        return [(kind.upper(), self.learnings[kind], self.flows[kind]) for kind in self.learnings]

    def __str__(self):
        problem = self.problem
        limit = "below 0.01" if problem.name == "adding" else "at least 99 %"
        lines = [f"{problem}: learned when {problem.measure}, on fresh data, is {limit}"]
        lines += [f"  {learning}" for learning in self.learnings.values()]
        lines.append(f"  at first {', '.join(map(self._beginning, self.learnings))}")
        lines.append("  the gradient of the loss at the last step, before training:")
        for name, _, flow in self.sides:
            sentence = flow.sentence(flow.layers[0]).partition(": ")[2]
            lines.append(f"    {name + ':':<5} {sentence}")
        return "\n".join(lines)

    def _beginning(self, kind):
        """Say how the network of a kind started."""
        cell = CONTESTANTS[kind].cell
        if not cell.keeps:
            return f"the {kind.upper()}'s recurrent matrix is {self.start}"
        title = next(gate.title for gate in cell.all_gates if gate.name == cell.keeps)
        gates = f"the {kind.upper()}'s {title.removesuffix(f' {cell.keeps}')}s"
        if self.forget == "spread":
            return f"{gates} keep for 1 to {self.problem.length} steps"
        return f"{gates} have a bias raised by {self.forget:g}"

    def plot(self, path=None):
        """Draw which network learns, and beside it why: see ``Report``."""
        return plot_comparisons([self], path)

    def to_dict(self):
        """Return all of it as plain numbers, lists and strings, for JSON."""
        parts = {"learnings": self.learnings, "flows": self.flows}
        told = {name: {k: part.to_dict() for k, part in parts[name].items()} for name in parts}
        return told | {"forget": self.forget, "start": self.start}


def compare(problem, updates=5000, *, kinds=PAIR, hidden=48, seed=0, forget="spread", start="uniform",
            lr=None, seconds=None, **options) -> Comparison:  # fmt: skip
    """Train networks of equal size on a problem, on the same batches, side by side.

    Parameters
    ----------
    problem : Problem
    updates : int
        At most so many, for each.
    kinds : sequence of "lstm", "gru" and "rnn"
    hidden, forget, start
        As for ``equal_networks``, which says how much the starts matter.
    seed : int
        For the networks and the batches.
    lr : dict of kind to float, optional
        Learning rates other than those of ``learn``.
    seconds : float, optional
        For each network; they run at the same time, each on a thread of its own.
    **options
        As for ``learn``: batch, clip, every, rows, num_threads.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError, ValueError
        An argument does not fit.
    """
    from concurrent.futures import ThreadPoolExecutor  # slow to import

    kinds, lr = check_kinds(kinds), {} if lr is None else dict(lr)
    if unknown := sorted(set(lr) - set(kinds)):
        raise ValueError(f"lr must be of {', '.join(kinds)}, got {', '.join(map(repr, unknown))}")
    nets = equal_networks(problem, hidden, _check_seed(seed), forget, start, kinds)
    x, targets = problem.batch(np.random.default_rng(seed), options.get("batch", 50))
    flows = [gradient_flow(net, x, lambda y: problem.loss(y, targets)) for net in nets]
    with ThreadPoolExecutor(len(nets)) as pool:
        runs = [
            pool.submit(
                learn, net, problem, updates, lr=lr.get(kind), seed=seed, seconds=seconds, **options
            )
            for kind, net in zip(kinds, nets)
        ]
        learnings = [run.result() for run in runs]
    return Comparison(
        problem, dict(zip(kinds, learnings)), dict(zip(kinds, flows)),
        forget if forget == "spread" else float(forget), start,
    )  # fmt: skip
