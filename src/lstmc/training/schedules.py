"""Schedules of the learning rate: each sets the ``lr`` of its optimiser at the end of an epoch."""

import math

from ..checks import check_count, check_number, check_real
from ..layer import check_size

__all__ = ["ExponentialDecay", "PlateauDecay", "StepDecay"]


class StepDecay:
    """Multiply an optimiser's lr by `factor` after every `every` epochs, from epoch `start` on.

    Zaremba et al. 2014 train their medium model with lr 1 for 6 epochs and divide it by 1.2 after each
    later one: ``StepDecay(opt, factor=1 / 1.2, every=1, start=6)``.

    Parameters
    ----------
    optimiser : SGD, Adam, AdamW or RMSprop
    factor : float
        Above 0.
    every, start : int
        In epochs.

    Raises
    ------
    ValueError
        A number does not fit.
    """

    _options: tuple = ("factor", "every", "start")

    def __init__(self, optimiser, factor, every=1, start=0):
        self.optimiser = optimiser
        self.factor = check_number("factor", factor, open_low=True)
        self.every, self.start = check_size("every", every), check_count("start", start)
        self.epochs = 0

    def epoch_ended(self, loss=None):
        """Count an epoch that ended with this validation loss, which only some schedules use."""
        self.epochs += 1
        past = self.epochs - self.start
        if past >= 0 and past % self.every == 0 and self.epochs > 0:
            self.optimiser.lr *= self.factor

    def options(self):
        """Return what it was made with beside the optimiser, as plain data."""
        return {name: getattr(self, name) for name in self._options}

    def __repr__(self):
        options = {**self.options(), **self.state()}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"

    def state(self):
        """Return what a checkpoint needs: numbers by name."""
        return {"epochs": self.epochs}

    def checked_state(self, numbers):
        """Return what ``state()`` returned, checked.

        Raises
        ------
        ValueError
            A number is missing, negative, or of another type.
        """
        names = set(self.state())
        if not isinstance(numbers, dict) or set(numbers) != names:
            raise ValueError(
                f"a state of {type(self).__name__} must be {sorted(names)}, got {numbers!r:.100}"
            )
        counts = {name: check_count(name, numbers[name]) for name in names - {"best"}}
        if "best" in names:
            counts["best"] = check_real("best", numbers["best"])
        return counts

    def load_state(self, numbers):
        """Restore what ``state()`` returned; nothing changes if it is not that."""
        vars(self).update(self.checked_state(numbers))


class ExponentialDecay(StepDecay):
    """Multiply an optimiser's lr by `factor` after every epoch.

    Parameters
    ----------
    optimiser : SGD, Adam, AdamW or RMSprop
    factor : float
        Above 0.

    Raises
    ------
    ValueError
        The factor does not fit.
    """

    _options = ("factor",)

    def __init__(self, optimiser, factor):
        super().__init__(optimiser, factor)


class PlateauDecay(StepDecay):
    """Multiply lr by `factor` when the validation loss has not improved for `patience` epochs.

    Parameters
    ----------
    optimiser : SGD, Adam, AdamW or RMSprop
    factor : float
        Above 0.
    patience : int
        In epochs, at least 1.
    threshold : float
        An improvement must be larger, in nats.
    min_lr : float
        lr does not fall below it.

    Raises
    ------
    ValueError
        A number does not fit.
    """

    _options = ("factor", "patience", "threshold", "min_lr")

    def __init__(self, optimiser, factor=0.5, patience=1, threshold=0.0, min_lr=1e-8):
        super().__init__(optimiser, factor)
        self.patience = int(check_number("patience", patience, low=1))
        self.threshold = check_number("threshold", threshold)
        self.min_lr = check_number("min_lr", min_lr)
        self.best, self.waited = math.inf, 0

    def epoch_ended(self, loss=None):
        """Count an epoch that ended with this validation loss; refuse None."""
        if loss is None:
            raise ValueError("loss must be the validation loss: PlateauDecay watches it")
        self.epochs += 1
        if loss < self.best - self.threshold:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            lr = self.optimiser.lr
            self.optimiser.lr = max(lr * self.factor, min(lr, self.min_lr))
            self.waited = 0

    def state(self):
        """Return what a checkpoint needs: numbers by name."""
        return {"epochs": self.epochs, "best": self.best, "waited": self.waited}
