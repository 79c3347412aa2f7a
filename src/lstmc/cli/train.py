"""The command ``lstmc train``: settings, a run, its files, and going on with it."""

import _thread
import math
import os
import signal
import sys
import threading
import zlib
from contextlib import contextmanager
from pathlib import Path

from .. import optim
from .._kernels import kernels_for
from ..files import check_writable_folder
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
from .options import UNITS, UsageError, add_threads, count, natural, positive, share

__all__ = ["DEFAULTS", "EXAMPLE", "HELP", "add_options", "new_settings", "run"]

HELP = "learn a text and write a model of it"
EXAMPLE = """\
  lstmc train book.txt --out run             ten epochs; Ctrl-C stops and saves
  lstmc train --out run --resume --epochs 20 goes on where it stopped
  lstmc train book.txt --level word --layers 2 --hidden 200 --dropout 0.3 --out words"""

OPTIMIZERS = {"sgd": (optim.SGD, 1.0), "adam": (optim.Adam, 2e-3), "adamw": (optim.AdamW, 2e-3),
              "rmsprop": (optim.RMSprop, 2e-3)}  # fmt: skip
FILES = ("model.safetensors", "checkpoint.safetensors", "metrics.jsonl", "loss.png")
# What is not set as an option; a resumed run uses what it began with.
DEFAULTS = {
    "file": None, "cell": "lstm", "level": "char", "layers": 2, "hidden": 128, "embed": 128,
    "dropout": 0.0, "dtype": "float32", "device": "cpu", "min_count": 1, "batch": 50, "steps": 50,
    "optimizer": "adam", "lr": None, "clip": 5.0, "schedule": "none", "decay": None, "decay_every": None,
    "epochs": 10, "patience": None, "valid": 0.1, "seed": 0,
}  # fmt: skip
# What a resumed run may change; its text is compared with the one before.
CHANGEABLE = ("file", "epochs", "device")


def add_options(parser):
    """Add the options of this command. Their defaults are in DEFAULTS; here None means not set."""

    def add(*names, help, default=None, group=None, **kind):
        if default is None:
            default = DEFAULTS.get(names[0].lstrip("-").replace("-", "_"))
        suffix = "" if default is None or "default" in help else f" (default: {default})"
        group.add_argument(*names, help=help + suffix, **kind)

    parser.add_argument("file", metavar="FILE", nargs="?",
                        help="a text in UTF-8; - reads standard input; "
                        "without it, the help topics that come with Python")  # fmt: skip
    g = parser.add_argument_group("the network")
    add("--cell", choices=tuple(KINDS), help="kind of recurrent layer", group=g)
    add("--level", choices=tuple(UNITS), help="what a token is", group=g)
    add("--layers", type=count, metavar="N", help="recurrent layers", group=g)
    add("--hidden", type=count, metavar="N", help="units of each", group=g)
    add("--embed", type=count, metavar="N", help="features of the embedding", group=g)
    add("--dropout", type=share, metavar="P", help="share dropped between layers", group=g)
    add("--dtype", choices=("float32", "float64"), help="type of all numbers", group=g)
    add("--device", metavar="DEVICE", group=g,
        help='"cpu", or "cuda" for a GPU, "cuda:1" for the second')  # fmt: skip
    add("--min-count", type=count, metavar="N", group=g,
        help="words that occur less often are <unk>; only with --level word")  # fmt: skip
    g = parser.add_argument_group("training")
    add("--batch", type=count, metavar="N", help="parallel streams of the text", group=g)
    add("--steps", type=count, metavar="N", help="tokens that gradients reach back", group=g)
    add("--optimizer", choices=tuple(OPTIMIZERS), help="how weights follow gradients", group=g)
    add("--lr", type=positive, metavar="X", help="learning rate (default: 0.002; sgd: 1)", group=g)
    add("--clip", type=positive, metavar="X", help="upper limit of the gradient's norm", group=g)
    add("--schedule", choices=("none", "step", "exponential", "plateau"), group=g,
        help="when the learning rate is multiplied by --decay: every --decay-every epochs, every "
        "epoch, or when --decay-every epochs have not improved validation")  # fmt: skip
    add("--decay", type=positive, metavar="X", help="factor for --schedule (default: 0.5)", group=g)
    add("--decay-every", type=count, metavar="N", help="epochs (default: 1)", group=g)
    add("--epochs", type=count, metavar="N", help="times through the text, in all", group=g)
    add("--minutes", type=positive, metavar="X", group=g,
        help="stop after so long; --resume can go on (default: no limit)")  # fmt: skip
    add("--valid", type=share, metavar="P", group=g,
        help="share of the text, at its end, kept for validation; 0: none")  # fmt: skip
    add("--patience", type=count, metavar="N", group=g,
        help="stop when validation has not improved for N epochs (default: never)")  # fmt: skip
    add("--seed", type=natural, metavar="N", group=g,
        help="same seed, same options, same text: same model to the bit")  # fmt: skip
    add_threads(g)
    g = parser.add_argument_group("files")
    add("--out", metavar="DIR", default="run", group=g,
        help="folder for model.safetensors (the best epoch's weights), checkpoint.safetensors, "
        "metrics.jsonl and, if matplotlib is there, loss.png")  # fmt: skip
    g.add_argument("--resume", action="store_true", help="go on with the run that is in DIR")
    g.add_argument("--overwrite", action="store_true", help="remove the run that is in DIR")


def run(args):
    """Train a model: new, or from where an earlier run stopped."""
    out = Path(args.out or "run")
    checkpoint = out / "checkpoint.safetensors"
    settings, text_id = (
        resumed_settings(args, checkpoint) if args.resume else (new_settings(args), None)
    )
    check_device(settings["device"])
    if settings["file"] not in (None, "-"):  # to be found again from another folder
        settings["file"] = os.path.abspath(settings["file"])
    text = default_text() if settings["file"] is None else read_text(settings["file"])
    if text_id and text_id != identify(text):
        raise ValueError(f"the text is not the one that the run in {out} was trained on")
    model, train_ids, valid_ids = prepare(settings, text)
    trainer = make_trainer(settings, model.net)
    if args.resume:
        trainer.load(checkpoint)
    else:
        clear_folder(out, args.overwrite)
    describe(settings, model, train_ids, valid_ids)
    note = {"settings": settings, "text": identify(text)}
    stopped = run_trainer(trainer, settings, train_ids, valid_ids, out, args.minutes, note)
    if stopped and stopped.error and not trainer.history:
        raise stopped.error  # nothing worth keeping was learnt
    finish(trainer, model, settings, train_ids, valid_ids, out, stopped)
    if stopped and stopped.error:
        raise stopped.error
    if stopped and not stopped.by_clock:
        print(f"lstmc: stopped; to go on: {how_to_resume(out, settings)}", file=sys.stderr)
        return 130
    if stopped:
        print(f"the time is up; to go on: {how_to_resume(out, settings)}")
    return 0


def check_device(device):
    """Refuse a device that is not to be had here, in the words of an error of the command."""
    try:
        kernels_for(device)
    except (ImportError, RuntimeError) as error:
        raise ValueError(str(error)) from None


def new_settings(args):
    """Return the settings of a new run: the options, and defaults for those that are not set."""
    options = {name: getattr(args, name) for name in DEFAULTS if getattr(args, name) is not None}
    settings = {**DEFAULTS, **options}
    if settings["lr"] is None:
        settings["lr"] = OPTIMIZERS[settings["optimizer"]][1]
    if settings["level"] == "char" and "min_count" in options:
        raise UsageError("--min-count needs --level word")
    if settings["schedule"] == "none" and {"decay", "decay_every"} & options.keys():
        raise UsageError("--decay and --decay-every need --schedule")
    if settings["schedule"] == "exponential" and "decay_every" in options:
        raise UsageError(
            "--decay-every needs --schedule step or plateau: exponential is every epoch"
        )
    if not settings["valid"] and (settings["patience"] or settings["schedule"] == "plateau"):
        raise UsageError("--patience and --schedule plateau need validation: --valid above 0")
    return settings


def resumed_settings(args, checkpoint):
    """Return the settings that a run began with, and what identifies its text."""
    if args.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if not checkpoint.exists():
        raise ValueError(f"there is no run to resume: {checkpoint} does not exist")
    note = read_note(checkpoint)
    if "settings" not in note:
        raise ValueError(f"{checkpoint} was not written by lstmc train")
    settings = {"device": "cpu", **note["settings"]}  # runs of earlier versions do not say
    for name in DEFAULTS:
        option = getattr(args, name)
        if option is None or option == settings[name]:
            continue
        if name not in CHANGEABLE:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} {option} conflicts with the run in {checkpoint.parent}, "
                             f"which began with {settings[name]}")  # fmt: skip
        settings[name] = option
    return settings, note["text"]


def identify(text):
    """Return what tells one text from another: its length and a checksum."""
    return [len(text), zlib.crc32(text.encode())]


def prepare(settings, text):
    """Return a new model and the token ids of the text's two parts, the second None without validation."""
    cut = round(len(text) * (1 - settings["valid"]))
    level = settings["level"]
    # Words that only validation has are unseen; a character has nothing to stand for it.
    seen = text if level == "char" else text[:cut]
    vocabulary = Vocabulary.from_text(seen, level, settings["min_count"])
    options = ("cell", "layers", "hidden", "embed", "dropout", "dtype", "device")
    model = LanguageModel(
        vocabulary, rng=settings["seed"], **{name: settings[name] for name in options}
    )
    train_ids, valid_ids = vocabulary.encode(text[:cut]), vocabulary.encode(text[cut:])
    needed = 2 * settings["batch"]
    if len(train_ids) < needed:
        raise ValueError(f"the text is too short: {settings['batch']} streams need {needed} tokens "
                         f"to train on, got {len(train_ids)}; a smaller --batch may do")  # fmt: skip
    if settings["valid"] and len(valid_ids) < 2:
        raise ValueError(f"the text is too short: --valid {settings['valid']:g} leaves "
                         f"{len(valid_ids)} tokens for validation, which needs 2")  # fmt: skip
    return model, train_ids, valid_ids if settings["valid"] else None


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
    return Trainer(net, optimiser, settings["batch"], settings["steps"], settings["clip"], schedule)


def clear_folder(out, overwrite):
    """Make the folder of a new run, and see that it can be written, before any work is done."""
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        check_writable_folder(out / name)
    there = [out / name for name in FILES if (out / name).exists()]
    if there and not overwrite:
        raise ValueError(f"{out} holds a run already: go on with --resume, replace it with "
                         "--overwrite, or choose another folder with --out")  # fmt: skip
    for path in there:
        path.unlink()


class Stopped:
    """Why training stopped early: by the clock, by an error, or else by Ctrl-C."""

    def __init__(self, by_clock=False, error=None):
        self.by_clock, self.error = by_clock, error


def run_trainer(trainer, settings, train_ids, valid_ids, out, minutes, note):
    """Train to the end, or until Ctrl-C, the clock or divergence; return None or Stopped."""
    patience = None
    if valid_ids is not None:  # with so much patience nothing stops, and the best weights are kept
        patience = settings["patience"] or settings["epochs"]
    with time_limit(minutes) as is_over:
        try:
            trainer.fit(train_ids, valid_ids, settings["epochs"], patience,
                        checkpoint=out / "checkpoint.safetensors", metrics=out / "metrics.jsonl",
                        note=note)  # fmt: skip
        except Interrupted:
            return Stopped(by_clock=is_over.is_set())
        except FloatingPointError as error:
            return Stopped(error=error)
    return None


@contextmanager
def time_limit(minutes):
    """Press Ctrl-C, as it were, after some minutes; yield an event that is set when that was done."""
    is_over = threading.Event()
    if minutes is None:
        yield is_over
        return

    def press():
        is_over.set()
        _thread.interrupt_main()

    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:  # as in a shell's background: the clock must be heard nevertheless
        signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(minutes * 60, press)
    timer.daemon = True
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def finish(trainer, model, settings, train_ids, valid_ids, out, stopped):
    """Keep the better of the weights of now and those of the best epoch; save and report."""
    history, unit = trainer.history, UNITS[settings["level"]]
    curve = [(r["epoch"], r["train_loss"], r["valid_loss"]) for r in history]
    best = min((r["valid_loss"] for r in history if r["valid_loss"] is not None), default=math.inf)
    if valid_ids is not None and stopped:
        now = evaluate(model.net, valid_ids, settings["batch"], settings["steps"])
        windows = -(-(len(train_ids) // settings["batch"] - 1) // settings["steps"])
        curve.append((trainer.epoch + trainer.window / windows, None, now))
        if history and not now < best:  # or NaN
            # A call that has no epoch to train puts the best weights back.
            patience = settings["patience"] or settings["epochs"]
            trainer.fit(train_ids, valid_ids, trainer.epoch, patience)
        best = min(best, now)
    model.save(out / "model.safetensors")
    if not sys.stderr.isatty():  # on a terminal the bars have shown it
        for r in history:
            valid = "" if r["valid_loss"] is None else f", validation loss {r['valid_loss']:.4f}"
            print(
                f"epoch {r['epoch']}: training loss {r['train_loss']:.4f}{valid}, {r['seconds']:.1f} s"
            )
    if best < math.inf:
        print(
            f"validation loss {best:.4f} nats per {unit} (perplexity {math.exp(min(best, 700)):.2f})"
        )
    elif history:
        print(f"training loss {history[-1]['train_loss']:.4f} nats per {unit}")
    print(f"wrote {out / 'model.safetensors'}")
    draw(curve, out / "loss.png")


def draw(curve, path):
    """Draw the loss curve, where matplotlib is installed."""
    if not curve:
        return
    try:
        from ..inspection.plots import plot_losses

        plot_losses(path, *zip(*curve))
    except ImportError:
        print("no loss.png: matplotlib is not installed (pip install matplotlib)")


def describe(settings, model, train_ids, valid_ids):
    """Print what is about to be trained on what."""
    unit, valid = UNITS[settings["level"]] + "s", 0 if valid_ids is None else len(valid_ids)
    kind = KINDS[settings["cell"]].__name__
    print(f"text: {settings['file'] or 'the help topics of Python'}; {len(train_ids):,} {unit} to train on, "
          f"{valid:,} to validate on, {len(model.vocabulary):,} different")  # fmt: skip
    print(f"network: {kind} {settings['layers']} x {settings['hidden']}, {model.net.num_parameters:,} "
          f"parameters; {settings['optimizer']}, learning rate {settings['lr']:g}", flush=True)  # fmt: skip


def how_to_resume(out, settings):
    """Return the command that goes on."""
    file = " -" if settings["file"] == "-" else ""
    return f"lstmc train{file} --out {out} --resume"
