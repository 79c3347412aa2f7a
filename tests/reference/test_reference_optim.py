"""Tests of the reference's losses, clipping and optimisers: by hand, golden files and differences."""

import numpy as np
import pytest
from reference_cases import DIFFERENCE_TOLERANCE, GOLDEN_TOLERANCE, HAND_TOLERANCE
from support import assert_close, load_golden, numerical_gradient

from lstmc import reference

# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------


def test_softmax_cross_entropy_agrees_with_pytorch():
    golden = load_golden("softmax_cross_entropy")
    arguments = golden["logits"], golden["targets"], golden["ignore_index"]
    loss, dlogits = reference.softmax_cross_entropy(*arguments)
    assert_close(loss, golden["loss"], GOLDEN_TOLERANCE, "the loss")
    assert_close(dlogits, golden["dlogits"], GOLDEN_TOLERANCE, "dlogits")


def test_softmax_cross_entropy_by_hand():
    logits = np.log([[1.0, 2.0, 5.0], [4.0, 3.0, 1.0]])  # probabilities in eighths
    loss, dlogits = reference.softmax_cross_entropy(logits, np.array([2, 1]))
    assert_close(loss, (np.log(8 / 5) + np.log(8 / 3)) / 2, HAND_TOLERANCE)
    assert_close(dlogits, np.array([[1, 2, -3], [4, -5, 1]]) / 16, HAND_TOLERANCE)


def test_softmax_cross_entropy_gradient_is_the_derivative():
    generator = np.random.default_rng(10)
    logits, targets = generator.standard_normal((3, 2, 5)), np.array([[0, 3], [1, 4], [3, 3]])
    _, dlogits = reference.softmax_cross_entropy(logits, targets, ignore_index=3)
    expected = numerical_gradient(
        lambda changed: reference.softmax_cross_entropy(changed, targets, ignore_index=3)[0], logits
    )
    assert_close(dlogits, expected, DIFFERENCE_TOLERANCE)
    assert not dlogits[targets == 3].any()


def test_softmax_cross_entropy_counts_nothing():
    logits = np.ones((2, 3), np.float32)
    loss, dlogits = reference.softmax_cross_entropy(logits, np.array([-1, -1]))
    assert loss == 0.0
    assert dlogits.dtype == np.float32
    np.testing.assert_array_equal(dlogits, np.zeros((2, 3)))


def test_softmax_cross_entropy_does_not_overflow():
    # The second row underflows as a whole if the largest logit of all is taken off it.
    logits = np.array([[1000.0, 0.0, -1000.0], [-3000.0, -1000.0, -2000.0]], np.float32)
    loss, dlogits = reference.softmax_cross_entropy(logits, np.array([1, 2]))
    assert loss == 1000.0
    np.testing.assert_array_equal(dlogits, [[0.5, -0.5, 0.0], [0.0, 0.5, -0.5]])


def test_softmax_cross_entropy_ignores_a_row_that_is_not_finite():
    logits = np.array([[np.nan, np.inf], [0.0, 0.0]])
    loss, dlogits = reference.softmax_cross_entropy(logits, np.array([-1, 0]))
    assert_close(loss, np.log(2), HAND_TOLERANCE)
    np.testing.assert_array_equal(dlogits, [[0.0, 0.0], [-0.5, 0.5]])


def test_squared_error():
    y = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])
    target = np.array([[1.0, 0.0, 4.0], [2.0, -1.0, 1.0]])
    loss, dy = reference.squared_error(y, target)
    assert_close(loss, 18 / 6, HAND_TOLERANCE)
    assert_close(dy, np.array([[0, 2, -1], [-2, 0, 3]]) / 3, HAND_TOLERANCE)


def test_huber():
    y, target = np.array([[1.0, 0.5, 3.0], [0.0, -1.0, 4.0]]), np.zeros((2, 3))
    loss, dy = reference.huber(y, target, delta=1.0)
    assert_close(loss, (0.5 + 0.125 + 2.5 + 0 + 0.5 + 3.5) / 6, HAND_TOLERANCE)
    assert_close(dy, np.array([[1, 0.5, 1], [0, -1, 1]]) / 6, HAND_TOLERANCE)


def test_binary_cross_entropy():
    logits = np.log([3.0, 1 / 3, 1.0])  # probabilities 3/4, 1/4, 1/2
    loss, dlogits = reference.binary_cross_entropy(logits, np.array([1.0, 0.5, 0.0]))
    expected = (np.log(4 / 3) + (np.log(4) + np.log(4 / 3)) / 2 + np.log(2)) / 3
    assert_close(loss, expected, HAND_TOLERANCE)
    assert_close(dlogits, np.array([-0.25, -0.25, 0.5]) / 3, HAND_TOLERANCE)
    loss, _ = reference.binary_cross_entropy(np.array([1e4, -1e4]), np.array([0.0, 0.0]))
    assert loss == 5000


@pytest.mark.parametrize(
    "loss", [reference.squared_error, reference.huber, reference.binary_cross_entropy]
)
def test_masks(loss):
    """What does not count is as if it were not there."""
    y = np.array([[0.3, np.nan, 2.0], [-1.5, 0.5, np.inf]])
    target = np.array([[0.0, 1.0, np.nan], [1.0, 0.5, 0.0]])
    mask = np.isfinite(y) & np.isfinite(target)
    value, dy = loss(y, target, mask=mask)
    rest, gradient = loss(y[mask], target[mask])
    assert value == rest
    np.testing.assert_array_equal(dy[mask], gradient)
    assert not dy[~mask].any()
    expected = numerical_gradient(lambda a: loss(a, target[mask])[0], y[mask])
    assert_close(gradient, expected, DIFFERENCE_TOLERANCE)
    value, dy = loss(y, target, mask=np.zeros_like(mask))
    assert value == 0.0
    assert not dy.any()


def test_softmax_cross_entropy_with_a_mask():
    logits = np.array([[np.nan, np.inf], [0.0, 0.0], [1.0, 2.0], [3.0, 1.0]])
    mask = np.array([False, True, True, True])
    loss, dlogits = reference.softmax_cross_entropy(logits, np.array([9, 0, -1, 1]), mask=mask)
    rest, gradient = reference.softmax_cross_entropy(logits[[1, 3]], np.array([0, 1]))
    assert loss == rest
    np.testing.assert_array_equal(dlogits[[1, 3]], gradient)
    assert not dlogits[[0, 2]].any()


# --------------------------------------------------------------------------------------------------
# Clipping and optimisers, against values worked out by hand
# --------------------------------------------------------------------------------------------------


def test_clip_grad_norm():
    grads = np.array([3.0, 0.0, -4.0])
    clipped, norm = reference.clip_grad_norm(grads, 2.5)
    assert norm == 5.0
    np.testing.assert_array_equal(clipped, [1.5, 0.0, -2.0])
    for large_enough in (5.0, 6.0, np.inf):
        clipped, norm = reference.clip_grad_norm(grads, large_enough)
        assert norm == 5.0
        np.testing.assert_array_equal(clipped, grads)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_clip_grad_norm_leaves_what_is_not_finite(poison):
    grads = np.array([3.0, poison, -4.0])
    clipped, norm = reference.clip_grad_norm(grads, 1.0)
    assert not np.isfinite(norm)
    np.testing.assert_array_equal(clipped, grads)


def test_clip_grad_norm_sums_in_float64():
    grads = np.full(2, 1e30, np.float32)  # whose squares overflow float32
    clipped, norm = reference.clip_grad_norm(grads, 1.0)
    assert_close(norm, np.sqrt(2) * 1e30, 1e-7)  # the rounding of 1e30 to float32
    assert clipped.dtype == np.float32
    assert_close(clipped, np.full(2, np.sqrt(0.5)), 1e-6)  # three roundings to float32


@pytest.mark.parametrize("power", [-300, -160, 160, 300])
def test_clip_grad_norm_of_what_has_no_square(power):
    grads = np.array([3.0, 0.0, -4.0]) * 10.0**power
    clipped, norm = reference.clip_grad_norm(grads, 10.0**power)
    assert_close(norm, 5 * 10.0**power, HAND_TOLERANCE)
    assert_close(clipped, np.array([0.6, 0, -0.8]) * 10.0**power, HAND_TOLERANCE)


def test_clip_grad_norm_by_a_factor_below_all_numbers():
    clipped, norm = reference.clip_grad_norm(np.full(4, 1e37, np.float32), 1.0)
    assert_close(norm, 2e37, 1e-7)
    assert_close(clipped, np.full(4, 0.5), 1e-6)


def test_clip_grad_value():
    grads = np.array([3.0, -0.5, -4.0, np.nan, np.inf], np.float32)
    clipped = reference.clip_grad_value(grads, 2.5)
    assert clipped.dtype == np.float32
    np.testing.assert_array_equal(clipped, [2.5, -0.5, -2.5, np.nan, 2.5])


@pytest.mark.parametrize("value", [1e20, 1e30, 3e38, -1e25])
def test_a_first_step_is_the_rate_however_large_the_gradient(value):
    """Kingma & Ba, section 2.1: m and the root of v are the gradient then."""
    p, g, zero = np.ones(3, np.float32), np.full(3, value, np.float32), np.zeros(3, np.float32)
    actual = reference.adam(p, g, zero, zero, 1, 0.1)[0]
    # 1 / sqrt(0.001) of it where m had to stop at the root of the largest number, and v at that number
    moved = (1 - actual) * np.sign(value)
    assert (moved >= 0.0031).all()
    assert (moved <= 0.1 + 1e-6).all()
    assert np.isfinite(reference.rmsprop(p, g, zero, 0.1)[0]).all()


@pytest.mark.parametrize("eps", [1e-38, 1e-300])
def test_no_gradient_is_no_step_however_small_eps(eps):
    p, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    np.testing.assert_array_equal(reference.adam(p, zero, zero, zero, 1, 0.1, eps=eps)[0], p)
    np.testing.assert_array_equal(reference.rmsprop(p, zero, zero, 0.1, eps=eps)[0], p)


def test_sgd_with_momentum():
    """With a constant gradient g, v_n = g (1 - mu^n) / (1 - mu)."""
    lr, mu, gradient = 0.1, 0.5, np.array([1.0, -4.0])
    params, velocity = np.array([2.0, 3.0]), np.zeros(2)
    for _ in range(3):
        params, velocity = reference.sgd(params, gradient, velocity, lr, mu)
    assert_close(velocity, gradient * 1.75, HAND_TOLERANCE)
    travelled = 1 + 1.5 + 1.75
    assert_close(params, [2 - lr * travelled, 3 + 4 * lr * travelled], HAND_TOLERANCE)


def test_sgd_with_nesterov_momentum():
    """The step is g + mu v_n instead of v_n; here v is g, 3/2 g, 7/4 g."""
    lr, mu, gradient = 0.1, 0.5, np.array([1.0, -4.0])
    params, velocity = np.array([2.0, 3.0]), np.zeros(2)
    for _ in range(3):
        params, velocity = reference.sgd(params, gradient, velocity, lr, mu, nesterov=True)
    assert_close(velocity, gradient * 1.75, HAND_TOLERANCE)
    travelled = 1.5 + 1.75 + 1.875
    assert_close(params, [2 - lr * travelled, 3 + 4 * lr * travelled], HAND_TOLERANCE)


def test_sgd_weight_decay_goes_through_the_velocity():
    """p = 2, g = 1 and decay 0.5: v = 2, p = 1; then g + decay p = 1.5, v = 2.5, p = -0.25."""
    params, velocity = np.array([2.0]), np.zeros(1)
    for _ in range(2):
        params, velocity = reference.sgd(
            params, np.ones(1), velocity, lr=0.5, momentum=0.5, weight_decay=0.5
        )
    assert_close(velocity, [2.5], HAND_TOLERANCE)
    assert_close(params, [-0.25], HAND_TOLERANCE)


def test_adam_first_step():
    """The first corrected means are g and g²: the step is lr g / (|g| + eps)."""
    gradient = np.array([1.0, -3.0])
    params, m, v = reference.adam(
        np.zeros(2), gradient, np.zeros(2), np.zeros(2), step=1, lr=0.1, eps=0.5
    )
    assert_close(m, 0.1 * gradient, HAND_TOLERANCE)
    # 1 - 0.999 is known to 1e-13 of itself only.
    assert_close(v, 0.001 * gradient**2, 1e-12)
    assert_close(params, [-0.1 / 1.5, 0.3 / 3.5], 1e-12)


def test_adam_second_step():
    """Gradients 1 then -2, beta1 = 1/2, beta2 = 3/4, eps = 0.

    m is 1/2, -3/4, corrected 1, -1; v is 1/4, 19/16, corrected 1, 19/7.
    """
    params, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
    for step, gradient in enumerate([1.0, -2.0], start=1):
        params, m, v = reference.adam(
            params, np.array([gradient]), m, v, step, lr=0.1, beta1=0.5, beta2=0.75, eps=0.0
        )
    assert_close(m, [-3 / 4], HAND_TOLERANCE)
    assert_close(v, [19 / 16], HAND_TOLERANCE)
    assert_close(params, [1 - 0.1 + 0.1 * np.sqrt(7 / 19)], HAND_TOLERANCE)


def test_adam_weight_decay_coupled_and_decoupled():
    """p = 2, g = 1, decay 0.5, lr 0.1, eps 1.

    Coupled, the gradient is 2 and the step 2 / 3. Decoupled, p first becomes 1.9 and the step is
    1 / 2, the gradient's alone.
    """
    start = np.array([2.0]), np.ones(1), np.zeros(1), np.zeros(1)
    options = {"step": 1, "lr": 0.1, "eps": 1.0, "weight_decay": 0.5}
    params, m, _ = reference.adam(*start, **options)
    assert_close(params, [2 - 0.1 * 2 / 3], HAND_TOLERANCE)
    assert_close(m, [0.2], HAND_TOLERANCE)
    params, m, _ = reference.adam(*start, **options, decoupled=True)
    assert_close(params, [1.9 - 0.1 / 2], HAND_TOLERANCE)
    assert_close(m, [0.1], HAND_TOLERANCE)


def test_adam_default_eps():
    """A gradient as small as eps gives half a step."""
    gradient = np.array([1e-8])
    params, _, _ = reference.adam(np.zeros(1), gradient, np.zeros(1), np.zeros(1), step=1, lr=1.0)
    assert_close(params, [-0.5], 1e-12)  # 1 - 0.999, as above


def test_rmsprop_defaults():
    """The root of the first mean square is g / 10; with g = 1e-7 that is eps: g / (2 eps) = 5."""
    params, _, _ = reference.rmsprop(np.zeros(1), np.array([1e-7]), np.zeros(1), lr=1.0)
    assert_close(params, [-5.0], HAND_TOLERANCE)


def test_rmsprop():
    """Gradients 1 then -2, alpha = 3/4, eps = 1: the mean square is 1/4, then 19/16."""
    params, square_avg, momentum_buffer = np.array([1.0]), np.zeros(1), None
    for gradient in (1.0, -2.0):
        params, square_avg, momentum_buffer = reference.rmsprop(
            params, np.array([gradient]), square_avg, 0.1, 0.75, 1.0, momentum_buffer
        )
    assert momentum_buffer is None
    assert_close(square_avg, [19 / 16], HAND_TOLERANCE)
    expected = 1 - 0.1 * (1 / 1.5 - 2 / (np.sqrt(19) / 4 + 1))
    assert_close(params, [expected], HAND_TOLERANCE)


def test_rmsprop_with_momentum():
    """Gradients 1 then -2, alpha = 3/4, eps = 0: the steps are 2 and -8 / sqrt(19) = -s.

    With momentum 1/2 the buffer is 2, then 1 - s.
    """
    s = 8 / np.sqrt(19)
    params, square_avg, momentum_buffer = np.array([1.0]), np.zeros(1), None
    for gradient in (1.0, -2.0):
        params, square_avg, momentum_buffer = reference.rmsprop(
            params, np.array([gradient]), square_avg, 0.1, 0.75, 0.0, momentum_buffer, 0.5
        )
    assert_close(momentum_buffer, [1 - s], HAND_TOLERANCE)
    assert_close(params, [1 - 0.1 * (2 + 1 - s)], HAND_TOLERANCE)


def test_rmsprop_weight_decay():
    """p = 2, g = 1, decay 0.5: the gradient is 2, its mean square 1, the step 2 / (1 + 1)."""
    params, square_avg, _ = reference.rmsprop(
        np.array([2.0]), np.ones(1), np.zeros(1), 0.1, 0.75, 1.0, weight_decay=0.5
    )
    assert_close(square_avg, [1.0], HAND_TOLERANCE)
    assert_close(params, [1.9], HAND_TOLERANCE)


def test_optimisers_and_losses_keep_float32():
    params, grads, zeros = (np.full(3, value, np.float32) for value in (2.0, 1.0, 0.0))
    target = np.array([0, 1])
    results = [
        *reference.sgd(params, grads, zeros, 0.1, 0.9, nesterov=True, weight_decay=0.1),
        *reference.adam(params, grads, zeros, zeros, 1, 0.1, weight_decay=0.1),
        *reference.adam(params, grads, zeros, zeros, 1, 0.1, weight_decay=0.1, decoupled=True),
        *reference.rmsprop(params, grads, zeros, 0.1, momentum=0.9, weight_decay=0.1),
        reference.clip_grad_norm(grads, 0.1)[0],
        reference.squared_error(params, grads)[1],
        reference.softmax_cross_entropy(np.stack([params, grads]), target)[1],
        reference.embedding_backward(np.stack([params, grads]), target, 4),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


def test_optimisers_write_to_no_argument():
    arrays = [np.full(3, value) for value in (2.0, 1.0, 0.5, 0.25)]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False  # so that writing raises
    params, grads, first, second = arrays
    reference.sgd(params, grads, first, 0.1, 0.9, nesterov=True, weight_decay=0.1)
    reference.adam(params, grads, first, second, 2, 0.1, weight_decay=0.1)
    reference.adam(params, grads, first, second, 2, 0.1, weight_decay=0.1, decoupled=True)
    reference.rmsprop(params, grads, first, 0.1, 0.9, 1e-8, second, 0.9, weight_decay=0.1)
    reference.clip_grad_norm(grads, 0.1)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
