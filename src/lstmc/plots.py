"""Pictures: the only file that imports matplotlib."""

import numpy as np

__all__ = ["plot_losses"]


def plot_losses(path, epochs, train, valid):
    """Draw the losses over epochs into a PNG file.

    Parameters
    ----------
    path : str or path
    epochs : list of float
        When, in epochs.
    train, valid : list of float or None
        Mean loss of an epoch's training, and of validation, in nats per token; None where unknown.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, no window system

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, losses in (("training", train), ("validation", valid)):
        values = np.array(losses, float)
        if np.isfinite(values).any():
            axes.plot(epochs, values, marker="o", markersize=3, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss, nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
