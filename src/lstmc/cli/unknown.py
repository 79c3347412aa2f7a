"""The option --unknown: what commands do with characters that a model has not seen in training."""

from ..training.text import line_ends_hint

__all__ = ["add_unknown", "policy", "tell"]

NAMED = 5  # unknown characters are named, as many as these


def add_unknown(parser, default):
    """Add --unknown."""
    parser.add_argument(
        "--unknown", choices=("error", "skip", "count"), default=default,
        help="characters that were not in the training text are an error, left out, or left out and "
        f"counted (default: {default}); unknown words and tokens are <unk> in any case",
    )  # fmt: skip


def policy(args):
    """Return the argument ``unknown`` of a model's methods."""
    return "error" if args.unknown == "error" else "skip"


def tell(args, vocabulary, text, file):
    """Print, with ``--unknown count``, how many characters of a text are left out, if any are."""
    if args.unknown != "count" or vocabulary.unknown is not None:
        return
    left_out = vocabulary.encode(text, "count")[1]
    if left_out:
        unseen = vocabulary.unseen(text)
        names = ", ".join(map(repr, unseen[:NAMED])) + (", ..." if len(unseen) > NAMED else "")
        print(f"{left_out:,} of {len(text):,} characters were not in the training text and are left out "
              f"({names}){line_ends_hint(text, unseen)}", file=file)  # fmt: skip
