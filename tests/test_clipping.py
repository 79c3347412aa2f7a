"""Tests of clipping gradients by their norm and by value, judged by the reference."""

import math

import numpy as np
import pytest
from support import assert_close, assert_same_bits
from test_optim import NAN, SIZES, TOLERANCE, Flat

import lstmc
from lstmc import reference


@pytest.mark.parametrize("size", [*SIZES, 4095, 4096, 4097, 9001])
def test_clip_grad_norm(isa, dtype, size):
    net = Flat(size, dtype)
    expected, norm = reference.clip_grad_norm(net.grads.astype(np.float64), 0.5)
    assert norm > 0.5
    before = net.grads.copy()
    # The squares are summed in double precision, from numbers that are exact in both types.
    assert_close(lstmc.clip_grad_norm(net, math.inf), norm, 1e-12)
    assert_close(lstmc.clip_grad_norm(net, norm * 1.001), norm, 1e-12)
    assert_same_bits(net.grads, before)
    assert_close(lstmc.clip_grad_norm(net, 0.5), norm, 1e-12)
    assert_close(net.grads, expected, TOLERANCE[dtype])


def test_threads_of_clip_grad_norm(isa, dtype):
    results = []
    for threads in (1, 2, 3):
        net = Flat(200_003, dtype)
        norm = lstmc.clip_grad_norm(net, 0.5, num_threads=threads)
        results.append((np.array(norm), net.grads))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 20, 32])
def test_clip_grad_norm_of_what_is_not_finite(isa, dtype, value, place):
    """The norm says so and the gradients stay."""
    net = Flat(33, dtype)
    net.grads[place] = value
    before = net.grads.copy()
    assert not math.isfinite(lstmc.clip_grad_norm(net, 1.0))
    assert_same_bits(net.grads, before)


EDGES = {
    np.dtype(np.float32): [1e30, 1e37, 1e-30],
    np.dtype(np.float64): [1e200, 1e305, 1e-200, 1e-290],
}


@pytest.mark.parametrize("size", [9, 10_000])
def test_clip_grad_norm_of_large_and_small_numbers(isa, dtype, size):
    """Their squares, or the factor that clips them, leave the range of the type; the norm does not."""
    for value in EDGES[dtype]:
        net = Flat(size, dtype)
        ordinary = net.grads.astype(np.float64)
        net.grads[...] *= dtype.type(value)
        exact = math.sqrt(np.square(ordinary).sum())
        before = net.grads.copy()
        assert abs(lstmc.clip_grad_norm(net, math.inf) / (exact * value) - 1) <= TOLERANCE[dtype]
        assert_same_bits(net.grads, before)
        most = 5.0 if value > 1 else value
        assert abs(lstmc.clip_grad_norm(net, most) / (exact * value) - 1) <= TOLERANCE[dtype]
        assert_close(net.grads, ordinary * (most / exact), TOLERANCE[dtype])


def test_a_norm_beyond_all_numbers_changes_nothing(isa):
    net = Flat(9, np.float64)
    net.grads[...] = before = 1e308
    assert lstmc.clip_grad_norm(net, 1.0) == math.inf
    assert (net.grads == before).all()


def test_the_norm_of_denormals_is_zero(isa, dtype):
    """As they are in every call."""
    net = Flat(9, dtype)
    net.grads[...] = np.finfo(dtype).tiny / 4
    assert lstmc.clip_grad_norm(net, 1.0) == 0


@pytest.mark.parametrize("value", [0, -1.0, NAN, "1", None])
def test_largest_norms_that_are_refused(value):
    with pytest.raises(ValueError, match=f"max_norm must be a positive number, got {value!r}"):
        lstmc.clip_grad_norm(Flat(3, np.float32), value)


@pytest.mark.parametrize(
    "grads",
    [
        np.ones((9, 2), np.float32)[:, 0],
        np.ones((3, 3), np.float32),
        np.ones(9, np.float32).astype(">f4"),
        np.ones(9, np.float16),
        [1.0],
    ],
)
@pytest.mark.parametrize("clip", [lstmc.clip_grad_norm, lstmc.clip_grad_value])
def test_gradients_that_cannot_be_clipped(clip, grads):
    net = Flat(9, np.float32)
    net.grads = grads
    with pytest.raises((TypeError, ValueError), match="grads must be"):
        clip(net, 1e-3)


# --------------------------------------------------------------------------------------------------
# By value
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_clip_grad_value(isa, dtype, size):
    """To the bit: nothing is rounded but the limit."""
    net = Flat(size, dtype)
    net.grads[size // 2] = 0.3
    before = net.grads.copy()
    lstmc.clip_grad_value(net, math.inf)
    assert_same_bits(net.grads, before)
    assert lstmc.clip_grad_value(net, 0.3) is None
    assert_same_bits(net.grads, reference.clip_grad_value(before, 0.3))
    assert (np.abs(before) > 0.3).any() or size == 1
    lstmc.clip_grad_value(net, 1e-3)
    assert_same_bits(net.grads, np.copysign(dtype.type(1e-3), before))


def test_threads_of_clip_grad_value(isa, dtype):
    """Large enough that a second thread is used; flat.h has the threshold."""
    for threads in (1, 2, 3):
        net = Flat(200_003, dtype)
        expected = reference.clip_grad_value(net.grads, 0.5)
        lstmc.clip_grad_value(net, 0.5, num_threads=threads)
        assert_same_bits(net.grads, expected)


@pytest.mark.parametrize("place", [0, 20, 32])
def test_clip_grad_value_of_what_is_not_finite(isa, dtype, place):
    """Infinity is beyond the limit, NaN is not."""
    for value in (np.nan, np.inf, -np.inf):
        net = Flat(33, dtype)
        net.grads[place] = value
        expected = np.clip(net.grads, -0.5, 0.5)
        lstmc.clip_grad_value(net, 0.5)
        np.testing.assert_array_equal(net.grads, expected)
        assert np.isnan(net.grads).tolist() == np.isnan(expected).tolist()


def test_clip_grad_value_of_a_network(dtype):
    """Every gradient; what is no network is refused."""
    net = lstmc.Sequential(lstmc.LSTM(3, 5, dtype=dtype), lstmc.Linear(5, 2, dtype=dtype))
    for name in net:
        net.grad(name)[...] = -7
    lstmc.clip_grad_value(net, 2.5)
    assert all((net.grad(name) == -2.5).all() for name in net)
    with pytest.raises(TypeError, match="net must be a layer or a network, got a NumPy array"):
        lstmc.clip_grad_value(net.grads, 1.0)


@pytest.mark.parametrize("value", [0, -1.0, NAN, "1", None])
def test_limits_that_are_refused(value):
    with pytest.raises(ValueError, match=f"limit must be a positive number, got {value!r}"):
        lstmc.clip_grad_value(Flat(3, np.float32), value)
