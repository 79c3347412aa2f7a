"""A small piece of everything that runs on a GPU, for compute-sanitizer to watch.

    python -m benchmarks.gpu.sanitized

Every way through time, both cells, both types, steps, losses, optimisers, dropout, embedding, at sizes that
leave threads, blocks and tiles over. Memory comes straight from CUDA, not from CuPy's pool, so that an access
beyond the end of an array is one beyond the end of an allocation. Answers are compared with the CPU's.
"""

import itertools
import sys

import numpy as np

import lstmc
from lstmc._kernels import kernels_for

from .measure import difference

DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
# Steps, batch, inputs, hidden, layers: one row; few; more rows than a GPU has multiprocessors; many units.
SIZES = ((1, 1, 1, 1, 1), (4, 3, 5, 20, 2), (2, 300, 3, 36, 1), (3, 5, 7, 132, 1))
STEP_ROWS = (1, 3, 20)


def layers_of(sizes, dtype):
    """Give each cell once by name; an RNN with each activation."""
    _, _, inputs, hidden, depth = sizes
    more = {"dtype": dtype, "rng": 0}
    yield "LSTM", lambda: lstmc.LSTM(inputs, hidden, depth, **more)
    for kind in ("tanh", "relu"):
        yield (
            f"RNN {kind}",
            lambda kind=kind: lstmc.RNN(inputs, hidden, depth, nonlinearity=kind, **more),
        )


def through_time(make, sizes, dtype, device):
    """Run and differentiate a sequence three times: by a graph it is recorded, then replayed."""
    steps, batch, inputs, hidden, depth = sizes
    arrays, layer = kernels_for(device).arrays, make().to(device)
    rng = np.random.default_rng(1)

    def draw(*shape):
        return arrays.asarray(rng.standard_normal(shape).astype(dtype) * 0.5)

    x, dy = draw(steps, batch, inputs), draw(steps, batch, hidden)
    state, dstate = ([draw(depth, batch, hidden) for _ in layer.cell.states] for _ in range(2))
    state, dstate = (s[0] if len(s) == 1 else tuple(s) for s in (state, dstate))
    for number in range(3):
        still, _, _ = layer.forward(x, state, training=False)
        y, after, trace = layer.forward(x, state)
        layer.zero_grad()
        record = [] if number == 2 else None
        dx, before = layer.backward(dy, trace, dstate, consume=number == 1, record=record)
    both = [s if isinstance(s, tuple) else (s,) for s in (after, before)]
    return still, y, dx, layer.grads, *both[0], *both[1], record[0].dgates, record[0].dh_later


def steps_of(make, rows, dtype, device):
    """Step a layer, reset some rows, take new weights."""
    arrays, layer = kernels_for(device).arrays, make().to(device)
    rng, stepper = np.random.default_rng(2), layer.stepper(rows)
    for number in range(4):
        x = arrays.asarray(rng.standard_normal((rows, layer.input_size)).astype(dtype))
        y = stepper(x)
        if number == 1:
            stepper.reset(arrays.asarray(np.arange(rows) % 2 == 0))
            layer.params[:] *= 0.5
            stepper.refresh()
    state = stepper.state
    return y, *(state if isinstance(state, tuple) else (state,))


def training(optimiser, dtype, device):
    """Train a network of every kind of layer for three steps; dropout keeps all, so that devices agree."""
    arrays = kernels_for(device).arrays
    net = lstmc.Sequential(
        lstmc.Embedding(11, 6, dtype=dtype, rng=0),
        lstmc.Dropout(0.0, rng=0),
        lstmc.LSTM(6, 20, dtype=dtype, rng=1),
        lstmc.RNN(20, 9, dtype=dtype, rng=2),
        lstmc.Linear(9, 11, dtype=dtype, rng=3),
    ).to(device)
    rng, optimiser, state = np.random.default_rng(3), optimiser(net), None
    for _ in range(3):
        tokens, targets = (arrays.asarray(a) for a in rng.integers(11, size=(2, 5, 3)))
        targets[0, 1] = -1
        logits, state, trace = net.forward(tokens, state)
        loss, dlogits = lstmc.softmax_cross_entropy(logits, targets)
        net.zero_grad()
        net.backward(dlogits, trace)
        norm = lstmc.clip_grad_norm(net, 0.5)
        optimiser.step()
    stepper = net.stepper(3)
    y = stepper(tokens[0])
    error, dy = lstmc.squared_error(y, arrays.zeros_like(y))
    return loss, norm, net.params, y, error, dy


def dropped(dtype, device):
    """Drop half; what is drawn differs between devices, so only what must hold of it is given."""
    arrays, drop = kernels_for(device).arrays, lstmc.Dropout(0.5, rng=0)
    x = arrays.ones((7, 3, 1001), dtype)
    y, _, trace = drop.forward(x)
    dx, _ = drop.backward(x, trace)
    share = float((y == 0).mean())
    return (dx - y, ((y == 0) | (y == 2)).astype(dtype), np.float64(0.45 < share < 0.55))


OPTIMISERS = {
    "SGD": lambda net: lstmc.SGD(net, lr=0.1),
    "SGD with momentum": lambda net: lstmc.SGD(net, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda net: lstmc.Adam(net, lr=0.01, weight_decay=0.1, eps=1e-3),
    "AdamW": lambda net: lstmc.AdamW(net, lr=0.01, weight_decay=0.1, eps=1e-3),
    "RMSprop": lambda net: lstmc.RMSprop(net, lr=0.01, momentum=0.9, eps=1e-3),
}


def cases(dtypes=DTYPES, all_sizes=SIZES, ways=None):
    """Yield (name, type, way or None, a function of the device)."""
    from lstmc._kernels.cuda.ways import WAYS

    for dtype, sizes in itertools.product(dtypes, all_sizes):
        for (cell, make), way in itertools.product(layers_of(sizes, dtype), ways or WAYS):
            name = f"{cell} T{sizes[0]} B{sizes[1]} I{sizes[2]} H{sizes[3]} L{sizes[4]}, {way}"
            yield (
                name,
                dtype,
                way,
                lambda d, m=make, s=sizes, t=dtype: through_time(m, s, t, d),
            )
    for dtype in dtypes:
        for (cell, make), rows in itertools.product(layers_of((1, 1, 7, 33, 2), dtype), STEP_ROWS):
            yield (
                f"steps of {cell}, {rows} rows", dtype, None,
                lambda d, m=make, n=rows, t=dtype: steps_of(m, n, t, d),
            )  # fmt: skip
        for name, make in OPTIMISERS.items():
            yield (
                f"training by {name}", dtype, None,
                lambda d, m=make, t=dtype: training(m, t, d),
            )  # fmt: skip
        yield "dropout", dtype, None, lambda d, t=dtype: dropped(t, d)


def run(chosen):
    """Run cases on both devices; print each before it runs; give the names of those that differ."""
    from lstmc._kernels.cuda import kernels as cuda
    from lstmc._kernels.cuda.ways import use_way

    differ = []
    for name, dtype, way, case in chosen:
        print(f"{dtype} {name}:", end=" ", flush=True)
        expected = case("cpu")
        try:
            with use_way(way):
                off = difference(case("cuda"), expected)
            cuda.arrays.cuda.runtime.deviceSynchronize()
        except Exception as error:  # the cases that follow are worth running all the same
            if "does not fit" in str(error):
                print("does not fit", flush=True)
                continue
            print(f"FAILED: {type(error).__name__}: {error}", flush=True)
            differ.append(f"{dtype} {name}")
            continue
        right = off <= TOLERANCE[dtype]
        print(f"off by {off:.1e}{'' if right else ' WRONG'}", flush=True)
        if not right:
            differ.append(f"{dtype} {name}")
    return differ


def main():
    cupy = kernels_for("cuda").arrays
    cupy.cuda.set_allocator(None)
    differ = run(cases())
    print(f"differ: {', '.join(differ) or 'none'}")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
