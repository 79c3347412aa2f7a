"""Networks whose gradients are checked: see inspection/test_gradient_check.py."""

import numpy as np
from cases import ROWS
from stacks import draw_state, seed_of

import lstmc

STEPS, BATCH, FEATURES, HIDDEN, CLASSES = 3, 2, 3, 4, 6


def make_cell(cell, inputs, hidden, layers, dtype, **options):
    options = {"num_layers": layers, "dtype": dtype, "rng": 1, **options}
    return ROWS[cell].make(inputs, hidden, **options)


def bare_case(cell, layers, dtype, form="time first"):
    """Return a layer, what it reads, what it should give and its state."""
    rng = np.random.default_rng(seed_of(cell, layers, form))
    order = {"time first": (STEPS, BATCH), "batch first": (BATCH, STEPS), "unbatched": (STEPS,)}
    net = make_cell(cell, FEATURES, HIDDEN, layers, dtype, batch_first=form == "batch first")
    widths = FEATURES, ROWS[cell].units("h", HIDDEN)
    x, target = (rng.standard_normal((*order[form], n)).astype(dtype) for n in widths)
    return net, x, target, draw_state(net, () if form == "unbatched" else (BATCH,), rng)


def token_case(name, dtype):
    rng = np.random.default_rng(seed_of(name))
    x, targets = rng.integers(CLASSES, size=(2, STEPS, BATCH))
    if name == "model":
        vocabulary = lstmc.Vocabulary(list("abcdef"), "char")
        net = lstmc.LanguageModel(vocabulary, "lstm", 2, HIDDEN, FEATURES, 0.4, dtype, rng)
        return net, x, targets, None
    own = {"dtype": dtype, "rng": rng}
    lstm, rnn = make_cell("lstm", FEATURES, HIDDEN, 2, dtype), lstmc.RNN(HIDDEN, 4, **own)
    net = lstmc.Sequential(
        lstmc.Embedding(CLASSES, FEATURES, **own),
        lstmc.Dropout(0.4, rng=1),
        lstmc.Sequential(lstm, lstmc.Dropout(0.4, rng=2)),
        rnn,
        lstmc.Linear(4, CLASSES, bias=False, **own),
    )
    state = draw_state(lstm, (BATCH,), rng), draw_state(rnn, (BATCH,), rng)
    return net, x, targets, (None, None, (state[0], None), state[1], None)


class Wrong(lstmc.LSTM):
    """An LSTM whose backward changes one element of one gradient, chosen by its size in order."""

    def spoil(self, name, rank, change):
        self._spoilt = name, rank, change
        return self

    def backward(self, dy, trace, dstate=None):
        dx, departing = super().backward(dy, trace, dstate)
        name, rank, change = self._spoilt
        others = {"x": dx, "state[0]": departing[0], "state[1]": departing[1]}
        array = others[name] if name in others else self.grad(name)
        order = np.argsort(np.abs(array), axis=None)
        self.where = np.unravel_index(order[int(rank * (order.size - 1))], array.shape)
        array[self.where] = change(array[self.where])
        return dx, departing


def by_one_percent(value):
    return 1.01 * value


def wrong_case(name, rank=1.0, change=by_one_percent):
    _, x, target, state = bare_case("lstm", 2, np.float64)
    net = Wrong(FEATURES, HIDDEN, 2, dtype=np.float64, rng=1).spoil(name, rank, change)
    return net, x, target, state
