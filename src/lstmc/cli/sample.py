"""The command ``lstmc sample``: a text that a model writes."""

import sys

from ..training.language_model import LanguageModel
from .options import add_model, count, natural, not_negative
from .unknown import add_unknown, policy, tell

__all__ = ["EXAMPLE", "HELP", "add_options", "run"]

HELP = "let a model write"
EXAMPLE = '  lstmc sample run/model.safetensors --prompt "The " --length 500 --temperature 0.5'


def add_options(parser):
    """Add the options of this command."""
    add_model(parser)
    add = parser.add_argument
    add("--prompt", default="", help="how the text begins (default: as after a new line)")
    add("--length", type=natural, default=200, metavar="N",
        help="tokens to add (default: 200)")  # fmt: skip
    add("--temperature", type=not_negative, default=1.0, metavar="X",
        help="below 1 safer, above 1 bolder, 0 always the likeliest (default: 1)")  # fmt: skip
    add("--top-k", type=count, metavar="N",
        help="draw from the N likeliest only (default: from all)")  # fmt: skip
    add("--seed", type=natural, metavar="N", help="for the same text every time (default: random)")
    add_unknown(parser, default="error")


def run(args):
    """Print a sample."""
    model = LanguageModel.load(args.model)
    options = (args.length, args.temperature, args.top_k, args.seed, policy(args))
    text = model.sample(args.prompt, *options)
    tell(args, model.vocabulary, args.prompt, sys.stderr)
    print(text)
