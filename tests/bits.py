"""Prints a hash of each of many results, so that two builds can be compared to the bit.

    python tests/bits.py [--isa NAME] > file

A line is "case: hash"; the hash is SHA-256 over the bytes, types and shapes of everything the case
returns. Run it on both builds on one machine and compare the files with diff. Texts that reports
print are cases of their own, so that a change of wording is told from a change of numbers. Only
what lstmc exports is used, apart from the choice of an instruction set, which has no public name.
"""

import argparse
import dataclasses
import hashlib
import inspect
import itertools
import tempfile
import warnings
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import lstmc

try:
    from lstmc._kernels.binding import core
except ImportError:  # where the binding was before it had a folder
    from lstmc._kernels import _core as core

# Of the options of an LSTM, by the name of a case; a function is one of the hidden units.
VARIANTS = {
    "lstm_coupled_peephole": {"coupled": True, "peephole": True},
    "lstm_clipped": {"clip": 0.5, "grad_clip": 0.01},
    "lstm_projected": {"proj_size": lambda hidden: hidden // 2},
    "lstm_all": {
        "coupled": True,
        "peephole": True,
        "clip": 0.5,
        "proj_size": lambda hidden: hidden // 2,
    },
}


def variant(options, inputs, hidden, *more, **others):
    own = {key: value(hidden) if callable(value) else value for key, value in options.items()}
    return lstmc.LSTM(inputs, hidden, *more, **own, **others)


CELLS = {
    "lstm": lambda *sizes, **options: lstmc.LSTM(*sizes, **options),
    **{
        name: partial(variant, options)
        for name, options in VARIANTS.items()
        if set(options)
        <= set(inspect.signature(lstmc.LSTM).parameters)  # an older version has none
    },
    **({"gru": lstmc.GRU} if hasattr(lstmc, "GRU") else {}),  # an older version has none
    **(
        {"gru_before": lambda *sizes, **options: lstmc.GRU(*sizes, reset_after=False, **options)}
        if hasattr(getattr(lstmc, "GRU", None), "reset_after")
        else {}
    ),
    **{
        f"rnn_{kind}": lambda *sizes, kind=kind, **options: lstmc.RNN(
            *sizes, nonlinearity=kind, **options
        )
        for kind in ("tanh", "relu", "identity")
    },
}
TYPES = {"f32": np.float32, "f64": np.float64}
# T, B, I, H: each side of every vector's width, in the features, the units and the rows
SIZES = [
    (7, 1, 1, 3),
    (3, 2, 3, 1),
    (7, 3, 7, 8),
    (3, 5, 8, 7),
    (1, 8, 9, 15),
    (3, 3, 15, 9),
    (50, 2, 16, 17),
    (7, 5, 17, 16),
    (7, 20, 31, 33),
    (3, 8, 33, 31),
    (3, 1, 40, 64),
    (3, 20, 64, 65),
    (7, 64, 65, 40),
    (1, 64, 200, 128),
    (3, 3, 128, 200),
]


def absorb(sha, value):
    """Put a value of any kind that a case may return into a hash, with its type and shape."""
    if isinstance(value, np.ndarray):
        sha.update(f"{value.dtype}{value.shape}".encode())
        sha.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key, part in value.items():
            sha.update(f"{key}=".encode())
            absorb(sha, part)
    elif isinstance(value, (tuple, list)):
        sha.update(f"{len(value)}:".encode())
        for part in value:
            absorb(sha, part)
    elif dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        absorb(sha, {field.name: getattr(value, field.name) for field in fields})
    elif isinstance(value, (float, np.floating)):
        sha.update(np.float64(value).tobytes())
    elif value is None or isinstance(value, (str, bool, int, np.integer, np.bool_)):
        sha.update(repr(value if value is None or isinstance(value, str) else int(value)).encode())
    else:
        raise TypeError(f"no way to hash a {type(value).__name__}")


def show(case, *values):
    sha = hashlib.sha256()
    absorb(sha, values)
    print(f"{case}: {sha.hexdigest()}")


def generator(*case):
    return np.random.default_rng(zlib.crc32(repr(case).encode()))


def drawing(dtype, *case):
    """Return a function that draws arrays of the case's own numbers."""
    rng = generator(*case)
    return lambda *shape: rng.standard_normal(shape).astype(dtype)


def states(layer, draw, batch):
    """Draw a state of a recurrent layer, in the form that the layer returns."""
    _, like = layer(np.zeros((1, batch, layer.input_size), layer.dtype))
    return tuple(draw(*a.shape) for a in like) if isinstance(like, tuple) else draw(*like.shape)


# --------------------------------------------------------------------------------------------------
# Layers
# --------------------------------------------------------------------------------------------------


def recurrent(case, cell, dtype, size, layers, with_state, bias, threads):
    """Show everything that forward and backward of one stack return."""
    steps, batch, inputs, hidden = size
    draw = drawing(dtype, cell, size, layers)
    layer = CELLS[cell](inputs, hidden, layers, bias=bias, dtype=dtype, rng=3)
    units = layer["weight_hh_l0"].shape[1]
    x, dy = draw(steps, batch, inputs), draw(steps, batch, units)
    state, dstate = None, None
    if with_state:
        state, dstate = (states(layer, draw, batch) for _ in range(2))
    show(f"{case} inference", layer.forward(x, state, training=False, num_threads=threads)[:2])

    def run(name, **options):
        layer.zero_grad()
        y, last, trace = layer.forward(x, state, num_threads=threads)
        if name == "backward":
            show(f"{case} forward", y, last)
            show(f"{case} trace", [(part.h, part.c, part.gates) for part in trace.layers])
        gradients = layer.backward(dy, trace, dstate, num_threads=threads, **options)
        show(f"{case} {name}", gradients, layer.grads)

    record = []
    run("backward")
    run("backward with record", record=record)
    names = ("dh_above", "dh_later", "dh", "dc_later", "dc_through_h", "dc", "dgates", "dx")
    show(f"{case} record", [[getattr(part, name) for name in names] for part in record])
    run("backward without gradients of weights", need_grads=False)
    run("backward without dx", need_dx=False)
    run("backward of a spent trace", consume=True)


def steppers(case, cell, dtype, size, layers, threads):
    _, batch, inputs, hidden = size
    draw = drawing(dtype, "stepper", cell, size, layers)
    layer = CELLS[cell](inputs, hidden, layers, dtype=dtype, rng=4)
    stepper, seen = layer.stepper(batch, num_threads=threads), []
    for step in range(6):
        seen.append(stepper(draw(batch, inputs)).copy())
        if step == 1:
            stepper.reset(np.arange(batch) % 2 == 0)
        if step == 2:
            seen.append(stepper.state)
            stepper.state = states(layer, draw, batch)
        if step == 3:
            layer.params[...] *= 0.5
            stepper.refresh()
        if step == 4:
            stepper.reset()
    show(case, seen, stepper.state)


def dense(case, dtype, size, threads):
    steps, batch, inputs, outputs = size
    draw = drawing(dtype, "linear", size)
    for bias in (True, False):
        layer = lstmc.Linear(inputs, outputs, bias, dtype=dtype, rng=5)
        y, _, trace = layer.forward(draw(steps, batch, inputs), num_threads=threads)
        dx, _ = layer.backward(draw(steps, batch, outputs), trace, num_threads=threads)
        y_t = layer.stepper(batch, num_threads=threads)(draw(batch, inputs))
        show(f"{case} linear bias={bias}", y, dx, layer.grads, y_t)
    tokens = generator("tokens", size).integers(0, inputs, (steps, batch))
    embedding = lstmc.Embedding(inputs, outputs, dtype=dtype, rng=6)
    y, _, trace = embedding.forward(tokens, num_threads=threads)
    embedding.backward(draw(steps, batch, outputs), trace, num_threads=threads)
    show(f"{case} embedding", y, embedding.grads, embedding.stepper(batch)(tokens[0]))
    dropout = lstmc.Dropout(0.3, rng=7)
    y, _, trace = dropout.forward(draw(steps, batch, inputs))
    show(f"{case} dropout", y, dropout.backward(draw(steps, batch, inputs), trace)[0])
    logits = 3 * draw(steps, batch, inputs)
    ignored = np.where(generator("ignored", size).random((steps, batch)) < 0.3, -1, tokens)
    for name, targets in (("", tokens), (" with ignored targets", ignored)):
        loss = lstmc.softmax_cross_entropy(logits, targets, num_threads=threads)
        show(f"{case} softmax_cross_entropy{name}", loss)
    target = draw(steps, batch, inputs)
    show(f"{case} squared_error", lstmc.squared_error(logits, target, num_threads=threads))
    show(f"{case} huber", lstmc.huber(logits, target, num_threads=threads))
    shares, mask = np.clip(target, 0, 1), ignored >= 0
    binary = lstmc.binary_cross_entropy(logits, shares, num_threads=threads)
    show(f"{case} binary_cross_entropy", binary)
    for loss in (lstmc.squared_error, lstmc.huber, lstmc.binary_cross_entropy):
        masked = loss(logits, shares, num_threads=threads, mask=mask)
        show(f"{case} {loss.__name__} with a mask", masked)


# --------------------------------------------------------------------------------------------------
# Optimisers and training
# --------------------------------------------------------------------------------------------------

OPTIMISERS = {
    "SGD": lambda net: lstmc.SGD(net, 0.1),
    "SGD momentum": lambda net: lstmc.SGD(net, 0.1, momentum=0.9, weight_decay=0.01),
    "SGD Nesterov": lambda net: lstmc.SGD(net, 0.1, momentum=0.9, nesterov=True),
    "Adam": lambda net: lstmc.Adam(net),
    "Adam with decay": lambda net: lstmc.Adam(net, 0.01, (0.8, 0.95), 1e-6, weight_decay=0.02),
    "AdamW": lambda net: lstmc.AdamW(net, 0.01),
    "RMSprop": lambda net: lstmc.RMSprop(net),
    "RMSprop momentum": lambda net: lstmc.RMSprop(net, 0.02, 0.9, momentum=0.8, weight_decay=0.1),
}
SCHEDULES = {
    "StepDecay": lambda optimiser: lstmc.StepDecay(optimiser, 0.5, every=2, start=1),
    "ExponentialDecay": lambda optimiser: lstmc.ExponentialDecay(optimiser, 0.9),
    "PlateauDecay": lambda optimiser: lstmc.PlateauDecay(optimiser, 0.3, patience=1, threshold=0.1),
}


def optimisers(case, dtype, threads):
    for name, make in OPTIMISERS.items():
        layer = lstmc.LSTM(7, 9, 2, dtype=dtype, rng=8)
        optimiser, draw, norms = make(layer), drawing(dtype, "optimiser", name), []
        for _ in range(4):
            layer.grads[...] = draw(layer.grads.size)
            norms.append(lstmc.clip_grad_norm(layer, 5.0, num_threads=threads))
            optimiser.step(num_threads=threads)
        show(f"{case} {name}", norms, layer.grads, layer.params, optimiser.state())


def schedules():
    for name, make in SCHEDULES.items():
        optimiser = lstmc.SGD(lstmc.Linear(2, 2, rng=0), 0.1)
        schedule, rates = make(optimiser), []
        for loss in (3.0, 2.5, 2.49, 2.48, 2.47, 2.0, 2.1, 2.2):
            schedule.epoch_ended(loss)
            rates.append(optimiser.lr)
        show(name, rates, schedule.state())


TEXT = "the loss fell as the state kept what the gate let in; " * 12


def training(case, cell, dtype, threads, folder):
    """Train a small language model with dropout, stop, go on from the checkpoint, and sample."""
    vocabulary = lstmc.Vocabulary.from_text(TEXT)
    tokens = vocabulary.encode(TEXT)
    train, valid, path = tokens[:500], tokens[500:], folder / "checkpoint.safetensors"

    def trainer():
        model = lstmc.LanguageModel(vocabulary, cell, 2, 17, 9, dropout=0.2, dtype=dtype, rng=9)
        optimiser = lstmc.AdamW(model.net, 0.01)
        schedule = lstmc.ExponentialDecay(optimiser, 0.9)
        watch = lstmc.Watch(model.net, every=5)
        return model, lstmc.Trainer(
            model.net, optimiser, 4, 15, 1.0, schedule, num_threads=threads, watch=watch
        )

    def shown(name, model, run):
        losses = [
            {key: value for key, value in epoch.items() if "second" not in key}
            for epoch in run.history
        ]
        show(f"{case} {name}", losses, model.net.params, run.optimiser.state())
        show(f"{case} {name} watch", run.watch.records)

    model, run = trainer()
    run.fit(train, valid, epochs=2, checkpoint=path, progress=False)
    shown("trained", model, run)
    show(f"{case} checkpoint", dict(sorted(load_file(path).items())))
    model, run = trainer()
    run.load(path)
    run.fit(train, valid, epochs=3, progress=False)
    shown("resumed", model, run)
    model.save(folder / "model.safetensors")
    model = lstmc.LanguageModel.load(folder / "model.safetensors")
    show(f"{case} loss", model.loss(TEXT[:100]), model.perplexity(TEXT[:100]))
    show(f"{case} sample", [
        model.sample("the ", 60, temperature, top_k, rng=10)
        for temperature, top_k in ((1.0, None), (0.5, 5), (0.0, None))
    ])  # fmt: skip
    show(f"{case} continuations", model.continuations("the gat"))
    if cell == "lstm":
        show(f"{case} writers", lstmc.writers(model, TEXT[:50], 3))
    report("model", case, model, tokens[:40])


# --------------------------------------------------------------------------------------------------
# Inspection
# --------------------------------------------------------------------------------------------------


def report(name, case, net, x, targets=None):
    """Show the numbers and the texts of every report on a network."""
    flow = lstmc.gradient_flow(net, x, targets, arrays=False)
    gates = lstmc.gate_statistics(net, x)
    for kind, one in (("gradient_flow", flow), ("gate_statistics", gates)):
        show(f"{case} {name} {kind}", one.to_dict())
        show(f"{case} {name} {kind} text", str(one))


def inspection(case, cell, dtype):
    draw = drawing(dtype, "inspection", cell)
    layer = CELLS[cell](3, 9, 2, dtype=dtype, rng=11)
    units = layer["weight_hh_l0"].shape[1]
    net = lstmc.Sequential(
        CELLS[cell](3, 9, 2, dtype=dtype, rng=12), lstmc.Linear(units, 4, rng=13, dtype=dtype)
    )
    x, state = draw(12, 3, 3), states(layer, draw, 3)
    show(f"{case} state_jacobian", lstmc.state_jacobian(layer, x, 2, 9, state))
    show(f"{case} input_jacobian", lstmc.input_jacobian(layer, x, 4, state))
    spectrum = lstmc.jacobian_spectrum(layer, x, state=state)
    show(f"{case} jacobian_spectrum", spectrum.to_dict())
    show(f"{case} jacobian_spectrum text", str(spectrum))
    exponents = [lstmc.lyapunov_exponents(layer, x, state, every=every) for every in (1, 3)]
    show(f"{case} lyapunov_exponents", exponents, lstmc.lyapunov_exponents(layer, x, count=2))
    trace = layer.forward(x, state)[2]
    show(f"{case} step_factors", lstmc.step_factors(layer, trace))
    targets = generator("targets", cell).integers(0, 4, (12, 3))
    report("network", case, net, x, targets)
    flow = lstmc.gradient_flow(layer, x, dy=draw(12, 3, units), at=[3, 11], arrays=True)
    names = ("dh_above", "dh_later", "dh", "dc_later", "dc_through_h", "dc", "dgates", "dx")
    arrays = [[getattr(part.gradients, name) for name in names] for part in flow.layers]
    show(f"{case} gradient_flow with arrays", flow.to_dict(), arrays)
    if dtype == np.float64:
        checked = lstmc.check_gradients(net, x[:4], targets[:4], samples=20)
        show(f"{case} check_gradients", checked.to_dict())
        show(f"{case} check_gradients text", str(checked))
    x[5, 1, 2] = np.nan
    show(f"{case} find_nonfinite", str(lstmc.find_nonfinite(net, x, targets)))


# --------------------------------------------------------------------------------------------------


def every_case(isa, folder):
    small = [size for size in SIZES if np.prod(size) < 20000]
    for (cell, (kind, dtype)), threads in itertools.product(
        itertools.product(CELLS, TYPES.items()), (1, 2)
    ):
        here = f"{isa} {cell} {kind} threads={threads}"
        for n, size in enumerate(SIZES):
            for layers in (1, 2, 3):
                pairs = itertools.product((True, False), repeat=2)  # with a state, with a bias
                for m, (with_state, bias) in enumerate(pairs):
                    if size in small or m == (n + layers) % 4:
                        case = f"{here} {size} layers={layers} state={with_state} bias={bias}"
                        recurrent(case, cell, dtype, size, layers, with_state, bias, threads)
                case = f"{here} {size} layers={layers} stepper"
                steppers(case, cell, dtype, size, layers, threads)
    for (kind, dtype), threads in itertools.product(TYPES.items(), (1, 2)):
        here = f"{isa} {kind} threads={threads}"
        for size in SIZES:
            dense(f"{here} {size}", dtype, size, threads)
        optimisers(here, dtype, threads)
        for cell in ("lstm", "gru", "rnn"):
            if hasattr(lstmc, cell.upper()):
                training(f"{here} {cell}", cell, dtype, threads, folder)
    for cell, (kind, dtype) in itertools.product(CELLS, TYPES.items()):
        inspection(f"{isa} {cell} {kind}", cell, dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--isa", choices=core.instruction_sets(), help="one instruction set, not all"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    schedules()
    for isa in [arguments.isa] if arguments.isa else core.instruction_sets():
        core.use_instruction_set(isa)
        with tempfile.TemporaryDirectory() as folder:
            every_case(isa, Path(folder))


if __name__ == "__main__":
    main()
