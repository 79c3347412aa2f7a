"""Tests of what several threads do with one layer, one stepper or one array at the same time."""

import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest
from support import assert_close, assert_same_bits

import lstmc

STEPS, BATCH, INPUTS, HIDDEN = 12, 4, 16, 64


def problem(layer):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((STEPS, BATCH, INPUTS))
    if isinstance(layer, lstmc.Embedding):
        x = rng.integers(0, 7, (STEPS, BATCH))
    return x, rng.standard_normal((STEPS, BATCH, HIDDEN))


def in_threads(count, work):
    """Run work(i) in some threads; raise what one of them raised."""
    errors = []

    def run(i):
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


LAYERS = {
    "LSTM": lambda: lstmc.LSTM(INPUTS, HIDDEN, dtype=np.float64, rng=1),
    "RNN": lambda: lstmc.RNN(INPUTS, HIDDEN, dtype=np.float64, rng=1),
    "Linear": lambda: lstmc.Linear(INPUTS, HIDDEN, dtype=np.float64, rng=1),
    "Embedding": lambda: lstmc.Embedding(7, HIDDEN, dtype=np.float64, rng=1),
    "Sequential": lambda: lstmc.Sequential(LAYERS["LSTM"](), Plain()),
}


class Plain(lstmc.Layer):
    """A user's own layer whose gradient is added to by NumPy, which lets other threads in."""

    def __init__(self):
        super().__init__(np.float64)
        self.allocate(np.random.default_rng(5), {"shift": 2})

    def parameters(self):
        return {"shift": (STEPS, BATCH, HIDDEN)}

    def forward(self, x, state=None, training=True):
        return x + self["shift"], state, None

    def backward(self, dy, trace, dstate=None):
        total = self.grad("shift") + dy
        threading.Event().wait(1e-5)
        self.grad("shift")[...] = total
        return dy, dstate


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_backward_in_several_threads_loses_nothing(make):
    """The sum of all gradients, whatever the order: rounding is the only difference."""
    layer, calls = make(), 60
    x, dy = problem(layer)
    traces = [layer.forward(x)[2] for _ in range(4)]

    def work(i):
        for _ in range(calls):
            layer.backward(dy, traces[i], num_threads=1)

    layer.zero_grad()
    work(0)
    expected = 4 * layer.grads
    layer.zero_grad()
    in_threads(4, work)
    assert_close(layer.grads, expected, 1e-12, "grads")


def test_two_threads_that_consume_one_trace():
    layer = LAYERS["LSTM"]()
    x, dy = problem(layer)
    for _ in range(20):
        layer.zero_grad()
        layer.backward(dy, layer.forward(x)[2])
        expected = layer.grads.copy()
        layer.zero_grad()
        trace, refused = layer.forward(x)[2], []

        def work(i, trace=trace, refused=refused):
            try:
                layer.backward(dy, trace, consume=True)
            except ValueError as error:
                refused.append(str(error))

        in_threads(2, work)
        assert refused == ["trace was consumed by an earlier backward: call forward again"]
        assert_same_bits(layer.grads, expected)


@pytest.mark.skipif(not hasattr(multiprocessing, "set_start_method") or sys.platform == "win32",
                    reason="there is no fork")  # fmt: skip
def test_a_child_forked_during_backward_can_go_backward():
    """The thread that had the turn does not exist in the child, which does not wait for it."""
    code = """
import os, threading
import numpy as np
import lstmc

class Slow:
    def forward(self, x, state=None, training=True):
        return x, state, None
    def backward(self, dy, trace, dstate=None):
        inside.set()
        leave.wait()
        return dy, dstate

inside, leave = threading.Event(), threading.Event()
net = lstmc.Sequential(lstmc.Linear(3, 4), Slow())
y, _, trace = net.forward(np.ones((2, 3), np.float32))
thread = threading.Thread(target=net.backward, args=(y, trace))
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    leave.set()
    net.backward(y, trace)
    os._exit(0)
leave.set()
thread.join()
raise SystemExit(os.waitpid(child, 0)[1])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------------
# Steppers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_network", [False, True], ids=["a layer", "a network"])
def test_the_state_is_never_read_in_the_middle_of_a_step(in_network):
    """Every state that is read is one of those that the steps went through."""
    layers = [lstmc.LSTM(8, 96, 2, rng=1), lstmc.RNN(96, 96, rng=2)]
    net = lstmc.Sequential(*layers) if in_network else layers[0]
    x = np.random.default_rng(4).standard_normal((300, 8, 8)).astype(np.float32)

    def content(state):
        parts = [*state[0], state[1]] if in_network else state
        return b"".join(part.tobytes() for part in parts)

    stepper = net.stepper(8, num_threads=1)
    known = {content(stepper.state)}
    for x_t in x:
        stepper(x_t)
        known.add(content(stepper.state))

    stepper, done = net.stepper(8, num_threads=1), threading.Event()
    read, refusals = [], set()

    def step():
        for x_t in x:
            while True:
                try:
                    stepper(x_t)
                    break
                except RuntimeError as error:  # its state is being read
                    refusals.add(str(error))
        done.set()

    def look():
        while not done.is_set():
            try:
                read.append(content(stepper.state))
            except RuntimeError as error:
                refusals.add(str(error))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        in_threads(2, lambda i: (step, look)[i]())
    finally:
        sys.setswitchinterval(before)
    assert all(state in known for state in read)
    assert all("in use by another thread" in refusal for refusal in refusals)
    assert content(stepper.state) in known


# --------------------------------------------------------------------------------------------------
# Ids that another thread writes
# --------------------------------------------------------------------------------------------------


WRITTEN = """
import threading
import numpy as np
import lstmc

ids, stop = np.zeros(20000, np.int64), threading.Event()

def write():
    while not stop.is_set():
        ids[...] = 2**40
        ids[...] = 0

thread = threading.Thread(target=write)
embedding, logits = lstmc.Embedding(3, 8), np.zeros((20000, 3), np.float32)
y, _, trace = embedding.forward(ids)
thread.start()
for _ in range(400):
    for call in (lambda: embedding(ids), lambda: embedding.forward(ids),
                 lambda: lstmc.softmax_cross_entropy(logits, ids)):
        try:
            call()
        except ValueError as error:
            assert "must be in [0, 3)" in str(error), error
    embedding.backward(y, trace)
stop.set()
thread.join()
"""


def test_ids_that_another_thread_writes_meanwhile():
    """They are either right or refused: never used unchecked."""
    done = subprocess.run(
        [sys.executable, "-c", WRITTEN], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
