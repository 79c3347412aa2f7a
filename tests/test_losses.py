"""Tests of the losses: value and gradient, judged by the reference, golden files, derivatives."""

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
        (LOGITS, LOGITS[0], ValueError, r"target must be \(2, 3, 4\), got \(3, 4\)"),
        (LOGITS, LOGITS.astype(float), TypeError, "target must be float32, got float64"),
        (TARGETS, TARGETS, TypeError, "y must be a float32 or float64 array, got int64"),
    ],
)
def test_what_squared_error_refuses(y, target, error, message):
    with pytest.raises(error, match=message):
        lstmc.squared_error(y, target)


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
