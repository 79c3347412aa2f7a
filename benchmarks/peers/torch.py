"""PyTorch: nn.LSTM and nn.RNN (oneDNN where it takes part), and for single steps their Cells."""

import torch

from . import CLIP, RATE, WINDOWS

CELLS = {
    "lstm": (torch.nn.LSTM, torch.nn.LSTMCell),
    "rnn": (torch.nn.RNN, torch.nn.RNNCell),
}


def _tensor(array):
    return torch.from_numpy(array.copy())


def _bind(module, weights):
    """Copy weights in; PyTorch's second bias is zero and not trained."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias_hh" in name:
                parameter.zero_().requires_grad_(False)
            else:
                parameter.copy_(_tensor(weights[name.replace("bias_ih", "bias")]))
    return module


def _layers(w, problem, **more):
    module = CELLS[w.cell][0](w.inputs, w.hidden, w.layers, dtype=getattr(torch, w.dtype), **more)
    return _bind(module, problem.weights)


def step(w, problem, threads):
    torch.set_num_threads(threads)
    x = _tensor(problem.x)
    sequence = _layers(w, problem)
    states = {}

    def run_sequence(n):
        with torch.inference_mode():
            state = states.get("sequence")
            for _ in range(n):
                y, state = sequence(x, state)
            states["sequence"] = state
        return (y[0],)

    found = {"torch": run_sequence}
    if w.layers == 1:
        kind = CELLS[w.cell][1]
        cell = kind(w.inputs, w.hidden, dtype=getattr(torch, w.dtype))
        _bind(cell, {k.removesuffix("_l0"): v for k, v in problem.weights.items()})
        x_0 = x[0]

        def run_cell(n):
            with torch.inference_mode():
                state = states.get("cell")
                for _ in range(n):
                    state = cell(x_0, state)
                states["cell"] = state
            return (state[0] if w.cell == "lstm" else state,)

        found[f"torch {kind.__name__}"] = run_cell
    return found


def forward(w, problem, threads):
    torch.set_num_threads(threads)
    layers, x = _layers(w, problem), _tensor(problem.x)

    def run(n):
        with torch.inference_mode():
            for _ in range(n):
                y = None  # the unit before is over
                y, _ = layers(x)
        return (y,)

    return {"torch": run}


def train(w, problem, threads):
    torch.set_num_threads(threads)
    layers, dy = _layers(w, problem), _tensor(problem.dy)
    x = _tensor(problem.x).requires_grad_()
    named = dict(layers.named_parameters())
    parameters = [named[name.replace("bias_", "bias_ih_")] for name in problem.weights]

    def run(n):
        for _ in range(n):
            layers.zero_grad()
            x.grad = y = None  # the unit before is over
            y, _ = layers(x)
            y.backward(dy)
        return (y.detach(), x.grad, *(p.grad for p in parameters))

    return {"torch": run}


def model(w, problem, threads):
    torch.set_num_threads(threads)
    layers = _layers(w, problem, dropout=w.dropout)
    embedding = torch.nn.Embedding(
        w.vocabulary, w.inputs, _weight=_tensor(problem.weights["embedding"])
    )
    softmax = torch.nn.Linear(w.hidden, w.vocabulary)
    _bind(softmax, {"weight": problem.weights["softmax"], "bias": problem.weights["softmax_bias"]})
    drop = torch.nn.Dropout(w.dropout)
    mean_loss = torch.nn.CrossEntropyLoss()
    parameters = [
        p for module in (layers, embedding, softmax) for p in module.parameters() if p.requires_grad
    ]
    optimiser = torch.optim.SGD(parameters, lr=RATE, fused=True)
    tokens, targets = _tensor(problem.tokens), _tensor(problem.targets)
    named = {name.replace("bias_ih", "bias"): p for name, p in layers.named_parameters()}
    named.update(embedding=embedding.weight, softmax=softmax.weight, softmax_bias=softmax.bias)
    state = None

    def run(n):
        nonlocal state
        for i in range(n):
            optimiser.zero_grad()
            y = logits = None  # the unit before is over
            y, state = layers(drop(embedding(tokens[i % WINDOWS])), state)
            logits = softmax(drop(y)).reshape(-1, w.vocabulary)
            loss = mean_loss(logits, targets[i % WINDOWS].reshape(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimiser.step()
            state = tuple(part.detach() for part in state) if w.cell == "lstm" else state.detach()
        return (loss.detach(), *(named[name].detach() for name in problem.weights))

    return {"torch": run}
