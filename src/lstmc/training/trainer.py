"""Training on a long text: windows, truncated BPTT, checkpoints.

A corpus is cut into parallel streams and these into windows of some steps. Gradients stop at the edge
of a window, states do not (Williams & Peng 1990). A checkpoint holds all that an undisturbed run would
have in memory, so that a resumed run ends with the same bits.

Deliberately not a framework: there are no callbacks. For another loop, use ``streams``, ``windows``,
``forward``, ``backward`` and an optimiser, as ``Trainer`` does.
"""

import copy
import math
import os
import time
from dataclasses import dataclass

from .._kernels.devices import copy_into
from ..checks import check_norm
from ..files import RecordFile, check_writable_folder
from ..inspection.watch import find_nonfinite
from ..layer import check_size
from ..losses import check_returned, softmax_cross_entropy
from ..optim import clip_grad_norm, clip_grad_value
from .checkpoints import check_note, load_checkpoint, save_checkpoint
from .display import Display
from .interrupts import Interrupted, Interrupts, interrupts
from .progress import Progress
from .schedules import PlateauDecay
from .streams import TokenStream, check_same_corpus, check_time_major, mean_loss, token_stream

__all__ = ["Trainer"]

ENOUGH_WINDOWS = 20  # to tell by their mean loss that training does not learn


class _TimeIsUp(Exception):
    """The minutes that fit was given are over, between two windows."""


@dataclass(eq=False, repr=False)
class _Run:
    """The checked arguments of one call of fit, and what belongs to it alone."""

    data: TokenStream
    valid: TokenStream | None
    epochs: int
    patience: int | None
    checkpoint: str | os.PathLike | None
    metrics: RecordFile | None
    until: float  # of time.monotonic
    display: Display
    interrupted: Interrupts
    saved_at: float
    windows: int = 0  # trained
    recorded: int = 0  # of these, when a line was last written


class Trainer:
    """Trains a network on a text by truncated backpropagation through time (BPTT).

    Parameters
    ----------
    net : Sequential
        Tokens (T, B) in, logits (T, B, V) out.
    optimiser : SGD, Adam, AdamW or RMSprop
        The optimiser of that network.
    batch : int, optional
        B, the parallel streams of the text.
    steps : int, optional
        T, the length of a window: gradients reach back as far. `batch` and `steps` are needed where ``fit``
        is given an array of tokens; a TokenStream has its own.
    clip : float or None
        The largest norm of the gradient. None only measures it.
    schedule : StepDecay, ExponentialDecay or PlateauDecay, optional
        The schedule of that optimiser.
    num_threads : int, optional
    watch : Watch, optional
        The watch of that network: it is called on every window.
    clip_value : float, optional
        The largest size of any element of the gradient. It comes before `clip`, if both are given: the norm
        that is limited, and that ``fit`` reports, is that of what is left.
    loss : "cross_entropy", or a function
        A function is called with the network's output and the targets, and returns the mean loss and its
        gradient at the output, as ``softmax_cross_entropy`` does.

    Attributes
    ----------
    epoch, window : int
        The epochs finished, and the windows finished in the current one.
    history : list of dict
        One per finished epoch, as ``fit`` returns it.
    ended : str or None
        Why the last ``fit`` came to its end: "epochs", "patience" or "minutes".
    checkpoint_seconds : float
        How often, at least, ``fit`` saves a checkpoint: 60 unless set.
    note : dict
        Anything that JSON can hold; it is stored with a checkpoint.
    progress : Progress
        What is carried from window to window and from epoch to epoch.

    Raises
    ------
    TypeError, ValueError
        The optimiser, the schedule or the watch is of another network, this one is ``batch_first`` or has a
        Last, or an argument does not fit.
    """

    def __init__(self, net, optimiser, batch=None, steps=None, clip=5.0, schedule=None, num_threads=None,
                 watch=None, *, clip_value=None, loss="cross_entropy"):  # fmt: skip
        check_time_major(net)
        if watch is not None and watch.net is not net:
            raise ValueError("watch must be of this net, got one of another")
        if optimiser.net is not net:
            raise ValueError("optimiser must be of this net, got one of another")
        if schedule is not None and schedule.optimiser is not optimiser:
            raise ValueError("schedule must be of this optimiser, got one of another")
        if not callable(loss) and not (isinstance(loss, str) and loss == "cross_entropy"):
            raise ValueError(f'loss must be "cross_entropy" or a function, got {loss!r}')
        self.net, self.optimiser, self.schedule = net, optimiser, schedule
        self.batch = None if batch is None else check_size("batch", batch)
        self.steps = None if steps is None else check_size("steps", steps)
        self.clip = math.inf if clip is None else check_norm("clip", clip)
        self.clip_value = None if clip_value is None else check_norm("clip_value", clip_value)
        self.num_threads, self.watch, self.loss = num_threads, watch, loss
        self.checkpoint_seconds = 60.0
        self.note, self.history, self.ended = {}, [], None
        self.epoch = self.window = 0
        self.progress = Progress()

    def __copy__(self):
        return copy.deepcopy(self)  # what trains one network in two places trains neither

    def __repr__(self):
        clip = None if self.clip == math.inf else self.clip
        schedule = "" if self.schedule is None else f", schedule={self.schedule!r}"
        return (
            f"<Trainer of {self.net.num_parameters:,} parameters after {self.epoch} epochs and "
            f"{self.window} windows: {self.optimiser!r}, batch={self.batch}, steps={self.steps}, "
            f"clip={clip}, clip_value={self.clip_value}{schedule}>"
        )

    # -- training ---------------------------------------------------------------------------------

    def fit(
        self,
        train,
        valid=None,
        epochs=1,
        patience=None,
        checkpoint=None,
        metrics=None,
        progress=None,
        note=None,
        *,
        minutes=None,
    ):
        """Train until so many epochs are finished, from wherever the trainer is.

        Parameters
        ----------
        train : ndarray (n,) of integers, or TokenStream
        valid : ndarray (m,) of integers, or TokenStream, optional
            Its loss is measured after every epoch.
        epochs : int
            The total, including those before a ``load``.
        patience : int, optional
            Stop once the validation loss has not improved for so many epochs in a row. After that, or after
            the last epoch, the network has the weights of the best one, as after ``use_best``. If a later
            call asks for more epochs, the count begins anew.
        checkpoint : path, optional
            Saved before the first window, after every epoch, every ``checkpoint_seconds``, and when training
            is stopped.
        metrics : path, optional
            A JSONL file to append to: one line per epoch, with its dict as returned, and one per
            checkpoint within an epoch, which has the keys "window" and "windows". Lines that a resumed
            run will write again are removed first, if the file begins with what was written before them.
        progress : bool or text file, optional
            What to show: a bar on stderr where that is a terminal, and for every epoch a line that stays.
            None: only if stderr is a terminal. True: the lines in any case; where there is no bar, a long
            epoch has one a minute. A file, such as ``sys.stdout``: likewise, with the lines written there.
        note : dict, optional
            Replaces ``note``.
        minutes : float, optional
            Stop after so many, once the current window is finished and the checkpoint saved. The weights
            stay those of that window.

        Returns
        -------
        list of dict
            For every finished epoch: epoch (from 1), train_loss (the mean while the weights changed),
            valid_loss (or None), perplexity (of valid_loss, else of train_loss; None where the loss is a
            function), lr, seconds and tokens_per_second (of training alone), grad_norm (the mean before
            clipping). Losses are in nats per token.

        Raises
        ------
        ValueError
            An argument does not fit, or a text is empty, too short, not the one that training began with, or
            has a token that the network does not know. This is raised before training.
        OSError
            An output cannot be written. This is raised before training.
        FloatingPointError
            The loss or the gradient is not finite: the weights are those before that step. Or training has
            diverged: the mean cross-entropy is above three times that of guessing evenly.
        Interrupted
            Ctrl-C, SIGTERM or SIGHUP, once the current window is finished and the checkpoint saved. A second
            Ctrl-C does not wait for that.
        """
        data = token_stream("train", train, self)
        valid = None if valid is None else token_stream("valid", valid, self)
        if valid is None and (patience is not None or isinstance(self.schedule, PlateauDecay)):
            needs = "patience" if patience is not None else "PlateauDecay"
            raise ValueError(f"valid must be given: {needs} watches the validation loss")
        epochs = check_size("epochs", epochs)
        patience = None if patience is None else check_size("patience", patience)
        until = (
            math.inf if minutes is None else time.monotonic() + 60 * check_norm("minutes", minutes)
        )
        for path in (checkpoint, metrics):
            if path is not None:
                check_writable_folder(path)
        check_note(note)
        corpus = {"train": data.identity, "valid": valid and valid.identity}
        check_same_corpus(self.progress.corpus, corpus)
        display = Display(progress)
        if metrics is not None:
            place = self.progress.metrics if self.progress.goes_back else None
            metrics = RecordFile(metrics, place)
            self.progress.metrics = metrics.place
        self.note = self.note if note is None else note
        self.progress.corpus, self.progress.goes_back = corpus, False
        copy_into(self.net.params, self.progress.to_go_on_from(self.net.params))
        self.progress.last_params = None
        self.progress.ask(self.epoch, epochs, patience)
        with interrupts() as interrupted:
            now = time.monotonic()
            run = _Run(
                data, valid, epochs, patience, checkpoint, metrics, until, display, interrupted, now
            )
            if checkpoint is not None and not self._is_done(epochs, patience):
                self.save(checkpoint)
            try:
                while not self._is_done(epochs, patience):
                    self._run_epoch(run)
            except _TimeIsUp:
                self.ended = "minutes"
            finally:
                display.close()
        if patience and self.ended != "minutes":
            self.use_best()
        if interrupted.asked:  # too late for a window
            self._stop(run)
        return [dict(record) for record in self.history]

    def _is_done(self, epochs, patience):
        """Say in ``ended`` why training is at its end, or that it is not."""
        has_waited = bool(patience) and self.progress.best["waited"] >= patience
        self.ended = "epochs" if self.epoch >= epochs else "patience" if has_waited else None
        return self.ended is not None

    def use_best(self):
        """Put the weights of the best epoch into the network.

        The next ``fit``, and a checkpoint, go on from those that the network had, as long as nothing else
        changes its weights. Without validation there is no best epoch, and nothing changes.
        """
        progress = self.progress
        if progress.best_params is not None:
            progress.last_params = progress.to_go_on_from(self.net.params).copy()
            copy_into(self.net.params, progress.best_params)

    def _run_epoch(self, run):
        """Train the rest of an epoch, validate, and record it."""
        display, sums = run.display, self.progress.sums
        display.begin_epoch(self.epoch + 1, run.epochs, run.data.count, sums["tokens"])
        for x, following in run.data.windows(self.net, self.window):
            self._train_window(x, following)
            run.windows += 1
            display.advance(sums)
            self._pause(run)
        self._check_learning(run, is_whole=True)
        valid_loss = None
        if run.valid is not None:
            display.validate()
            valid_loss = mean_loss(
                self.net,
                run.valid,
                self._measure,
                self.num_threads,
                lambda: self._stop_if_asked(run),
            )
        self._end_epoch(run, valid_loss)

    def _measure(self, y, targets, out=None):
        """Return the loss and its gradient, which may be written over y."""
        if callable(self.loss):
            return check_returned(y, self.loss(y, targets))
        return softmax_cross_entropy(y, targets, num_threads=self.num_threads, out=out)

    def _train_window(self, x, targets):
        """Take one step. If it fails, weights and position do not change."""
        began, net, threads = time.perf_counter(), self.net, self.num_threads
        y, state, trace = net.forward(x, self.progress.state, num_threads=threads)
        loss, dy = self._measure(y, targets, out=y)
        if self.watch is not None:
            self.watch(float(loss), dy, trace)
        net.zero_grad()
        net.backward(dy, trace, num_threads=threads, need_dx=False, consume=True)
        if self.clip_value is not None:
            clip_grad_value(net, self.clip_value, threads)
        norm = float(clip_grad_norm(net, self.clip, threads))
        loss = float(loss)
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise FloatingPointError(
                f"loss {loss} and gradient norm {norm} in epoch {self.epoch + 1}, window "
                f"{self.window + 1}{self._where_it_began(x, targets)}: no step was taken. "
                "A lower lr or clip may help"
            )
        self.optimiser.step(threads)
        self.progress.state = state
        self.window += 1
        self.progress.add(x.size, y.shape[-1], loss, norm, time.perf_counter() - began)

    def _where_it_began(self, x, targets):
        """Name what was not finite first, if it is not finite without dropout either."""
        try:
            place = find_nonfinite(self.net, x, targets, self.progress.state)
        except (TypeError, ValueError):  # the network has no recurrent layers
            place = None
        return f" ({place})" if place else ""

    def _check_learning(self, run, is_whole=False):
        """Refuse to go on if training has diverged, which a few windows at the start do not tell."""
        trained = self.epoch * run.data.num_windows + self.window
        tells = trained >= ENOUGH_WINDOWS or (is_whole and self.epoch + 1 == run.epochs)
        if tells and self.loss == "cross_entropy":
            self.progress.check_learning(self.epoch + 1)

    def _stop_if_asked(self, run):
        is_late = run.windows and time.monotonic() >= run.until
        if not run.interrupted.asked and not is_late:
            return
        if run.checkpoint is not None:
            self._save_progress(run)
        if run.interrupted.asked:
            self._stop(run)
        raise _TimeIsUp

    def _stop(self, run):
        where = f"stopped after epoch {self.epoch}"
        if self.window:
            of = f"{run.data.num_windows} of epoch {self.epoch + 1}"
            where = f"stopped after window {self.window} of {of}"
        if run.checkpoint is None:
            how = "nothing was saved; call fit again on this trainer to go on"
        else:
            how = f"{run.checkpoint} holds all of it; to go on, load it and train on the same text"
        raise Interrupted(f"{where}: {how}", run.checkpoint, run.interrupted.signal)

    def _pause(self, run):
        """Stop if asked to, and save if it is time, between two windows."""
        if self.window % ENOUGH_WINDOWS == 0:
            self._check_learning(run)
        self._stop_if_asked(run)
        if time.monotonic() - run.saved_at >= self.checkpoint_seconds:
            self._save_progress(run)

    def _save_progress(self, run):
        if run.windows > run.recorded:
            where = {
                "epoch": self.epoch + 1,
                "window": self.window,
                "windows": run.data.num_windows,
            }
            self._write_metrics(run, {**where, **self._measures(None)})
            run.recorded = run.windows
        if run.checkpoint is not None:
            self.save(run.checkpoint)
        run.saved_at = time.monotonic()

    def _measures(self, valid_loss):
        is_entropy = self.loss == "cross_entropy"
        return self.progress.measures(self.window, valid_loss, self.optimiser.lr, is_entropy)

    def _end_epoch(self, run, valid_loss):
        record = {"epoch": self.epoch + 1, **self._measures(valid_loss)}
        self.history.append(record)
        self.epoch, self.window = self.epoch + 1, 0
        self.progress.begin_epoch()
        if self.schedule is not None:
            self.schedule.epoch_ended(valid_loss)
        if run.valid is not None:
            self.progress.weigh(self.epoch, valid_loss, self.net.params, run.patience)
        self._write_metrics(run, record)
        if run.checkpoint is not None:
            self.save(run.checkpoint)
        run.saved_at = time.monotonic()
        run.display.end_epoch(self.history)

    def _write_metrics(self, run, record):
        if run.metrics is None:
            return
        run.metrics.append(
            {k: v if v is None or math.isfinite(v) else None for k, v in record.items()}
        )
        self.progress.metrics = run.metrics.place

    # -- checkpoints ------------------------------------------------------------------------------

    def save(self, path):
        """Save all that training needs to resume, in one safetensors file.

        That is the weights, the states of optimiser, schedule and random generators, the position in the
        text, the carried state, the losses, the best weights, and the note.

        Parameters
        ----------
        path : path

        Raises
        ------
        OSError
            It cannot be written. An existing file does not change.
        """
        save_checkpoint(self, path)

    def load(self, path):
        """Go back to where a checkpoint was saved: ``fit`` then continues with the same bits.

        The network, optimiser, schedule, batch and steps must be as they were.

        Parameters
        ----------
        path : path

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            It is not a checkpoint, is truncated, or is one of another network, optimiser, schedule,
            batch or steps. The trainer does not change then.
        """
        load_checkpoint(self, path)
