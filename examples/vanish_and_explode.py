"""How a gradient vanishes and explodes in a simple recurrent network, compared with theory.

Run it with: ``python examples/vanish_and_explode.py``

One gradient g arrives at the last state. Without an activation ("identity") it is g R^k at the state k
steps before, where R are the recurrent weights: after the first steps it shrinks or grows by R's spectral
radius per step (Hochreiter 1991; Bengio et al. 1994; Pascanu et al. 2013). With tanh, each step also
multiplies by 1 - h^2, which is at most 1: this is the difference between the two lines. It prevents the
explosion, and a gradient that the weights alone would preserve vanishes.
"""

import sys
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

import lstmc

RADII = (0.5, 0.9, 1.0, 1.1, 1.5)
INPUTS = 8


class Line(NamedTuple):
    """One spectral radius: norms (T+1,) of the gradient k steps back, and factors per step."""

    radius: float
    linear: np.ndarray  # measured, identity
    theory: np.ndarray  # the norm of g R^k, from NumPy
    tanh: np.ndarray  # measured, tanh
    weights: float  # factor per step with identity: the weights'
    whole: float  # factor per step with tanh: the weights' and the derivative's
    slope: float  # median of 1 - h^2 over units and steps


def random_weights(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random matrix (not normal: its eigenvectors are not orthogonal) of spectral radius 1."""
    matrix = rng.standard_normal((size, size))
    return matrix / float(np.abs(np.linalg.eigvals(matrix)).max())


def follow(
    nonlinearity: Literal["identity", "tanh"],
    recurrent: np.ndarray,
    inward: np.ndarray,
    x: np.ndarray,
    g: np.ndarray,
) -> tuple[np.ndarray, float, float]:
    """Send g (H,) back from the last step of x (T, I); return norms (T+1,), factor per step, median slope.

    The recurrent weights are (H, H), those of the input (H, I).
    """
    size, inputs = inward.shape
    rnn = lstmc.RNN(inputs, size, nonlinearity=nonlinearity, bias=False, dtype=np.float64)
    rnn["weight_ih_l0"][:], rnn["weight_hh_l0"][:] = inward, recurrent
    y, _, trace = rnn.forward(x)
    dy = np.zeros_like(y)
    dy[-1] = g  # a loss at the last step alone
    reach = lstmc.gradient_flow(rnn, trace=trace, dy=dy).layers[0].reach
    quantiles = lstmc.step_factors(rnn, trace)[0]["derivatives"][f"{nonlinearity}'"]
    return reach.norms, float(np.exp(reach.rate)), float(np.median(quantiles[:, 2]))


def draw(path: str | Path, lines: list[Line]) -> None:
    """Draw both panels into a PNG file, a line for each radius."""
    from matplotlib.figure import Figure

    colours = ("#0072B2", "#56B4E9", "#000000", "#E69F00", "#D55E00")  # Okabe and Ito
    dashes = (":", "-.", "-", "--", (0, (6, 1, 1, 1, 1, 1)))
    figure = Figure(figsize=(6, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, sharey=True)
    k = np.arange(len(lines[0].linear))
    dots = slice(None, None, max(1, len(k) // 10))
    for line, colour, dash in zip(lines, colours, dashes):
        look = {"color": colour, "linestyle": dash, "linewidth": 1.8}
        name = f"{line.radius:g}"
        upper.semilogy(k, line.theory, label=name, **look)
        upper.semilogy(k[dots], line.linear[dots], "o", color=colour, markersize=4)
        lower.semilogy(k, line.linear, color=colour, linewidth=0.8, alpha=0.6)
        lower.semilogy(k, line.tanh, **look)
    upper.set_title("identity: the spectral radius decides\n(lines: theory, dots: measured)")
    lower.set_title(
        "tanh: what grew is bounded, what shrank shrinks faster\n(thin lines: identity, as above)"
    )
    for axes in (upper, lower):
        axes.set_ylabel("norm of the gradient, 1 at the loss")
        axes.grid(alpha=0.3)
    lower.set_xlabel("steps back from the loss")
    figure.legend(title="spectral radius", ncols=len(lines), loc="outside lower center")
    figure.savefig(path, dpi=150)


def main(
    path: str | Path | None = "vanish_and_explode.png", steps: int = 60, hidden: int = 32
) -> list[Line]:
    """Measure, print, draw into `path` unless that is None, and return a Line for each radius."""
    rng = np.random.default_rng(0)
    unit, g = random_weights(hidden, rng), rng.standard_normal(hidden)
    g, x = g / np.linalg.norm(g), rng.standard_normal((steps, INPUTS))
    inward = 0.1 * rng.standard_normal((hidden, INPUTS))
    lines = []
    for radius in RADII:
        recurrent = radius * unit
        linear, weights, _ = follow("identity", recurrent, inward, x, g)
        tanh, whole, slope = follow("tanh", recurrent, inward, x, g)
        powers = (np.linalg.matrix_power(recurrent, k) for k in range(steps + 1))
        theory = np.array([np.linalg.norm(g @ power) for power in powers])
        lines.append(Line(radius, linear, theory, tanh, weights, whole, slope))

    print(f"a gradient of norm 1, {steps} steps back through {hidden} units")
    print("spectral    norm that is left    factor a step: weights' x derivative's   median of")
    print("  radius   identity       tanh   (identity)  (the rest)  = whole (tanh)     1 - h^2")
    for a in lines:
        print(f"{a.radius:8}  {a.linear[-1]:9.2e}  {a.tanh[-1]:9.2e}   {a.weights:10.3f}  "
              f"{a.whole / a.weights:10.3f}  {a.whole:14.3f}  {a.slope:10.3f}")  # fmt: skip
    error = max(np.max(np.abs(a.linear / a.theory - 1)) for a in lines)
    print(f"identity against the norm of g R^k in NumPy: largest relative error {error:.1e}")

    if path is not None:
        try:
            draw(path, lines)
        except ImportError:
            print("no picture: pip install lstmc[plot]")
    return lines


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "vanish_and_explode.png")
