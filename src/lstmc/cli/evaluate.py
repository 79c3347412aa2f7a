"""The command ``lstmc eval``: the loss and the perplexity of a text."""

import math
import sys

from ..training.language_model import LanguageModel
from ..training.streams import perplexity_of
from ..training.text import read_text
from .options import UNITS, add_model, number_text
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
    ids, unknown = vocabulary.encode(text, "count")
    print(f"{len(ids):,} {unit}s: loss {loss:.4f} nats per {unit}, {loss / math.log(2):.4f} bits, "
          f"perplexity {number_text(perplexity_of(loss), 4)}")  # fmt: skip
    if vocabulary.unknown is None:
        tell(args, vocabulary, text, sys.stdout)
    else:
        own = (ids == vocabulary.unknown).mean() - unknown / len(ids)
        print(f"{unknown / len(ids):.2%} of the {unit}s are unknown to the model"
              + (f", {own:.2%} are <unk> in the text itself" if own else ""))  # fmt: skip
