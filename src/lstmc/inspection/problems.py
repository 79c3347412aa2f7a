"""Problems with long delays, which show why there are LSTMs: batches, losses, and when they are learned.

The adding problem and temporal order are from Hochreiter & Schmidhuber (1997, experiments 4 and 6a), copying
from Arjovsky et al. (2016), after the same paper. Every batch is new, so that nothing can be learned by
heart.
"""

from dataclasses import dataclass

import numpy as np

from ..layer import check_size
from ..losses import softmax_cross_entropy, squared_error

__all__ = ["Problem", "adding", "check_problem", "copying", "temporal_order"]

# The symbols of temporal order: four that say nothing, the two that count, the first and the last.
X, START, END = 4, 6, 7


# -- batches ----------------------------------------------------------------------------------------


def adding(rng, steps, batch):
    """Return a batch of the adding problem: the sum of the two marked numbers.

    Parameters
    ----------
    rng : numpy Generator
    steps : int
        T, at least 2.
    batch : int
        B

    Returns
    -------
    x : ndarray (T, B, 2) of float32
        Numbers uniform in [0, 1), and marks: 1 at one step of the first half and at one of the second,
        else 0.
    targets : ndarray (B,) of float32
        The sum (not the mean) of the two marked numbers, due after the last step. Always answering 1 has a
        mean squared error of 1/6.
    """
    _check_rng(rng)
    steps = _at_least("steps", steps, 2)
    rows = np.arange(check_size("batch", batch))
    x = np.zeros((steps, batch, 2), np.float32)
    x[:, :, 0] = rng.random((steps, batch), np.float32)
    first = rng.integers(0, steps // 2, batch)
    second = rng.integers(steps // 2, steps, batch)
    x[first, rows, 1] = x[second, rows, 1] = 1
    return x, x[first, rows, 0] + x[second, rows, 0]


def temporal_order(rng, steps, batch):
    """Return a batch of the temporal order problem: which of X and Y came first, and which second.

    Parameters
    ----------
    rng : numpy Generator
    steps : int
        T, at least 10.
    batch : int
        B

    Returns
    -------
    x : ndarray (T, B, 8) of float32
        One-hot: the first symbol is E, the last B, those between are of a, b, c, d at random, but for one X
        or Y in steps [T/10, T/5] and one in [T/2, 3T/5]. In this order: a, b, c, d, X, Y, E, B.
    targets : ndarray (T, B) of int64
        After the last step the class: 0 for X X, 1 for X Y, 2 for Y X, 3 for Y Y; -1 (ignored) before.

    Notes
    -----
    The steps are those of the paper, with T for its 100. Its sequences have 100 to 110 steps; here all
    have T.
    """
    _check_rng(rng)
    steps = _at_least("steps", steps, 10)
    rows = np.arange(check_size("batch", batch))
    symbols = rng.integers(0, X, (steps, batch))
    symbols[0], symbols[-1] = START, END
    first = rng.integers(steps // 10, steps // 5 + 1, batch)
    second = rng.integers(steps // 2, 3 * steps // 5 + 1, batch)
    classes = rng.integers(0, 4, batch)
    symbols[first, rows] = X + classes // 2
    symbols[second, rows] = X + classes % 2
    targets = np.full((steps, batch), -1)
    targets[-1] = classes
    return np.eye(8, dtype=np.float32)[symbols], targets


def copying(rng, delay, batch, symbols=10, alphabet=2):
    """Return a batch of the copying problem: repeat the symbols, in order, after a delay.

    Parameters
    ----------
    rng : numpy Generator
    delay : int
        Steps between the last symbol and the first answer.
    batch : int
        B
    symbols : int
        S, how many symbols are to be repeated.
    alphabet : int
        A, how many different symbols there are, at least 2.

    Returns
    -------
    x : ndarray (S + delay + S, B, A + 2) of float32
        One-hot: the symbols, then blanks (A), with a signal (A + 1) in the last step of the delay.
    targets : ndarray (S + delay + S, B) of int64
        The symbols at the last S steps; -1 before, which is ignored.
    """
    _check_rng(rng)
    delay, symbols = check_size("delay", delay), check_size("symbols", symbols)
    alphabet = _at_least("alphabet", alphabet, 2)
    words = rng.integers(0, alphabet, (symbols, check_size("batch", batch)))
    seen = np.full((delay + 2 * symbols, batch), alphabet)
    seen[:symbols] = words
    seen[symbols + delay - 1] = alphabet + 1
    targets = np.full(seen.shape, -1)
    targets[-symbols:] = words
    return np.eye(alphabet + 2, dtype=np.float32)[seen], targets


def _check_rng(rng):
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy Generator, got {type(rng).__name__}")


def _at_least(name, value, least):
    if check_size(name, value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


@dataclass(frozen=True)
class Problem:
    """One of the three problems, of one length: its batches, its loss, and when it is learned.

    Parameters
    ----------
    name : "adding", "temporal_order" or "copying"
    steps : int
        T; for copying, the delay.
    symbols, alphabet : int
        For copying: how many symbols, of how many kinds. At a delay of 50, an LSTM of 48 units needs 2500 to
        3000 updates for ten symbols of two kinds, the default (``learn``, three seeds); one of 64 units needs
        7600 and 8800 for ten of eight, as in Arjovsky et al. (two seeds).

    Raises
    ------
    TypeError, ValueError
        The name is another one, or a size is not an integer or too small.
    """

    name: str
    steps: int = 100
    symbols: int = 10
    alphabet: int = 2

    def __post_init__(self):
        if self.name not in ("adding", "temporal_order", "copying"):
            raise ValueError(
                f'name must be "adding", "temporal_order" or "copying", got {self.name!r}'
            )
        least = {"adding": 2, "temporal_order": 10, "copying": 1}[self.name]
        _at_least("steps", self.steps, least)
        check_size("symbols", self.symbols)
        _at_least("alphabet", self.alphabet, 2)

    @property
    def length(self):
        """The steps of a sequence."""
        return self.steps + 2 * self.symbols if self.name == "copying" else self.steps

    @property
    def inputs(self):
        """The features of x."""
        return {"adding": 2, "temporal_order": 8, "copying": self.alphabet + 2}[self.name]

    @property
    def outputs(self):
        """The features of the network's output: one number, or one per class."""
        return {"adding": 1, "temporal_order": 4, "copying": self.alphabet}[self.name]

    @property
    def measure(self):
        """What ``score`` measures, in words."""
        if self.name == "adding":
            return "mean squared error"
        return "symbols right" if self.name == "copying" else "sequences right"

    @property
    def limit(self):
        """The score at which the problem is learned: an error below 0.01, or 0.99 right."""
        return 0.01 if self.name == "adding" else 0.99

    def __str__(self):
        what = f"{self.name.replace('_', ' ')}, {self.steps} steps"
        if self.name == "copying":
            what += f" of delay, {self.symbols} symbols of {self.alphabet} kinds"
        return what

    def batch(self, rng, batch):
        """Return a new batch: x (T, B, inputs) and targets, as the function of this name says."""
        if self.name == "copying":
            return copying(rng, self.steps, batch, self.symbols, self.alphabet)
        make = adding if self.name == "adding" else temporal_order
        return make(rng, self.steps, batch)

    def loss(self, y, targets):
        """Return the loss and its gradient dy at a network's output y (T, B, outputs), as gradient_flow asks.

        For adding it is the squared error at the last step, else the softmax cross-entropy, in nats.
        """
        if y.ndim != 3 or y.shape[2] != self.outputs:
            raise ValueError(f"y must be (T, B, {self.outputs}) for {self.name}, got {y.shape}")
        if self.name != "adding":
            return softmax_cross_entropy(y, targets)
        dy = np.zeros_like(y)
        loss, dy[-1, :, 0] = squared_error(y[-1, :, 0].copy(), targets.astype(y.dtype))
        return loss, dy

    def score(self, y, targets):
        """Return the score of an output y (T, B, outputs): the mean squared error, or the share right."""
        if self.name == "adding":
            return float(np.square(y[-1, :, 0] - targets, dtype=np.float64).mean())
        counted = targets >= 0
        return float((y[counted].argmax(-1) == targets[counted]).mean())

    def solved(self, score):
        """Return whether a score meets the criterion; NaN does not."""
        return bool(score < self.limit if self.name == "adding" else score >= self.limit)


def check_problem(problem):
    """Raise TypeError unless an argument is a Problem."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {type(problem).__name__}")
