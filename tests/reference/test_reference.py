"""Tests of the NumPy reference alone, before anything else is judged by it.

Its judges are PyTorch's results in the golden files, central differences, and values worked out by
hand; never the compiled kernels.
"""

import numpy as np
import pytest
from cases import CELLS
from reference_cases import DIFFERENCE_TOLERANCE, GOLDEN_TOLERANCE, HAND_TOLERANCE
from stacks import as_type, layer_weights, reference_solution
from support import assert_close, golden_of, load_golden, numerical_gradient

from lstmc import reference

# float32 rounds to 6e-8, and here no sum has more than some hundred terms, nor a sequence more than
# seven steps.
FLOAT32_TOLERANCE = 1e-5

GOLDEN_LSTMS = golden_of([name for name, cell in CELLS.items() if cell.has_c])

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
