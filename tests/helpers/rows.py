"""Networks over rows of unequal length, and a recurrent layer that takes them row by row. No test is here."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from own_layers import Bare, Scale
from stacks import seed_of

import lstmc


class Cut(lstmc.Sequential):
    """A recurrent layer that cuts each row by hand, at its length and resets; of two layers, one in reverse.

    A state is a tuple with one entry per direction.
    """

    @property
    def num_directions(self):
        return len(self.layers)

    def segments(self, reverse, row, steps, lengths, resets):
        """Return the (start, end) of a row's sequences in the order in which the direction reads them."""
        end = steps if lengths is None else int(lengths[row])
        inner = [] if resets is None else [t for t in range(1, end) if resets[t, row]]
        cuts = [0, *inner, end] if end else [0]
        return list(pairwise(cuts))[:: -1 if reverse else 1]

    def forward(self, x, state=None, training=True, num_threads=None, lengths=None, resets=None):
        if x.ndim == 2:
            lengths = None if lengths is None else [lengths]
            resets = None if resets is None else resets[:, None]
            y, state, trace = self.forward(x[:, None], state, training, None, lengths, resets)
            return y[:, 0], state, (*trace[:-1], True)
        ys, states, runs = [], [], []
        for d, layer in enumerate(self.layers):
            shape = (layer.num_layers, x.shape[1], layer.hidden_size)
            h, c = (np.zeros(shape, x.dtype) for _ in "hc") if state is None else state[d]
            final, y = (h.copy(), c.copy()), np.zeros((*x.shape[:2], layer.hidden_size), x.dtype)
            for b in range(x.shape[1]):
                begin = h[:, b : b + 1].copy(), c[:, b : b + 1].copy()
                for a, e in self.segments(d, b, len(x), lengths, resets):
                    part = np.ascontiguousarray(x[a:e, b : b + 1][:: -1 if d else 1])
                    if resets is not None and not d and a == 0 and resets[0, b]:
                        begin = None
                    out, after, trace = layer.forward(part, begin)
                    y[a:e, b] = out[:: -1 if d else 1, 0]
                    runs.append((d, b, a, e, begin is not None, trace))
                    begin = None
                    for whole, one in zip(final, after, strict=True):
                        whole[:, b] = one[:, 0]
            ys.append(y)
            states.append(final)
        return np.concatenate(ys, axis=2), tuple(states), (runs, x.shape, False)

    def backward(self, dy, trace, dstate=None, num_threads=None):
        runs, shape, unbatched = trace
        if unbatched:
            dx, dstate = self.backward(dy[:, None], (runs, shape, False), dstate)
            return dx[:, 0], dstate
        dx, hidden = np.zeros(shape, dy.dtype), self.layers[0].hidden_size
        initial, later = [], {}
        for d, layer in enumerate(self.layers):
            size = (layer.num_layers, shape[1], hidden)
            arriving = dstate[d] if dstate is not None else [np.zeros(size, dy.dtype)] * 2
            for b in range(shape[1]):
                later[d, b] = [part[:, b : b + 1].copy() for part in arriving]
            initial.append([part.copy() for part in arriving])
        for d, b, a, e, continues, run in reversed(runs):
            part = dy[a:e, b : b + 1, d * hidden : (d + 1) * hidden][:: -1 if d else 1]
            part, arriving = np.ascontiguousarray(part), tuple(later[d, b])
            out, before = self.layers[d].backward(part, run, arriving)
            dx[a:e, b] += out[:: -1 if d else 1, 0]
            later[d, b] = [np.zeros_like(one) for one in before]
            for whole, one in zip(initial[d], before, strict=True):
                whole[:, b] = one[:, 0] if continues else 0
        return dx, tuple(tuple(parts) for parts in initial)


@dataclass
class Times:
    """Lengths and resets of a batch."""

    lengths: np.ndarray
    resets: np.ndarray
    steps: int = 6

    @property
    def beyond(self):
        return np.arange(self.steps)[:, None] >= self.lengths


# Unsorted, with a whole row, an empty one, and one of a single step.
TIMES = Times(
    np.array([4, 0, 6, 1, 3]),
    np.random.default_rng(7).random((6, 5)) < [[0.0], [0.4], [0.4], [0.2], [0.4], [0.4]],
)
FEATURES, HIDDEN, CLASSES = 3, 5, 4


def cut(inputs, directions, dtype, seed):
    layers = [
        lstmc.LSTM(inputs, HIDDEN, 2 - d, dtype=dtype, rng=seed + d) for d in range(directions)
    ]
    return Cut(*layers)


def linear(inputs, outputs, dtype):
    return lstmc.Linear(inputs, outputs, dtype=dtype, rng=inputs)


# Networks by name: functions of (dtype, batch_first).
NETWORKS = {
    "recurrent": lambda dtype, turned: lstmc.Sequential(
        cut(FEATURES, 1, dtype, 1), batch_first=turned
    ),
    "linear": lambda dtype, turned: lstmc.Sequential(
        linear(FEATURES, 4, dtype), linear(4, CLASSES, dtype), batch_first=turned
    ),
    "tokens": lambda dtype, turned: lstmc.Sequential(
        lstmc.Embedding(7, FEATURES, dtype=dtype, rng=1),
        cut(FEATURES, 1, dtype, 2),
        linear(HIDDEN, CLASSES, dtype),
        batch_first=turned,
    ),
    "two directions": lambda dtype, turned: lstmc.Sequential(
        linear(FEATURES, 4, dtype),
        cut(4, 2, dtype, 3),
        linear(2 * HIDDEN, 2, dtype),
        cut(2, 2, dtype, 3),
        batch_first=turned,
    ),
    "nested": lambda dtype, turned: lstmc.Sequential(
        lstmc.Sequential(linear(FEATURES, 4, dtype), cut(4, 2, dtype, 4)),
        Scale(2 * HIDDEN, dtype),
        lstmc.Sequential(
            Bare(2 * HIDDEN, dtype), lstmc.Sequential(linear(2 * HIDDEN, CLASSES, dtype))
        ),
        batch_first=turned,
    ),
    "last": lambda dtype, turned: lstmc.Sequential(
        lstmc.Embedding(7, FEATURES, dtype=dtype, rng=1),
        cut(FEATURES, 2, dtype, 5),
        lstmc.Dropout(0.0, rng=1),
        lstmc.Last(),
        linear(2 * HIDDEN, CLASSES, dtype),
        batch_first=turned,
    ),
    "nested last": lambda dtype, turned: lstmc.Sequential(
        lstmc.Sequential(Scale(FEATURES, dtype), cut(FEATURES, 1, dtype, 6), linear(5, 6, dtype)),
        lstmc.Sequential(cut(6, 2, dtype, 6), lstmc.Last(), Bare(2 * HIDDEN, dtype)),
        linear(2 * HIDDEN, CLASSES, dtype),
        batch_first=turned,
    ),
}


def draw_x(name, dtype):
    """Return an input (T, B, ...) of a network, tokens or numbers."""
    rng, (steps, rows) = np.random.default_rng(seed_of("x of", name)), TIMES.resets.shape
    if isinstance(NETWORKS[name](np.dtype(dtype), False).layers[0], lstmc.Embedding):
        return rng.integers(7, size=(steps, rows))
    return rng.standard_normal((steps, rows, FEATURES)).astype(dtype)
