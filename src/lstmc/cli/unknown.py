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
    """Print how many characters of a text are left out, with ``--unknown count``, or tokens are "<unk>"."""
    if args.unknown == "skip" or (args.unknown == "error" and vocabulary.unknown is None):
        return
    left_out = vocabulary.encode(text, "count")[1]
    if left_out and vocabulary.unknown is not None:
        unseen = vocabulary.unseen(text)
        what = f"{vocabulary.level}{'s' * (left_out > 1)}"
        print(
            f"read as <unk>: {left_out:,} {what} that the model does not know ({named(unseen)})",
            file=file,
        )
    elif left_out:
        unseen = vocabulary.unseen(text)
        print(f"{left_out:,} of {len(text):,} characters were not in the training text and are left out "
              f"({named(unseen)}){line_ends_hint(text, unseen)}", file=file)  # fmt: skip


def named(tokens):
    """Return the first of some tokens, in words."""
    return ", ".join(map(repr, tokens[:NAMED])) + (", ..." if len(tokens) > NAMED else "")
