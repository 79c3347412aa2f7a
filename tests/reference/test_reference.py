"""Tests of the NumPy reference alone, before anything else is judged by it.

Its judges are PyTorch's results in the golden files, central differences, and values worked out by
hand; never the compiled kernels.
"""

import numpy as np
import pytest
from stacks import as_type, layer_weights, reference_solution
from support import assert_close, load_golden, numerical_gradient

from lstmc import reference

# Both sides are float64 and differ only in the order of sums of at most some hundred terms, which
# costs a few times 1e-16 a layer; 1e-13 leaves room for another libm or BLAS.
GOLDEN_TOLERANCE = 1e-13

# Central differences are good to some 1e-10 of a loss of order 1; the losses here reach some tens,
# and the largest element of a gradient is seldom below 0.1. A wrong formula is off by 1e-2.
DIFFERENCE_TOLERANCE = 1e-8

# Values worked out by hand, and optimisers after a step or two: a few roundings of 1e-16.
HAND_TOLERANCE = 1e-14

# float32 rounds to 6e-8, and here no sum has more than some hundred terms, nor a sequence more than
# seven steps.
FLOAT32_TOLERANCE = 1e-5

GOLDEN_LSTMS = ["lstm_1", "lstm_2", "lstm_3"]
GOLDEN_RNNS = [f"rnn_{kind}_{layers}" for kind in ("tanh", "relu") for layers in (1, 2, 3)]

# seed, T, B, I, H. With these seeds relu lets some rows through, and no gradient is tiny.
SIZES = [(1, 3, 2, 4, 5), (2, 4, 3, 5, 3), (3, 3, 2, 3, 9), (10, 1, 1, 1, 1)]


def golden_outputs(golden):
    """Return the keys of a golden file that PyTorch computed."""
    given = {"dy", "dh_n", "dc_n"}
    computed = {"y", "h_n", "c_n"}
    return {key for key in golden if key in computed or (key[0] == "d" and key not in given)}


def assert_all_close(actual, golden, tolerance):
    assert set(actual) == golden_outputs(golden)
    for name, value in actual.items():
        assert_close(value, golden[name], tolerance, name)


# --------------------------------------------------------------------------------------------------
# The judges themselves
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [[1.0, -2.1], [np.nan, -2.0], [1.0, -np.inf], [1.0], 1.0])
def test_assert_close_fails_where_it_should(wrong):
    assert_close([1.04, -2.04], [1.0, -2.0], 0.021)
    with pytest.raises(AssertionError, match="the pair"):
        assert_close(wrong, [1.0, -2.0], 0.021, "the pair")


def test_assert_close_allows_nothing_beside_zeros():
    assert_close([0.0, 0.0], [0.0, 0.0], 0.1)
    with pytest.raises(AssertionError, match=r"worst is at \(1,\)"):
        assert_close([0.0, 1e-300], [0.0, 0.0], 0.1)


def test_numerical_gradient_of_a_cubic():
    array = np.array([[1.0, -2.0], [0.5, 3.0]])
    array.flags.writeable = False
    gradient = numerical_gradient(lambda changed: np.sum(changed**3), array)
    # eps² and, of a sum near 20, 1e-15 divided by eps.
    assert_close(gradient, 3 * array**2, 1e-9)


# --------------------------------------------------------------------------------------------------
# Recurrent layers against PyTorch
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN_LSTMS)
def test_lstm_agrees_with_pytorch(name):
    golden = load_golden(name)
    assert_all_close(reference_solution(golden), golden, GOLDEN_TOLERANCE)


@pytest.mark.parametrize("name", GOLDEN_RNNS)
def test_rnn_agrees_with_pytorch(name):
    golden = load_golden(name)
    assert_all_close(reference_solution(golden), golden, GOLDEN_TOLERANCE)


@pytest.mark.parametrize("name", GOLDEN_LSTMS + GOLDEN_RNNS)
def test_float32_stays_float32(name):
    golden = load_golden(name)
    actual = reference_solution(as_type(golden, np.float32))
    assert {value.dtype for value in actual.values()} == {np.dtype(np.float32)}
    assert_all_close(actual, golden, FLOAT32_TOLERANCE)


def test_lstm_steps_agree_with_pytorch():
    golden = load_golden("lstm_1")
    h, c = golden["h0"][0], golden["c0"][0]
    for x, y in zip(golden["x"], golden["y"], strict=True):
        h, c = reference.lstm_step(x, h, c, *layer_weights(golden, 0))
        assert_close(h, y, GOLDEN_TOLERANCE)
    assert_close(c, golden["c_n"][0], GOLDEN_TOLERANCE)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_rnn_steps_agree_with_pytorch(nonlinearity):
    golden = load_golden(f"rnn_{nonlinearity}_1")
    h = golden["h0"][0]
    for x, y in zip(golden["x"], golden["y"], strict=True):
        h = reference.rnn_step(x, h, *layer_weights(golden, 0), nonlinearity)
        assert_close(h, y, GOLDEN_TOLERANCE)


# --------------------------------------------------------------------------------------------------
# Recurrent layers against central differences
# --------------------------------------------------------------------------------------------------


def random_problem(seed, steps, batch, inputs, hidden, gates, states):
    """Return the arguments of a forward pass and of the loss, as dictionaries of arrays."""
    generator = np.random.default_rng(seed)
    rows = gates * hidden
    shapes = {"x": (steps, batch, inputs)}
    shapes |= {f"{state}0": (batch, hidden) for state in states}
    shapes |= {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden), "bias": (rows,)}
    arguments = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    arguments["weight_hh"] /= np.sqrt(hidden)  # so that a relu or a linear state does not explode
    cotangents = {"dh": generator.standard_normal((steps, batch, hidden))}
    for state in states:
        cotangents[f"d{state}_n"] = generator.standard_normal((batch, hidden))
    return arguments, cotangents


def assert_gradients(gradients, loss, arguments):
    """Assert that each gradient is the central difference of the loss in the same argument."""
    assert len(gradients) == len(arguments)
    for (name, value), gradient in zip(arguments.items(), gradients, strict=True):

        def loss_of_one(changed, name=name):
            return loss({**arguments, name: changed})

        expected = numerical_gradient(loss_of_one, value)
        assert_close(gradient, expected, DIFFERENCE_TOLERANCE, f"d{name}")


@pytest.mark.parametrize("sizes", SIZES)
def test_lstm_backward_is_the_derivative(sizes):
    arguments, cotangents = random_problem(*sizes, gates=4, states="hc")

    def loss(changed):
        h, c, _ = reference.lstm_forward(**changed)
        return (
            np.sum(cotangents["dh"] * h[1:])
            + np.sum(cotangents["dh_n"] * h[-1])
            + np.sum(cotangents["dc_n"] * c[-1])
        )

    h, c, gates = reference.lstm_forward(**arguments)
    weights = arguments["weight_ih"], arguments["weight_hh"]
    gradients = reference.lstm_backward(*cotangents.values(), arguments["x"], h, c, gates, *weights)
    assert_gradients(gradients, loss, arguments)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("sizes", SIZES)
def test_rnn_backward_is_the_derivative(sizes, nonlinearity):
    arguments, cotangents = random_problem(*sizes, gates=1, states="h")

    def loss(changed):
        h = reference.rnn_forward(**changed, nonlinearity=nonlinearity)
        return np.sum(cotangents["dh"] * h[1:]) + np.sum(cotangents["dh_n"] * h[-1])

    h = reference.rnn_forward(**arguments, nonlinearity=nonlinearity)
    weights = arguments["weight_ih"], arguments["weight_hh"]
    gradients = reference.rnn_backward(
        *cotangents.values(), arguments["x"], h, *weights, nonlinearity
    )
    assert_gradients(gradients, loss, arguments)


def test_initial_states_fill_slot_zero():
    arguments, _ = random_problem(5, 3, 2, 4, 5, gates=4, states="hc")
    h, c, gates = reference.lstm_forward(**arguments)
    np.testing.assert_array_equal(h[0], arguments["h0"])
    np.testing.assert_array_equal(c[0], arguments["c0"])
    assert h.shape == c.shape == (4, 2, 5)
    assert gates.shape == (3, 2, 20)
    arguments, _ = random_problem(6, 3, 2, 4, 5, gates=1, states="h")
    h = reference.rnn_forward(**arguments)
    np.testing.assert_array_equal(h[0], arguments["h0"])
    assert h.shape == (4, 2, 5)


def test_gates_are_activated_and_in_order():
    """With zero weights the bias alone decides; each gate is given a value of its own."""
    bias = np.log([1 / 3, 3.0, 3.0, 4.0])  # as sigmoid 1/4, 3/4, ., 4/5; as tanh ., ., 4/5, .
    h, c, gates = reference.lstm_forward(
        x=np.ones((1, 1, 2)),
        h0=np.array([[0.5]]),
        c0=np.array([[0.4]]),
        weight_ih=np.zeros((4, 2)),
        weight_hh=np.zeros((4, 1)),
        bias=bias,
    )
    assert_close(gates[0, 0], [1 / 4, 3 / 4, 4 / 5, 4 / 5], HAND_TOLERANCE)
    assert_close(c[1], [[3 / 4 * 0.4 + 1 / 4 * 4 / 5]], HAND_TOLERANCE)
    assert_close(h[1], [[4 / 5 * np.tanh(0.5)]], HAND_TOLERANCE)


def test_an_unknown_nonlinearity_is_refused():
    arguments, _ = random_problem(7, 3, 2, 4, 5, gates=1, states="h")
    with pytest.raises(KeyError, match="sine"):
        reference.rnn_forward(**arguments, nonlinearity="sine")


# --------------------------------------------------------------------------------------------------
# Sigmoid, linear layer, embedding
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid(dtype):
    x = np.array([-1e4, -np.log(3), 0, np.log(3), 1e4], dtype)
    y = reference.sigmoid(x)
    assert y.dtype == dtype
    # A few roundings.
    assert_close(y, np.array([0, 1 / 4, 1 / 2, 3 / 4, 1]), 4 * np.finfo(dtype).eps)
    # Far out on the left the value is exp(x); 1 / (1 + exp(-x)) would overflow on the way there.
    np.testing.assert_allclose(reference.sigmoid(dtype(-80)), np.exp(dtype(-80)), rtol=1e-6)
    assert np.isnan(reference.sigmoid(dtype("nan")))


def test_linear():
    generator = np.random.default_rng(8)
    shapes = {"x": (4, 3, 5), "weight": (7, 5), "bias": (7,)}
    arguments = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    dy = generator.standard_normal((4, 3, 7))
    expected = np.empty((4, 3, 7))
    for t, b, o in np.ndindex(expected.shape):
        expected[t, b, o] = arguments["bias"][o] + sum(
            arguments["weight"][o, k] * arguments["x"][t, b, k] for k in range(5)
        )
    assert_close(reference.linear_forward(**arguments), expected, GOLDEN_TOLERANCE)
    gradients = reference.linear_backward(dy, arguments["x"], arguments["weight"])
    assert_gradients(
        gradients, lambda changed: np.sum(dy * reference.linear_forward(**changed)), arguments
    )


def test_embedding():
    generator = np.random.default_rng(9)
    weight = generator.standard_normal((6, 4))
    tokens = np.array([[0, 5], [2, 2], [5, 2]])  # 2 occurs three times, 5 twice; 1, 3, 4 never
    y = reference.embedding_forward(tokens, weight)
    assert y.shape == (3, 2, 4)
    np.testing.assert_array_equal(y[2, 0], weight[5])
    dy = generator.standard_normal(y.shape)
    dweight = reference.embedding_backward(dy, tokens, 6)
    expected = np.zeros((6, 4))
    expected[0] = dy[0, 0]
    expected[2] = dy[1, 0] + dy[1, 1] + dy[2, 1]
    expected[5] = dy[0, 1] + dy[2, 0]
    assert_close(dweight, expected, HAND_TOLERANCE)


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
