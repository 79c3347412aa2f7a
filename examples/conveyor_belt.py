"""How long a state lasts: the cell of an LSTM is a conveyor belt, the state of an RNN is not.

Run it with: ``python examples/conveyor_belt.py``

With the input gate at 0 and the forget gate at 1, c = f c + i g is c again: to the last bit, after any number
of steps (the constant error carousel of Hochreiter & Schmidhuber 1997, whose f is always 1). With gates in
between, and recurrent weights of zero, the share of c that is left is the product of the forget gates (Gers
et al. 2000), and so is the derivative. A tanh RNN has no gate: each step mixes its whole state and shrinks
it.

What is left is measured by two runs on the same inputs, one of them from a state of zeros: the norm of the
difference of their states, relative to the one at the start.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lstmc

EPS = float(np.finfo(np.float64).eps)  # one rounding error, relative
INPUTS = 4
FORGET_BIAS = 5.0  # of the gates that are nearly open: f is 0.99
BELT = "LSTM, input gate 0, forget gate 1"
NEARLY = f"LSTM, forget bias {FORGET_BIAS:g}"


class Measurements(NamedTuple):
    """What main() measures."""

    saturated: dict[str, bool]  # by type: i is exactly 0 and f exactly 1, at every step
    same_bits: dict[str, bool]  # by type: every c has the bits of the first one
    identity: dict[str, bool]  # by type: d c_T / d c_0 is exactly the identity
    product_error: float  # of d c_T / d c_0 against the product of the forget gates, relative
    crossed: float  # largest element of it off the diagonal, which must be 0
    left: dict[str, np.ndarray]  # (T+1,) of each network: what is left of its initial state
    lost: dict[str, int | None]  # steps until it is first below a rounding error; None: never


def shut_in(hidden: int, dtype: Any) -> lstmc.LSTM:
    """Return an LSTM that writes nothing into its cell and forgets nothing; all else is as usual."""
    lstm = lstmc.LSTM(INPUTS, hidden, dtype=dtype, rng=0)
    lstm["bias_l0"][:hidden] = -1000  # i: the sigmoid is exactly 0 there
    lstm["bias_l0"][hidden : 2 * hidden] = 1000  # f: exactly 1
    return lstm


def by_itself(hidden: int) -> lstmc.LSTM:
    """Return an LSTM with ordinary gates that read the input alone: no unit reads another."""
    lstm = lstmc.LSTM(INPUTS, hidden, dtype=np.float64, rng=0)
    lstm["weight_hh_l0"][:] = 0
    lstm["bias_l0"][hidden : 2 * hidden] = FORGET_BIAS
    return lstm


def orthogonal(hidden: int) -> lstmc.RNN:
    """Return a tanh RNN whose recurrent weights neither shrink nor stretch any state."""
    rnn = lstmc.RNN(INPUTS, hidden, dtype=np.float64, rng=0)
    square = np.random.default_rng(1).standard_normal((hidden, hidden))
    rnn["weight_hh_l0"][:] = np.linalg.qr(square)[0]
    return rnn


def what_is_left(net: Any, x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the norms (T+1,) of the difference in c, or h, of runs from `start` (1, H) and from zeros."""
    runs = []
    for first in (start, np.zeros_like(start)):
        lstm = isinstance(net, lstmc.LSTM)
        _, _, trace = net.forward(x, (np.zeros_like(first), first) if lstm else first)
        states = trace.layers[0].c if lstm else trace.layers[0].h
        runs.append(np.concatenate([first, states]))
    norms = np.linalg.norm(runs[0] - runs[1], axis=1)
    return np.asarray(norms / norms[0])


def draw(path: str | Path, left: dict[str, np.ndarray], lost: dict[str, int | None]) -> None:
    """Draw into a PNG file what is left over the steps, each line down to one rounding error."""
    from matplotlib.figure import Figure

    colours = ("#0072B2", "#009E73", "#E69F00", "#D55E00")  # Okabe and Ito
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    for (name, share), colour, dash in zip(left.items(), colours, ("-", "-.", "--", ":")):
        end = lost[name]
        shown = np.maximum(share[: None if end is None else end + 1], EPS)
        after = "never lost" if end is None else f"lost after {end} steps"
        k = np.arange(len(shown))
        axes.loglog(k, shown, dash, color=colour, linewidth=2, label=f"{name}: {after}")
        if end is not None:
            axes.plot(k[-1], shown[-1], "x", color=colour, markersize=8, markeredgewidth=2)
    axes.axhline(EPS, color="black", linewidth=0.8)
    axes.annotate("one rounding error", (1, EPS), (2, 4), textcoords="offset points")
    axes.set_xlim(1, len(next(iter(left.values()))) - 1)
    axes.set_xlabel("steps")
    axes.set_ylabel("share of the initial state that is left")
    axes.set_title("The belt keeps its cell to the last bit, an RNN loses its state")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center")
    figure.savefig(path, dpi=150)


def main(
    path: str | Path | None = "conveyor_belt.png",
    steps: int = 10_000,
    hidden: int = 16,
    product_steps: int = 200,
) -> Measurements:
    """Measure, print, and draw into `path` unless that is None.

    The product of the forget gates is over `product_steps`.
    """
    rng = np.random.default_rng(0)
    x, start = rng.standard_normal((steps, INPUTS)), rng.standard_normal((1, hidden))
    zeros = np.zeros_like(start)

    saturated, same_bits, identity = {}, {}, {}
    for dtype in (np.float32, np.float64):
        belt, c = shut_in(hidden, dtype), start.astype(dtype)
        _, _, trace = belt.forward(x.astype(dtype), (zeros.astype(dtype), c))
        name, one = np.dtype(dtype).name, trace.layers[0]
        saturated[name] = bool((one.gates["i"] == 0).all() and (one.gates["f"] == 1).all())
        # Bytes, not numbers: -0.0 == 0.0.
        same_bits[name] = all(c_t.tobytes() == c.tobytes() for c_t in one.c)
        jacobian = lstmc.state_jacobian(belt, trace=trace)[hidden:, hidden:]
        identity[name] = bool(np.array_equal(jacobian, np.eye(hidden)))
        print(f"{name}, {steps} steps: input gates exactly 0, forget gates 1: {saturated[name]}")
        print(f"  every cell has the first one's bits: {same_bits[name]} "
              f"(h, through its gate, is between {one.h.min():.3f} and {one.h.max():.3f})")  # fmt: skip
        print(f"  d c_T / d c_0 is exactly the identity: {identity[name]}")

    lstm, product_steps = by_itself(hidden), min(product_steps, steps)
    _, _, trace = lstm.forward(x[:product_steps], (zeros, start))
    jacobian = lstmc.state_jacobian(lstm, trace=trace)[hidden:, hidden:]
    product = trace.layers[0].gates["f"].prod(0)
    error = float(np.max(np.abs(jacobian.diagonal() / product - 1)))
    crossed = float(np.abs(jacobian - np.diag(jacobian.diagonal())).max())
    print(f"ordinary gates, {product_steps} steps: d c_T / d c_0 is the product of the forget gates, "
          f"{product.min():.3g} to {product.max():.3g},\n"
          f"  but for {error:.1e} relative; largest element off the diagonal {crossed:g}")  # fmt: skip

    nets: dict[str, Any] = {
        BELT: shut_in(hidden, np.float64),
        NEARLY: lstm,
        "RNN, orthogonal weights": orthogonal(hidden),
        "RNN, weights as made": lstmc.RNN(INPUTS, hidden, dtype=np.float64, rng=0),
    }
    left = {name: what_is_left(net, x, start) for name, net in nets.items()}
    lost = {}
    for name, share in left.items():
        below = np.flatnonzero(share < EPS)
        lost[name] = int(below[0]) if len(below) else None
        when = f"below a rounding error after {lost[name]}" if len(below) else "never lost"
        print(f"{name + ':':<35} {share[-1]:7.2g} left after {steps} steps, {when}")

    if path is not None:
        try:
            draw(path, left, lost)
        except ImportError:
            print("no picture: pip install lstmc[plot]")
    return Measurements(saturated, same_bits, identity, error, crossed, left, lost)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "conveyor_belt.png")
