"""lstmc itself."""

from contextlib import contextmanager

import numpy as np

import lstmc
from lstmc._kernels.binding import core

from . import CLIP, RATE, WINDOWS, layer_of


def _bound_layer(w, problem):
    layer = layer_of(w)
    for name in layer.parameters():
        layer[name][...] = problem.weights[name]
    return layer


def step(w, problem, threads):
    stepper = _bound_layer(w, problem).stepper(w.batch, num_threads=threads)
    x, y = problem.x[0], np.empty((w.batch, w.hidden), w.dtype)

    def run(n):
        for _ in range(n):
            stepper(x, y)
        return (y,)

    return {"lstmc": run}


def forward(w, problem, threads):
    layer, x = _bound_layer(w, problem), problem.x

    def run(n):
        for _ in range(n):
            y = None  # the unit before is over
            y, _, _ = layer.forward(x, training=False, num_threads=threads)
        return (y,)

    return {"lstmc": run}


def train(w, problem, threads):
    layer, x, dy = _bound_layer(w, problem), problem.x, problem.dy
    grads = [layer.grad(name) for name in problem.weights]

    def run(n):
        for _ in range(n):
            y = dx = trace = None  # the unit before is over
            layer.zero_grad()
            y, _, trace = layer.forward(x, num_threads=threads)
            dx, _ = layer.backward(dy, trace, num_threads=threads, consume=True)
        return (y, dx, *grads)

    return {"lstmc": run}


def _network(w, problem):
    """Give the network of Zaremba et al. (2014), and its weights by the problem's names."""
    embedding = lstmc.Embedding(w.vocabulary, w.inputs, dtype=w.dtype, rng=0)
    softmax = lstmc.Linear(w.hidden, w.vocabulary, dtype=w.dtype, rng=0)
    kind = {"lstm": lstmc.LSTM, "rnn": lstmc.RNN}[w.cell]
    if w.dropout:
        layers = []
        for i in range(w.layers):
            layers.append(lstmc.Dropout(w.dropout, rng=i))
            layers.append(kind(w.hidden if i else w.inputs, w.hidden, dtype=w.dtype, rng=0))
        layers.append(lstmc.Dropout(w.dropout, rng=w.layers))
    else:
        layers = [layer_of(w)]
    net = lstmc.Sequential(embedding, *layers, softmax)
    views = {"embedding": embedding["weight"], "softmax": softmax["weight"]}
    views["softmax_bias"] = softmax["bias"]
    recurrent = [layer for layer in layers if not isinstance(layer, lstmc.Dropout)]
    for name in problem.weights:
        if name not in views:
            stem, _, number = name.rpartition("_l")
            split = len(recurrent) > 1
            layer = recurrent[int(number)] if split else recurrent[0]
            views[name] = layer[f"{stem}_l0" if split else name]
        views[name][...] = problem.weights[name]
    return net, [views[name] for name in problem.weights]


def model(w, problem, threads):
    net, weights = _network(w, problem)
    optimiser = lstmc.SGD(net, lr=RATE)
    state = None

    def run(n):
        nonlocal state
        for i in range(n):
            logits = dlogits = trace = None  # the unit before is over
            x, targets = problem.tokens[i % WINDOWS], problem.targets[i % WINDOWS]
            logits, state, trace = net.forward(x, state, num_threads=threads)
            loss, dlogits = lstmc.softmax_cross_entropy(
                logits, targets, num_threads=threads, out=logits
            )
            net.zero_grad()
            net.backward(dlogits, trace, num_threads=threads, need_dx=False, consume=True)
            lstmc.clip_grad_norm(net, CLIP, threads)
            optimiser.step(threads)
        return (loss, *weights)

    return {"lstmc": run}


@contextmanager
def _instruction_set(name):
    before = core.instruction_set()
    core.use_instruction_set(name)
    try:
        yield
    finally:
        core.use_instruction_set(before)


def with_instruction_set(name, make):
    """Make a contestant, and let it run, with the kernels of another instruction set."""
    with _instruction_set(name):
        inner = make()

    def run(n):
        with _instruction_set(name):
            return inner(n)

    return run
