"""Tests of Activation, judged by the reference and by numerical derivatives."""

import numpy as np
import pytest
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc
from lstmc import reference

# A few roundings of single elements, and sums of 65 terms at most.
TOLERANCE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 2e-15}

WIDTHS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65]

# The function, its options, and those of the reference.
CASES = [
    ("tanh", {}),
    ("relu", {}),
    ("sigmoid", {}),
    ("softmax", {}),
    ("elu", {}),
    ("elu", {"alpha": 0.3}),
    ("elu", {"alpha": 2}),
    ("elu", {"alpha": 0.0}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.2}),
    ("leaky_relu", {"negative_slope": 0}),
]
IDS = ["-".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options in CASES]
NAMES = ("tanh", "relu", "sigmoid", "softmax", "elu", "leaky_relu")

of_each_case = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
of_each_name = pytest.mark.parametrize("name", NAMES)


def draw(dtype, *shapes):
    generator = np.random.default_rng(seed_of("activations", shapes))
    return [(3 * generator.standard_normal(shape)).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("width", WIDTHS)
@of_each_case
def test_values_and_gradients(isa, dtype, name, options, width):
    layer = lstmc.Activation(name, **options)
    x, dy = draw(dtype, (2, 3, width), (2, 3, width))
    given = x.copy()
    y, state, trace = layer.forward(x, "the state")
    exact, gradient = x.astype(np.float64), dy.astype(np.float64)
    assert y.dtype == dtype
    assert_close(y, reference.activation_forward(exact, name, **options), TOLERANCE[dtype], "y")
    kept = y.copy()
    x[...] = y[...] = 99  # both are the caller's: backward reads what forward saved
    dx, dstate = layer.backward(dy, trace, "its gradient")
    expected = reference.activation_backward(gradient, exact, name, **options)
    assert dx.dtype == dtype
    # A derivative of tanh near 1 is a small difference: its error is that of y.
    np.testing.assert_allclose(
        dx, expected, rtol=0, atol=4 * TOLERANCE[dtype] * np.abs(gradient).max()
    )
    assert (state, dstate) == ("the state", "its gradient")
    for again in (layer(given)[0], layer.forward(given, training=False)[0], layer.stepper()(given)):
        assert_same_bits(again, kept)


@of_each_case
def test_derivatives(isa, name, options):
    layer = lstmc.Activation(name, **options)
    x, dy = draw(np.float64, (3, 2, 5), (3, 2, 5))
    assert np.abs(x).min() > 1e-3  # away from the corner
    dx, _ = layer.backward(dy, layer.forward(x)[2])
    assert_close(dx, numerical_gradient(lambda a: np.sum(dy * layer(a)[0]), x), 1e-7)


@pytest.mark.parametrize(
    ("name", "options", "slope"),
    [
        ("relu", {}, 0),
        ("elu", {"alpha": 0.25}, 0.25),
        ("leaky_relu", {"negative_slope": 0.5}, 0.5),
        ("tanh", {}, 1),
        ("sigmoid", {}, 0.25),
    ],
)
def test_derivatives_at_zero(isa, dtype, name, options, slope):
    """Where there is a corner, that of the side below."""
    layer = lstmc.Activation(name, **options)
    x = np.array([0.0, -0.0] * 9, dtype)
    y, _, trace = layer.forward(x)
    assert (y == (0.5 if name == "sigmoid" else 0)).all()
    dx, _ = layer.backward(np.full(18, 4, dtype), trace)
    assert (dx == 4 * slope).all()


def test_values_have_the_bits_of_the_cells(isa, dtype):
    """An RNN with no input to its sums but x, and one weight of 1."""
    (x,) = draw(dtype, (4, 2, 17))
    for name in ("tanh", "relu"):
        rnn = lstmc.RNN(17, 17, nonlinearity=name, dtype=dtype, rng=1)
        rnn.params[...] = 0
        rnn["weight_ih_l0"][...] = np.eye(17)
        assert_same_bits(lstmc.Activation(name)(x)[0], rnn(x)[0] + 0)


def test_elu_near_zero_and_far_below(isa, dtype):
    """exp(x) - 1 keeps its accuracy where x is small, and is -1 where x is large."""
    smallest = -36 if dtype == np.float32 else -300
    x = -(10.0 ** np.linspace(smallest, 1, 501)).astype(dtype)
    y, _, trace = lstmc.Activation("elu").forward(x)
    expected = np.expm1(x.astype(np.longdouble))
    error = np.abs(y - expected) / np.spacing(np.abs(expected).astype(dtype))
    assert (
        error.max() <= 1.3 + 0.01
    )  # as vmath.h has it; the rest is the rounding of what is expected
    far = np.array([-200, -800, -1e30, -np.inf], dtype)
    y, _, trace = lstmc.Activation("elu", alpha=3).forward(far)
    assert (y == -3).all()
    dx, _ = trace.owner.backward(np.ones_like(far), trace)
    assert (dx == 0).all()


@of_each_name
def test_threads_do_not_change_a_bit(isa, dtype, name):
    """Large enough that a second thread is used; flat.h has the threshold."""
    x, dy = draw(dtype, (300, 251), (300, 251))
    layer, results = lstmc.Activation(name), []
    for threads in (1, 2, 3):
        y, _, trace = layer.forward(x, num_threads=threads)
        dx, _ = layer.backward(dy, trace, num_threads=threads)
        results.append((y, dx, layer.stepper(num_threads=threads)(x)))
    assert_same_bits(results[0][0], results[0][2])
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@of_each_name
@pytest.mark.parametrize("place", [0, 8, 16, 20, 32])
def test_nan_reaches_its_own_element(isa, dtype, name, place):
    """Of softmax its own row; forward and backward."""
    x, dy = draw(dtype, (2, 3, 33), (2, 3, 33))
    layer = lstmc.Activation(name)
    hit = np.zeros(x.shape, bool)
    hit[1, 0, slice(None) if name == "softmax" else place] = True
    x_wrong, dy_wrong = x.copy(), dy.copy()
    x_wrong[1, 0, place] = dy_wrong[1, 0, place] = np.nan
    y, _, trace = layer.forward(x_wrong)
    np.testing.assert_array_equal(np.isnan(y), hit)
    assert_same_bits(y[~hit], layer(x)[0][~hit])
    _, _, trace = layer.forward(x)
    dx = layer.backward(dy_wrong, trace)[0]
    if name == "relu" and x[1, 0, place] < 0:
        hit[...] = False  # nothing passes there
    np.testing.assert_array_equal(np.isnan(dx), hit)
    assert_same_bits(dx[~hit], layer.backward(dy, trace)[0][~hit])


def test_infinity(isa, dtype):
    x = np.array([np.inf, -np.inf] * 9, dtype)
    ends = {"tanh": (1, -1), "relu": (np.inf, 0), "sigmoid": (1, 0), "elu": (np.inf, -1),
            "leaky_relu": (np.inf, -np.inf)}  # fmt: skip
    for name, (above, below) in ends.items():
        y = lstmc.Activation(name)(x)[0]
        assert (y[::2] == above).all()
        assert (y[1::2] == below).all()


def test_softmax_of_large_and_small_numbers(isa, dtype):
    x = np.array([[1e4, 0, 1e4], [-1e4, -1e4, -2e4], [3, 3, 3]], dtype)
    shares = lstmc.Activation("softmax")(x)[0]
    assert_close(shares, [[0.5, 0, 0.5], [0.5, 0.5, 0], [1 / 3] * 3], TOLERANCE[dtype])


@of_each_name
def test_denormals_are_flushed(isa, dtype, name):
    """In x and in dy, also where they would be passed on as they are."""
    layer, tiny = lstmc.Activation(name), np.finfo(dtype).tiny
    x = np.array([tiny / 4, -tiny / 4] * 17, dtype)
    assert_same_bits(np.abs(layer(x)[0]), np.abs(layer(0 * x)[0]))
    _, _, trace = layer.forward(np.ones(34, dtype))
    assert (layer.backward(x, trace)[0] == 0).all()


@of_each_name
def test_shapes(dtype, name):
    layer = lstmc.Activation(name)
    shapes = [(5,), (4, 5), (2, 3, 4, 5), (0, 5), (3, 0)] + [()] * (name != "softmax")
    for shape in shapes:
        x = np.full(shape, 0.5, dtype)
        y, _, trace = layer.forward(x)
        dx, _ = layer.backward(np.ones(shape, dtype), trace)
        step = layer.stepper()
        out = np.empty(shape, dtype)
        assert step(x, out=out) is out
        assert y.shape == dx.shape == out.shape == shape
        assert_same_bits(out, y)


@of_each_name
def test_inputs_of_all_kinds(dtype, name):
    """Read-only, strided, unaligned and of the other byte order; none is written."""
    layer = lstmc.Activation(name)
    (x,) = draw(dtype, (6, 10))
    wide = np.repeat(x, 2, axis=1)
    memory = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = memory[1:].view(dtype).reshape(x.shape)
    unaligned[...] = x
    swapped = x.astype(dtype.newbyteorder())
    expected = layer(x)[0]
    x.setflags(write=False)
    for one in (x, wide[:, ::2], unaligned, swapped, np.asfortranarray(x)):
        assert_same_bits(layer(one)[0], expected)
        assert_same_bits(layer.stepper()(one), expected)
        before = one.tobytes()
        _, _, trace = layer.forward(one)
        assert_same_bits(layer.backward(one, trace)[0], layer.backward(x, trace)[0])
        assert one.tobytes() == before
    with pytest.raises(ValueError, match="read-only"):
        trace.y[...] = 0


OPTION = "must be a finite number at least 0, got"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"function": "gelu"}, "function must be one of tanh, relu, .*got 'gelu'"),
        ({"function": None}, "function must be one of"),
        ({"function": np.tanh}, "function must be one of"),
        ({"function": "tanh", "alpha": 1.0}, "alpha must be None, as tanh has none, got 1.0"),
        ({"function": "leaky_relu", "alpha": 1}, "alpha must be None, as leaky_relu has none"),
        (
            {"function": "elu", "negative_slope": 0.1},
            "negative_slope must be None, as elu has none",
        ),
        ({"function": "elu", "alpha": -1}, f"alpha {OPTION} -1"),
        ({"function": "elu", "alpha": "1"}, f"alpha {OPTION} '1'"),
        ({"function": "leaky_relu", "negative_slope": np.inf}, f"negative_slope {OPTION} inf"),
        ({"function": "leaky_relu", "negative_slope": np.nan}, f"negative_slope {OPTION} nan"),
    ],
)
def test_options_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        lstmc.Activation(**arguments)


def test_what_is_refused():
    layer = lstmc.Activation("tanh")
    x = np.zeros((3, 5), np.float32)
    _, _, trace = layer.forward(x)
    for call in (layer.forward, layer.stepper()):
        with pytest.raises(TypeError, match="x must be a float32 or float64 array, got int64"):
            call(np.arange(3))
    with pytest.raises(ValueError, match=r"dy must be \(3, 5\), got \(3, 4\)"):
        layer.backward(x[:, :4], trace)
    with pytest.raises(TypeError, match="dy must be float32, got float64"):
        layer.backward(x.astype(float), trace)
    with pytest.raises(ValueError, match="another Activation"):
        lstmc.Activation("tanh").backward(x, trace)
    with pytest.raises(ValueError, match=r"x must be \(\.\.\., features\), got \(\)"):
        lstmc.Activation("softmax").forward(np.zeros(()))
    step = layer.stepper()
    for out, error, message in [
        (x, ValueError, "must not overlap x"),
        (np.zeros((5, 3), np.float32).T, ValueError, "out must be contiguous"),
        (np.zeros((3, 4), np.float32), ValueError, r"out must be \(3, 5\)"),
        (np.zeros((3, 5)), TypeError, "out must be float32"),
        (np.broadcast_to(np.float32(0), (3, 5)).copy(), None, None),
    ]:
        if error is None:
            out.setflags(write=False)
            error, message = ValueError, "out must be writable"
        with pytest.raises(error, match=message):
            step(x, out=out)


# --------------------------------------------------------------------------------------------------
# What it is, and in a network
# --------------------------------------------------------------------------------------------------


@of_each_case
def test_descriptions(tmp_path, name, options):
    """Options that are those of the function by default are left out."""
    layer = lstmc.Activation(name, **options)
    own = {"alpha": None, "negative_slope": None} | (
        {"alpha": 1.0} if name == "elu" else
        {"negative_slope": 0.01} if name == "leaky_relu" else {}
    ) | options  # fmt: skip
    assert (layer.function, layer.alpha, layer.negative_slope) == (name, *own.values())
    assert layer.description == {"layer": "Activation", "options": {"function": name, **options}}
    layer.save(tmp_path / "a.safetensors")
    for one in (layer.clone(), lstmc.load(tmp_path / "a.safetensors")):
        assert one.description == layer.description
        assert (one.alpha, one.negative_slope) == (layer.alpha, layer.negative_slope)
    assert repr(layer).startswith(f"Activation(function={name!r}{', ' * len(options)}")
    assert layer.num_parameters == 0


def net_of(name, dtype=np.float64, **options):
    return lstmc.Sequential(
        lstmc.LSTM(3, 5, dtype=dtype, rng=1, **options),
        lstmc.Activation(name),
        lstmc.Linear(5 * (2 if options else 1), 4, dtype=dtype, rng=2),
        lstmc.Activation("elu"),
    )


@of_each_name
def test_in_a_network(dtype, name):
    """Derivatives of all weights, and steps equal to the sequence to the bit."""
    net = net_of(name, dtype)
    x, target = draw(dtype, (4, 2, 3), (4, 2, 4))
    y, _, _ = net.forward(x)
    step, out = net.stepper(batch=2), np.empty((2, 4), dtype)
    for t in range(4):
        assert_same_bits(step(x[t], out=out), y[t])
    if dtype == np.float64:
        report = lstmc.check_gradients(net, x, target)
        assert report.passed, report


def test_last_of_two_directions_after_an_activation(dtype):
    """All but softmax keep the features of the two directions apart."""
    (x,) = draw(dtype, (4, 2, 3))
    for name in NAMES:
        layers = [lstmc.LSTM(3, 5, bidirectional=True, dtype=dtype, rng=1), lstmc.Activation(name)]
        if name == "softmax":
            with pytest.raises(ValueError, match="mixes the features"):
                lstmc.Sequential(*layers, lstmc.Last())
            continue
        y = lstmc.Sequential(*layers, lstmc.Last())(x, lengths=[4, 2])[0]
        ends = lstmc.Sequential(
            lstmc.LSTM(3, 5, bidirectional=True, dtype=dtype, rng=1), lstmc.Last()
        )
        assert_same_bits(y, lstmc.Activation(name)(ends(x, lengths=[4, 2])[0])[0])


@of_each_name
def test_padding_does_not_matter(dtype, name):
    net = net_of(name, dtype)
    x, dy = draw(dtype, (4, 2, 3), (4, 2, 4))
    x[2:, 1] = np.nan
    y, _, trace = net.forward(x, lengths=[4, 2])
    dx, _ = net.backward(dy, trace)
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()
    assert not y[2:, 1].any()
    alone, _ = net_of(name, dtype)(x[:2, 1:])
    assert_same_bits(y[:2, 1:], alone)
