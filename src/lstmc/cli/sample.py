"""``lstmc sample``: a model writes."""

from ..training.language_model import LanguageModel
from .options import add_command, add_model, add_threads, count, natural, non_negative

__all__ = ["add_sample", "sample"]


def add_sample(commands):
    """Add the command and its options."""
    parser = add_command(
        commands, "sample", sample, "let a model write",
        '  lstmc sample run/model.safetensors --prompt "The " --length 500 --temperature 0.5')  # fmt: skip
    add = parser.add_argument
    add_model(parser)
    add("--prompt", default="", help="how the text begins (default: as after a new line)")
    add("--length", type=natural, default=200, metavar="N",
        help="tokens (characters or words) to add (default: 200)")  # fmt: skip
    add("--temperature", type=non_negative, default=1.0, metavar="X",
        help="below 1 safer, above 1 bolder, 0 always the likeliest (default: 1)")  # fmt: skip
    add("--top-k", type=count, metavar="N",
        help="draw from the N likeliest only (default: from all)")  # fmt: skip
    add("--seed", type=natural, metavar="N", help="for the same text every time (default: random)")
    add_threads(parser)


def sample(args):
    """Print a sample."""
    model = LanguageModel.load(args.model)
    print(model.sample(args.prompt, args.length, args.temperature, args.top_k, args.seed))
