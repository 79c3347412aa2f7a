"""PyTorch: nn.LSTM, GRU and RNN, by oneDNN or cuDNN where these take part, and for steps their Cells."""

import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from . import CLIP, RATE, Side, Turns

NOT_PLAIN = ("forward", "train")


class Cell(NamedTuple):
    """A cell's module for sequences, and the one for single steps."""

    sequence: type
    step: type


CELLS = {
    "lstm": Cell(torch.nn.LSTM, torch.nn.LSTMCell),
    "gru": Cell(torch.nn.GRU, torch.nn.GRUCell),
    "rnn": Cell(torch.nn.RNN, torch.nn.RNNCell),
}
OPTIMISERS = {
    "cpu": ("fused",),
    "cuda": ("fused", "foreach"),
}  # implementations of SGD; the usual first


def _prepare(setting):
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise ImportError("this PyTorch sees no GPU")
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)


def _tensor(array, setting):
    return torch.from_numpy(array.copy()).to(setting.device)


def _sets(problem, setting):
    return [tuple(_tensor(array, setting) for array in one) for one in problem.sets]


def _bind(module, weights, setting):
    """Copy weights in; of PyTorch's second bias, what lstmc does not have is zero and not trained."""
    module.to(setting.device)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            value = torch.from_numpy(weights[_our_name(name)].copy())
            own = len(value) - len(parameter)  # rows, the last, that have the second bias too
            if "bias_hh" not in name:
                parameter.copy_(value[: len(parameter)])
            elif own:
                parameter.zero_()[-own:] = value[-own:]
                mask = torch.zeros_like(parameter)
                mask[-own:] = 1
                parameter.register_hook(mask.mul)
            else:
                parameter.zero_().requires_grad_(False)
    return module


def _layers(w, problem, setting):
    more = {"dtype": getattr(torch, w.dtype), "dropout": w.dropout}
    more["bidirectional"] = w.bidirectional
    module = CELLS[w.cell].sequence(w.inputs, w.hidden, w.layers, **more)
    return _bind(module, problem.weights, setting)


def _our_name(name):
    return re.sub("bias_[ih]h", "bias", name)


def _by_our_names(module, weights, value=lambda parameter: parameter):
    """Return a value of each parameter by lstmc's names; of the second bias, the rows that lstmc has."""
    values = {}
    for name, p in module.named_parameters():
        ours = _our_name(name)
        if "bias_hh" not in name:
            values[ours] = value(p)
        elif own := len(weights[ours]) - len(p):
            values[ours] = torch.cat([values[ours], value(p)[-own:]])
    return values


def _parts(state):
    """Return h and, of an LSTM, c."""
    return state if isinstance(state, tuple) else (state,)


def _detached(state):
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


class _Way(NamedTuple):
    """How layers run x (T, B, I): run(layers, x) returns y; rows are in this order, if any, in x and y."""

    run: Callable
    order: torch.Tensor | None = None


def _ways(w, problem, setting):
    """Return by name the ways to run the sequences of a workload.

    There is none for resets in both directions, which leave no state to clear.
    """
    times = {name: _tensor(array, setting) for name, array in problem.times.items()}
    if not times:
        return {"torch": _Way(lambda layers, x: layers(x)[0])}
    if "resets" in times:
        if w.bidirectional:
            return {}
        within = _within(w, times.get("lengths"), setting)
        return {"torch": _Way(partial(_between_resets, resets=times["resets"], within=within))}
    lengths = times["lengths"].cpu()
    order = torch.argsort(lengths, descending=True, stable=True)
    ways = {
        "torch": _Way(partial(_packed, lengths=lengths, enforce_sorted=False)),
        "torch, sorted": _Way(partial(_packed, lengths=lengths[order], enforce_sorted=True), order),
    }
    if not w.bidirectional:  # the reverse direction would begin in the padding
        within = _within(w, lengths, setting)
        ways["torch, padded"] = _Way(lambda layers, x: layers(x)[0] * within)
    return ways


def _within(w, lengths, setting):
    """Return where rows have steps, (T, B, 1), as 0 and 1; None for None."""
    if lengths is None:
        return None
    steps = torch.arange(w.steps, device=setting.device)[:, None]
    return (steps < lengths.to(setting.device)).to(getattr(torch, w.dtype))[:, :, None]


def _packed(layers, x, lengths, enforce_sorted):
    rows = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    return pad_packed_sequence(layers(rows)[0], total_length=len(x))[0]


def _between_resets(layers, x, resets, within):
    """Run from one reset of any row to the next, with that row's state cleared."""
    stops = [0, *resets[1:].any(1).nonzero()[:, 0].add(1).tolist(), len(x)]
    stays = resets.logical_not().to(x.dtype)[:, :, None]
    state, parts = None, []
    for start, stop in pairwise(stops):
        if state is not None:
            state = [part * stays[start] for part in _parts(state)]
            state = tuple(state) if len(state) > 1 else state[0]
        y, state = layers(x[start:stop], state)
        parts.append(y)
    y = torch.cat(parts)
    return y if within is None else y * within


def _moved(one, order, back=False):
    """Return arrays (T, B, .) with rows in an order, or back in the problem's; None changes nothing."""
    if order is None:
        return one
    order = torch.argsort(order) if back else order
    return tuple(array[:, order.to(array.device)] for array in one)


def _step_side(w, one_step, inputs):
    turns, y, state = Turns(inputs), None, None

    def run(n):
        nonlocal y, state
        with torch.inference_mode():
            for x in turns.take(n):
                y, state = one_step(x, state)

    def answers():
        states = [part.reshape(-1, w.batch, w.hidden) for part in _parts(state)]
        return (y.reshape(w.batch, w.hidden), *states)

    return Side(run, answers)


def step(w, problem, setting):
    _prepare(setting)
    inputs = [x for (x,) in _sets(problem, setting)]
    sides = {"torch": _step_side(w, _layers(w, problem, setting), [x[None] for x in inputs])}
    if w.layers == 1:
        kind = CELLS[w.cell].step
        cell = kind(w.inputs, w.hidden, dtype=getattr(torch, w.dtype))
        _bind(cell, {k.removesuffix("_l0"): v for k, v in problem.weights.items()}, setting)

        def one_step(x, state):
            state = cell(x, state)
            return _parts(state)[0], state

        sides[f"torch {kind.__name__}"] = _step_side(w, one_step, inputs)
    return sides


def forward(w, problem, setting):
    _prepare(setting)
    ways = _ways(w, problem, setting)
    return {name: _forward_side(w, problem, setting, way) for name, way in ways.items()}


def _forward_side(w, problem, setting, way):
    sets = [_moved(one, way.order) for one in _sets(problem, setting)]
    layers, turns, y = _layers(w, problem, setting), Turns(sets), None

    def run(n):
        nonlocal y
        with torch.inference_mode():
            for (x,) in turns.take(n):
                y = None  # the unit before is over
                y = way.run(layers, x)

    return Side(run, lambda: _moved((y,), way.order, back=True))


def train(w, problem, setting):
    _prepare(setting)
    ways = _ways(w, problem, setting)
    return {name: _train_side(w, problem, setting, way) for name, way in ways.items()}


def _train_side(w, problem, setting, way):
    layers = _layers(w, problem, setting)
    sets = [_moved(one, way.order) for one in _sets(problem, setting)]
    for x, _ in sets:
        x.requires_grad_()
    turns = Turns(sets)
    last = y = None

    def run(n):
        nonlocal last, y
        for x, dy in turns.take(n):
            y = None  # the unit before is over
            layers.zero_grad()
            if last is not None:
                last.grad = None
            last = x
            y = way.run(layers, x)
            y.backward(dy)

    def answers():
        grads = _by_our_names(layers, problem.weights, lambda parameter: parameter.grad)
        rows = _moved((y, last.grad), way.order, back=True)
        return (*rows, *(grads[name] for name in problem.weights))

    return Side(run, answers)


def model(w, problem, setting):
    """The training step with each of the optimiser's implementations for the device."""
    _prepare(setting)
    usual, *others = OPTIMISERS[setting.device]
    makers = {"torch": usual, **{f"torch, SGD {how}": how for how in others}}
    return {name: _model_side(w, problem, setting, how) for name, how in makers.items()}


def _model_side(w, problem, setting, how):
    layers, dtype = _layers(w, problem, setting), getattr(torch, w.dtype)
    weights, bind = problem.weights, partial(_bind, setting=setting)
    embedding = torch.nn.Embedding(w.vocabulary, w.inputs, dtype=dtype)
    embedding = bind(embedding, {"weight": weights["embedding"]})
    softmax = torch.nn.Linear(w.hidden, w.vocabulary, dtype=dtype)
    softmax = bind(softmax, {"weight": weights["softmax"], "bias": weights["softmax_bias"]})
    drop = torch.nn.Dropout(w.dropout) if w.dropout else torch.nn.Identity()
    mean_loss, turns = torch.nn.CrossEntropyLoss(), Turns(_sets(problem, setting))
    modules = (layers, embedding, softmax)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=RATE, **{how: True})
    state = loss = None

    def run(n):
        nonlocal state, loss
        for tokens, targets in turns.take(n):
            optimiser.zero_grad()
            y = logits = None  # the unit before is over
            y, state = layers(drop(embedding(tokens)), state)
            logits = softmax(drop(y)).reshape(-1, w.vocabulary)
            loss = mean_loss(logits, targets.reshape(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimiser.step()
            state, loss = _detached(state), loss.detach()

    def answers():
        named = _by_our_names(layers, weights) | {"embedding": embedding.weight}
        named |= {"softmax": softmax.weight, "softmax_bias": softmax.bias}
        return (loss, *(named[name] for name in weights))

    return Side(run, answers)
