"""The command ``lstmc next``: the likeliest continuations of a text."""

import sys

from ..training.language_model import LanguageModel
from .options import add_model, count
from .unknown import add_unknown, policy, tell

__all__ = ["EXAMPLE", "HELP", "add_options", "run"]

HELP = "show the likeliest continuations of a text"
EXAMPLE = '  lstmc next run/model.safetensors "The value of the " -k 5'


def add_options(parser):
    """Add the options of this command."""
    add_model(parser)
    parser.add_argument("text", metavar="TEXT", help="what has been written so far")
    parser.add_argument("-k", type=count, default=5, help="how many continuations (default: 5)")
    add_unknown(parser, default="error")


def run(args):
    """Print the likeliest continuations, a probability and a token on each line."""
    model = LanguageModel.load(args.model)
    continuations = model.continuations(args.text, args.k, policy(args))
    tell(args, model.vocabulary, args.text, sys.stderr)
    for token, probability in continuations:
        print(f"{probability:.4f}  {token!r}")
