"""The command line: train, next, sample, eval, inspect, bench, config.

Here are the options of all commands, the small commands, errors and exit codes: 0 for success, 1 for
an error, 2 for wrong usage, 130 after Ctrl-C. What ``train``, ``inspect`` and ``bench`` do is in
cli_train.py, cli_inspect.py and cli_bench.py.
"""

import argparse
import math
import os
import sys

from .. import __version__
from .._kernels.binding.core import set_num_threads
from .._kernels.config import show_config
from ..training.language_model import LanguageModel
from ..training.text import read_text
from .bench import bench
from .inspect import inspect
from .train import DEFAULTS, OPTIMIZERS, UNITS, UsageError, train

__all__ = ["main"]


# -- options --------------------------------------------------------------------------------------


def number(kind, wanted, test):
    """Make a converter for argparse that refuses numbers that do not pass a test."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not test(value):
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
        return value

    return convert


count = number(int, "a whole number, 1 or more", lambda n: n >= 1)
natural = number(int, "a whole number, 0 or more", lambda n: n >= 0)
share = number(float, "a number from 0 up to, not including, 1", lambda x: 0 <= x < 1)
positive = number(float, "a number above 0", lambda x: 0 < x < math.inf)
not_negative = number(float, "a number, 0 or above", lambda x: 0 <= x < math.inf)


def make_parser():
    """Make the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="lstmc",
        description="Train a recurrent network on a text, and let it write on.",
        epilog="To begin: lstmc train --out run, then lstmc sample run/model.safetensors",
    )
    parser.add_argument("--version", action="version", version=f"lstmc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name, run, help, example):
        new = commands.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + ".",
            epilog="example:\n" + example, formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        new.set_defaults(run=run)
        return new

    add_train_options(command(
        "train", train, "learn a text and write a model of it",
        "  lstmc train book.txt --out run             ten epochs; Ctrl-C stops and saves\n"
        "  lstmc train --out run --resume --epochs 20 goes on where it stopped\n"
        "  lstmc train book.txt --level word --layers 2 --hidden 200 --dropout 0.3 --out words"))  # fmt: skip
    new = command("next", next_tokens, "show the likeliest continuations of a text",
                  '  lstmc next run/model.safetensors "The value of the " -k 5')  # fmt: skip
    new.add_argument("model", metavar="MODEL", help="a file that lstmc train wrote")
    new.add_argument("text", metavar="TEXT", help="what has been written so far")
    new.add_argument("-k", type=count, default=5, help="how many continuations (default: 5)")
    add_threads(new)
    add_sample_options(command(
        "sample", sample, "let a model write",
        '  lstmc sample run/model.safetensors --prompt "The " --length 500 --temperature 0.5'))  # fmt: skip
    new = command("eval", evaluate_file, "measure how well a model foresees a text",
                  "  lstmc eval run/model.safetensors other.txt")  # fmt: skip
    new.add_argument("model", metavar="MODEL", help="a file that lstmc train wrote")
    new.add_argument("file", metavar="FILE", help="a text in UTF-8; - reads standard input")
    add_threads(new)
    add_inspect_options(command(
        "inspect", inspect, "show where in time the gradients live, and what the gates do",
        '  lstmc inspect run/model.safetensors --text "The value of the expression is" --out seen\n'
        "  lstmc inspect --demo --out demo     why an LSTM learns what an RNN can not"))  # fmt: skip
    add_bench_options(command("bench", bench, "time lstmc on this machine, in seconds",
                              "  lstmc bench --threads 1 --peer torch"))  # fmt: skip
    command("config", config, "show versions, instruction set and threads", "  lstmc config")
    return parser


def add_threads(parser):
    """Add --threads."""
    parser.add_argument("--threads", type=count, metavar="N",
                        help="threads to compute with (default: the cores there are); "
                        "the result does not depend on it")  # fmt: skip


def add_sample_options(parser):
    """Add what `sample` takes."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a file that lstmc train wrote")
    add("--prompt", default="", help="how the text begins (default: as after a new line)")
    add("--length", type=natural, default=200, metavar="N",
        help="tokens (characters or words) to add (default: 200)")  # fmt: skip
    add("--temperature", type=not_negative, default=1.0, metavar="X",
        help="below 1 safer, above 1 bolder, 0 always the likeliest (default: 1)")  # fmt: skip
    add(
        "--top-k",
        type=count,
        metavar="N",
        help="draw from the N likeliest only (default: from all)",
    )
    add("--seed", type=natural, metavar="N", help="for the same text every time (default: random)")
    add_threads(parser)


def add_inspect_options(parser):
    """Add what `inspect` takes."""
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="a file that lstmc train wrote")
    add("--text", help="what the model reads")
    add("--file", metavar="FILE", help="or a text in UTF-8; - reads standard input")
    add("--out", default="inspect", metavar="DIR", help="where the pictures go (default: inspect)")
    add("--unit", type=natural, metavar="N",
        help="tell which tokens wrote this unit (default: the one that holds most)")  # fmt: skip
    add("--layer", type=natural, metavar="N", help="of this layer, from 0 (default: the last)")
    add("--demo", action="store_true",
        help="let an LSTM and an RNN learn what needs a long memory, and show why one can not")  # fmt: skip
    add("--steps", type=count, metavar="N",
        help="how long a memory the demo asks for (default: 100)")  # fmt: skip
    add("--updates", type=count, metavar="N",
        help="how often either may learn in the demo, at most (default: 3000)")  # fmt: skip
    add("--seed", type=natural, metavar="N", help="of the demo (default: 0)")
    add_threads(parser)


def add_bench_options(parser):
    """Add what `bench` takes."""
    add = parser.add_argument
    add("--hidden", type=count, metavar="N", help="this many units (default: some from 64 to 512)")
    add("--seconds", type=positive, default=0.5, metavar="X",
        help="how long to time each line (default: 0.5)")  # fmt: skip
    add("--peer", choices=("torch",), help="time this beside it, if it is installed")
    add_threads(parser)


def add_train_options(parser):
    """Add what `train` takes. Defaults are in DEFAULTS: here None means that nothing was said."""

    def add(*names, help, default=None, group=None, **kind):
        if default is None:
            default = DEFAULTS.get(names[0].lstrip("-").replace("-", "_"))
        suffix = "" if default is None or "default" in help else f" (default: {default})"
        group.add_argument(*names, help=help + suffix, **kind)

    parser.add_argument("file", metavar="FILE", nargs="?",
                        help="a text in UTF-8; - reads standard input; "
                        "without it, the help topics that come with Python")  # fmt: skip
    g = parser.add_argument_group("the network")
    add("--cell", choices=("lstm", "rnn"), help="kind of recurrent layer", group=g)
    add("--level", choices=tuple(UNITS), help="what a token is", group=g)
    add("--layers", type=count, metavar="N", help="recurrent layers", group=g)
    add("--hidden", type=count, metavar="N", help="units of each", group=g)
    add("--embed", type=count, metavar="N", help="features of the embedding", group=g)
    add("--dropout", type=share, metavar="P", help="share dropped between layers", group=g)
    add("--dtype", choices=("float32", "float64"), help="type of all numbers", group=g)
    add(
        "--device",
        metavar="DEVICE",
        help='"cpu", or "cuda" for a GPU, "cuda:1" for the second',
        group=g,
    )
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


# -- the other commands ---------------------------------------------------------------------------


def next_tokens(args):
    """Print the likeliest continuations, a probability and a token on each line."""
    for token, probability in LanguageModel.load(args.model).continuations(args.text, args.k):
        print(f"{probability:.4f}  {token!r}")


def sample(args):
    """Print a sample."""
    model = LanguageModel.load(args.model)
    print(model.sample(args.prompt, args.length, args.temperature, args.top_k, args.seed))


def evaluate_file(args):
    """Print the loss and the perplexity of a text."""
    model = LanguageModel.load(args.model)
    text, unit = read_text(args.file), UNITS[model.vocabulary.level]
    loss = model.loss(text)
    ids = model.vocabulary.encode(text)
    print(f"{len(ids):,} {unit}s: loss {loss:.4f} nats per {unit}, {loss / math.log(2):.4f} bits, "
          f"perplexity {math.exp(min(loss, 700)):.4f}")  # fmt: skip
    if model.vocabulary.level == "word":
        print(f"{(ids == 0).mean():.2%} of the words are unknown to the model")


def config(args):
    """Print what this installation is."""
    show_config()


# -- the edge -------------------------------------------------------------------------------------


def main(argv=None):
    """Run a command.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; those of the process if not given.

    Returns
    -------
    int
        The exit code.
    """
    args = make_parser().parse_args(argv)
    try:
        if getattr(args, "threads", None):
            set_num_threads(args.threads)
        code = args.run(args) or 0
        sys.stdout.flush()
        return code
    except UsageError as error:
        return complain(error, 2)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except (
        BrokenPipeError
    ):  # as of `lstmc sample ... | head`: nobody reads on, and Python must not mind
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        return complain(f"out of memory: {error}", 1)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # it was the output that failed: Python is not to try once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = f"{error.filename}: " if error.filename is not None else ""
        return complain(f"{where}{error.strerror or error}", 1)
    except (ValueError, TypeError, ArithmeticError) as error:
        return complain(error, 1)


def complain(error, code):
    """Print an error on one line."""
    print("lstmc: error: " + " ".join(str(error).split()), file=sys.stderr)
    return code
