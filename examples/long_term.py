"""Why there are LSTMs: an LSTM learns what happened long ago, a tanh RNN of equal size does not.

Run it with: ``python examples/long_term.py`` or, with longer sequences, ``python examples/long_term.py 200``

Both networks get the same sequences, and at most the same number of updates. The picture shows their
learning curves, and why: how much of the gradient of the loss reaches back in time before training.
With ``main(start="orthogonal")`` the RNN begins with an orthogonal recurrent matrix: the gradient then
shrinks through tanh alone, and with some seeds it learns temporal order too.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lstmc.inspection.comparison import Comparison, compare
from lstmc.inspection.plots import plot_comparisons
from lstmc.inspection.problems import Problem


def main(
    steps: int = 100,
    problems: Sequence[str] = ("adding", "temporal_order"),
    updates: int = 5000,
    path: str | Path = "long_term.png",
    seconds: float | None = None,
    start: str = "uniform",
) -> list[Comparison]:
    """Compare both networks on these problems, print, draw, and return the comparisons."""
    comparisons = []
    for name in problems:
        problem = Problem(name, steps)
        comparisons.append(compare(problem, updates, start=start, every=50, seconds=seconds))
        print(comparisons[-1], flush=True)
    try:
        plot_comparisons(comparisons, path)
        print(f"see {path}")
    except ImportError as error:
        print(f"no picture: {error}")
    return comparisons


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
