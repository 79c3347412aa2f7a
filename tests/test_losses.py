"""Tests of the losses: value and gradient, judged by the reference, golden files, derivatives."""

import itertools
import math

import numpy as np
import pytest
from stacks import seed_of
from support import assert_close, assert_same_bits, load_golden, numerical_gradient

import lstmc
from lstmc import reference
from lstmc._kernels.binding import core

# float64: sums of some hundred terms, each rounded to 1e-16, and exp to a few times that. float32
# rounds to 6e-8, and so does its exp.
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}

CLASSES = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65]


def logits_and_targets(shape, dtype):
    generator = np.random.default_rng(seed_of("softmax", shape))
    logits = (3 * generator.standard_normal(shape)).astype(dtype)
    return logits, generator.integers(shape[-1], size=shape[:-1])


@pytest.mark.parametrize("classes", CLASSES)
def test_softmax_cross_entropy(isa, dtype, classes):
    logits, targets = logits_and_targets((5, 3, classes), dtype)
    targets[1, 2] = targets[4, 0] = -1
    before = logits.copy()
    loss, dlogits = lstmc.softmax_cross_entropy(logits, targets)
    expected, gradient = reference.softmax_cross_entropy(logits.astype(np.float64), targets)
    assert type(loss) is float
    assert dlogits.dtype == dtype
    # Of a single class the loss is 0; its terms are as large as the logits, some 10.
    assert abs(loss - expected) <= 10 * TOLERANCE[dtype]
    assert np.abs(dlogits - gradient).max() <= TOLERANCE[dtype] / 13  # 13 rows share the weight 1
    assert_same_bits(logits, before)


@pytest.mark.parametrize("in_place", [True, False])
def test_softmax_cross_entropy_into_an_array(isa, dtype, in_place):
    logits, targets = logits_and_targets((5, 3, 17), dtype)
    targets[2, 1] = -1
    expected = lstmc.softmax_cross_entropy(logits, targets)
    out = logits if in_place else np.full_like(logits, np.nan)
    loss, dlogits = lstmc.softmax_cross_entropy(logits, targets, out=out)
    assert dlogits is out
    assert loss == expected[0]
    assert_same_bits(dlogits, expected[1])


MEMORY = np.zeros(40, np.float32)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ([1.0], "out must be an ndarray where logits is, got list"),
        (np.zeros((2, 4)), r"float32 array \(2, 4\), got float64 \(2, 4\)"),
        (np.zeros((2, 5), np.float32), r"float32 array \(2, 4\), got float32 \(2, 5\)"),
        (np.zeros((2, 8), np.float32)[:, ::2], "writable contiguous"),
        (np.broadcast_to(np.float32(0), (2, 4)), "writable contiguous"),
        (MEMORY[1:9].reshape(2, 4), "logits itself or share no memory"),
    ],
)
def test_what_softmax_cross_entropy_does_not_write_to(out, message):
    logits = MEMORY[:8].reshape(2, 4)
    with pytest.raises((TypeError, ValueError), match=message):
        lstmc.softmax_cross_entropy(logits, np.array([0, 1]), out=out)
    assert not MEMORY.any()


def test_softmax_cross_entropy_golden(isa, dtype):
    golden = load_golden("softmax_cross_entropy")
    loss, dlogits = lstmc.softmax_cross_entropy(
        golden["logits"].astype(dtype), golden["targets"], golden["ignore_index"]
    )
    assert_close(loss, golden["loss"], TOLERANCE[dtype])
    assert_close(dlogits, golden["dlogits"], TOLERANCE[dtype])


def test_softmax_cross_entropy_gradient_is_the_derivative(isa):
    logits, targets = logits_and_targets((2, 3, 9), np.float64)
    targets[0, 1] = -1
    _, dlogits = lstmc.softmax_cross_entropy(logits, targets)
    expected = numerical_gradient(lambda a: lstmc.softmax_cross_entropy(a, targets)[0], logits)
    assert_close(dlogits, expected, 1e-7)  # as good as central differences are


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("ignored", [-1, -100, 2])
def test_ignored_targets(isa, dtype, kind, ignored):
    """They count neither in the mean nor in the gradient, whatever their logits."""
    logits, targets = logits_and_targets((6, 5), dtype)
    targets[[1, 4]] = ignored
    counted = targets != ignored
    logits[~counted] = np.nan
    loss, dlogits = lstmc.softmax_cross_entropy(logits, targets.astype(kind), ignore_index=ignored)
    rest, gradient = lstmc.softmax_cross_entropy(logits[counted], targets[counted])
    assert loss == rest
    assert_same_bits(dlogits[counted], gradient)
    assert not dlogits[~counted].any()


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (2, 0, 4)])
def test_no_counted_target_is_no_loss(dtype, shape):
    loss, dlogits = lstmc.softmax_cross_entropy(
        np.ones(shape, dtype), np.full(shape[:-1], -1, np.int64)
    )
    assert loss == 0.0
    assert dlogits.shape == shape
    assert not dlogits.any()


def test_one_row_without_an_axis_for_rows(dtype):
    loss, dlogits = lstmc.softmax_cross_entropy(np.zeros(4, dtype), np.array(2))
    assert_close(loss, np.log(4), TOLERANCE[dtype])
    assert_close(dlogits, [0.25, 0.25, -0.75, 0.25], TOLERANCE[dtype])


def test_huge_logits(isa, dtype):
    """exp of them overflows, the loss does not: a softmax sees their differences alone."""
    logits, targets = logits_and_targets((4, 9), dtype)
    loss, dlogits = lstmc.softmax_cross_entropy(logits, targets)
    shift = dtype.type(2.0**15)
    shifted, gradient = lstmc.softmax_cross_entropy(logits + shift, targets)
    near = 2 * np.spacing(shift)  # what the sum with the shift loses
    assert abs(shifted - loss) <= near
    assert np.abs(gradient - dlogits).max() <= near
    far = np.array([[1e30, -1e30, 0], [-1e30, 0, 1e30]], dtype)
    loss, dlogits = lstmc.softmax_cross_entropy(far, np.array([0, 1]))
    assert_close(loss, 0.5e30, 1e-6)  # 1e30 rounded to float32
    np.testing.assert_array_equal(dlogits, [[0, 0, 0], [0, -0.5, 0.5]])


@pytest.mark.parametrize("column", [0, 8, 16])
def test_a_row_with_nan(isa, dtype, column):
    logits, targets = logits_and_targets((4, 17), dtype)
    _, expected = lstmc.softmax_cross_entropy(logits, targets)
    logits[2, column] = np.nan
    loss, dlogits = lstmc.softmax_cross_entropy(logits, targets)
    assert np.isnan(loss)
    assert np.isnan(dlogits[2]).all()
    others = np.array([0, 1, 3])
    assert_same_bits(dlogits[others], expected[others])


@pytest.mark.parametrize("shape", [(200, 65), (3, 30011)])
def test_threads_of_softmax(isa, dtype, shape):
    """Large enough that a second thread is used; flat.h has the threshold."""
    logits, targets = logits_and_targets(shape, dtype)
    one = lstmc.softmax_cross_entropy(logits, targets, num_threads=1)
    two = lstmc.softmax_cross_entropy(logits, targets, num_threads=2)
    assert one[0] == two[0]
    assert_same_bits(one[1], two[1])
    expected = reference.softmax_cross_entropy(logits.astype(np.float64), targets)
    assert_close(one[0], expected[0], 10 * TOLERANCE[dtype])  # sums of many more terms
    assert_close(one[1], expected[1], 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("classes", CLASSES)
def test_softmax(isa, dtype, classes):
    logits, _ = logits_and_targets((4, classes), dtype)
    out = np.empty_like(logits)
    core.softmax(out, logits)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    assert_close(out, shifted / shifted.sum(axis=1, keepdims=True), TOLERANCE[dtype])
    core.softmax(logits, logits)
    assert_same_bits(logits, out)


@pytest.mark.parametrize("size", [*CLASSES, 4095, 4096, 4097, 9001])
def test_squared_error(isa, dtype, size):
    generator = np.random.default_rng(seed_of("squares", size))
    y, target = (generator.standard_normal((2, size)).astype(dtype) for _ in range(2))
    loss, dy = lstmc.squared_error(y, target)
    expected, gradient = reference.squared_error(y.astype(np.float64), target.astype(np.float64))
    assert type(loss) is float
    assert_close(loss, expected, TOLERANCE[dtype])
    assert_close(dy, gradient, TOLERANCE[dtype])


def test_squared_error_of_nothing(dtype):
    loss, dy = lstmc.squared_error(np.empty((0, 3), dtype), np.empty((0, 3), dtype))
    assert loss == 0.0
    assert dy.shape == (0, 3)


def test_threads_of_squared_error(isa, dtype):
    generator = np.random.default_rng(seed_of("squares", "threads"))
    y, target = (generator.standard_normal(200_003).astype(dtype) for _ in range(2))
    one = lstmc.squared_error(y, target, num_threads=1)
    two = lstmc.squared_error(y, target, num_threads=2)
    assert one[0] == two[0]
    assert_same_bits(one[1], two[1])


def drawn_pair(name, size, dtype):
    generator = np.random.default_rng(seed_of(name, size))
    y = (3 * generator.standard_normal(size)).astype(dtype)
    target = generator.random(size) if name == "binary" else generator.standard_normal(size)
    return y, target.astype(dtype)


@pytest.mark.parametrize("delta", [1e-3, 1, 2.5, 100.0, np.float32(0.3), np.int64(2)])
@pytest.mark.parametrize("size", [*CLASSES, 4097])
def test_huber(isa, dtype, size, delta):
    """On both sides of delta, and with all errors on one."""
    y, target = drawn_pair("huber", size, dtype)
    loss, dy = lstmc.huber(y, target, delta)
    wide = y.astype(np.float64), target.astype(np.float64)
    expected, gradient = reference.huber(*wide, float(delta))
    assert type(loss) is float
    assert dy.dtype == dtype
    assert_close(loss, expected, TOLERANCE[dtype])
    assert_close(dy, gradient, TOLERANCE[dtype])


def test_huber_at_its_edges(isa, dtype):
    """The line meets the square; an infinite error pulls as hard as one of delta, NaN stays NaN."""
    y = np.array([0.5, -0.5, 0.75, -0.75, 0, -0.0], dtype)
    loss, dy = lstmc.huber(y, np.zeros(6, dtype), 0.5)
    assert loss == (2 * 0.125 + 2 * 0.5 * (0.75 - 0.25)) / 6
    assert_close(dy, np.array([0.5, -0.5, 0.5, -0.5, 0, 0]) / 6, TOLERANCE[dtype])
    far = np.array([np.inf, -np.inf, np.nan, 1], dtype)
    loss, dy = lstmc.huber(far, np.zeros(4, dtype), 0.5)
    assert np.isnan(loss)
    np.testing.assert_array_equal(dy, np.array([0.5, -0.5, np.nan, 0.5]) / 4)
    assert lstmc.huber(far[:2], np.zeros(2, dtype))[0] == np.inf
    # Squares and products that float32 does not hold are taken in double.
    loss, dy = lstmc.huber(np.full(3, 1e30, dtype), np.zeros(3, dtype), 1e25)
    assert_close(loss, 1e55, 1e-4)
    assert_close(dy, np.full(3, 1e25 / 3), TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("delta", "error"),
    [
        *((value, ValueError) for value in (0, -1.0, np.inf, np.nan, np.float32(-2))),
        *((value, TypeError) for value in (None, True, "1", [1.0], 1j, np.ones(1))),
    ],
)
def test_what_delta_may_not_be(delta, error):
    with pytest.raises(error, match="delta must be a positive finite number, got"):
        lstmc.huber(LOGITS, LOGITS, delta)


@pytest.mark.parametrize("size", [*CLASSES, 4097])
def test_binary_cross_entropy(isa, dtype, size):
    logits, targets = drawn_pair("binary", size, dtype)
    targets[::3], targets[1::4] = 0, 1
    loss, dlogits = lstmc.binary_cross_entropy(logits, targets)
    wide = logits.astype(np.float64), targets.astype(np.float64)
    expected, gradient = reference.binary_cross_entropy(*wide)
    assert type(loss) is float
    assert dlogits.dtype == dtype
    assert_close(loss, expected, TOLERANCE[dtype])
    assert_close(dlogits, gradient, TOLERANCE[dtype])


def test_binary_cross_entropy_of_each_logit(isa, dtype):
    """Element by element, to a few units in the last place: a right answer costs what it costs, not 0."""
    logits = np.concatenate([np.linspace(-87, 87, 175), [1e-3, -1e-3, 0, -0.0, 1e4, -1e4]])
    near = 8 * np.finfo(dtype).eps
    for logit, target in itertools.product(logits.astype(dtype), (0.0, 1.0, 0.25)):
        loss, slope = lstmc.binary_cross_entropy(logit[None], np.array([target], dtype))
        x = float(logit)
        decay = math.exp(-abs(x))
        zero, one = (max(0, side) + math.log1p(decay) for side in (x, -x))  # of a target of 0, of 1
        assert_close(loss, target * one + (1 - target) * zero, near)
        p, rest = (1 / (1 + decay), decay / (1 + decay))[:: 1 if x > 0 else -1]
        right = {0: p, 1: -rest}.get(target, p - target)
        # Below the smallest normal number results are flushed.
        error = abs(float(slope[0]) - right)
        assert error <= near * (abs(right) if target in (0, 1) else 1) + np.finfo(dtype).tiny


def test_infinite_logits(isa, dtype):
    """On the right side they cost nothing; elsewhere the loss is infinite, and the slope is not."""
    for logit, target, loss, slope in (
        (np.inf, 1, 0, 0), (-np.inf, 0, 0, 0), (np.inf, 0, np.inf, 1), (-np.inf, 1, np.inf, -1),
        (np.inf, 0.75, np.inf, 0.25), (-np.inf, 0.75, np.inf, -0.75), (1e30, 0, 1e30, 1),
    ):  # fmt: skip
        value, dlogits = lstmc.binary_cross_entropy(*np.array([[logit], [target]], dtype))
        assert value == dtype.type(loss)
        assert dlogits == slope
    logits, targets = drawn_pair("binary", 33, dtype)
    _, expected = lstmc.binary_cross_entropy(logits, targets)
    logits[20] = np.nan
    loss, dlogits = lstmc.binary_cross_entropy(logits, targets)
    assert np.isnan(loss)
    assert np.flatnonzero(np.isnan(dlogits)).tolist() == [20]
    assert_same_bits(np.delete(dlogits, 20), np.delete(expected, 20))


@pytest.mark.parametrize("bad", [-1e-6, 1.000001, np.nan, np.inf, -np.inf, 2])
def test_targets_that_are_no_probabilities(dtype, bad):
    """The first that counts is named with its position."""
    y = np.zeros((2, 3, 4), dtype)
    targets = y.copy()
    targets[1, 2, 1] = targets[1, 2, 3] = bad
    with pytest.raises(ValueError, match=r"targets\[1, 2, 1\] must be in \[0, 1\], got "):
        lstmc.binary_cross_entropy(y, targets)
    mask = np.arange(24).reshape(y.shape) % 2 == 0
    assert lstmc.binary_cross_entropy(y, targets, mask=mask)[0] > 0
    mask[1, 2, 3] = True
    with pytest.raises(ValueError, match=r"targets\[1, 2, 3\] must be in \[0, 1\], got "):
        lstmc.binary_cross_entropy(y, targets, mask=mask)
    with pytest.raises(ValueError, match=r"targets\[\(\)\] must be in"):
        lstmc.binary_cross_entropy(np.zeros((), dtype), np.array(bad, dtype))


@pytest.mark.parametrize("loss", [lstmc.huber, lstmc.binary_cross_entropy])
def test_threads_of_huber_and_binary_cross_entropy(isa, dtype, loss):
    y, target = drawn_pair("binary", 200_003, dtype)
    one, two = (loss(y, target, num_threads=n) for n in (1, 2))
    assert one[0] == two[0]
    assert_same_bits(one[1], two[1])


@pytest.mark.parametrize("loss", [lstmc.huber, lstmc.binary_cross_entropy])
def test_gradients_are_derivatives(isa, loss):
    y, target = drawn_pair("binary", 33, np.float64)
    expected = numerical_gradient(lambda a: loss(a, target)[0], y)
    assert_close(loss(y, target)[1], expected, 1e-7)  # as good as central differences are


@pytest.mark.parametrize("loss", [lstmc.huber, lstmc.binary_cross_entropy])
def test_nothing_is_no_loss(dtype, loss):
    value, dy = loss(np.empty((0, 3), dtype), np.empty((0, 3), dtype))
    assert value == 0.0
    assert dy.shape == (0, 3)


LOGITS = np.zeros((2, 3, 4), np.float32)
TARGETS = np.zeros((2, 3), np.int64)


def at(place, value, kind=np.int64):
    targets = TARGETS.astype(kind)
    targets[place] = value
    return targets


@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (LOGITS, at((1, 2), 4), ValueError, r"targets\[1, 2\] must be in \[0, 4\) or -1, got 4"),
        (LOGITS, at((0, 1), -2), ValueError, r"targets\[0, 1\] must be in \[0, 4\).*got -2"),
        (LOGITS, at((1, 0), 9, np.int32), ValueError, r"targets\[1, 0\] must be .*got 9"),
        (LOGITS, TARGETS[0], ValueError, r"targets must be \(2, 3\), got \(3,\)"),
        (LOGITS, TARGETS.astype(float), TypeError, "targets must be an int64 or int32.*float64"),
        (LOGITS, TARGETS.tolist(), TypeError, "targets must be an int64 or int32 array, got list"),
        (LOGITS.astype(np.float16), TARGETS, TypeError, "logits must be a float32.*got float16"),
        (LOGITS.tolist(), TARGETS, TypeError, "logits must be a float32 or float64.*got list"),
        (LOGITS[..., :0], TARGETS, ValueError, r"V at least 1, got \(2, 3, 0\)"),
        (np.float32(1), TARGETS, TypeError, "logits must be a float32 or float64 array"),
        (np.zeros((), np.float32), TARGETS, ValueError, r"logits must be \(..., V\).*got \(\)"),
    ],
)
def test_what_softmax_cross_entropy_refuses(logits, targets, error, message):
    with pytest.raises(error, match=message):
        lstmc.softmax_cross_entropy(logits, targets)


@pytest.mark.parametrize(
    ("y", "target", "error", "message"),
    [
        (LOGITS, LOGITS[0], ValueError, r"targets? must be \(2, 3, 4\), got \(3, 4\)"),
        (LOGITS, LOGITS.astype(float), TypeError, "targets? must be float32, got float64"),
        (TARGETS, TARGETS, TypeError, "(y|logits) must be a float32 or float64 array, got int64"),
    ],
)
@pytest.mark.parametrize("loss", [lstmc.squared_error, lstmc.huber, lstmc.binary_cross_entropy])
def test_what_is_refused(loss, y, target, error, message):
    with pytest.raises(error, match=message):
        loss(y, target)


@pytest.mark.parametrize("value", [1.5, "1", None, True, np.float32(1), [1]])
def test_an_ignore_index_that_is_no_integer(value):
    with pytest.raises(TypeError, match="ignore_index must be an integer, got"):
        lstmc.softmax_cross_entropy(LOGITS, TARGETS, ignore_index=value)


def test_an_ignore_index_of_more_than_64_bits():
    with pytest.raises(ValueError, match="ignore_index must be an integer of 64 bits"):
        lstmc.softmax_cross_entropy(LOGITS, TARGETS, ignore_index=2**63)
    loss, _ = lstmc.softmax_cross_entropy(LOGITS, TARGETS, ignore_index=np.int32(-(2**31)))
    assert loss == lstmc.softmax_cross_entropy(LOGITS, TARGETS)[0]


@pytest.mark.parametrize("inplace", [False, True])
def test_targets_in_the_memory_of_out(inplace):
    """The gradient would be written over the targets while they are read."""
    memory = np.zeros(TARGETS.size * 2, np.int64)
    out = memory.view(np.float32)[: LOGITS.size].reshape(LOGITS.shape)
    targets = memory[: TARGETS.size].reshape(TARGETS.shape)
    with pytest.raises(ValueError, match="out must share no memory with targets"):
        lstmc.softmax_cross_entropy(out if inplace else LOGITS, targets, out=out)
    assert not memory.any()
