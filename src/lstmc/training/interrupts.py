"""Ctrl-C, and requests to end, that stop training between two windows, not within one."""

import contextlib
import signal
import threading

__all__ = ["Interrupted", "Interrupts", "interrupts"]

# Ctrl-C; what `kill`, a container's end or a shutdown send; what a terminal sends that is closed.
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupted(KeyboardInterrupt):
    """Training stopped by Ctrl-C, SIGTERM or SIGHUP, between two windows. The message says how to go on.

    Attributes
    ----------
    checkpoint : path or None
        The checkpoint that was saved.
    signal : int
        The number of the signal.
    """

    def __init__(self, message, checkpoint=None, signal=signal.SIGINT):
        super().__init__(message)
        self.checkpoint, self.signal = checkpoint, signal


class Interrupts:
    """Whether training was asked to stop, and by which signal."""

    signal = None

    @property
    def asked(self):
        """Whether it was."""
        return self.signal is not None

    def handle(self, number, frame):
        """Note the first signal; at a second Ctrl-C raise KeyboardInterrupt.

        A terminal that is closed sends SIGHUP twice, and a service manager SIGTERM after it.
        """
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


@contextlib.contextmanager
def interrupts():
    """Yield Interrupts for as long as signals that stop a program are only noted.

    They are left to whoever else handles them: all but Ctrl-C if a program does, all if they are ignored, and
    outside the main thread.
    """
    noted, before = Interrupts(), {}
    if threading.current_thread() is threading.main_thread():
        for name in STOPPING:
            number = getattr(signal, name, None)  # SIGHUP is not everywhere
            handler = None if number is None else signal.getsignal(number)
            if handler == signal.SIG_DFL or (
                name == "SIGINT" and handler not in (None, signal.SIG_IGN)
            ):
                before[number] = signal.signal(number, noted.handle)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
