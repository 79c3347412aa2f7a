"""Networks whose gradient is followed, and the judge of it: see inspection/test_flow.py."""

from dataclasses import dataclass

import numpy as np
from cases import CELLS, cell_of
from own_layers import Bare, Halve, Scale
from stacks import draw_state, seed_of

import lstmc

# Of the largest element. Sums of some tens of terms and a few steps, each rounded at 6e-8 or 1e-16;
# the judge rounds at 1e-16 only.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

STEPS, BATCH, FEATURES, HIDDEN, CLASSES = 4, 2, 3, 5, 6

FORMS = ["time first", "batch first", "unbatched"]

PARTS = ["dh", "dh_above", "dh_later", "dc", "dc_through_h", "dc_later", "dx"]


@dataclass
class Case:
    """A network, what it reads, and where its loss comes from: targets, or dy."""

    net: object
    x: np.ndarray
    state: object
    targets: object = None
    dy: object = None
    form: str = "time first"

    @property
    def layer(self):
        return getattr(self.net, "net", self.net)

    def time_first(self, a):
        """Return an array of a sequence as (T, B, ...)."""
        if self.form == "unbatched":
            return a[:, None]
        return a.swapaxes(0, 1) if self.form == "batch first" else a

    def flow(self, **options):
        return lstmc.gradient_flow(
            self.net, self.x, self.targets, self.state, **{"dy": self.dy, **options}
        )


def draw_states(layer, rows, rng):
    """Return a random state of any layer, in its own form; rows: (B,), () of one sequence."""
    if isinstance(layer, lstmc.Sequential):
        return tuple(draw_states(one, rows, rng) for one in layer.layers)
    return draw_state(layer, rows, rng) if cell_of(layer) else None


def make_case(name, cell, layers, dtype, form="time first"):
    """Draw a case. Its gradients are of the order of 1 and all its states differ from zero."""
    rng = np.random.default_rng(seed_of(name, cell, layers, form))
    in_order = {"time first": (STEPS, BATCH), "batch first": (BATCH, STEPS), "unbatched": (STEPS,)}
    order = in_order[form]
    own = {"dtype": dtype, "rng": rng}
    turned = {"batch_first": form == "batch first"}
    recurrent = CELLS[cell].make(
        FEATURES, HIDDEN, layers, **(turned if name == "bare" else {}), **own
    )
    if name == "bare":
        net = recurrent
    elif name == "tokens":
        net = lstmc.Sequential(
            lstmc.Embedding(CLASSES, FEATURES, **own),
            lstmc.Dropout(0.4, rng=1),
            recurrent,
            lstmc.Dropout(0.4, rng=2),
            lstmc.Linear(HIDDEN, CLASSES, **own),
            **turned,
        )
    elif name == "nested":
        above = lstmc.RNN(HIDDEN, 2, **own)
        net = lstmc.Sequential(
            lstmc.Linear(FEATURES, FEATURES, **own),
            lstmc.Sequential(lstmc.Dropout(0.3, rng=3), recurrent),
            lstmc.Sequential(above, lstmc.Linear(2, CLASSES, **own)),
            **turned,
        )
    elif name == "own layers":
        net = lstmc.Sequential(Scale(FEATURES, dtype), recurrent, Scale(HIDDEN, dtype))
    elif name == "layers of no class":
        net = lstmc.Sequential(Bare(FEATURES, dtype), recurrent, Bare(HIDDEN, dtype))
    elif name == "no trace":
        net = lstmc.Sequential(recurrent, Halve())
    else:
        vocabulary = lstmc.Vocabulary(list("abcdef"), "char")
        net = lstmc.LanguageModel(
            vocabulary, CELLS[cell].kind, layers, HIDDEN, FEATURES, 0.4, dtype, rng
        )
    layer = getattr(net, "net", net)
    state = draw_states(layer, order[:-1] if form == "unbatched" else (BATCH,), rng)
    if name in ("tokens", "model"):
        x, targets = rng.integers(CLASSES, size=(2, *order))
        return Case(net, x, state, targets=targets, form=form)
    x = rng.standard_normal((*order, FEATURES)).astype(dtype)
    if name == "nested":
        targets = 3 * rng.standard_normal((*order, CLASSES)).astype(dtype)
        return Case(net, x, state, targets=targets, form=form)
    dy = rng.standard_normal((*order, CELLS[cell].units("h", HIDDEN))).astype(dtype)
    return Case(net, x, state, dy=dy, form=form)


def norms(a):
    """Return the norm over all but the first axis."""
    return np.sqrt((np.asarray(a, np.float64) ** 2).reshape(len(a), -1).sum(1))


def linear_flow(factor, steps=10, hidden=3, dtype=np.float64, **options):
    """Follow an RNN that multiplies its state by a factor: the gradient is dy factor^k, k steps back."""
    net = lstmc.RNN(2, hidden, nonlinearity="identity", dtype=dtype, rng=1)
    net["weight_hh_l0"][...] = factor * np.eye(hidden)
    rng = np.random.default_rng(seed_of("linear", steps, hidden))
    x = rng.standard_normal((steps, BATCH, 2)).astype(dtype)
    dy = rng.standard_normal((steps, BATCH, hidden)).astype(dtype)
    return lstmc.gradient_flow(net, x, dy=dy, **options), dy
