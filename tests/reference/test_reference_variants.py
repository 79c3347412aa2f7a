"""Tests of the reference of the LSTM's variants and of limited gradients.

The judges are central differences, values worked out by hand, single steps put together by hand, and what
an option must not change. PyTorch and ONNX Runtime judge it in test_torch.py and test_onnxruntime.py.
"""

import itertools

import numpy as np
import pytest
from reference_cases import DIFFERENCE_TOLERANCE, HAND_TOLERANCE
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

from lstmc import reference

# T, B, I, H, P
SIZES = [(3, 2, 4, 5, 3), (4, 3, 5, 3, 1), (3, 2, 3, 9, 8)]
OPTIONS = list(
    itertools.product([False, True], repeat=4)
)  # projection, peepholes, coupled gates, a clip
CLIP = 1.3


def arguments_of(sizes, projected, peephole, coupled):
    """Return the arguments of a forward pass by name, in their order."""
    steps, batch, inputs, hidden, projection = sizes
    rng = np.random.default_rng(seed_of("variants", sizes, projected, peephole, coupled))
    rows, units = (3 if coupled else 4) * hidden, projection if projected else hidden
    shapes = {"x": (steps, batch, inputs), "h0": (batch, units), "c0": (batch, hidden),
              "weight_ih": (rows, inputs), "weight_hh": (rows, units), "bias": (rows,)}  # fmt: skip
    if projected:
        shapes["weight_hr"] = (units, hidden)
    if peephole:
        shapes["peephole"] = ((2 if coupled else 3) * hidden,)
    arguments = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    arguments["weight_ih"] /= np.sqrt(inputs)
    arguments["weight_hh"] /= np.sqrt(units)
    return arguments


def arriving_of(h, c):
    """Return the gradients that arrive at h of all steps and at the last h and c."""
    rng = np.random.default_rng(seed_of("arriving", h.shape, c.shape))
    return [rng.standard_normal(shape) for shape in (h[1:].shape, h[0].shape, c[0].shape)]


def backward(arguments, arriving, saved, coupled, **options):
    """Return the gradients by the name of what they are of."""
    h, c, gates, *inside = saved
    weights = {k: v for k, v in arguments.items() if k not in ("x", "h0", "c0", "bias")}
    out = reference.lstm_backward(
        *arriving, arguments["x"], h, c, gates, **weights, coupled=coupled,
        inside=inside[0] if inside else None, **options,
    )  # fmt: skip
    return dict(zip(arguments, out, strict=True))


# --------------------------------------------------------------------------------------------------
# Derivatives
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("projected", "peephole", "coupled", "clipped"), OPTIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_backward_is_the_derivative(sizes, projected, peephole, coupled, clipped):
    """With a clip too: no sum here is as near to the limit as the differences are wide."""
    arguments = arguments_of(sizes, projected, peephole, coupled)
    options = {"coupled": coupled, "clip": CLIP if clipped else None}
    saved = reference.lstm_forward(**arguments, **options)
    assert len(saved) == (4 if clipped else 3)
    if clipped:
        assert 0.4 < saved[3].mean() < 0.9
    arriving = arriving_of(*saved[:2])
    gradients = backward(arguments, arriving, saved, coupled)

    for name, value in arguments.items():

        def loss(changed, name=name):
            h, c, *_ = reference.lstm_forward(**{**arguments, name: changed}, **options)
            return sum(np.sum(a * b) for a, b in zip(arriving, (h[1:], h[-1], c[-1]), strict=True))

        expected = numerical_gradient(loss, value)
        assert_close(gradients[name], expected, DIFFERENCE_TOLERANCE, f"d{name}")


@pytest.mark.parametrize(("projected", "peephole", "coupled", "clipped"), OPTIONS)
def test_float32_stays_float32(projected, peephole, coupled, clipped):
    double = arguments_of(SIZES[0], projected, peephole, coupled)
    single = {name: value.astype(np.float32) for name, value in double.items()}
    options = {"coupled": coupled, "clip": CLIP if clipped else None}
    results = []
    for arguments in (double, single):
        saved = reference.lstm_forward(**arguments, **options)
        arriving = [a.astype(saved[0].dtype) for a in arriving_of(*saved[:2])]
        gradients = backward(arguments, arriving, saved, coupled, grad_clip=0.3)
        results.append([*saved[:3], *gradients.values()])
    for exact, actual in zip(*results, strict=True):
        assert actual.dtype == np.float32
        assert_close(actual, exact, 1e-5)


@pytest.mark.parametrize(("projected", "peephole", "coupled", "clipped"), OPTIONS)
def test_steps_are_a_sequence(projected, peephole, coupled, clipped):
    arguments = arguments_of(SIZES[0], projected, peephole, coupled)
    options = {"coupled": coupled, "clip": CLIP if clipped else None}
    h, c, *_ = reference.lstm_forward(**arguments, **options)
    x, state, weights = arguments.pop("x"), (arguments.pop("h0"), arguments.pop("c0")), arguments
    for t, x_t in enumerate(x):
        state = reference.lstm_step(x_t, *state, **weights, **options)
        assert_close(state[0], h[t + 1], HAND_TOLERANCE)
        assert_close(state[1], c[t + 1], HAND_TOLERANCE)


# --------------------------------------------------------------------------------------------------
# Equations
# --------------------------------------------------------------------------------------------------


def logistic(z):
    return 1 / (1 + np.exp(-z))


def test_peepholes_by_hand():
    """With zero weights; each gate has a bias and a peephole of its own, and o looks at the new c."""
    bias, peephole = np.array([0.1, -0.2, 0.3, -0.4]), np.array([0.7, -1.1, 1.3])
    zeros = np.zeros((4, 1))
    h, c, gates = reference.lstm_forward(
        np.ones((1, 1, 1)), np.array([[0.5]]), np.array([[0.6]]), zeros, zeros, bias, None, peephole
    )
    i, f, g = logistic(0.1 + 0.7 * 0.6), logistic(-0.2 - 1.1 * 0.6), np.tanh(0.3)
    new = f * 0.6 + i * g
    o = logistic(-0.4 + 1.3 * new)
    assert_close(gates[0, 0], [i, f, g, o], HAND_TOLERANCE)
    assert_close(c[1], [[new]], HAND_TOLERANCE)
    assert_close(h[1], [[o * np.tanh(new)]], HAND_TOLERANCE)


def test_coupled_gates_by_hand():
    """Rows i, g, o, and peepholes i, o."""
    bias, peephole, zeros = np.array([0.1, 0.3, -0.4]), np.array([0.7, 1.3]), np.zeros((3, 1))
    h, c, gates = reference.lstm_forward(
        np.ones((1, 1, 1)), np.array([[0.5]]), np.array([[0.6]]), zeros, zeros, bias, None, peephole,
        coupled=True,
    )  # fmt: skip
    i, g = logistic(0.1 + 0.7 * 0.6), np.tanh(0.3)
    new = (1 - i) * 0.6 + i * g
    o = logistic(-0.4 + 1.3 * new)
    assert_close(gates[0, 0], [i, g, o], HAND_TOLERANCE)
    assert_close(c[1], [[new]], HAND_TOLERANCE)
    assert_close(h[1], [[o * np.tanh(new)]], HAND_TOLERANCE)


def test_a_projection_by_hand():
    """Of two units on one, whose rows of R have one column."""
    bias, weight_hr = np.array([0.1, 0.2] * 4), np.array([[2.0, -3.0]])
    weight_hh = np.arange(8.0)[:, None] / 8
    h, c, gates = reference.lstm_forward(
        np.ones((1, 1, 1)), np.array([[0.5]]), np.array([[0.6, -0.7]]), np.zeros((8, 1)), weight_hh,
        bias, weight_hr,
    )  # fmt: skip
    i, f, g, o = (0.5 * weight_hh[:, 0] + bias).reshape(4, 2)
    i, f, g, o = logistic(i), logistic(f), np.tanh(g), logistic(o)
    new = f * [0.6, -0.7] + i * g
    assert_close(gates[0, 0], np.concatenate([i, f, g, o]), HAND_TOLERANCE)
    assert_close(c[1], [new], HAND_TOLERANCE)
    two = o * np.tanh(new)
    assert_close(h[1], [[2 * two[0] - 3 * two[1]]], HAND_TOLERANCE)


@pytest.mark.parametrize("coupled", [False, True])
def test_clips_limit_whole_sums_and_not_c(coupled):
    """Biases and peepholes are in a sum; a limited one has no derivative, on either side, even at it."""
    gates = 3 if coupled else 4
    zeros, c0 = np.zeros((gates, 1)), np.array([[5.0]])
    bias = np.array([-0.75, 0.25, 0.0] if coupled else [-0.75, 0.75, 0.25, 0.0])
    peephole = np.array([0.2, 0.1] if coupled else [0.2, -0.3, 0.1])
    h, c, _, inside = saved = reference.lstm_forward(
        np.ones((1, 1, 1)), np.zeros((1, 1)), c0, zeros, zeros, bias, None, peephole,
        coupled=coupled, clip=0.25,
    )  # fmt: skip
    # Sums of i: 0.25, at the limit; of f: -0.75; of g: 0.25; of o: 0.1 c.
    i, g, f = logistic(0.25), np.tanh(0.25), logistic(-0.25)
    f = 1 - i if coupled else f
    new = 5 * f + i * g
    assert 0.1 * new < 0.25 < new
    assert_close(c[1], [[new]], HAND_TOLERANCE)
    assert_close(h[1], [[logistic(0.1 * new) * np.tanh(new)]], HAND_TOLERANCE)
    assert inside[0, 0].tolist() == [False] * (gates - 1) + [True]
    arguments = {"x": np.ones((1, 1, 1)), "h0": None, "c0": None, "weight_ih": zeros,
                 "weight_hh": zeros, "bias": None, "weight_hr": None, "peephole": peephole}  # fmt: skip
    out = reference.lstm_backward(
        np.ones((1, 1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), arguments["x"], *saved[:3], zeros,
        zeros, None, peephole, coupled=coupled, inside=inside,
    )  # fmt: skip
    dbias = out[5]
    assert not dbias[:-1].any()
    assert dbias[-1] > 0


@pytest.mark.parametrize(("projected", "peephole", "coupled"), [o[:3] for o in OPTIONS[::2]])
def test_limits_that_are_not_reached_change_nothing(projected, peephole, coupled):
    arguments = arguments_of(SIZES[0], projected, peephole, coupled)
    plain = reference.lstm_forward(**arguments, coupled=coupled)
    *clipped, inside = reference.lstm_forward(**arguments, coupled=coupled, clip=1e3)
    assert_same_bits(clipped, plain)
    assert inside.all()
    arriving = arriving_of(*plain[:2])
    expected = backward(arguments, arriving, plain, coupled)
    assert_same_bits(backward(arguments, arriving, plain, coupled, grad_clip=1e3), expected)
    limited = backward(arguments, arriving, plain, coupled, grad_clip=0.05)
    assert all(np.any(limited[name] != expected[name]) for name in expected)


def test_coupled_gates_are_a_forget_gate_that_is_given():
    """sigmoid(-z) is 1 - sigmoid(z): an LSTM whose rows of f are those of i with the other sign."""
    arguments = arguments_of(SIZES[0], True, True, True)
    whole = dict(arguments)
    for name in ("weight_ih", "weight_hh", "bias"):
        i, g, o = np.split(arguments[name], 3)
        whole[name] = np.concatenate([i, -i, g, o])
    p_i, p_o = np.split(arguments["peephole"], 2)
    whole["peephole"] = np.concatenate([p_i, -p_i, p_o])
    for clip in (None, CLIP):
        coupled = reference.lstm_forward(**arguments, coupled=True, clip=clip)
        plain = reference.lstm_forward(**whole, clip=clip)
        for actual, expected in zip(coupled[:2], plain[:2], strict=True):
            assert_close(actual, expected, HAND_TOLERANCE)
        arriving = arriving_of(*plain[:2])
        actual = backward(arguments, arriving, coupled, True)
        expected = backward(whole, arriving, plain, False)
        for name, gradient in actual.items():
            if name in ("weight_ih", "weight_hh", "bias"):
                i, f, g, o = np.split(expected[name], 4)
                expected[name] = np.concatenate([i - f, g, o])
            elif name == "peephole":
                i, f, o = np.split(expected[name], 3)
                expected[name] = np.concatenate([i - f, o])
            assert_close(gradient, expected[name], 1e-13, name)


def test_a_projection_by_the_unit_matrix_is_none():
    arguments = arguments_of((4, 3, 5, 3, 3), True, True, False)
    arguments["weight_hr"] = np.eye(3)
    plain = {name: value for name, value in arguments.items() if name != "weight_hr"}
    saved, expected = (reference.lstm_forward(**of) for of in (arguments, plain))
    for actual, of_plain in zip(saved, expected, strict=True):
        assert_close(actual, of_plain, HAND_TOLERANCE)
    arriving = arriving_of(*saved[:2])
    actual = backward(arguments, arriving, saved, False)
    for name, gradient in backward(plain, arriving, expected, False).items():
        assert_close(actual[name], gradient, 1e-13, name)


# --------------------------------------------------------------------------------------------------
# Limited gradients, by their definition: one row and one step at a time, put together by hand
# --------------------------------------------------------------------------------------------------

LIMIT = 0.1


def limited(a):
    """Limit an array, some but not all of whose elements are beyond the limit; remember how many."""
    counts = limited.counts
    counts += np.count_nonzero(np.abs(a) > LIMIT), a.size
    return np.maximum(np.minimum(a, LIMIT), -LIMIT)


@pytest.fixture(autouse=True)
def counted():
    limited.counts = np.zeros(2, int)


def some_were_limited():
    return 0.1 < limited.counts[0] / limited.counts[1] < 0.99


def one_row(array, b):
    return array[:, b : b + 1]


@pytest.mark.parametrize(("projected", "peephole", "coupled", "clipped"), OPTIONS)
def test_limited_gradients_of_an_lstm(projected, peephole, coupled, clipped):
    """Where nothing is limited, dbias of one row and one step are the gradients of its sums."""
    arguments = arguments_of(SIZES[0], projected, peephole, coupled)
    saved = reference.lstm_forward(**arguments, coupled=coupled, clip=CLIP if clipped else None)
    arriving = arriving_of(*saved[:2])
    actual = backward(arguments, arriving, saved, coupled, grad_clip=LIMIT)
    h, c, *of_steps = saved
    names = "io" if coupled else "ifo"
    expected = {name: np.zeros_like(value) for name, value in arguments.items()}
    for b in range(len(arguments["h0"])):
        _, dh, dc = (one_row(a, b)[0] if a.ndim == 3 else a[b : b + 1] for a in arriving)
        for t in reversed(range(len(h) - 1)):
            one = dict(arguments, x=one_row(arguments["x"], b)[t : t + 1])
            states = [one_row(a, b)[t : t + 2] for a in (h, c)]
            gates = [one_row(a, b)[t : t + 1] for a in of_steps]
            whole = backward(
                one, [one_row(arriving[0], b)[t : t + 1], dh, dc], [*states, *gates], coupled
            )
            dsums = limited(whole["bias"])
            expected["x"][t, b] = arguments["weight_ih"].T @ dsums
            expected["weight_ih"] += np.outer(dsums, one["x"][0])
            expected["weight_hh"] += np.outer(dsums, states[0][0])
            expected["bias"] += dsums
            if projected:
                expected["weight_hr"] += whole["weight_hr"]
            if peephole:
                blocks = dict(zip("igo" if coupled else "ifgo", np.split(dsums, len(dsums) // 5)))
                looked_at = {"i": states[1][0, 0], "f": states[1][0, 0], "o": states[1][1, 0]}
                parts = [blocks[gate] * looked_at[gate] for gate in names]
                expected["peephole"] += np.concatenate(parts)
            dh, dc = (arguments["weight_hh"].T @ dsums)[None], whole["c0"]
        expected["h0"][b], expected["c0"][b] = dh[0], dc[0]
    assert some_were_limited()
    for name, gradient in expected.items():
        assert_close(actual[name], gradient, 1e-13, name)


def recurrent_arguments(gates, biases):
    steps, batch, inputs, hidden, _ = SIZES[0]
    rng = np.random.default_rng(seed_of("limited", gates, biases))
    shapes = {"x": (steps, batch, inputs), "h0": (batch, hidden),
              "weight_ih": (gates * hidden, inputs), "weight_hh": (gates * hidden, hidden),
              "bias": (biases * hidden,)}  # fmt: skip
    arguments = {name: rng.standard_normal(shape) / 2 for name, shape in shapes.items()}
    return (
        arguments,
        rng.standard_normal((steps, batch, hidden)),
        rng.standard_normal((batch, hidden)),
    )


def by_hand(arguments, dy, dh_n, steps_back):
    """Put together what `steps_back` gives of one row and one step.

    It takes t, b and the gradient at h after the step, and returns those of what W makes of the sums, of what
    R does, of what R multiplies, by row, what goes back to h directly, and the bias.
    """
    expected = {name: np.zeros_like(value) for name, value in arguments.items()}
    for b in range(len(dh_n)):
        dh = dh_n[b]
        for t in reversed(range(len(dy))):
            dsums, of_r, operands, dh, dbias = steps_back(t, b, dy[t, b] + dh)
            expected["x"][t, b] = arguments["weight_ih"].T @ dsums
            expected["weight_ih"] += np.outer(dsums, arguments["x"][t, b])
            expected["weight_hh"] += of_r[:, None] * operands
            expected["bias"] += dbias
        expected["h0"][b] = dh
    return expected


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
def test_limited_gradients_of_an_rnn(nonlinearity):
    arguments, dy, dh_n = recurrent_arguments(1, 1)
    h = reference.rnn_forward(**arguments, nonlinearity=nonlinearity)
    slopes = {"tanh": lambda h: 1 - h * h, "relu": lambda h: 1.0 * (h > 0), "identity": lambda h: 1}

    def step_back(t, b, dh):
        dsums = limited(dh * slopes[nonlinearity](h[t + 1, b]))
        return dsums, dsums, h[t, b], arguments["weight_hh"].T @ dsums, dsums

    expected = by_hand(arguments, dy, dh_n, step_back)
    weights = arguments["weight_ih"], arguments["weight_hh"]
    actual = reference.rnn_backward(
        dy, dh_n, arguments["x"], h, *weights, nonlinearity, grad_clip=LIMIT
    )
    assert some_were_limited()
    for (name, gradient), value in zip(expected.items(), actual, strict=True):
        assert_close(value, gradient, 1e-13, name)


def test_limited_gradients_of_a_gru():
    """Those of W's sums and of R's each."""
    arguments, dy, dh_n = recurrent_arguments(3, 4)
    h, gates, recurrent = reference.gru_forward(**arguments)

    def step_back(t, b, dh):
        r, z, n = np.split(gates[t, b], 3)
        dn = dh * (1 - z) * (1 - n * n)
        dr, dz = dn * recurrent[t, b] * r * (1 - r), dh * (h[t, b] - n) * z * (1 - z)
        of_w = limited(np.concatenate([dr, dz, dn]))
        of_r = limited(np.concatenate([dr, dz, dn * r]))
        before = dh * z + arguments["weight_hh"].T @ of_r
        return of_w, of_r, h[t, b], before, np.concatenate([of_w, of_r[10:]])

    expected = by_hand(arguments, dy, dh_n, step_back)
    actual = reference.gru_backward(
        dy, dh_n, arguments["x"], h, gates, recurrent, arguments["weight_ih"],
        arguments["weight_hh"], grad_clip=LIMIT,
    )  # fmt: skip
    assert some_were_limited()
    for (name, gradient), value in zip(expected.items(), actual, strict=True):
        assert_close(value, gradient, 1e-13, name)


def test_limited_gradients_of_a_gru_whose_reset_gate_is_before():
    """What the reset gate gets comes by R from n's sum, which is limited."""
    arguments, dy, dh_n = recurrent_arguments(3, 3)
    h, gates = reference.gru_before_forward(**arguments)
    of_n = arguments["weight_hh"][10:]

    def step_back(t, b, dh):
        r, z, n = np.split(gates[t, b], 3)
        dn = limited(dh * (1 - z) * (1 - n * n))
        dr = limited((of_n.T @ dn) * h[t, b] * r * (1 - r))
        dz = limited(dh * (h[t, b] - n) * z * (1 - z))
        dsums = np.concatenate([dr, dz, dn])
        operands = np.concatenate([np.tile(h[t, b], (10, 1)), np.tile(r * h[t, b], (5, 1))])
        before = dh * z + (of_n.T @ dn) * r + arguments["weight_hh"][:10].T @ dsums[:10]
        return dsums, dsums, operands, before, dsums

    expected = by_hand(arguments, dy, dh_n, step_back)
    actual = reference.gru_before_backward(
        dy, dh_n, arguments["x"], h, gates, arguments["weight_ih"], arguments["weight_hh"],
        grad_clip=LIMIT,
    )  # fmt: skip
    assert some_were_limited()
    for (name, gradient), value in zip(expected.items(), actual, strict=True):
        assert_close(value, gradient, 1e-13, name)
