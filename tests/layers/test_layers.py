"""Tests of Embedding and Linear, judged by the reference and derivatives; and of what all layers share."""

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc
from lstmc import reference

# Sums of some thousand terms at most: 1e-16 each in float64, 6e-8 in float32.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

WIDTHS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65]


def draw(dtype, *shapes):
    generator = np.random.default_rng(seed_of(shapes))
    return [generator.standard_normal(shape).astype(dtype) for shape in shapes]


def in_float64(*arrays):
    return [array.astype(np.float64) for array in arrays]


# --------------------------------------------------------------------------------------------------
# Linear
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [
        *[((2, 3), WIDTHS[(i + 4) % 11], width) for i, width in enumerate(WIDTHS)],
        *[((rows,), 9, 130) for rows in (1, 2, 3, 4, 5, 7, 13)],
        ((), 5, 9),
        ((2100,), 3, 9),  # several blocks of rows, and of terms in the gradient
        ((7,), 2100, 17),  # several blocks of terms
    ],
    ids=str,
)
def test_linear(isa, dtype, rows, inputs, outputs):
    layer = lstmc.Linear(inputs, outputs, dtype=dtype, rng=1)
    layer["bias"][...], x, dy = draw(dtype, (outputs,), (*rows, inputs), (*rows, outputs))
    y, state, trace = layer.forward(x, "the state")
    dx, dstate = layer.backward(dy, trace, "its gradient")
    exact = in_float64(x, layer["weight"], layer["bias"])
    assert_close(y, reference.linear_forward(*exact), TOLERANCE[dtype], "y")
    expected = reference.linear_backward(*in_float64(dy), *exact[:2])
    actual = [dx, layer.grad("weight"), layer.grad("bias")]
    for name, a, b in zip(("dx", "dweight", "dbias"), actual, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, b, TOLERANCE[dtype], name)
    assert (state, dstate) == ("the state", "its gradient")

    assert_same_bits(layer(x)[0], y)
    assert_same_bits(layer.stepper()(x), y)
    assert layer.backward(dy, trace, need_dx=False) == (None, None)
    for name, b in zip(("weight", "bias"), expected[1:], strict=True):  # they add
        assert_close(layer.grad(name), 2 * b, TOLERANCE[dtype], name)


@pytest.mark.parametrize("sizes", [(200, 33, 130), (3, 700, 700), (200, 130, 9)], ids=str)
def test_threads_of_linear(isa, dtype, sizes):
    """Large enough that a second thread is used; linear.h has the threshold."""
    rows, inputs, outputs = sizes
    x, dy = draw(dtype, (rows, inputs), (rows, outputs))
    results = []
    for threads in (1, 2, 3):
        layer = lstmc.Linear(inputs, outputs, dtype=dtype, rng=1)
        y, _, trace = layer.forward(x, num_threads=threads)
        dx, _ = layer.backward(dy, trace, num_threads=threads)
        step = layer.stepper(num_threads=threads)(x)
        results.append((y, dx, layer.grads, step))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_linear_without_bias(isa, dtype):
    layer = lstmc.Linear(7, 9, bias=False, dtype=dtype, rng=1)
    x, dy = draw(dtype, (5, 7), (5, 9))
    y, _, trace = layer.forward(x)
    layer.backward(dy, trace)
    assert list(layer.parameters()) == ["weight"]
    exact, weight, gradient = in_float64(x, layer["weight"], dy)
    assert_close(y, exact @ weight.T, TOLERANCE[dtype])
    assert_close(layer.grad("weight"), gradient.T @ exact, TOLERANCE[dtype])
    assert_same_bits(layer.stepper()(x), y)


def test_linear_derivatives(isa):
    layer = lstmc.Linear(5, 9, dtype=np.float64, rng=1)
    x, dy = draw(np.float64, (3, 5), (3, 9))
    _, _, trace = layer.forward(x)
    dx, _ = layer.backward(dy, trace)
    assert_close(dx, numerical_gradient(lambda a: np.sum(dy * layer(a)[0]), x), 1e-7)


def test_linear_of_no_rows(dtype):
    layer = lstmc.Linear(5, 9, dtype=dtype)
    y, _, trace = layer.forward(np.empty((0, 3, 5), dtype))
    assert y.shape == (0, 3, 9)
    dx, _ = layer.backward(y, trace)
    assert dx.shape == (0, 3, 5)
    assert not layer.grads.any()


def test_linear_keeps_its_own_x_and_a_stepper_its_own_weights(isa):
    layer = lstmc.Linear(5, 9, rng=1)
    x, dy = draw(np.float32, (3, 5), (3, 9))
    y, _, trace = layer.forward(x)
    stepper = layer.stepper()
    given = x.copy()
    x[...] = 99
    layer.backward(dy, trace)
    assert_close(layer.grad("weight"), dy.T @ given, TOLERANCE[np.dtype(np.float32)])
    for name in ("weight", "bias"):
        layer[name][...] *= 0.5
    assert_same_bits(stepper(given), y)
    stepper.refresh()
    assert_same_bits(stepper(given), y / 2)
    out = np.empty_like(y)
    assert stepper(given, out=out) is out
    assert_same_bits(out, y / 2)
    with pytest.raises(ValueError, match="weights have changed"):
        layer.backward(dy, trace)


def test_what_linear_refuses():
    layer = lstmc.Linear(5, 9)
    x = np.zeros((3, 5), np.float32)
    _, _, trace = layer.forward(x)
    for wrong, error, message in [
        (x[:, :4], ValueError, r"x must be \(3, 5\), got \(3, 4\)"),
        (x.astype(float), TypeError, "x must be float32, got float64"),
        (x.tolist(), TypeError, "x must be a float32 array .*got list"),
        (np.zeros((), np.float32), ValueError, r"x must be \(\.\.\., 5\), got \(\)"),
    ]:
        with pytest.raises(error, match=message):
            layer.forward(wrong)
    with pytest.raises(ValueError, match=r"dy must be \(3, 9\), got \(3, 8\)"):
        layer.backward(np.zeros((3, 8), np.float32), trace)
    with pytest.raises(ValueError, match="another Linear"):
        lstmc.Linear(5, 9).backward(np.zeros((3, 9), np.float32), trace)
    with pytest.raises(ValueError, match="out must be contiguous"):
        layer.stepper()(x, out=np.zeros((9, 3), np.float32).T)
    with pytest.raises(ValueError, match="out must be writable"):
        layer.stepper()(x, out=np.broadcast_to(np.zeros((3, 9), np.float32), (3, 9)))
    assert not layer.grads.any()


@pytest.mark.parametrize("make", [lstmc.Linear, lstmc.Embedding])
@pytest.mark.parametrize("value", [0, -1, True, 2.0, float("nan"), None])
def test_sizes_that_are_refused(make, value):
    for sizes in ((value, 3), (3, value)):
        with pytest.raises((TypeError, ValueError), match="must be a positive integer, got"):
            make(*sizes)
    with pytest.raises((MemoryError, ValueError)):
        make(2**40, 2**40)


# --------------------------------------------------------------------------------------------------
# Embedding
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_embedding(isa, dtype, columns, kind):
    layer = lstmc.Embedding(6, columns, dtype=dtype, rng=1)
    tokens = np.array([[3, 0, 5, 3], [3, 2, 2, 0]], kind)  # some occur often, some never
    (dy,) = draw(dtype, (2, 4, columns))
    y, state, trace = layer.forward(tokens, "the state")
    assert_same_bits(y, reference.embedding_forward(tokens, layer["weight"]))
    tokens_given = tokens.copy()
    tokens[...] = 1
    assert layer.backward(dy, trace, "its gradient") == (None, "its gradient")
    expected = reference.embedding_backward(dy.astype(np.float64), tokens_given, 6)
    assert_close(layer.grad("weight"), expected, TOLERANCE[dtype])
    layer.backward(dy, trace)
    assert_close(layer.grad("weight"), 2 * expected, TOLERANCE[dtype])
    assert state == "the state"


def test_threads_of_embedding(isa, dtype):
    """Large enough that a second thread is used; flat.h has the threshold."""
    generator = np.random.default_rng(seed_of("embedding threads"))
    tokens = generator.integers(50, size=(700,))
    (dy,) = draw(dtype, (700, 101))
    results = []
    for threads in (1, 2, 3):
        layer = lstmc.Embedding(50, 101, dtype=dtype, rng=1)
        _, _, trace = layer.forward(tokens)
        layer.backward(dy, trace, num_threads=threads)
        results.append(layer.grads)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_embedding_takes_a_token_or_none():
    layer = lstmc.Embedding(6, 3, rng=1)
    assert_same_bits(layer(np.array(4))[0], layer["weight"][4])
    assert layer(np.empty((0, 2), np.int64))[0].shape == (0, 2, 3)
    stepper = layer.stepper()
    assert_same_bits(stepper(4), layer["weight"][4])
    out = np.empty((2, 3), np.float32)
    assert stepper(np.array([4, 1]), out=out) is out
    assert_same_bits(out, layer["weight"][[4, 1]])


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (np.array([[0, 1], [2, 6]]), ValueError, r"tokens\[1, 1\] must be in \[0, 6\), got 6"),
        (np.array([0, -1]), ValueError, r"tokens\[1\] must be in \[0, 6\), got -1"),
        (np.array([2**40]), ValueError, r"tokens\[0\] must be in \[0, 6\), got 1099511627776"),
        (np.array(7), ValueError, r"tokens\[\(\)\] must be in \[0, 6\), got 7"),
        (np.array([1.0]), TypeError, "tokens must be an int64 or int32 array, got float64"),
        (np.array([1], np.uint64), TypeError, "tokens must be an int64 or int32.*got uint64"),
        (np.array([True]), TypeError, "tokens must be an int64 or int32 array, got bool"),
        ([1], TypeError, "tokens must be an int64 or int32 array, got list"),
    ],
)
def test_tokens_that_are_refused(tokens, error, message):
    with pytest.raises(error, match=message):
        lstmc.Embedding(6, 3).forward(tokens)


# --------------------------------------------------------------------------------------------------
# Initial values
# --------------------------------------------------------------------------------------------------

MAKERS = {
    "linear": lambda **o: lstmc.Linear(50, 60, **o),
    "embedding": lambda **o: lstmc.Embedding(50, 60, **o),
    **{name: lambda name=name, **o: CELLS[name].make(30, 50, 2, **o) for name in ONE_OF_EACH_KIND},
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_seeds(dtype, make):
    """The same seed gives the same bits, another others, and NumPy's global state is untouched."""
    before = np.random.get_state()
    first, again, other = (make(dtype=dtype, rng=seed).params for seed in (7, 7, 8))
    generator = np.random.default_rng(7)
    shared, following = (make(dtype=dtype, rng=generator).params for _ in range(2))
    unseeded = make(dtype=dtype).params
    lstmc.Dropout().forward(np.ones(3, np.float32))
    assert_same_bits(first, again)
    assert_same_bits(first, shared)
    for different in (other, following, unseeded):
        assert different.tobytes() != first.tobytes()
    after = np.random.get_state()
    assert before[0] == after[0]
    assert_same_bits(after[1], before[1])
    assert before[2:] == after[2:]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_initial_values(make):
    layer = make(rng=1)
    for name in layer.parameters():
        values = layer[name]
        if isinstance(layer, lstmc.Embedding):
            assert abs(values.std() - 1) < 0.1  # of 3000 numbers, to some seven deviations
        else:
            bound = 1 / np.sqrt(50)
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.8 * bound  # of fifty numbers or more
            assert values.min() < 0 < values.max()
    assert not layer.grads.any()


# --------------------------------------------------------------------------------------------------
# What a layer is does not change
# --------------------------------------------------------------------------------------------------


FIXED = {
    "LSTM": lambda: lstmc.LSTM(3, 4),
    "RNN": lambda: lstmc.RNN(3, 4),
    "Linear": lambda: lstmc.Linear(3, 4),
    "Embedding": lambda: lstmc.Embedding(3, 4),
    "Dropout": lambda: lstmc.Dropout(),
    "Activation": lambda: lstmc.Activation("elu"),
    "Sequential": lambda: lstmc.Sequential(lstmc.Linear(3, 4)),
}


@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_sizes_and_options_are_read_only(make):
    """All that options() names, and the type; what can be set has an effect."""
    layer = make()
    names = {"dtype", "device", "params", "grads", "num_parameters"}
    names |= {"layers"} if isinstance(layer, lstmc.Sequential) else set(layer.options()) - {"p"}
    names |= {"cell"} if hasattr(layer, "cell") else set()
    for name in names:
        before = getattr(layer, name)
        with pytest.raises(AttributeError, match="no setter"):
            setattr(layer, name, 7)
        assert np.all(getattr(layer, name) == before)


@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_views_are_fresh(make):
    """Their shape and type are the caller's, their elements the layer's."""
    layer = make()
    for read in (lambda: layer.params, lambda: layer.grads, *views_of(layer)):
        view = read()
        shape, dtype = view.shape, view.dtype
        view.shape, view.dtype = (-1,), np.int32
        assert (read().shape, read().dtype) == (shape, dtype)
        read()[...] = 3
        assert (view.view(dtype) == 3).all()
        view.flags.writeable = False
        read()[...] = 2


def views_of(layer):
    for name in layer.parameters():
        yield lambda name=name: layer[name]
        yield lambda name=name: layer.grad(name)


def test_shapes_of_a_network_are_the_callers():
    net = lstmc.Sequential(lstmc.Linear(3, 4))
    net.parameters().clear()
    assert set(net.parameters()) == {"0.weight", "0.bias"}
