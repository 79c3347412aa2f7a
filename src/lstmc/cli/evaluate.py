"""The command ``lstmc eval``: the loss and the perplexity of a text."""

import math

from ..training.language_model import LanguageModel
from ..training.streams import perplexity_of
from ..training.text import read_text
from .options import UNITS, add_model

__all__ = ["EXAMPLE", "HELP", "add_options", "run"]

HELP = "measure how well a model predicts a text"
EXAMPLE = "  lstmc eval run/model.safetensors other.txt"


def add_options(parser):
    """Add the options of this command."""
    add_model(parser)
    parser.add_argument("file", metavar="FILE", help="a text in UTF-8; - reads standard input")


def run(args):
    """Print the loss and the perplexity of a text."""
    model = LanguageModel.load(args.model)
    text, unit = read_text(args.file), UNITS[model.vocabulary.level]
    loss = model.loss(text)
    ids = model.vocabulary.encode(text)
    print(f"{len(ids):,} {unit}s: loss {loss:.4f} nats per {unit}, {loss / math.log(2):.4f} bits, "
          f"perplexity {perplexity_of(loss):.4f}")  # fmt: skip
    if model.vocabulary.level == "word":
        print(f"{(ids == 0).mean():.2%} of the words are unknown to the model")
