"""A corpus, small networks and trainers for the tests of training."""

import itertools
import json
import signal

import numpy as np

import lstmc
from lstmc.training import Trainer

VOCABULARY = 5


def make_corpus(size, seed=0):
    """Return tokens that mostly count up, and now and then jump: easy to learn, not all of it."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(size) < 0.1, rng.integers(0, VOCABULARY, size), 1)
    return np.cumsum(steps) % VOCABULARY


TRAIN, VALID = make_corpus(603), make_corpus(150, seed=1)


def make_net(dropout=0.3):
    return lstmc.Sequential(
        lstmc.Embedding(VOCABULARY, 4, rng=1),
        lstmc.Dropout(dropout, rng=2),
        lstmc.LSTM(4, 9, 2, rng=3),
        lstmc.Dropout(dropout, rng=4),
        lstmc.Linear(9, VOCABULARY, rng=5),
    )


OPTIMISERS = {
    "sgd": lambda net: lstmc.SGD(net, 0.5, momentum=0.9, nesterov=True),
    "adam": lambda net: lstmc.Adam(net, 1e-2),
    "rmsprop": lambda net: lstmc.RMSprop(net, 5e-3, momentum=0.5),
}


def make_trainer(optimiser="adam", plateau=False, batch=4, steps=20, dropout=0.3, **options):
    net = make_net(dropout)
    optimiser = OPTIMISERS[optimiser](net)
    schedule = lstmc.PlateauDecay(optimiser, 0.5, threshold=1.0) if plateau else None
    return Trainer(net, optimiser, batch, steps, schedule=schedule, num_threads=1, **options)


def losses(history):
    return [(r["train_loss"], r["valid_loss"], r["lr"], r["grad_norm"]) for r in history]


def interrupt(trainer, at, number=signal.SIGINT):
    """Have Ctrl-C pressed, or another signal sent, during the at-th step from now."""
    count, step = itertools.count(1), trainer.optimiser.step

    def stepping(threads=None):
        step(threads)
        if next(count) == at:
            signal.raise_signal(number)

    trainer.optimiser.step = stepping


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
