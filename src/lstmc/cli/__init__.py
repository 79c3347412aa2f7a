"""The command line: a file per command, wired together in main.py."""

from .main import main

__all__ = ["main"]
