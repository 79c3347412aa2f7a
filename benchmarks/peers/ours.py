"""lstmc itself, by its public names alone: other versions of it are timed by this file, too."""

import lstmc

from . import CLIP, RATE, Side, Turns

NOT_PLAIN = ("forward", "train")
LAYERS = {  # those that this version has
    name.lower(): getattr(lstmc, name) for name in ("LSTM", "GRU", "RNN") if hasattr(lstmc, name)
}


def layer_of(w):
    """Return the recurrent layer of a workload."""
    if w.cell not in LAYERS:
        raise ValueError(f"this version of lstmc has no {w.cell}")
    more = {"bidirectional": True} if w.bidirectional else {}
    return LAYERS[w.cell](w.inputs, w.hidden, w.layers, dtype=w.dtype, rng=0, **more)


def _bound_layer(w, problem, setting):
    layer = layer_of(w)
    for name in layer.parameters():
        layer[name][...] = problem.weights[name]
    return layer.to(setting.device)


def step(w, problem, setting):
    stepper = _bound_layer(w, problem, setting).stepper(w.batch, num_threads=setting.threads)
    turns = Turns([x for (x,) in problem.on(setting.arrays).sets])
    y = setting.arrays.empty((w.batch, w.hidden), w.dtype)

    def run(n):
        for x in turns.take(n):
            stepper(x, y)

    def answers():
        state = stepper.state
        return (y, *(state if isinstance(state, tuple) else (state,)))

    return {"lstmc": Side(run, answers)}


def forward(w, problem, setting):
    layer, y = _bound_layer(w, problem, setting), None
    turns = Turns(problem.on(setting.arrays).sets)

    def run(n):
        nonlocal y
        for (x,) in turns.take(n):
            y = None  # the unit before is over
            y, _, _ = layer.forward(x, training=False, num_threads=setting.threads, **problem.times)

    return {"lstmc": Side(run, lambda: (y,))}


def train(w, problem, setting):
    layer, y, dx = _bound_layer(w, problem, setting), None, None
    turns = Turns(problem.on(setting.arrays).sets)

    def run(n):
        nonlocal y, dx
        for x, dy in turns.take(n):
            y = dx = trace = None  # the unit before is over
            layer.zero_grad()
            y, _, trace = layer.forward(x, num_threads=setting.threads, **problem.times)
            dx, _ = layer.backward(dy, trace, num_threads=setting.threads, consume=True)

    return {"lstmc": Side(run, lambda: (y, dx, *(layer.grad(name) for name in problem.weights)))}


def network(w, weights):
    """Return the network of Zaremba et al. (2014) on the CPU, and where in it the problem's weights are."""
    layers = [lstmc.Embedding(w.vocabulary, w.inputs, dtype=w.dtype, rng=0)]
    where = {"embedding": "0.weight"}
    if w.dropout:  # it comes between the layers, so each of them stands alone
        for i in range(w.layers):
            layers.append(lstmc.Dropout(w.dropout, rng=i))
            inputs = w.hidden if i else w.inputs
            layers.append(LAYERS[w.cell](inputs, w.hidden, dtype=w.dtype, rng=0))
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


def model(w, problem, setting):
    net, where = network(w, problem.weights)
    net.to(setting.device)
    optimiser, turns = lstmc.SGD(net, lr=RATE), Turns(problem.on(setting.arrays).sets)
    threads, state, loss = setting.threads, None, None

    def run(n):
        nonlocal state, loss
        for tokens, targets in turns.take(n):
            logits = dlogits = trace = None  # the unit before is over
            logits, state, trace = net.forward(tokens, state, num_threads=threads)
            loss, dlogits = lstmc.softmax_cross_entropy(
                logits, targets, num_threads=threads, out=logits
            )
            net.zero_grad()
            net.backward(dlogits, trace, num_threads=threads, need_dx=False, consume=True)
            lstmc.clip_grad_norm(net, CLIP, threads)
            optimiser.step(threads)

    return {"lstmc": Side(run, lambda: (loss, *(net[where[name]] for name in problem.weights)))}
