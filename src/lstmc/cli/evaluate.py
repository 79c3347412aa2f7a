"""The command ``lstmc eval``: the loss and the perplexity of a text."""

import math
import sys

from ..training.language_model import LanguageModel
from ..training.streams import perplexity_of
from ..training.text import read_text
from .options import UNITS, add_model
from .unknown import add_unknown, policy, tell

__all__ = ["EXAMPLE", "HELP", "add_options", "run"]

HELP = "measure how well a model predicts a text"
EXAMPLE = "  lstmc eval run/model.safetensors other.txt"


def add_options(parser):
    """Add the options of this command."""
    add_model(parser)
    parser.add_argument("file", metavar="FILE", help="a text in UTF-8; - reads standard input")
    add_unknown(parser, default="count")


def run(args):
    """Print the loss and the perplexity of a text."""
    model = LanguageModel.load(args.model)
    vocabulary, text = model.vocabulary, read_text(args.file)
    unit = UNITS[vocabulary.level]
    loss = model.loss(text, policy(args))
    ids = vocabulary.encode(text, policy(args))
    print(f"{len(ids):,} {unit}s: loss {loss:.4f} nats per {unit}, {loss / math.log(2):.4f} bits, "
          f"perplexity {perplexity_of(loss):.4f}")  # fmt: skip
    tell(args, vocabulary, text, sys.stdout)
    if vocabulary.unknown is not None:
        print(f"{(ids == vocabulary.unknown).mean():.2%} of the {unit}s are unknown to the model")
