"""Tests of the memory that layers keep for their next calls, and of when it goes back."""

import gc
import sys

import numpy as np
import pytest

import lstmc
from lstmc._kernels.binding import core

MEGABYTE = 1 << 20
PATIENCE = 128  # requests: what the documentation promises


def array(pool, megabytes):
    return pool.array((megabytes * MEGABYTE // 4,), np.float32)


def take(pool, megabytes):
    """Take an array from a pool and drop it."""
    return array(pool, megabytes)[:1].size


def address(pool, megabytes):
    return array(pool, megabytes).ctypes.data


def test_memory_is_used_again():
    pool = core.Pool()
    first = address(pool, 3)
    assert pool.nbytes == 3 * MEGABYTE
    for _ in range(3 * PATIENCE):
        assert address(pool, 3) == first
    assert pool.nbytes == 3 * MEGABYTE


def test_what_later_requests_have_no_use_for_goes_back():
    pool = core.Pool()
    take(pool, 50)
    for _ in range(PATIENCE):
        take(pool, 1)
        assert pool.nbytes == 51 * MEGABYTE
    take(pool, 1)
    assert pool.nbytes == MEGABYTE
    for _ in range(PATIENCE + 1):
        pool.tick()
    assert pool.nbytes == 0


def test_a_block_that_is_alive_for_long_is_kept_when_it_comes_back():
    """As those of a trace, during a step of a deep network."""
    pool = core.Pool()
    alive = array(pool, 50)
    for _ in range(2 * PATIENCE):
        take(pool, 1)
    del alive
    take(pool, 1)
    assert pool.nbytes == 51 * MEGABYTE


def test_release():
    pool = core.Pool()
    alive = array(pool, 2)
    alive[:] = 7
    take(pool, 50)
    pool.release()
    assert pool.nbytes == 0
    assert (alive == 7).all()
    del alive
    assert pool.nbytes == 2 * MEGABYTE  # what comes back afterwards waits again


def resident():
    """Return the bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize("way", ["training", "inference", "release"])
@pytest.mark.parametrize(
    "kind", ["layer", "network", pytest.param("nested", marks=pytest.mark.slow)]
)
def test_a_large_call_is_forgotten(kind, way):
    """By calls of another size, whether or not they take memory from the pool themselves."""
    layer = lstmc.LSTM(4, 64, rng=1)
    net = {
        "layer": lambda: layer,
        "network": lambda: lstmc.Sequential(layer, lstmc.Linear(64, 4)),
        "nested": lambda: lstmc.Sequential(lstmc.Sequential(layer), lstmc.Linear(64, 4)),
    }[kind]()
    large, small = (np.ones((steps, 16, 4), np.float32) for steps in (4000, 10))
    net.forward(large)
    gc.collect()
    assert layer.pool.nbytes > 60 * MEGABYTE  # h, c and four gates, of 16.4 MB each
    before = resident() if sys.platform == "linux" else None
    if way == "release":
        net.release()
        assert layer.pool.nbytes == 0
    for _ in range(PATIENCE + 1 if way != "release" else 0):
        net.forward(small, training=way == "training")
    assert layer.pool.nbytes < 3 * MEGABYTE
    assert net.pool.nbytes < 3 * MEGABYTE
    if before is not None:
        assert resident() < before - 60 * MEGABYTE


def test_steady_training_keeps_its_memory():
    """Every step finds that of the step before."""
    net = lstmc.Sequential(*(lstmc.LSTM(8, 8, 2, rng=i) for i in range(3)))
    x = np.ones((300, 16, 8), np.float32)
    sizes = []
    for _ in range(40):
        y, _, trace = net.forward(x)
        net.backward(y, trace)
        del y, trace
        sizes.append(net.pool.nbytes)
    assert min(sizes[2:]) == max(sizes[2:]) > MEGABYTE
