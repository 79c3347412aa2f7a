"""Those who are compared: lstmc on any device, and PyTorch, which runs its LSTM by cuDNN on a GPU.

A side does its unit of work n times, over the sets of input in turn, and gives the arrays of the last unit:
y and the states; for "train" y, dx and the gradients of the weights; for "model" the loss and the weights.
"""

import itertools
import sys
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import lstmc
from lstmc._kernels import kernels_for

from ..peers import CLIP, RATE, layer_of


class Side(NamedTuple):
    """run(n) asks for n units and does not wait for a GPU; answers() gives arrays, where they are."""

    run: Callable
    answers: Callable


# -- lstmc --------------------------------------------------------------------------------------------


def lstmc_side(w, problem, device):
    """Give lstmc on "cpu" or "cuda"."""
    arrays = kernels_for(device).arrays
    turns = itertools.cycle(problem.on(arrays).sets)
    make = {"step": _step, "forward": _forward, "train": _train, "model": _model}[w.kind]
    return make(w, problem.weights, turns, arrays, device)


def _layer(w, weights, device):
    layer = layer_of(w)
    for name in layer.parameters():
        layer[name][...] = weights[name]
    return layer.to(device)


def _step(w, weights, turns, arrays, device):
    stepper = _layer(w, weights, device).stepper(w.batch)
    y = arrays.empty((w.batch, w.hidden), w.dtype)

    def run(n):
        for _ in range(n):
            stepper(next(turns)[0], out=y)

    return Side(run, lambda: (y, *stepper.state))


def _forward(w, weights, turns, arrays, device):
    layer, y = _layer(w, weights, device), None

    def run(n):
        nonlocal y
        for _ in range(n):
            y = None  # the unit before is over
            y, _, _ = layer.forward(next(turns)[0], training=False)

    return Side(run, lambda: (y,))


def _train(w, weights, turns, arrays, device):
    layer, y, dx = _layer(w, weights, device), None, None

    def run(n):
        nonlocal y, dx
        for _ in range(n):
            x, dy = next(turns)
            y = dx = trace = None  # the unit before is over
            layer.zero_grad()
            y, _, trace = layer.forward(x)
            dx, _ = layer.backward(dy, trace, consume=True)

    return Side(run, lambda: (y, dx, *(layer.grad(name) for name in layer.parameters())))


def network(w, weights):
    """Give the network of Zaremba et al. (2014) on the CPU, and where in it the problem's weights are."""
    layers = [lstmc.Embedding(w.vocabulary, w.inputs, dtype=w.dtype, rng=0)]
    where = {"embedding": "0.weight"}
    if w.dropout:  # it comes between the layers, so that each is one of its own
        for i in range(w.layers):
            layers.append(lstmc.Dropout(w.dropout, rng=i))
            layers.append(lstmc.LSTM(w.hidden if i else w.inputs, w.hidden, dtype=w.dtype, rng=0))
            at = len(layers) - 1
            where |= {f"{n}_l{i}": f"{at}.{n}_l0" for n in ("weight_ih", "weight_hh", "bias")}
        layers.append(lstmc.Dropout(w.dropout, rng=w.layers))
    else:
        layers.append(layer_of(w))
        where |= {name: f"1.{name}" for name in layers[1].parameters()}
    where |= {"softmax": f"{len(layers)}.weight", "softmax_bias": f"{len(layers)}.bias"}
    net = lstmc.Sequential(*layers, lstmc.Linear(w.hidden, w.vocabulary, dtype=w.dtype, rng=0))
    for name, value in weights.items():
        net[where[name]][...] = value
    return net, where


def _model(w, weights, turns, arrays, device):
    net, where = network(w, weights)
    net.to(device)
    optimiser = lstmc.SGD(net, lr=RATE)
    state = loss = None

    def run(n):
        nonlocal state, loss
        for _ in range(n):
            tokens, targets = next(turns)
            logits = dlogits = trace = None  # the unit before is over
            logits, state, trace = net.forward(tokens, state)
            loss, dlogits = lstmc.softmax_cross_entropy(logits, targets, out=logits)
            net.zero_grad()
            net.backward(dlogits, trace, need_dx=False, consume=True)
            lstmc.clip_grad_norm(net, CLIP)
            optimiser.step()

    return Side(run, lambda: (loss, *(net[where[name]] for name in weights)))


# -- PyTorch ------------------------------------------------------------------------------------------


def torch_sides(w, problem, device):
    """Give PyTorch's sides by name; raise ImportError where it, or its GPU, is missing."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ImportError("this PyTorch sees no GPU")
    make = {"step": _torch_step, "forward": _torch_sequence, "train": _torch_sequence}
    sets = [tuple(torch.from_numpy(a.copy()).to(device) for a in one) for one in problem.sets]
    return make.get(w.kind, _torch_model)(torch, w, problem.weights, sets, device)


@contextmanager
def products(precision):
    """Let lstmc and, if it is loaded, PyTorch compute products of float32 so, within."""
    backends = getattr(sys.modules.get("torch"), "backends", None)
    switches = (backends.cuda.matmul, backends.cudnn) if backends else ()
    before = [switch.allow_tf32 for switch in switches]
    ours = lstmc.get_matmul_precision()
    try:
        lstmc.set_matmul_precision(precision)
        for switch in switches:
            switch.allow_tf32 = precision == "tf32"
        yield
    finally:
        lstmc.set_matmul_precision(ours)
        for switch, allowed in zip(switches, before):
            switch.allow_tf32 = allowed


def _bind(torch, module, weights, device):
    """Copy weights in; PyTorch's second bias is zero and not trained."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias_hh" in name:
                parameter.zero_().requires_grad_(False)
            else:
                parameter.copy_(torch.from_numpy(weights[name.replace("bias_ih", "bias")].copy()))
    return module.to(device)


def _torch_lstm(torch, w, weights, device):
    module = torch.nn.LSTM(
        w.inputs, w.hidden, w.layers, dtype=getattr(torch, w.dtype), dropout=w.dropout
    )
    return _bind(torch, module, weights, device)


def _ours_first(module, names):
    """Give a module's parameters by our names, in our order."""
    named = {n.replace("bias_ih", "bias"): p for n, p in module.named_parameters()}
    return [named[name] for name in names]


def _torch_step(torch, w, weights, sets, device):
    sequence = _torch_lstm(torch, w, weights, device)
    cell = torch.nn.LSTMCell(w.inputs, w.hidden, dtype=getattr(torch, w.dtype))
    _bind(torch, cell, {k.removesuffix("_l0"): v for k, v in weights.items()}, device)
    states = {}

    def side(name, step, sets):
        turns = itertools.cycle(sets)

        def run(n):
            state = states.get(name)
            with torch.inference_mode():
                for _ in range(n):
                    y, state = step(next(turns)[0], state)
            states[name] = state
            states[name, "y"] = y

        def answers():
            shape = (w.batch, w.hidden)
            h, c = (part.reshape(1, *shape) for part in states[name])
            return states[name, "y"].reshape(shape), h, c

        return Side(run, answers)

    def step_cell(x, state):
        state = cell(x, state)
        return state[0], state

    return {
        "nn.LSTM": side("nn.LSTM", sequence, [(x[None],) for (x,) in sets]),
        "nn.LSTMCell": side("nn.LSTMCell", step_cell, sets),
    }


def _torch_sequence(torch, w, weights, sets, device):
    layers, turns = _torch_lstm(torch, w, weights, device), itertools.cycle(sets)
    parameters = _ours_first(layers, weights)
    training = w.kind == "train"
    if training:
        for x, _ in sets:
            x.requires_grad_()
    x = y = None

    def run(n):
        nonlocal x, y
        with nullcontext() if training else torch.inference_mode():
            for _ in range(n):
                y = None  # the unit before is over
                if training:
                    layers.zero_grad()
                    if x is not None:
                        x.grad = None
                    x, dy = next(turns)
                    y, _ = layers(x)
                    y.backward(dy)
                else:
                    y, _ = layers(next(turns)[0])

    def answers():
        return (y.detach(), x.grad, *(p.grad for p in parameters)) if training else (y,)

    return {"nn.LSTM": Side(run, answers)}


def _torch_model(torch, w, weights, sets, device):
    """Give the training step with both of the optimiser's implementations for GPUs."""
    return {
        f"nn.LSTM, SGD {how}": _torch_model_with(torch, w, weights, sets, device, how)
        for how in ("fused", "foreach")
    }


def _torch_model_with(torch, w, weights, sets, device, how):
    turns, dtype = itertools.cycle(sets), getattr(torch, w.dtype)
    layers = _torch_lstm(torch, w, weights, device)
    embedding = torch.nn.Embedding(w.vocabulary, w.inputs, dtype=dtype)
    _bind(torch, embedding, {"weight": weights["embedding"]}, device)
    softmax = torch.nn.Linear(w.hidden, w.vocabulary, dtype=dtype)
    _bind(torch, softmax, {"weight": weights["softmax"], "bias": weights["softmax_bias"]}, device)
    drop = torch.nn.Dropout(w.dropout) if w.dropout else torch.nn.Identity()
    parts = (layers, embedding, softmax)
    parameters = [p for module in parts for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=RATE, **{how: True})
    named = {n.replace("bias_ih", "bias"): p for n, p in layers.named_parameters()}
    named |= {"embedding": embedding.weight}
    named |= {"softmax": softmax.weight, "softmax_bias": softmax.bias}
    state = loss = None

    def run(n):
        nonlocal state, loss
        for _ in range(n):
            tokens, targets = next(turns)
            optimiser.zero_grad()
            y, state = layers(drop(embedding(tokens)), state)
            logits = softmax(drop(y)).reshape(-1, w.vocabulary)
            loss = torch.nn.functional.cross_entropy(logits, targets.reshape(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimiser.step()
            state = tuple(part.detach() for part in state)
            loss = loss.detach()

    return Side(run, lambda: (loss, *(named[name].detach() for name in weights)))
