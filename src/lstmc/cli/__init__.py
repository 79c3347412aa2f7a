"""The command line: train, next, sample, eval, inspect, bench, config."""

from .main import main

__all__ = ["main"]
