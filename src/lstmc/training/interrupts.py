"""Ctrl-C that stops training between two windows, not within one."""

import signal
import threading
from contextlib import contextmanager

__all__ = ["Interrupted", "interrupts"]


class Interrupted(KeyboardInterrupt):
    """Training stopped by Ctrl-C, between two windows. The message says how to go on.

    Attributes
    ----------
    checkpoint : path or None
        The checkpoint that was saved.
    """

    def __init__(self, message, checkpoint=None):
        super().__init__(message)
        self.checkpoint = checkpoint


@contextmanager
def interrupts():
    """Yield an event that the first Ctrl-C sets; the second raises KeyboardInterrupt at once."""
    asked = threading.Event()

    def handle(number, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.getsignal(signal.SIGINT)
    if before is None or before == signal.SIG_IGN:  # not ours to handle, or ignored on purpose
        yield asked
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
