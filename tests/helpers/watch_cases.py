"""Networks that are watched, and tokens for them."""

import numpy as np
from cases import CELLS
from stacks import seed_of

import lstmc

STEPS, BATCH, HIDDEN, CLASSES = 6, 3, 4, 7


def make_net(dtype=np.float32, dropout=0.3, cell="lstm", layers=2):
    rng = np.random.default_rng(1)
    own = {"dtype": dtype, "rng": rng}
    recurrent = CELLS[cell].make(5, HIDDEN, layers, **own)
    return lstmc.Sequential(
        lstmc.Embedding(CLASSES, 5, **own),
        lstmc.Dropout(dropout, rng=2),
        recurrent,
        lstmc.Linear(HIDDEN, CLASSES, **own),
    )


def draw_tokens(*shape):
    return np.random.default_rng(seed_of("tokens", *shape)).integers(CLASSES, size=shape)


def linear(factor, inputs=1, hidden=1, layers=1, dtype=np.float32):
    """Return an RNN of R = factor times one and W = 1 that neither squashes nor shifts."""
    net = lstmc.RNN(inputs, hidden, layers, nonlinearity="identity", bias=False, dtype=dtype)
    net.params[...] = 0
    for k in range(layers):
        net[f"weight_ih_l{k}"][...] = np.eye(*net[f"weight_ih_l{k}"].shape)
        net[f"weight_hh_l{k}"][...] = factor * np.eye(hidden)
    return net
