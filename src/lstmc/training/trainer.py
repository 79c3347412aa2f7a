"""Training on a long text: windows, truncated BPTT, checkpoints.

A corpus is cut into parallel streams and these into windows of some steps. Gradients stop at the edge
of a window, states do not (Williams & Peng 1990). A checkpoint holds all that an undisturbed run would
have in memory, so that a resumed run ends with the same bits.

Deliberately not a framework: there are no callbacks. For another loop, use ``streams``, ``windows``,
``forward``, ``backward`` and an optimiser, as ``Trainer`` does.
"""

import copy
import itertools
import math
import os
import threading
import time
import zlib
from dataclasses import dataclass

import numpy as np

from .._kernels.devices import copy_into
from ..files import append_record, check_writable_folder
from ..inspection.watch import find_nonfinite
from ..layer import check_size
from ..losses import softmax_cross_entropy
from ..optim import check_norm, clip_grad_norm
from .checkpoints import Progress, load_checkpoint, save_checkpoint
from .interrupts import Interrupted, interrupts
from .schedules import PlateauDecay
from .streams import (
    check_time_major,
    check_tokens,
    mean_loss,
    on_device_of,
    perplexity_of,
    streams,
    windows,
)

__all__ = ["Trainer"]


def _digest(tokens):
    return None if tokens is None else [len(tokens), zlib.crc32(np.ascontiguousarray(tokens))]


def _digest_text(digest):
    return "none" if digest is None else "{} tokens (checksum {:08x})".format(*digest)


@dataclass(eq=False, repr=False)
class _Run:
    """The checked arguments of one call of fit, and what belongs to it alone."""

    stream: np.ndarray
    valid: np.ndarray | None
    epochs: int
    patience: int | None
    checkpoint: str | os.PathLike | None
    metrics: str | os.PathLike | None
    show_progress: bool | None
    interrupted: threading.Event
    saved_at: float


class Trainer:
    """Trains a network on a text by truncated backpropagation through time (BPTT).

    Parameters
    ----------
    net : Sequential
        Tokens (T, B) in, logits (T, B, V) out.
    optimiser : SGD, Adam, AdamW or RMSprop
        The optimiser of that network.
    batch : int
        B, the parallel streams of the text.
    steps : int
        T, the length of a window: gradients reach back as far.
    clip : float or None
        The largest norm of the gradient. None only measures it.
    schedule : StepDecay, ExponentialDecay or PlateauDecay, optional
        The schedule of that optimiser.
    num_threads : int, optional
    watch : Watch, optional
        The watch of that network: it is called on every window.

    Attributes
    ----------
    epoch, window : int
        The epochs finished, and the windows finished in the current one.
    history : list of dict
        One per finished epoch, as ``fit`` returns it.
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
        Last, or a number does not fit.
    """

    def __init__(self, net, optimiser, batch, steps, clip=5.0, schedule=None, num_threads=None,
                 watch=None):  # fmt: skip
        check_time_major(net)
        if watch is not None and watch.net is not net:
            raise ValueError("watch must be of this net, got one of another")
        if optimiser.net is not net:
            raise ValueError("optimiser must be of this net, got one of another")
        if schedule is not None and schedule.optimiser is not optimiser:
            raise ValueError("schedule must be of this optimiser, got one of another")
        self.net, self.optimiser, self.schedule = net, optimiser, schedule
        self.batch, self.steps = check_size("batch", batch), check_size("steps", steps)
        self.clip = math.inf if clip is None else check_norm("clip", clip)
        self.num_threads, self.watch = num_threads, watch
        self.checkpoint_seconds = 60.0
        self.note, self.history = {}, []
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
            f"clip={clip}{schedule}>"
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
    ):
        """Train until so many epochs are finished, from wherever the trainer is.

        Parameters
        ----------
        train : ndarray (n,) of integers
        valid : ndarray (m,) of integers, optional
            Its loss is measured after every epoch.
        epochs : int
            The total, including those before a ``load``.
        patience : int, optional
            Stop once the validation loss has not improved for so many epochs in a row. The weights of the
            best epoch are restored at the end, whatever ends training.
        checkpoint : path, optional
            Saved after every epoch, every ``checkpoint_seconds``, and on Ctrl-C.
        metrics : path, optional
            A JSONL file to append to: one line per epoch, with its dict as returned, and one per
            checkpoint within an epoch, which has the keys "window" and "windows". Lines that a resumed
            run will write again are removed first.
        progress : bool, optional
            Show a bar per epoch. None means if stderr is a terminal.
        note : dict, optional
            Replaces ``note``.

        Returns
        -------
        list of dict
            For every finished epoch: epoch (from 1), train_loss (the mean while the weights changed),
            valid_loss (or None), perplexity (of valid_loss, else of train_loss), lr, seconds and
            tokens_per_second (of training alone), grad_norm (the mean before clipping). Losses are in
            nats per token.

        Raises
        ------
        ValueError
            An argument does not fit, or a corpus is empty, too short, or not the one that training began
            with.
        OSError
            An output cannot be written. This is raised before training.
        FloatingPointError
            The loss or the gradient is not finite. The weights are those before that step.
        Interrupted
            Ctrl-C, once the current window is finished and the checkpoint saved. A second Ctrl-C does
            not wait for that.
        """
        train = check_tokens("train", train)
        valid = None if valid is None else check_tokens("valid", valid)
        if valid is None and (patience is not None or isinstance(self.schedule, PlateauDecay)):
            needs = "patience" if patience is not None else "PlateauDecay"
            raise ValueError(f"valid must be given: {needs} watches the validation loss")
        if valid is not None and len(valid) < 2:
            raise ValueError(f"valid must hold at least 2 tokens, got {len(valid)}")
        epochs = check_size("epochs", epochs)
        patience = None if patience is None else check_size("patience", patience)
        for path in (checkpoint, metrics):
            if path is not None:
                check_writable_folder(path)
        stream = on_device_of(self.net, streams(train, self.batch))
        self._check_corpus({"train": _digest(train), "valid": _digest(valid)})
        if note is not None:
            self.note = note
        if metrics is not None:
            self._open_metrics(metrics)
        with interrupts() as interrupted:
            run = _Run(
                stream,
                valid,
                epochs,
                patience,
                checkpoint,
                metrics,
                progress,
                interrupted,
                time.monotonic(),
            )
            while self.epoch < epochs and not (
                patience and self.progress.best["waited"] >= patience
            ):
                self._run_epoch(run)
        if patience and self.progress.best_params is not None:
            copy_into(self.net.params, self.progress.best_params)
        return [dict(record) for record in self.history]

    def _check_corpus(self, corpus):
        for name, digest in (self.progress.corpus or {}).items():
            if digest != corpus[name]:
                raise ValueError(
                    f"{name} must be the text that training began with, {_digest_text(digest)}; "
                    f"got {_digest_text(corpus[name])}"
                )
        self.progress.corpus = corpus

    def _run_epoch(self, run):
        """Train the rest of an epoch, validate, and record it."""
        from tqdm import tqdm

        targets = (len(run.stream) - 1) * self.batch
        with tqdm(
            total=targets,
            initial=self.progress.sums["tokens"],
            unit=" tokens",
            unit_scale=True,
            desc=f"epoch {self.epoch + 1}/{run.epochs}",
            dynamic_ncols=True,
            disable=None if run.show_progress is None else not run.show_progress,
        ) as bar:
            for x, following in itertools.islice(
                windows(run.stream, self.steps), self.window, None
            ):
                self._train_window(x, following)
                if not bar.disable:
                    self._show(bar, x.size, loss=self._train_loss())
                self._pause(run)
            valid_loss = None
            if run.valid is not None:
                valid_loss = mean_loss(
                    self.net,
                    run.valid,
                    self.batch,
                    self.steps,
                    self.num_threads,
                    lambda: self._stop_if_asked(run),
                )
                if not bar.disable:
                    self._show(bar, 0, loss=self._train_loss(), validation=valid_loss)
        self._end_epoch(run, valid_loss)

    def _train_window(self, x, targets):
        """Take one step. If it fails, weights and position do not change."""
        began, net, threads = time.perf_counter(), self.net, self.num_threads
        logits, state, trace = net.forward(x, self.progress.state, num_threads=threads)
        loss, dlogits = softmax_cross_entropy(logits, targets, num_threads=threads, out=logits)
        if self.watch is not None:
            self.watch(float(loss), dlogits, trace)
        net.zero_grad()
        net.backward(dlogits, trace, num_threads=threads, need_dx=False, consume=True)
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
        sums = self.progress.sums
        sums["tokens"] += x.size
        sums["loss"] += loss * x.size
        sums["norm"] += norm
        sums["seconds"] += time.perf_counter() - began

    def _where_it_began(self, x, targets):
        """Name what was not finite first, if it is not finite without dropout either."""
        try:
            place = find_nonfinite(self.net, x, targets, self.progress.state)
        except (TypeError, ValueError):  # the network has no recurrent layers
            place = None
        return f" ({place})" if place else ""

    def _train_loss(self):
        return self.progress.sums["loss"] / self.progress.sums["tokens"]

    @staticmethod
    def _show(bar, tokens, **losses):
        perplexity = perplexity_of(losses.get("validation", losses["loss"]))
        bar.set_postfix(**losses, perplexity=perplexity, refresh=not tokens)
        bar.update(tokens)

    def _stop_if_asked(self, run):
        if not run.interrupted.is_set():
            return
        count = -(-(len(run.stream) - 1) // self.steps)
        where = f"stopped after window {self.window} of {count} of epoch {self.epoch + 1}"
        if run.checkpoint is None:
            how = "nothing was saved; call fit again on this trainer to go on"
        else:
            self._save_progress(run)
            how = f"{run.checkpoint} holds all of it; to go on, load it and train on the same text"
        raise Interrupted(f"{where}: {how}", run.checkpoint)

    def _pause(self, run):
        """Stop if asked to, and save if it is time, between two windows."""
        self._stop_if_asked(run)
        if time.monotonic() - run.saved_at >= self.checkpoint_seconds:
            self._save_progress(run)

    def _save_progress(self, run):
        self._write_metrics(
            run,
            {
                "epoch": self.epoch + 1,
                "window": self.window,
                "windows": -(-(len(run.stream) - 1) // self.steps),
                **self._measures(None),
            },
        )
        if run.checkpoint is not None:
            self.save(run.checkpoint)
        run.saved_at = time.monotonic()

    def _measures(self, valid_loss):
        sums, train_loss = self.progress.sums, self._train_loss()
        return {
            "train_loss": train_loss,
            "valid_loss": valid_loss,
            "perplexity": perplexity_of(train_loss if valid_loss is None else valid_loss),
            "lr": self.optimiser.lr,
            "seconds": sums["seconds"],
            "tokens_per_second": sums["tokens"] / max(sums["seconds"], 1e-9),
            "grad_norm": sums["norm"] / self.window,
        }

    def _end_epoch(self, run, valid_loss):
        record = {"epoch": self.epoch + 1, **self._measures(valid_loss)}
        self.history.append(record)
        self.epoch, self.window = self.epoch + 1, 0
        self.progress.begin_epoch()
        if self.schedule is not None:
            self.schedule.epoch_ended(valid_loss)
        if run.patience is not None:
            self.progress.best["waited"] += 1
            if valid_loss < self.progress.best["loss"]:
                self.progress.best = {"loss": valid_loss, "waited": 0}
                self.progress.best_params = self.net.params.copy()
        self._write_metrics(run, record)
        if run.checkpoint is not None:
            self.save(run.checkpoint)
        run.saved_at = time.monotonic()

    # -- metrics ----------------------------------------------------------------------------------

    def _open_metrics(self, path):
        """Make sure that lines can be appended, and remove those after the checkpoint."""
        with open(path, "ab") as file:
            if self.progress.metrics and self.progress.metrics["path"] == os.path.abspath(path):
                file.truncate(min(self.progress.metrics["size"], file.tell()))

    def _write_metrics(self, run, record):
        if run.metrics is None:
            return
        plain = {k: v if v is None or math.isfinite(v) else None for k, v in record.items()}
        size = append_record(run.metrics, plain)
        self.progress.metrics = {"path": os.path.abspath(run.metrics), "size": size}

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
