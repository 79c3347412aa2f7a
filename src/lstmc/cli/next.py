"""``lstmc next``: the likeliest continuations of a text."""

from ..training.language_model import LanguageModel
from .options import add_command, add_model, add_threads, count

__all__ = ["add_next", "show_continuations"]


def add_next(commands):
    """Add the command and its options."""
    parser = add_command(
        commands, "next", show_continuations, "show the likeliest continuations of a text",
        '  lstmc next run/model.safetensors "The value of the " -k 5')  # fmt: skip
    add_model(parser)
    parser.add_argument("text", metavar="TEXT", help="what has been written so far")
    parser.add_argument("-k", type=count, default=5, help="how many continuations (default: 5)")
    add_threads(parser)


def show_continuations(args):
    """Print the likeliest continuations, a probability and a token on each line."""
    for token, probability in LanguageModel.load(args.model).continuations(args.text, args.k):
        print(f"{probability:.4f}  {token!r}")
