"""Training on a long text: windows, truncated back-propagation through time, checkpoints.

A corpus is cut into parallel streams and these into windows of some steps; gradients stop at the
edge of a window, states do not (Williams & Peng 1990). Everything that an undisturbed run would
have in memory is in a checkpoint, so that a run continued from one ends with the same bits.

Deliberately not a framework: no callbacks and no devices. Who wants another loop writes it with
``streams``, ``windows``, ``forward``, ``backward`` and an optimiser, as ``Trainer`` does.
"""

import itertools
import json
import math
import os
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._kernels import copy_into
from ..files import check_writable_folder
from ..inspection.watch import find_nonfinite
from ..layer import check_size
from ..losses import softmax_cross_entropy
from ..optim import clip_grad_norm
from .checkpoints import load_checkpoint, save_checkpoint
from .interrupts import Interrupted, interrupts
from .schedules import PlateauDecay
from .streams import check_tokens, mean_loss, on_device_of, streams, windows

__all__ = ["Trainer"]


def _digest(tokens):
    return None if tokens is None else [len(tokens), zlib.crc32(np.ascontiguousarray(tokens))]


def _tell(digest):
    return "none" if digest is None else "{} tokens (checksum {:08x})".format(*digest)


def _perplexity(loss):
    return math.exp(loss) if loss < 700 else math.inf


@dataclass
class _Run:
    """What one call of fit was given, checked."""

    stream: np.ndarray
    valid: np.ndarray | None
    epochs: int
    patience: int | None
    checkpoint: str | Path | None
    metrics: str | Path | None
    progress: bool | None
    interrupted: threading.Event
    saved_at: float


class Trainer:
    """Trains a network on a text by truncated back-propagation through time.

    Parameters
    ----------
    net : Sequential
        Tokens (T, B) in, logits (T, B, V) out.
    optimiser : SGD, Adam, AdamW or RMSprop
        Of that network.
    batch : int
        B, the parallel streams of the text.
    steps : int
        T, the length of a window: as far as gradients reach back.
    clip : float or None
        Upper limit of the gradient's norm. None only measures it.
    schedule : StepDecay, ExponentialDecay or PlateauDecay, optional
        Of that optimiser.
    num_threads : int, optional
    watch : Watch, optional
        Of that network: it sees every window.

    Attributes
    ----------
    epoch, window : int
        Where training stands: epochs finished, and windows finished in the one begun.
    history : list of dict
        One per finished epoch, as ``fit`` returns it.
    checkpoint_seconds : float
        How often, at least, ``fit`` saves a checkpoint: 60 unless set.
    note : dict
        Whatever JSON can hold; it is stored with a checkpoint.
    """

    def __init__(self, net, optimiser, batch, steps, clip=5.0, schedule=None, num_threads=None,
                 watch=None):  # fmt: skip
        if watch is not None and watch.net is not net:
            raise ValueError("watch must be of this net, got one of another")
        if optimiser.net is not net:
            raise ValueError("optimiser must be of this net, got one of another")
        if schedule is not None and schedule.optimiser is not optimiser:
            raise ValueError("schedule must be of this optimiser, got one of another")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be a positive number or None, got {clip!r}")
        self.net, self.optimiser, self.schedule = net, optimiser, schedule
        self.batch, self.steps = check_size("batch", batch), check_size("steps", steps)
        self.clip = math.inf if clip is None else clip
        self.num_threads, self.watch = num_threads, watch
        self.checkpoint_seconds = 60.0
        self.note, self.history = {}, []
        self.epoch = self.window = 0
        self._state = None  # carried from window to window
        self._sums = {"tokens": 0, "loss": 0.0, "norm": 0.0, "seconds": 0.0}  # of the epoch begun
        self._best = {"loss": math.inf, "waited": 0}  # for early stopping
        self._best_params = None
        self._corpus = None  # lengths and checksums
        self._metrics = None  # the metrics file, and how long it was at the last checkpoint

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
        """Train, from where the trainer stands until so many epochs are finished.

        Parameters
        ----------
        train : ndarray (n,) of integers
        valid : ndarray (m,) of integers, optional
            Its loss is measured after every epoch.
        epochs : int
            The total, those before a ``load`` included.
        patience : int, optional
            Stop once the validation loss has not improved for so many epochs in a row. However
            training ends, the weights of the best epoch are then put back.
        checkpoint : path, optional
            Saved after every epoch, every ``checkpoint_seconds``, and on Ctrl-C.
        metrics : path, optional
            A JSONL file to append to: a line per epoch, which is its dict as returned, and one per
            checkpoint within, told by its keys "window" and "windows". Lines that a resumed run
            will write again are taken off first.
        progress : bool, optional
            Show a bar per epoch; None: if stderr is a terminal.
        note : dict, optional
            Replaces ``note``.

        Returns
        -------
        list of dict
            For every finished epoch: epoch (from 1), train_loss (mean while the weights changed),
            valid_loss (or None), perplexity (of valid_loss, else of train_loss), lr, seconds and
            tokens_per_second (of training alone), grad_norm (mean, before it was clipped). Losses
            are in nats per token.

        Raises
        ------
        ValueError
            An argument does not fit; a corpus is empty or too short, or is not the one that
            training began with.
        OSError
            An output can not be written. This is found before training.
        FloatingPointError
            The loss or the gradient is not finite. The step is not taken: the weights are those
            before.
        Interrupted
            Ctrl-C. The window at hand was finished and the checkpoint saved. A second Ctrl-C does
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
            while self.epoch < epochs and not (patience and self._best["waited"] >= patience):
                self._run_epoch(run)
        if patience and self._best_params is not None:
            copy_into(self.net.params, self._best_params)
        return [dict(record) for record in self.history]

    def _check_corpus(self, corpus):
        for name, digest in (self._corpus or {}).items():
            if digest != corpus[name]:
                raise ValueError(
                    f"{name} must be the text that training began with, {_tell(digest)}; "
                    f"got {_tell(corpus[name])}"
                )
        self._corpus = corpus

    def _run_epoch(self, run):
        """Train what is left of an epoch, validate, and record it."""
        from tqdm import tqdm

        targets = (len(run.stream) - 1) * self.batch
        with tqdm(
            total=targets,
            initial=self._sums["tokens"],
            unit=" tokens",
            unit_scale=True,
            desc=f"epoch {self.epoch + 1}/{run.epochs}",
            dynamic_ncols=True,
            disable=None if run.progress is None else not run.progress,
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
        """Take one step. Unless it succeeds, weights and position are as before."""
        began, net, threads = time.perf_counter(), self.net, self.num_threads
        logits, state, trace = net.forward(x, self._state, num_threads=threads)
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
        self._state = state
        self.window += 1
        sums = self._sums
        sums["tokens"] += x.size
        sums["loss"] += loss * x.size
        sums["norm"] += norm
        sums["seconds"] += time.perf_counter() - began

    def _where_it_began(self, x, targets):
        """Name what first was not finite, where it is so without dropout too."""
        try:
            place = find_nonfinite(self.net, x, targets, self._state)
        except (TypeError, ValueError):  # a network without recurrent layers
            place = None
        return f" ({place})" if place else ""

    def _train_loss(self):
        return self._sums["loss"] / self._sums["tokens"]

    @staticmethod
    def _show(bar, tokens, **losses):
        perplexity = _perplexity(losses.get("validation", losses["loss"]))
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
        """Between two windows: stop if asked to, and save if it is time."""
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
        sums, train_loss = self._sums, self._train_loss()
        return {
            "train_loss": train_loss,
            "valid_loss": valid_loss,
            "perplexity": _perplexity(train_loss if valid_loss is None else valid_loss),
            "lr": self.optimiser.lr,
            "seconds": sums["seconds"],
            "tokens_per_second": sums["tokens"] / max(sums["seconds"], 1e-9),
            "grad_norm": sums["norm"] / self.window,
        }

    def _end_epoch(self, run, valid_loss):
        record = {"epoch": self.epoch + 1, **self._measures(valid_loss)}
        self.history.append(record)
        self.epoch, self.window, self._state = self.epoch + 1, 0, None
        self._sums = {"tokens": 0, "loss": 0.0, "norm": 0.0, "seconds": 0.0}
        if self.schedule is not None:
            self.schedule.epoch_ended(valid_loss)
        if run.patience is not None:
            self._best["waited"] += 1
            if valid_loss < self._best["loss"]:
                self._best = {"loss": valid_loss, "waited": 0}
                self._best_params = self.net.params.copy()
        self._write_metrics(run, record)
        if run.checkpoint is not None:
            self.save(run.checkpoint)
        run.saved_at = time.monotonic()

    # -- metrics ----------------------------------------------------------------------------------

    def _open_metrics(self, path):
        """Make sure that lines can be appended; take off those that come after the checkpoint."""
        with open(path, "ab") as file:
            if self._metrics and self._metrics["path"] == os.path.abspath(path):
                file.truncate(min(self._metrics["size"], file.tell()))

    def _write_metrics(self, run, record):
        if run.metrics is None:
            return
        plain = {k: v if v is None or math.isfinite(v) else None for k, v in record.items()}
        with open(run.metrics, "ab") as file:
            file.write(json.dumps(plain).encode() + b"\n")
            file.flush()
            self._metrics = {"path": os.path.abspath(run.metrics), "size": file.tell()}

    # -- checkpoints ------------------------------------------------------------------------------

    def save(self, path):
        """Save everything that training needs to go on, in one safetensors file.

        Weights, the optimiser's and the schedule's state, random states, the position in the text,
        the carried state, losses so far, the best weights so far, and the note.

        Raises
        ------
        OSError
            It can not be written. A file that was there before stays as it was.
        """
        save_checkpoint(self, path)

    def load(self, path):
        """Go back to where a checkpoint was saved: ``fit`` then continues to the bit.

        The network, optimiser, schedule, batch and steps must be made as they were.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            It is not a checkpoint, is truncated, or is one of another network, optimiser, schedule,
            batch or steps. The trainer is then as it was.
        """
        load_checkpoint(self, path)
