"""Turns: what one thread at a time may do with a layer, such as adding to its gradients."""

import functools
import os
import threading
import weakref

__all__ = ["Turns", "in_turn"]

_all_turns: weakref.WeakSet = weakref.WeakSet()


class Turns:
    """A lock of one object. A copy of the object has one of its own, and so has a forked child.

    A thread that has the turn may take it again.
    """

    def __init__(self):
        self.lock = threading.RLock()
        _all_turns.add(self)

    def __reduce__(self):
        return Turns, ()

    def renew(self):
        """Forget who has the turn: in a forked child, that thread does not exist."""
        self.lock = threading.RLock()


def _renew_all():
    for turns in list(_all_turns):
        turns.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


def in_turn(method):
    """Let one thread at a time run a method of an object, which has ``turns``; the others wait."""

    @functools.wraps(method)
    def call(self, *arguments, **options):
        with self.turns.lock:
            return method(self, *arguments, **options)

    return call
