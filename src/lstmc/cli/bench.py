"""The command ``lstmc bench``: a few sizes timed in seconds, with PyTorch beside them on request.

More peers, and what the machine could do at best, are in benchmarks/ of the source tree.
"""

import statistics
import time

import numpy as np

from .._kernels.binding.core import get_num_threads
from ..recurrent import LSTM
from .options import count, positive

__all__ = ["EXAMPLE", "HELP", "add_options", "run", "time_text"]

HELP = "time lstmc on this machine, in seconds"
EXAMPLE = "  lstmc bench --threads 1 --peer torch"

# kind, T, B, H (and as many inputs)
WORKLOADS = (
    ("step", 1, 1, 64),
    ("step", 1, 1, 256),
    ("forward", 100, 1, 128),
    ("forward", 100, 32, 256),
    ("train", 20, 20, 200),
    ("train", 50, 32, 512),
)
TURN = 0.01  # seconds


def add_options(parser):
    """Add the options of this command."""
    add = parser.add_argument
    add("--hidden", type=count, metavar="N", help="this many units (default: some from 64 to 512)")
    add("--seconds", type=positive, default=0.5, metavar="X",
        help="how long to time each line (default: 0.5)")  # fmt: skip
    add("--peer", choices=("torch",), help="time this beside it, if it is installed")


def run(args):
    """Print a table of times: one LSTM layer, float32."""
    make_peer = torch_work if args.peer == "torch" else None
    if make_peer:
        try:
            import torch  # noqa: F401
        except ImportError as error:
            raise ValueError(f"--peer torch needs PyTorch: {error}") from None
    print(f"one LSTM layer, I = H, float32, threads: {get_num_threads()}")
    peer = f"{'torch':>12} {'torch/lstmc':>12}" if make_peer else ""
    print(f"{'':<22} {'time':>12} {'GFLOP/s':>9} {'tokens/s':>12} {peer}".rstrip())
    sizes = dict.fromkeys((kind, t, b, args.hidden or h) for kind, t, b, h in WORKLOADS)
    for kind, steps, batch, hidden in sizes:
        makers = [lstmc_work, make_peer] if make_peer else [lstmc_work]
        ours, *theirs = medians([m(kind, steps, batch, hidden) for m in makers], args.seconds)
        # Forward is 8 H (I + H) for a row and step; backward twice that.
        rate = (3 if kind == "train" else 1) * 16 * steps * batch * hidden**2 / ours / 1e9
        sequence = "" if kind == "step" else f"T{steps} "
        name = f"{kind} {sequence}B{batch} H{hidden}"
        line = f"{name:<22} {time_text(ours):>12} {rate:>9.1f} {steps * batch / ours:>12,.0f}"
        for seconds in theirs:
            line += f" {time_text(seconds):>12} {seconds / ours:>11.2f}×"
        print(line, flush=True)


def time_text(seconds):
    """Return a time in words: three figures and the unit that suits it."""
    units = ((1, "s"), (1e3, "ms"), (1e6, "µs"))
    factor, unit = next((u for u in units if seconds * u[0] >= 1), units[-1])
    return f"{seconds * factor:.3g} {unit}"


def medians(works, seconds):
    """Time functions in turns for about so many seconds; return the median time of a call of each."""
    counts, times = [], [[] for _ in works]
    for work in works:
        work()  # the first call allocates
        began = time.perf_counter()
        work()
        counts.append(max(1, int(TURN / max(time.perf_counter() - began, 1e-7))))
    began = time.perf_counter()
    while not times[-1] or time.perf_counter() - began < seconds:
        for work, calls, measured in zip(works, counts, times):
            start = time.perf_counter()
            for _ in range(calls):
                work()
            measured.append((time.perf_counter() - start) / calls)
    return [statistics.median(measured) for measured in times]


def lstmc_work(kind, steps, batch, hidden):
    """Return a function that does the work once."""
    layer = LSTM(hidden, hidden, rng=0)
    x = np.ones((steps, batch, hidden), np.float32)
    if kind == "step":
        stepper, y = layer.stepper(batch), np.empty((batch, hidden), np.float32)
        x = x[0]
        return lambda: stepper(x, out=y)
    if kind == "forward":
        return lambda: layer.forward(x, training=False)

    def train():
        layer.zero_grad()
        y, _, trace = layer.forward(x)
        layer.backward(y, trace, consume=True)

    return train


def torch_work(kind, steps, batch, hidden):
    """Return a function that does the same with PyTorch's nn.LSTM, or for a step its nn.LSTMCell."""
    import torch

    torch.set_num_threads(get_num_threads())
    layer = (torch.nn.LSTMCell if kind == "step" else torch.nn.LSTM)(hidden, hidden)
    x = torch.ones(steps, batch, hidden)
    if kind == "train":
        x.requires_grad_()

        def train():
            layer.zero_grad()
            x.grad = None
            y, _ = layer(x)
            y.backward(y.detach())

        return train
    state = None

    def infer():
        nonlocal state
        with torch.inference_mode():
            if kind == "step":
                state = layer(x[0], state)
            else:
                layer(x)

    return infer
