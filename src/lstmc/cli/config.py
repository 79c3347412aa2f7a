"""``lstmc config``: versions, instruction set, threads and GPU."""

from .. import show_config
from .options import add_command

__all__ = ["add_config"]


def add_config(commands):
    """Add the command, which has no options."""
    add_command(commands, "config", lambda args: show_config(),
                "show versions, instruction set and threads", "  lstmc config")  # fmt: skip
