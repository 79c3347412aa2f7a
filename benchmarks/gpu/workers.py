"""Runs tasks in another process, and goes on in a fresh one where that breaks or hangs.

A kernel that writes where it may not spoils a GPU for its whole process, and one that waits for ever can only
be killed. Whose turn it was is then left out of its task, which is tried again.
"""

import multiprocessing
import traceback

PATIENCE = 120.0  # seconds without a word; a kernel of many units takes long to compile
READY = "the start"


def _serve(connection, work, tasks, banned):
    """Do the tasks; say whose turn it is, and what came out."""

    def say(name):
        connection.send(("turn", name))

    try:
        for task in tasks:
            connection.send(("turn", READY))
            connection.send(("done", work(task, banned.get(task, {}), say)))
    except Exception as error:
        traceback.print_exc()
        connection.send(("broken", f"{type(error).__name__}: {error}"))


def _next(connection, patience):
    """Wait for a word; silence and the end are told as a break."""
    if not connection.poll(patience):
        return "broken", f"no word for {patience:g} s: killed"
    try:
        return connection.recv()
    except EOFError:
        return "broken", "the process died"


def run(work, tasks, given_up, patience=PATIENCE):
    """Yield what work(task, banned, say) returns for each task, in order.

    work is told who is banned, a dict of names to reasons, and calls say(name) before somebody's turn.
    given_up(task, reason) stands for a task that breaks where nobody can be left out. The other process
    must know both functions by name.
    """
    context, left, banned = multiprocessing.get_context("spawn"), list(tasks), {}
    while left:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(sender, work, left, banned), daemon=True)
        process.start()
        sender.close()
        turn = None
        while left:
            kind, what = _next(receiver, PATIENCE if turn is None else patience)
            if kind == "turn":
                turn = what
            elif kind == "done":
                left.pop(0)
                yield what
            else:
                task = left[0]
                if turn in (None, READY) or turn in banned.get(task, {}):
                    left.pop(0)
                    yield given_up(task, f"{turn or READY}: {what}")
                else:
                    print(f"{turn} broke ({what}): left out, and tried again without", flush=True)
                    banned = {**banned, task: {**banned.get(task, {}), turn: what}}
                break
        process.join(timeout=10 if not left else 0)
        process.kill()
        process.join()
        receiver.close()
