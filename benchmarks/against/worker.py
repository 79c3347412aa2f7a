"""Does the work of one version of lstmc, as the process at the other end of two pipes asks for it.

A request is (name of a method, arguments), a reply ("done", value) or ("failed", why), both pickled. Of
lstmc only public names are used, so that a version may be an older one.
"""

import pickle
import sys
import time

import lstmc

from .. import peers, timing
from ..peers import problems


class Work:
    """One workload at a time."""

    def version(self):
        """Return where lstmc was imported from, and its version."""
        return lstmc.__file__, lstmc.__version__

    def make(self, w, threads):
        """Make the side of a workload."""
        setting = peers.Setting(threads=threads)
        (self.side,) = peers.make("ours", w, problems.make_problem(w), setting).values()
        self.threads = threads

    def answers(self, units):
        return timing.answers_of(self.side, units)

    def turn(self, n):
        """Return the seconds a unit of n; of one thread, those it had the core for itself."""
        if self.threads == 1:
            return timing.clocked(self.side.run, n, time.process_time)
        seconds = timing.clocked(self.side.run, n)
        timing.wait_for_quiet()  # what spins would take a core from the other process
        return seconds


def serve(requests, replies):
    """Answer requests until there are no more."""
    work = Work()
    while True:
        try:
            name, args = pickle.load(requests)
        except EOFError:
            return
        try:
            reply = "done", getattr(work, name)(*args)
        except Exception as error:
            reply = "failed", f"{type(error).__name__}: {error}"
        pickle.dump(reply, replies)
        replies.flush()


if __name__ == "__main__":
    pipe, sys.stdout = sys.stdout.buffer, sys.stderr  # what is printed must not get between replies
    serve(sys.stdin.buffer, pipe)
