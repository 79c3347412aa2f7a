"""The command ``lstmc config``: what this installation is."""

from .._kernels.config import show_config

__all__ = ["EXAMPLE", "HELP", "add_options", "run"]

HELP = "show versions, instruction set and threads"
EXAMPLE = "  lstmc config"


def add_options(parser):
    """Add nothing: this command has no options of its own."""


def run(args):
    """Print the types, the instruction sets, the threads, the GPU and the versions."""
    show_config()
