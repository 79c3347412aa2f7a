"""What a run of training carries along, from window to window and from epoch to epoch."""

import math

from .streams import perplexity_of

__all__ = ["Progress", "no_best", "no_sums"]

# A mean loss of so many times that of guessing evenly is not learning's any more.
DIVERGED = 3


def no_sums():
    """Return the sums of an epoch that has no window yet."""
    return {"tokens": 0, "classes": 0, "loss": 0.0, "norm": 0.0, "seconds": 0.0}


def no_best():
    """Return what is known of the best epoch before the first."""
    return {"loss": math.inf, "epoch": 0, "waited": 0}


class Progress:
    """What a Trainer carries from window to window and from epoch to epoch.

    Attributes
    ----------
    state
        The state of the network after the last window; None before the first.
    sums : dict
        For the current epoch: tokens, the classes that logits are of, and the sums of losses, gradient norms
        and seconds.
    best : dict
        The best validation loss, its epoch, and the epochs with patience that have passed since.
    best_params : ndarray or None
        The weights of the best epoch.
    last_params : ndarray or None
        The weights to go on from, while the network has those of the best epoch.
    asked : int
        The most epochs that training was asked for.
    corpus : dict or None
        Lengths and checksums of the texts.
    metrics : dict or None
        How far the metrics file was written at the last checkpoint.
    goes_back : bool
        Whether these are a checkpoint's, so that what the files have beyond it is to be written again.
    """

    def __init__(self, state=None, sums=None, best=None, best_params=None, last_params=None, asked=0,
                 corpus=None, metrics=None):  # fmt: skip
        self.state, self.sums = state, sums or no_sums()
        self.best, self.best_params, self.last_params = best or no_best(), best_params, last_params
        self.asked, self.corpus, self.metrics = asked, corpus, metrics
        self.goes_back = False

    def __repr__(self):
        return f"Progress(sums={self.sums!r}, best={self.best!r})"

    def begin_epoch(self):
        """Start an epoch: the state is None, and nothing is summed yet."""
        self.state, self.sums = None, no_sums()

    @property
    def train_loss(self):
        """The mean over the current epoch so far."""
        return self.sums["loss"] / self.sums["tokens"]

    def add(self, tokens, classes, loss, norm, seconds):
        """Add what one window came to: its mean loss counts for each token."""
        sums = self.sums
        sums["classes"] = classes
        sums["tokens"] += tokens
        sums["loss"] += loss * tokens
        sums["norm"] += norm
        sums["seconds"] += seconds

    def check_learning(self, epoch):
        """Raise FloatingPointError if the mean cross-entropy is far above that of guessing evenly."""
        guessing = math.log(max(2, self.sums["classes"]))
        if self.train_loss > DIVERGED * guessing:
            raise FloatingPointError(
                f"training has diverged: the mean loss of epoch {epoch} is {self.train_loss:.4g} nats per "
                f"token, that of guessing evenly {guessing:.4g}. A lower lr or clip may help"
            )

    def measures(self, windows, valid_loss, lr, is_entropy):
        """Return what is recorded of the epoch so far, of so many windows."""
        sums, shown = self.sums, self.train_loss if valid_loss is None else valid_loss
        return {
            "train_loss": self.train_loss,
            "valid_loss": valid_loss,
            "perplexity": perplexity_of(shown) if is_entropy else None,
            "lr": lr,
            "seconds": sums["seconds"],
            "tokens_per_second": sums["tokens"] / max(sums["seconds"], 1e-9),
            "grad_norm": sums["norm"] / windows,
        }

    def weigh(self, epoch, valid_loss, params, patience):
        """Keep the weights of an epoch that ended with the least validation loss so far; else count it."""
        self.best["waited"] += patience is not None
        if valid_loss < self.best["loss"]:
            self.best = {"loss": valid_loss, "epoch": epoch, "waited": 0}
            self.best_params = params.copy()

    def to_go_on_from(self, params):
        """Return the weights that training goes on from, where the network has these."""
        shows_best = self.last_params is not None and bool((params == self.best_params).all())
        return self.last_params if shows_best else params

    def ask(self, epoch, epochs, patience):
        """Note how many epochs are asked for, after so many.

        If more than those that patience cut short, it begins anew.
        """
        was_cut_short = patience and self.best["waited"] >= patience and epoch < self.asked
        if was_cut_short and epochs > self.asked:
            self.best["waited"] = 0
        self.asked = max(self.asked, epochs)
