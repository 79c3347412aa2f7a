"""Checkpoints of training: all that a Trainer has, to a file and back.

``Trainer.save`` and ``Trainer.load`` say what a caller may rely on.
"""

import math

import numpy as np

from .._kernels import kernels_of
from .._kernels.devices import copy_into, host
from ..files import read_safetensors, write_safetensors

__all__ = ["Progress", "load_checkpoint", "read_note", "save_checkpoint"]


def _no_sums():
    return {"tokens": 0, "loss": 0.0, "norm": 0.0, "seconds": 0.0}


class Progress:
    """What a Trainer carries from window to window and from epoch to epoch.

    Attributes
    ----------
    state
        The state of the network after the last window; None means zeros.
    sums : dict
        For the current epoch: tokens, and the sums of losses, gradient norms and seconds.
    best : dict
        The best validation loss, and the epochs that have passed since; for early stopping.
    best_params : ndarray or None
        The weights of the best epoch.
    corpus : dict or None
        Lengths and checksums of the texts.
    metrics : dict or None
        The path of the metrics file, and its size at the last checkpoint.
    """

    def __init__(
        self, state=None, sums=None, best=None, best_params=None, corpus=None, metrics=None
    ):
        self.state, self.sums = state, sums or _no_sums()
        self.best, self.best_params = best or {"loss": math.inf, "waited": 0}, best_params
        self.corpus, self.metrics = corpus, metrics

    def begin_epoch(self):
        """Start an epoch: the state is zeros, and nothing is summed yet."""
        self.state, self.sums = None, _no_sums()


def _pack_state(state, arrays, name="state"):
    """Put the arrays of a state into `arrays`, and return its form, for JSON."""
    if state is None:
        return None
    if hasattr(state, "dtype"):
        arrays[name] = host(state)
        return name
    if isinstance(state, (tuple, list)):
        return [_pack_state(part, arrays, f"{name}.{i}") for i, part in enumerate(state)]
    raise TypeError(f"a state must be made of tuples, arrays and None, got {type(state).__name__}")


def _unpack_state(form, arrays, put):
    """Return the state of a form; put(array) returns an array on the network's device."""
    if isinstance(form, list):
        return tuple(_unpack_state(part, arrays, put) for part in form)
    return None if form is None else put(arrays[form])


def _generators(layer):
    """Return every random generator in a network: its layers' ``rng``, in order, at any depth."""
    own = [layer.rng] if isinstance(getattr(layer, "rng", None), np.random.Generator) else []
    return own + [rng for part in getattr(layer, "layers", ()) for rng in _generators(part)]


def _random_states(net):
    return [rng.bit_generator.state for rng in _generators(net)]


def _kinds(states):
    return [state["bit_generator"] for state in states]


def _read(path):
    arrays, metadata = read_safetensors(path)
    if metadata.get("kind") != "checkpoint":
        raise ValueError(f"{path} is not a checkpoint of training, but {metadata.get('kind')!r}")
    return arrays, metadata


def read_note(path):
    """Return the note in a checkpoint: a dict, empty if there is none.

    Parameters
    ----------
    path : path

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, or it is not a checkpoint.
    """
    return _read(path)[1].get("note") or {}


def save_checkpoint(trainer, path):
    """Save a Trainer, as its ``save`` says."""
    schedule, progress = trainer.schedule, trainer.progress
    moments, numbers = trainer.optimiser.state()
    arrays = {f"weights.{name}": host(trainer.net[name]) for name in trainer.net.parameters()}
    arrays |= {f"optimiser.{name}": host(array) for name, array in moments.items()}
    if progress.best_params is not None:
        arrays["best"] = host(progress.best_params)
    metadata = {
        "kind": "checkpoint",
        "optimiser": [type(trainer.optimiser).__name__, numbers],
        "schedule": schedule and [type(schedule).__name__, schedule.state()],
        "state": _pack_state(progress.state, arrays),
        "random": _random_states(trainer.net),
        "batch": trainer.batch,
        "steps": trainer.steps,
        "epoch": trainer.epoch,
        "window": trainer.window,
        "sums": progress.sums,
        "best": progress.best,
        "history": trainer.history,
        "corpus": progress.corpus,
        "metrics": progress.metrics,
        "note": trainer.note,
    }
    write_safetensors(path, arrays, metadata)


def load_checkpoint(trainer, path):
    """Load a Trainer, as its ``load`` says."""
    arrays, metadata = _read(path)
    try:
        _check(trainer, arrays, metadata)
        _restore(trainer, arrays, metadata)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole checkpoint: {error!r}") from None
    except ValueError as error:
        raise ValueError(f"{path} does not fit: {error}") from None


def _check(trainer, arrays, metadata):
    """Refuse a checkpoint of another network, optimiser, schedule, batch or steps."""
    schedule = None if trainer.schedule is None else type(trainer.schedule).__name__
    for name, mine, theirs in (
        ("batch", trainer.batch, metadata["batch"]),
        ("steps", trainer.steps, metadata["steps"]),
        ("the optimiser", type(trainer.optimiser).__name__, metadata["optimiser"][0]),
        ("the schedule", schedule, (metadata["schedule"] or [None])[0]),
        ("the random generators", _kinds(_random_states(trainer.net)), _kinds(metadata["random"])),
    ):
        if mine != theirs:
            raise ValueError(f"{name} must be {theirs}, as it was when training began, got {mine}")
    flat, dtype = trainer.net.params.shape, trainer.net.params.dtype
    shapes = {f"weights.{name}": tuple(s) for name, s in trainer.net.parameters().items()}
    shapes |= {f"optimiser.{name}": flat for name in trainer.optimiser.state()[0]}
    shapes |= {"best": flat} if "best" in arrays else {}
    theirs = {name: a.shape for name, a in arrays.items() if name.split(".")[0] != "state"}
    for name in sorted(shapes.keys() | theirs.keys()):
        if shapes.get(name) != theirs.get(name):
            raise ValueError(f"{name} must be {shapes.get(name)}, got {theirs.get(name)}")
        if arrays[name].dtype != dtype:
            raise ValueError(f"{name} must be {dtype}, got {arrays[name].dtype}")


def _restore(trainer, arrays, metadata):
    put = kernels_of(trainer.net.params).arrays.asarray
    state = _unpack_state(metadata["state"], arrays, put)
    moments = {n: arrays[f"optimiser.{n}"] for n in trainer.optimiser.state()[0]}
    position = {name: metadata[name] for name in ("epoch", "window", "history", "note")}
    progress = {name: metadata[name] for name in ("sums", "best", "corpus", "metrics")}
    trainer.optimiser.load_state(moments, metadata["optimiser"][1])
    if trainer.schedule is not None:
        trainer.schedule.load_state(metadata["schedule"][1])
    for rng, saved in zip(_generators(trainer.net), metadata["random"]):
        rng.bit_generator.state = saved
    trainer.net.params[:] = 0  # the padding between weights
    for name in trainer.net.parameters():
        copy_into(trainer.net[name], arrays[f"weights.{name}"])
    best_params = put(arrays["best"]) if "best" in arrays else None
    trainer.progress = Progress(state=state, best_params=best_params, **progress)
    vars(trainer).update(position)
