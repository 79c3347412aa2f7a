"""Checkpoints of training: all that a Trainer has, to a file and back.

``Trainer.save`` and ``Trainer.load`` say what a caller may rely on.
"""

import math
import operator

import numpy as np

from .._kernels import kernels_of
from .._kernels.devices import copy_into, host
from ..checks import check_count, check_real
from ..files import FORMAT, check_kind, describe, read_safetensors, write_safetensors
from ..layers import Dropout, Embedding, Linear
from .progress import Progress, no_best, no_sums

__all__ = ["check_note", "load_checkpoint", "read_note", "save_checkpoint"]


# The largest place in a generator's buffers: of MT19937, of Philox, and the half of a number that is left.
BUFFERS = {"pos": 624, "buffer_pos": 4, "has_uint32": 1}


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
    if form is not None and (not isinstance(form, str) or form not in arrays):
        raise ValueError(f"state must name arrays of the file, got {form!r:.100}")
    return None if form is None else put(arrays[form])


def _generators(part, seen=None):
    """Return every random generator in a layer, once: its attributes, those of layers in it, at any depth."""
    seen = set() if seen is None else seen
    if id(part) in seen:
        return []
    seen.add(id(part))
    if isinstance(part, np.random.Generator):
        return [part]
    if isinstance(part, dict):
        within = list(part.values())
    elif isinstance(part, (list, tuple)):
        within = part
    elif hasattr(part, "forward") and hasattr(part, "backward"):
        within = list(getattr(part, "__dict__", {}).values())
    else:
        return []
    return [rng for one in within for rng in _generators(one, seen)]


def _description(net):
    """Return the description of a network, or None if it has layers that do not describe themselves."""
    try:
        return describe(net)
    except TypeError:
        return None


def _described(part):
    """Return what an optimiser or a schedule is, and with which options, or None."""
    return part and {"type": type(part).__name__, "options": part.options()}


def _loss_name(loss):
    return getattr(loss, "__qualname__", type(loss).__name__) if callable(loss) else loss


def _setting(trainer):
    """Return all that must be as it was when training began, by name, as JSON has it."""
    import json  # which costs `import lstmc` more than most of its modules

    setting = {
        "network": _description(trainer.net),
        "optimiser": _described(trainer.optimiser),
        "schedule": _described(trainer.schedule),
        "batch": trainer.batch,
        "steps": trainer.steps,
        "loss": _loss_name(trainer.loss),
        "clip": None if trainer.clip == math.inf else float(trainer.clip),
        "clip_value": None if trainer.clip_value in (None, math.inf) else trainer.clip_value,
        "generators": [
            rng.bit_generator.state["bit_generator"] for rng in _generators(trainer.net)
        ],
    }
    return json.loads(json.dumps(setting, default=operator.methodcaller("item")))  # of NumPy


def _read(path):
    arrays, metadata = read_safetensors(path)
    if metadata.get("kind") == "checkpoint" and "format" not in metadata:
        raise ValueError(f"{path} is a checkpoint of lstmc 0.1: that version can go on with it")
    try:
        check_kind(metadata, ("checkpoint",))
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint of training: {error}") from None
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
    note = _read(path)[1].get("note") or {}
    if not isinstance(note, dict):
        raise ValueError(f"{path} is not a whole checkpoint: note must be a dict")
    return note


def check_note(note):
    """Refuse what is not a dict that JSON can hold; None will do."""
    import json

    if note is None:
        return
    if not isinstance(note, dict):
        raise TypeError(f"note must be a dict, got {type(note).__name__}")
    try:
        json.dumps(note, default=operator.methodcaller("tolist"))  # of NumPy
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(f"note must be what JSON can hold: {error}") from None


def save_checkpoint(trainer, path):
    """Save a Trainer, as its ``save`` says."""
    schedule, progress = trainer.schedule, trainer.progress
    moments, numbers = trainer.optimiser.state()
    arrays = {f"weights.{name}": host(a) for name, a in trainer.net.items()}
    arrays |= {f"optimiser.{name}": host(array) for name, array in moments.items()}
    for name, params in (("best", progress.best_params), ("last", progress.last_params)):
        if params is not None:
            arrays[name] = host(params)
    metadata = {
        "format": FORMAT,
        "kind": "checkpoint",
        **_setting(trainer),
        "numbers": numbers,
        "decay": schedule and schedule.state(),
        "state": _pack_state(progress.state, arrays),
        "random": [rng.bit_generator.state for rng in _generators(trainer.net)],
        "epoch": trainer.epoch,
        "window": trainer.window,
        "sums": progress.sums,
        "best": progress.best,
        "asked": progress.asked,
        "watch": trainer.watch and trainer.watch.state(),
        "history": trainer.history,
        "corpus": progress.corpus,
        "metrics": progress.metrics,
        "note": trainer.note,
    }
    write_safetensors(path, arrays, metadata)


def load_checkpoint(trainer, path):
    """Load a Trainer, as its ``load`` says: all is read and checked before anything changes."""
    arrays, metadata = _read(path)
    try:
        _check_setting(trainer, metadata)
        _check_arrays(trainer, arrays)
        checked = _checked(trainer, arrays, metadata)
    except (KeyError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole checkpoint: {error!r}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not fit: {error}") from None
    _restore(trainer, arrays, **checked)


def _check_setting(trainer, metadata):
    """Refuse a checkpoint of another network, optimiser, schedule, batch, steps or clipping.

    The rate, which the checkpoint brings, the patience and the number of epochs, which are arguments of fit,
    and the threads may be others.
    """
    for name, mine in _setting(trainer).items():
        for where, saved, value in _difference(name, metadata[name], mine):
            raise ValueError(
                f"{where} must be {saved!r:.200}, as it was when training began, got {value!r:.200}"
            )


def _difference(where, saved, mine):
    """Yield the places in which data differ, and what is there: (place, saved, mine)."""
    if isinstance(saved, dict) and isinstance(mine, dict) and set(saved) == set(mine):
        for name in mine:
            yield from _difference(f"{where}.{name}", saved[name], mine[name])
    elif isinstance(saved, list) and isinstance(mine, list) and len(saved) == len(mine):
        for i, (one, other) in enumerate(zip(saved, mine)):
            yield from _difference(f"{where}[{i}]", one, other)
    elif saved != mine or isinstance(saved, bool) is not isinstance(mine, bool):
        yield where, saved, mine


def _check_arrays(trainer, arrays):
    """Refuse arrays that are not those of the trainer."""
    flat, dtype = trainer.net.params.shape, trainer.net.params.dtype
    shapes = {f"weights.{name}": tuple(s) for name, s in trainer.net.parameters().items()}
    shapes |= {f"optimiser.{name}": flat for name in trainer.optimiser.state()[0]}
    shapes |= {name: flat for name in ("best", "last") if name in arrays}
    saved = {name: a.shape for name, a in arrays.items() if name.split(".")[0] != "state"}
    for name in sorted(shapes.keys() | saved.keys()):
        if shapes.get(name) != saved.get(name):
            raise ValueError(f"{name} must be {shapes.get(name)}, got {saved.get(name)}")
    for name, array in arrays.items():
        if array.dtype != dtype:
            raise ValueError(f"{name} must be {dtype}, got {array.dtype}")


def _checked(trainer, arrays, metadata):
    """Return the arguments of _restore, each of them checked."""
    put = kernels_of(trainer.net.params).arrays.asarray
    moments = {n: arrays[f"optimiser.{n}"] for n in trainer.optimiser.state()[0]}
    if trainer.schedule is not None:
        trainer.schedule.checked_state(metadata["decay"])
    sums = _fields("sums", metadata["sums"], no_sums())
    best = _fields("best", metadata["best"], no_best())
    if (check_count("window", metadata["window"]) == 0) != (sums["tokens"] == 0):
        raise ValueError(
            f"sums.tokens must be of {metadata['window']} windows, got {sums['tokens']}"
        )
    corpus, watch = _checked_corpus(metadata["corpus"]), metadata["watch"]
    metrics = _checked_place("metrics", metadata["metrics"])
    state = _unpack_state(metadata["state"], arrays, put)
    _check_state(
        trainer.net, corpus["train"][2] if corpus and corpus["train"] else trainer.batch, state
    )
    if watch is not None:
        _checked_place("watch.place", _check_type("watch", watch, dict)["place"])
        check_count("watch.window", watch["window"])
    return {
        "moments": moments,
        "numbers": trainer.optimiser.checked_numbers(metadata["numbers"]),
        "decay": metadata["decay"],
        "random": _checked_random(trainer.net, metadata["random"]),
        "position": {
            "epoch": check_count("epoch", metadata["epoch"]),
            "window": check_count("window", metadata["window"]),
            "history": _checked_history(metadata["history"]),
            "note": _check_type("note", metadata["note"], dict),
        },
        "watch": watch,
        "progress": Progress(
            state=state,
            best_params=put(arrays["best"]) if "best" in arrays else None,
            last_params=put(arrays["last"]) if "last" in arrays else None,
            asked=check_count("asked", metadata["asked"]),
            corpus=corpus,
            sums=sums,
            best=best,
            metrics=metrics,
        ),
    }


def _check_type(name, value, cls):
    if not isinstance(value, cls):
        raise ValueError(f"{name} must be a {cls.__name__}, got {value!r:.100}")
    return value


def _checked_place(name, place):
    """Return how far a file of records was written, or None."""
    return None if place is None else _fields(name, place, {"size": 0, "checksum": 0, "path": ""})


def _fields(name, value, example):
    """Return a dict with the keys, and with values of the types, of an example: counts, numbers, texts."""
    if set(_check_type(name, value, dict)) != set(example):
        raise ValueError(f"{name} must have {', '.join(example)}, got {', '.join(value)}")
    for key, one in example.items():
        label = f"{name}.{key}"
        if isinstance(one, str):
            _check_type(label, value[key], str)
        elif isinstance(one, float):
            check_real(label, value[key])
        else:
            check_count(label, value[key])
    return value


def _checked_random(net, states):
    """Return the states of the generators of a network, each of which was tried on a new one."""
    generators = _generators(net)
    if len(_check_type("random", states, list)) != len(generators):
        raise ValueError(f"random must have {len(generators)} states, got {len(states)}")
    for rng, state in zip(generators, states):
        try:
            type(rng.bit_generator)(0).state = state
            _check_places(state)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"random must hold states of generators: {error!r}") from None
    return states


def _check_places(state):
    """Refuse places beyond the buffers of a generator, which NumPy does not check."""
    for name, value in state.items():
        if isinstance(value, dict):
            _check_places(value)
        elif name in BUFFERS and not 0 <= value <= BUFFERS[name]:
            raise ValueError(f"{name} must be from 0 to {BUFFERS[name]}, got {value!r:.100}")


def _check_state(net, batch, state, name="state"):
    """Refuse a state that the network does not take."""
    if state is None:
        return
    if hasattr(net, "enter_state"):
        net.enter_state(name, state, batch, False)
    elif hasattr(net, "layers"):
        if not isinstance(state, tuple) or len(state) != len(net.layers):
            raise ValueError(f"{name} must have an entry for each of {len(net.layers)} layers")
        for i, (layer, part) in enumerate(zip(net.layers, state)):
            _check_state(layer, batch, part, f"{name}[{i}]")
    elif isinstance(net, (Dropout, Embedding, Linear)):
        raise ValueError(f"{name} must be None, as a {type(net).__name__} has no state")


def _checked_history(history):
    """Refuse what is not a record of numbers for each epoch."""
    for i, record in enumerate(_check_type("history", history, list)):
        for key, value in _check_type(f"history[{i}]", record, dict).items():
            if value is not None:
                check_real(f"history[{i}].{key}", value)
        if not {"epoch", "train_loss", "valid_loss"} <= set(record):
            raise ValueError(f"history[{i}] must have epoch and losses, got {', '.join(record)}")
    return history


def _checked_corpus(corpus):
    """Refuse what is not identities of texts by name, as a TokenStream has one."""
    if corpus is None:
        return None
    for name in ("train", "valid"):
        digest = _check_type("corpus", corpus, dict)[name]
        if digest is not None:
            if len(_check_type(f"corpus.{name}", digest, list)) != 4:
                raise ValueError(f"corpus.{name} must be four numbers, got {digest!r:.100}")
            for number in digest:
                check_count(f"corpus.{name}", number)
    return corpus


def _restore(trainer, arrays, moments, numbers, decay, random, watch, position, progress):
    """Change a trainer; what is not arrays of the right shape has been checked."""
    if (
        trainer.watch is not None and watch is not None
    ):  # the only one that can fail: it writes a file
        trainer.watch.load_state(watch)
    trainer.optimiser.load_state(moments, numbers)
    if trainer.schedule is not None:
        trainer.schedule.load_state(decay)
    for rng, state in zip(_generators(trainer.net), random):
        rng.bit_generator.state = state
    trainer.net.params[:] = 0  # the padding between weights
    for name in trainer.net.parameters():
        copy_into(trainer.net[name], arrays[f"weights.{name}"])
    trainer.progress, progress.goes_back = progress, True
    vars(trainer).update(position)
