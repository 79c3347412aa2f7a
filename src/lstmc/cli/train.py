"""The command ``lstmc train``: options and settings, a run and its files, and resuming it."""

import contextlib
import math
import os
import shlex
import sys
import zlib
from pathlib import Path

from .. import optim
from .._kernels import kernels_for
from ..files import check_writable_folder, only_one
from ..recurrent import KINDS
from ..training import (
    ExponentialDecay,
    Interrupted,
    PlateauDecay,
    StepDecay,
    Trainer,
    Vocabulary,
    default_text,
    evaluate,
    read_note,
    read_text,
)
from ..training.language_model import LanguageModel
from ..training.streams import perplexity_of
from .options import UNITS, UsageError, count, natural, number_text, positive, say, share

__all__ = ["DEFAULTS", "EXAMPLE", "HELP", "add_options", "new_settings", "run"]

HELP = "learn a text and write a model of it"
EXAMPLE = """\
  lstmc train book.txt --out run             ten epochs; Ctrl-C stops and saves
  lstmc train --out run --resume --epochs 20 goes on where it stopped
  lstmc train book.txt --level word --layers 2 --hidden 200 --dropout 0.3 --out words"""

OPTIMIZERS = {"sgd": (optim.SGD, 1.0), "adam": (optim.Adam, 2e-3), "adamw": (optim.AdamW, 2e-3),
              "rmsprop": (optim.RMSprop, 2e-3)}  # fmt: skip
LONGEST_WORD = 1000  # characters: where none ends within as many, a text has no white space
SCHEDULES = ("none", "step", "exponential", "plateau")
FILES = ("model.safetensors", "checkpoint.safetensors", "metrics.jsonl", "loss.png")
# For options that are not given; a resumed run uses what it began with.
DEFAULTS = {
    "file": None, "cell": "lstm", "level": "char", "layers": 2, "hidden": 128, "embed": 128,
    "dropout": 0.0, "variational": False, "tied": False, "dtype": "float32", "device": "cpu", "min_count": 1,
    "batch": 50, "steps": 50, "optimizer": "adam", "lr": None, "clip": 5.0, "clip_value": None,
    "schedule": "none", "decay": None, "decay_every": None, "epochs": 10, "patience": None,
    "valid": 0.1, "seed": 0,
}  # fmt: skip
# What no machine has room for is refused before it is tried.
MOST = {"layers": 1000, **dict.fromkeys(("hidden", "embed", "batch", "steps"), 2**31)}
# What a resumed run may change. Its text must be the one before, wherever the file is now.
CHANGEABLE = ("file", "epochs", "patience", "device")


# -- options --------------------------------------------------------------------------------------


def add_options(parser):
    """Add the options of this command."""
    parser.add_argument("file", metavar="FILE", nargs="?",
                        help="a text in UTF-8; - reads standard input; "
                        "without it, the help topics that come with Python")  # fmt: skip
    add_network_options(adder(parser.add_argument_group("the network")))
    training = parser.add_argument_group("training")
    add_training_options(adder(training))
    files = parser.add_argument_group("files")
    adder(files)(
        "--out", metavar="DIR", default="run",
        help="folder for model.safetensors (the best epoch's weights), checkpoint.safetensors, "
        "metrics.jsonl and, if matplotlib is there, loss.png")  # fmt: skip
    files.add_argument("--resume", action="store_true", help="go on with the run that is in DIR")
    files.add_argument("--overwrite", action="store_true", help="remove the run that is in DIR")


def adder(group):
    """Return an ``add_argument`` whose help shows the default. The parsed value is None unless given."""

    def add(name, help, default=None, **kind):
        if default is None:
            default = DEFAULTS.get(name.lstrip("-").replace("-", "_"))
        suffix = (
            ""
            if default is None or default is False or "default" in help
            else f" (default: {default})"
        )
        group.add_argument(name, help=help + suffix, **kind)

    return add


def add_network_options(add):
    """Add what describes the network."""
    add("--cell", choices=tuple(KINDS), help="kind of recurrent layer")
    add("--level", choices=tuple(UNITS),
        help="what a token is: a character, a word, or in a text that is cut already what white space "
        "separates")  # fmt: skip
    add("--layers", type=count, metavar="N", help="recurrent layers")
    add("--hidden", type=count, metavar="N", help="units of each")
    add("--embed", type=count, metavar="N", help="features of the embedding")
    add("--dropout", type=share, metavar="P", help="share dropped between layers")
    add("--variational", action="store_const", const=True,
        help="drop the same at all steps of a window; needs --dropout")  # fmt: skip
    add("--tied", action="store_const", const=True,
        help="one weight for the embedding and the output; needs --embed equal to --hidden")  # fmt: skip
    add("--dtype", choices=("float32", "float64"), help="type of all numbers")
    add("--device", metavar="DEVICE", help='"cpu", or "cuda" for a GPU, "cuda:1" for the second')
    add("--min-count", type=count, metavar="N",
        help="words or tokens that occur less often are <unk>; not with --level char")  # fmt: skip


def add_training_options(add):
    """Add what describes the training."""
    add("--batch", type=count, metavar="N", help="parallel streams of the text")
    add("--steps", type=count, metavar="N", help="tokens that gradients reach back")
    add("--optimizer", choices=tuple(OPTIMIZERS), help="how weights follow gradients")
    add("--lr", type=positive, metavar="X", help="learning rate (default: 0.002; sgd: 1)")
    add("--clip", type=positive, metavar="X", help="upper limit of the gradient's norm")
    add("--clip-value", type=positive, metavar="X",
        help="upper limit of the size of each of its elements, before --clip (default: none)")  # fmt: skip
    add("--schedule", choices=SCHEDULES,
        help="when the learning rate is multiplied by --decay: every --decay-every epochs, every "
        "epoch, or when --decay-every epochs have not improved validation")  # fmt: skip
    add("--decay", type=positive, metavar="X", help="factor for --schedule (default: 0.5)")
    add("--decay-every", type=count, metavar="N", help="epochs (default: 1)")
    add("--epochs", type=count, metavar="N", help="times through the text, in all")
    add("--minutes", type=positive, metavar="X",
        help="stop after so long; --resume can go on (default: no limit)")  # fmt: skip
    add("--valid", type=share, metavar="P",
        help="share of the text, at its end, held out for validation; 0: none")  # fmt: skip
    add("--patience", type=count, metavar="N",
        help="stop when validation has not improved for N epochs (default: never)")  # fmt: skip
    add("--seed", type=natural, metavar="N",
        help="same seed, same options, same text: same model to the bit")  # fmt: skip


# -- settings -------------------------------------------------------------------------------------


def new_settings(args):
    """Return the settings of a new run: the options given, else the defaults."""
    given = {name: getattr(args, name) for name in DEFAULTS if getattr(args, name) is not None}
    settings = {**DEFAULTS, **given}
    for name, most in MOST.items():
        if settings[name] > most:
            raise UsageError(f"--{name} must be at most {most}, got {settings[name]}")
    if settings["lr"] is None:
        settings["lr"] = OPTIMIZERS[settings["optimizer"]][1]
    if settings["level"] == "char" and "min_count" in given:
        raise UsageError("--min-count needs --level word or token")
    if settings["variational"] and not settings["dropout"]:
        raise UsageError("--variational needs --dropout above 0")
    if settings["tied"] and settings["embed"] != settings["hidden"]:
        raise UsageError(
            "--tied needs --embed equal to --hidden, as the two layers have one weight, "
            f"got {settings['embed']} and {settings['hidden']}"
        )
    if settings["schedule"] == "none" and {"decay", "decay_every"} & given.keys():
        raise UsageError("--decay and --decay-every need --schedule")
    if settings["schedule"] == "exponential" and "decay_every" in given:
        raise UsageError(
            "--decay-every needs --schedule step or plateau: exponential is every epoch"
        )
    if not settings["valid"] and (settings["patience"] or settings["schedule"] == "plateau"):
        raise UsageError("--patience and --schedule plateau need validation: --valid above 0")
    return settings


def resumed_settings(args, checkpoint):
    """Return the settings that a run began with, and the identity of its text."""
    if args.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if not checkpoint.exists():
        raise ValueError(f"there is no run to resume: {checkpoint} does not exist")
    note = read_note(checkpoint)
    if "settings" not in note:
        raise ValueError(f"{checkpoint} was not written by lstmc train")
    settings = note["settings"]
    if not (isinstance(settings, dict) and set(settings) == set(DEFAULTS) and "text" in note):
        raise ValueError(f"{checkpoint} is damaged: its note does not have the settings of a run")
    for name, value in settings.items():
        if not is_setting(name, value):
            raise ValueError(f"{checkpoint} is damaged: its note has {name} = {value!r:.100}")
    for name in DEFAULTS:
        value = getattr(args, name)
        if value is None or value == settings[name]:
            continue
        if name not in CHANGEABLE:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} {value} conflicts with the run in {checkpoint.parent}, "
                             f"which began with {settings[name]}; only --epochs, --patience, --minutes, "
                             "--threads, --device and the place of the text may change")  # fmt: skip
        settings[name] = value
    if settings["patience"] and not settings["valid"]:
        raise UsageError("--patience needs validation, and the run began without: --valid 0")
    return settings, note["text"]


def is_setting(name, value):
    """Return whether a value is of the kind that a setting has."""
    choices = {"cell": KINDS, "level": UNITS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    if name in choices:
        return isinstance(value, str) and value in choices[name]
    if name in ("file", "device", "dtype"):
        return isinstance(value, str) or (value is None and name == "file")
    if name in ("variational", "tied"):
        return isinstance(value, bool)
    if value is None:
        return name in ("clip", "clip_value", "decay", "decay_every", "patience")
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        return False
    return value <= MOST.get(name, math.inf)


def identify(text):
    """Return what tells one text from another: its length and a checksum."""
    return [len(text), zlib.crc32(text.encode())]


def check_device(device):
    """Raise an error that ``main`` reports if a device is not available."""
    try:
        kernels_for(device)
    except (ImportError, RuntimeError) as error:
        raise ValueError(str(error)) from None


# -- the run --------------------------------------------------------------------------------------


def run(args):
    """Train a model: a new one, or from where an earlier run stopped."""
    out = Path(args.out or "run")
    with contextlib.ExitStack() as stack:
        if not args.resume:
            settings, text_id = new_settings(args), None
        else:
            if out.exists():
                stack.enter_context(only_one(out))
            settings, text_id = resumed_settings(args, out / "checkpoint.safetensors")
        check_device(settings["device"])
        model, train_ids, valid_ids, note = prepare(settings, text_id, out)
        trainer = make_trainer(settings, model.net)
        if args.resume:
            trainer.load(out / "checkpoint.safetensors")
        else:
            if out.exists() and not out.is_dir():
                raise ValueError(f"--out {out} must be a folder, and it is a file")
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_one(out))
            clear_folder(out, args.overwrite)
        describe(settings, model, train_ids, valid_ids)
        return train(trainer, model, settings, train_ids, valid_ids, out, args.minutes, note)


def read(settings):
    """Return the text of a run."""
    if settings["file"] not in (None, "-"):  # --resume may be called from another folder
        settings["file"] = os.path.abspath(settings["file"])
    return default_text() if settings["file"] is None else read_text(settings["file"])


def prepare(settings, text_id, out):
    """Return a new model, the token ids for training and for validation (or None), and the run's note."""
    text = read(settings)
    note = {"settings": settings, "text": identify(text)}
    if text_id and text_id != note["text"]:
        raise ValueError(
            f"the text is not the one that the run in {out} was trained on"
            if settings["file"]
            else f"the run in {out} was trained on the help topics of another version of Python, which are "
            "other texts: resume it with that version"
        )
    cut, level = round(len(text) * (1 - settings["valid"])), settings["level"]
    if level != "char":  # not within a word
        near = range(cut, min(len(text), cut + LONGEST_WORD))
        cut = next((i for i in near if text[i].isspace()), cut)
    # A word that is in the validation text alone is <unk>; there is no such token for characters.
    source = text if level == "char" else text[:cut]
    vocabulary = Vocabulary.from_text(source, level, settings["min_count"])
    names = (
        "cell",
        "layers",
        "hidden",
        "embed",
        "dropout",
        "variational",
        "tied",
        "dtype",
        "device",
    )
    options = {name: settings[name] for name in names}
    model = LanguageModel(vocabulary, rng=settings["seed"], **options)
    train_ids, valid_ids = vocabulary.encode(text[:cut]), vocabulary.encode(text[cut:])
    needed = 2 * settings["batch"]
    if len(train_ids) < needed:
        raise ValueError(f"the text is too short: {settings['batch']} streams need {needed} tokens "
                         f"to train on, got {len(train_ids)}; a smaller --batch may do")  # fmt: skip
    if settings["valid"] and len(valid_ids) < 2:
        raise ValueError(f"the text is too short: --valid {settings['valid']:g} leaves "
                         f"{len(valid_ids)} tokens for validation, which needs 2")  # fmt: skip
    return model, train_ids, valid_ids if settings["valid"] else None, note


def make_trainer(settings, net):
    """Return a trainer with its optimiser and schedule."""
    optimiser = OPTIMIZERS[settings["optimizer"]][0](net, lr=settings["lr"])
    factor, every = settings["decay"] or 0.5, settings["decay_every"] or 1
    schedule = {
        "none": lambda: None,
        "step": lambda: StepDecay(optimiser, factor, every),
        "exponential": lambda: ExponentialDecay(optimiser, factor),
        "plateau": lambda: PlateauDecay(optimiser, factor, patience=every),
    }[settings["schedule"]]()
    return Trainer(net, optimiser, settings["batch"], settings["steps"], settings["clip"], schedule,
                   clip_value=settings["clip_value"])  # fmt: skip


def clear_folder(out, overwrite):
    """Empty the folder of a new run; check that it is writable before work is done."""
    for name in FILES:
        check_writable_folder(out / name)
    existing = [path for name in FILES if (path := out / name).exists() and path.stat().st_size]
    if existing and not overwrite:
        resume = (out / "checkpoint.safetensors").exists()
        raise ValueError(f"{out} holds {'a run' if resume else 'files of a run'} already: "
                         f"{'go on with --resume, ' if resume else ''}replace it with --overwrite, or choose "
                         "another folder with --out")  # fmt: skip
    for path in existing:
        path.unlink()


def train(trainer, model, settings, train_ids, valid_ids, out, minutes, note):
    """Train to the end, or until it is stopped, and save the model; return the exit code."""
    began, has_model = (trainer.epoch, trainer.window), is_saved(out)
    if any(began) and trainer.epoch < settings["epochs"]:
        say(f"going on {where(trainer, train_ids, settings)}")
    try:
        trainer.fit(train_ids, valid_ids, settings["epochs"], settings["patience"], minutes=minutes,
                    checkpoint=out / "checkpoint.safetensors", metrics=out / "metrics.jsonl",
                    progress=sys.stdout, note=note)  # fmt: skip
    except Interrupted as stop:
        finish(trainer, model, settings, train_ids, valid_ids, out)
        say(f"lstmc: stopped; to go on: {how_to_resume(out, settings)}", sys.stderr)
        return 128 + stop.signal
    except FloatingPointError:
        if trainer.history:  # else there is nothing to save
            finish(trainer, model, settings, train_ids, valid_ids, out)
        raise
    how = how_to_resume(out, settings)
    trained = (trainer.epoch, trainer.window) != began
    if trainer.ended == "patience":
        waited = trainer.progress.best["waited"]
        say(f"{'stopped' if trained else 'nothing to train'}: validation has not improved for {waited} "
            f"epoch{'s' * (waited > 1)}; to go on: {how} --epochs {2 * trainer.progress.asked}")  # fmt: skip
    elif not trained:
        say(f"nothing to train: the run has had {trainer.epoch} of {settings['epochs']} epochs; to go on: "
            f"{how} --epochs {2 * max(trainer.epoch, trainer.progress.asked)}")  # fmt: skip
    if not trained and has_model:
        return 0  # a run stopped within an epoch may have left a better one than that of its best epoch
    finish(trainer, model, settings, train_ids, valid_ids, out)
    if trainer.ended == "minutes":
        say(f"the time is up; to go on: {how}")
    return 0


def is_saved(out):
    """Return whether the model in a folder was saved after its checkpoint, as it is when a run ends."""
    model, checkpoint = out / "model.safetensors", out / "checkpoint.safetensors"
    return model.exists() and checkpoint.stat().st_mtime_ns <= model.stat().st_mtime_ns


# -- what is said and written ---------------------------------------------------------------------


def describe(settings, model, train_ids, valid_ids):
    """Print what is about to be trained, and on what."""
    unit, valid = UNITS[settings["level"]] + "s", 0 if valid_ids is None else len(valid_ids)
    kind = KINDS[settings["cell"]].__name__
    name = Path(settings["file"]).name if settings["file"] else "the help topics of Python"
    say(f"text: {name}; {len(train_ids):,} {unit} to train on, {valid:,} to validate on, "
        f"{len(model.vocabulary):,} different")  # fmt: skip
    say(f"network: {kind} {settings['layers']} x {settings['hidden']}, {model.net.num_parameters:,} "
          f"parameters; {settings['optimizer']}, learning rate {settings['lr']:g}")  # fmt: skip


def where(trainer, train_ids, settings):
    """Return in words which epochs and windows a run has had."""
    if not trainer.window:
        return f"after epoch {trainer.epoch} of {settings['epochs']}"
    windows = -(-(len(train_ids) // settings["batch"] - 1) // settings["steps"])
    return f"after window {trainer.window} of {windows} of epoch {trainer.epoch + 1}"


def finish(trainer, model, settings, train_ids, valid_ids, out):
    """Save the better of the present weights and those of the best epoch; print and draw the losses."""
    history, unit = trainer.history, UNITS[settings["level"]]
    curve = [(r["epoch"], r["train_loss"], r["valid_loss"]) for r in history]
    best, of = trainer.progress.best["loss"], f"epoch {trainer.progress.best['epoch']}"
    if valid_ids is not None and trainer.ended not in ("epochs", "patience"):
        now = evaluate(model.net, valid_ids, settings["batch"], settings["steps"])
        windows = -(-(len(train_ids) // settings["batch"] - 1) // settings["steps"])
        curve.append((trainer.epoch + trainer.window / windows, None, now))
        if now < best or not history:
            best, of = now, where(trainer, train_ids, settings)
        else:  # or it is NaN
            trainer.use_best()
    else:
        trainer.use_best()
    model.save(out / "model.safetensors")
    if best < math.inf:
        say(
            f"validation loss {best:.4f} nats per {unit} "
            f"(perplexity {number_text(perplexity_of(best), 2)}), {of}"
        )
    elif history:
        loss = history[-1]["train_loss"]
        say(
            f"training loss {loss:.4f} nats per {unit} (perplexity {number_text(perplexity_of(loss), 2)})"
        )
    say(f"wrote {out / 'model.safetensors'}")
    draw(curve, out / "loss.png")


def draw(curve, path):
    """Draw the loss curve if matplotlib is installed."""
    if not curve:
        return
    try:
        from ..inspection.plots import plot_losses

        plot_losses(*zip(*curve), path)
    except ImportError:
        say("no loss.png: matplotlib is not installed (pip install matplotlib)")


def how_to_resume(out, settings):
    """Return the command that goes on."""
    file = " -" if settings["file"] == "-" else ""
    to = str(out)
    between = "=" if to.startswith("-") else " "  # or it would be taken for an option
    return f"lstmc train{file} --out{between}{shlex.quote(to)} --resume"
