"""Tests of spectra of Jacobians, factors of steps and Lyapunov exponents, and of what these refuse."""

import json
import math

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from jacobian_cases import (
    BATCH,
    CLOSED_TOLERANCE,
    FORMS,
    HIDDEN,
    STEPS,
    TOLERANCE,
    exact_state_jacobian,
    make_case,
    make_layer,
    twin_of,
)
from stacks import as_state, parts_of
from support import assert_close

import lstmc


def doubles(x, state):
    """Return x and a state in float64."""
    return x.astype(np.float64), as_state([part.astype(np.float64) for part in parts_of(state)])


# --------------------------------------------------------------------------------------------------
# Spectra
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_spectrum(dtype, cell, layers):
    """Against the singular values of the Jacobians by differences, at every distance."""
    layer, x, state = make_case(cell, layers, dtype)
    actual = lstmc.jacobian_spectrum(layer, x, 4, [3, 1, 4, 3], state)
    assert (actual.t1, actual.distances) == (4, [1, 3, 4])
    for k, values in zip(actual.distances, actual.singular_values, strict=True):
        jacobian = exact_state_jacobian(layer, x, state, 4 - k, 4)
        exact = np.linalg.svd(jacobian, compute_uv=False)
        assert_close(values, exact, TOLERANCE[dtype], f"distance {k}")
        assert np.all(np.diff(values, axis=1) <= 0)
    logs = np.log(actual.singular_values[:, :, 0])
    assert_close(actual.largest, np.exp(logs.mean(1)), 1e-12)
    assert abs(actual.rate - (logs[-1] - logs[0]).mean() / 3) <= 1e-12


@pytest.mark.parametrize(("steps", "expected"), [(1, [1]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])])
def test_distances_unless_given(steps, expected):
    layer, x, _ = make_case("rnn_tanh", steps=steps)
    actual = lstmc.jacobian_spectrum(layer, x)
    assert (actual.t1, actual.distances) == (steps, expected)
    assert actual.singular_values.shape == (len(expected), BATCH, HIDDEN)


def test_the_spectrum_of_a_scaled_rotation(dtype):
    """All singular values are the scale to the power of the distance."""
    layer, x, _ = make_case("rnn_identity", 1, dtype)
    q = np.linalg.qr(np.random.default_rng(2).standard_normal((HIDDEN, HIDDEN)))[0]
    layer["weight_hh_l0"][...] = 0.5 * q
    spectrum = lstmc.jacobian_spectrum(layer, x, distances=range(1, STEPS + 1))
    exact = [[[0.5**k] * HIDDEN] * BATCH for k in range(1, STEPS + 1)]
    # Each value to its own size: the smallest are no less exact than the largest.
    assert np.abs(spectrum.singular_values / exact - 1).max() < CLOSED_TOLERANCE[dtype]
    assert abs(spectrum.rate - math.log(0.5)) < CLOSED_TOLERANCE[dtype]


def test_a_spectrum_without_distance_or_gradient():
    """One distance has no rate; where nothing is left at all, it is minus infinity."""
    layer, x, _ = make_case("rnn_identity")
    assert math.isnan(lstmc.jacobian_spectrum(layer, x, distances=[3]).rate)
    layer["weight_hh_l0"][...] = 0
    spectrum = lstmc.jacobian_spectrum(layer, x)
    assert spectrum.rate == -math.inf
    assert not spectrum.largest.any()
    assert json.loads(json.dumps(spectrum.to_dict(), allow_nan=False))["rate"] is None


@pytest.mark.parametrize("form", ["time first", "unbatched"])
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_a_spectrum_in_words_and_numbers(cell, form):
    layer, x, state = make_case(cell, 2, form=form)
    spectrum = lstmc.jacobian_spectrum(layer, x, state=state)
    rows = 1 if form == "unbatched" else BATCH
    size = HIDDEN * 2 * len(CELLS[cell].states)
    numbers = json.loads(json.dumps(spectrum.to_dict(), allow_nan=False))
    assert np.shape(numbers["singular_values"]) == (4, rows, size)
    assert numbers["singular_values"] == spectrum.singular_values.tolist()
    assert (numbers["t1"], numbers["distances"]) == (STEPS, [1, 2, 4, 5])
    assert numbers["rate"] == spectrum.rate
    for written, factors in zip(numbers["factors"], spectrum.factors, strict=True):
        assert written["spectral_norm"] == factors["spectral_norm"]
        assert written["spectral_radius"] == factors["spectral_radius"]
        derivatives = {name: a.tolist() for name, a in factors["derivatives"].items()}
        assert written["derivatives"] == derivatives
    text = str(spectrum)
    assert text.startswith(f"singular values of d s_{STEPS} / d s_({STEPS}-k)")
    assert f"{spectrum.singular_values[0].max():9.3e}" in text
    least = spectrum.precision * spectrum.singular_values[-1].max()
    smallest = spectrum.singular_values[-1].min()
    assert spectrum.precision == np.finfo(layer.dtype).eps
    assert (f"{smallest:9.3e}" if smallest >= least else f"< {least:.1e}") in text
    assert all(f"{name} {norm:.3g}" in text for f in spectrum.factors
               for name, norm in f["spectral_norm"].items())  # fmt: skip


# --------------------------------------------------------------------------------------------------
# The factors of a step
# --------------------------------------------------------------------------------------------------


def quantiles(derivative):
    """Of each step, over rows and units."""
    flat = derivative.reshape(len(derivative), -1)
    return np.array([np.percentile(step, [5, 25, 50, 75, 95]) for step in flat])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_step_factors(cell, form):
    layer, x, state = make_case(cell, 2, form=form)
    _, _, trace = layer.forward(x, state)
    actual = lstmc.step_factors(layer, trace)
    assert len(actual) == 2
    cell = CELLS[cell]
    for k, factors in enumerate(actual):
        blocks = np.split(layer[f"weight_hh_l{k}"], len(cell.gates))
        assert tuple(factors["spectral_norm"]) == cell.gates
        for name, block in zip(cell.gates, blocks, strict=True):
            # The root of the largest eigenvalue of R'R.
            norm = math.sqrt(np.linalg.eigvalsh(block.T @ block)[-1])
            assert abs(factors["spectral_norm"][name] - norm) <= 1e-12 * norm
        layer_trace = trace.layers[k]
        if len(blocks) > 1:
            assert factors["spectral_radius"] is None
        else:
            radius = np.abs(np.roots(np.poly(blocks[0]))).max()
            # The roots of a polynomial of degree 4 are good to some 1e-12.
            assert abs(factors["spectral_radius"] - radius) <= 1e-9
        exact = cell.factors(layer_trace.h, layer_trace.c, layer_trace.gates)
        assert set(factors["derivatives"]) == set(exact)
        for name, derivative in exact.items():
            # 1 / cosh(arctanh(h))^2 loses the digits that 1 - h^2 keeps where h is near 1.
            assert_close(factors["derivatives"][name], quantiles(derivative), 1e-6, name)


# --------------------------------------------------------------------------------------------------
# Lyapunov exponents
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 4, 10, 1000])
def test_exponents_of_a_scaled_rotation(dtype, every):
    """All of them are the logarithm of the scale, after any number of steps."""
    layer, x, _ = make_case("rnn_identity", 1, dtype, steps=23)
    q = np.linalg.qr(np.random.default_rng(2).standard_normal((HIDDEN, HIDDEN)))[0]
    layer["weight_hh_l0"][...] = 0.9 * q
    actual = lstmc.lyapunov_exponents(layer, x, every=every)
    assert actual.dtype == np.float64
    assert_close(actual, np.full((BATCH, HIDDEN), math.log(0.9)), CLOSED_TOLERANCE[dtype])


@pytest.mark.parametrize("count", [None, 1, 3])
def test_exponents_of_a_normal_matrix(dtype, count):
    """The logarithms of its eigenvalues' sizes, two of which are equal: a complex pair.

    Over T steps they are wrong by 1/T times the logarithm of how much of a random first direction
    points along an eigenvector: 0.01 is the least here, and log 0.01 is -4.6.
    """
    steps = 600
    layer, x, state = make_case("rnn_identity", 1, dtype, steps=steps)
    rng = np.random.default_rng(3)
    q = np.linalg.qr(rng.standard_normal((HIDDEN, HIDDEN)))[0]
    c, s = math.cos(0.7), math.sin(0.7)
    blocks = np.diag([1.05, 0.0, 0.0, 0.3])
    blocks[1:3, 1:3] = 0.8 * np.array([[c, -s], [s, c]])
    layer["weight_hh_l0"][...] = q @ blocks @ q.T
    actual = lstmc.lyapunov_exponents(layer, 0 * x, state, count=count)
    exact = np.log([1.05, 0.8, 0.8, 0.3])[:count]
    assert actual.shape == (BATCH, len(exact))
    assert np.abs(actual - exact).max() < 5 / steps


@pytest.mark.parametrize("form", ["time first", "unbatched"])
@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("lstm", 2), ("rnn_tanh", 2)])
def test_exponents_sum_to_the_volume(cell, layers, form):
    """To the mean of log |det J| of the steps, which are by differences here."""
    layer, x, state = make_case(cell, layers, form=form)
    actual = lstmc.lyapunov_exponents(layer, x, state, every=2)
    jacobians_ = [exact_state_jacobian(layer, x, state, t, t + 1, form) for t in range(STEPS)]
    volumes = np.array([np.linalg.slogdet(j)[1] for j in jacobians_]).mean(0)
    exact = volumes[0] if form == "unbatched" else volumes
    # A determinant is off by as much as the smallest of the differences' singular values is.
    assert_close(actual.sum(-1), exact, 1e-6)
    assert np.all(np.diff(actual, axis=-1) <= 0)


@pytest.mark.parametrize("every", [1, 2])
def test_small_exponents_of_a_longer_sequence(dtype, every):
    """All that an orthogonalisation every few steps should keep of exponents that are nats apart."""
    layer, x, state = make_case("lstm", 1, dtype, steps=40)
    exact = lstmc.lyapunov_exponents(twin_of(layer), *doubles(x, state), every=1)
    actual = lstmc.lyapunov_exponents(layer, x, state, every=every)
    jacobians_ = [exact_state_jacobian(layer, x, state, t, t + 1) for t in range(40)]
    volume = np.array([np.linalg.slogdet(j)[1] for j in jacobians_]).mean(0)
    # The largest and the smallest are 5 nats a step apart: of every step between two
    # orthogonalisations, rounding grows by exp(5).
    tolerance = np.finfo(dtype).eps * math.exp(5 * every)
    assert_close(actual, exact, tolerance)
    assert_close(actual.sum(1), volume, max(tolerance, 1e-6))


def test_directions_that_are_lost():
    """Minus infinity, and no warning."""
    layer, x, _ = make_case("rnn_relu")
    layer["bias_l0"][...] = -100
    actual = lstmc.lyapunov_exponents(layer, x)
    assert actual.shape == (BATCH, HIDDEN)
    assert np.all(actual == -math.inf)


# --------------------------------------------------------------------------------------------------
# Beyond all numbers
# --------------------------------------------------------------------------------------------------


def tripling(steps, dtype=np.float32):
    """Return an RNN whose state is zero throughout and triples every change of it, and its input."""
    layer = lstmc.RNN(1, 2, dtype=dtype, rng=0)
    layer["weight_hh_l0"][...], layer["bias_l0"][...] = 3 * np.eye(2), 0
    return layer, np.zeros((steps, 2, 1), dtype)


@pytest.mark.parametrize("steps", [81, 82, 400])
def test_a_spectrum_outgrows_the_type_of_the_layer(dtype, steps):
    """3^81 is more than float32 holds: the Jacobian is scaled on the way."""
    layer, x = tripling(steps, dtype)
    spectrum = lstmc.jacobian_spectrum(layer, x)
    exact = [3.0**k for k in spectrum.distances]
    # As the power is of 3 rounded once a step.
    assert np.abs(spectrum.singular_values / np.array(exact)[:, None, None] - 1).max() < 1e-4
    assert abs(spectrum.rate - math.log(3)) < 1e-6
    for every in (1, 1000):
        exponents = lstmc.lyapunov_exponents(layer, x, every=every)
        assert np.abs(exponents - math.log(3)).max() < 1e-6


def test_a_spectrum_beyond_all_numbers():
    layer, x = tripling(700)
    spectrum = lstmc.jacobian_spectrum(layer, x)
    assert spectrum.distances[-2:] == [512, 700]
    assert np.isinf(spectrum.singular_values[-1]).all()
    assert np.isfinite(spectrum.singular_values[:-1]).all()
    assert spectrum.rate == spectrum.largest[-1] == math.inf
    assert "beyond all numbers from k = 700 on" in str(spectrum)
    numbers = json.loads(json.dumps(spectrum.to_dict(), allow_nan=False))
    assert numbers["rate"] is None
    assert numbers["singular_values"][-1] == [[None] * 2] * 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["x", "weight_hh_l0", "state"])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_finite_fails_nothing(cell, where, value):
    """Nor does it reach other rows of the batch."""
    layer, x, state = make_case(cell)
    before = lstmc.jacobian_spectrum(layer, x, state=state)
    (x if where == "x" else layer[where] if where in layer.parameters() else parts_of(state)[-1])[
        0, 0
    ] = value
    spectrum = lstmc.jacobian_spectrum(layer, x, state=state)
    exponents = lstmc.lyapunov_exponents(layer, x, state)
    assert not np.isnan(spectrum.singular_values).any()
    assert not np.isnan(exponents).any()
    if where != "weight_hh_l0":
        assert_close(spectrum.singular_values[:, 1], before.singular_values[:, 1], 1e-12)
        assert (exponents[1] < math.inf).all()
    else:
        assert math.inf in spectrum.factors[0]["spectral_norm"].values()
        assert spectrum.factors[0]["spectral_radius"] in (None, math.inf)
    if CELLS[cell].saturates and where == "weight_hh_l0":
        assert np.isinf(spectrum.singular_values).all()
        assert "beyond all numbers from k = 1 on" in str(spectrum)
    assert len(str(spectrum)) > 100
    json.dumps(spectrum.to_dict(), allow_nan=False)


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------

FUNCTIONS = [
    lstmc.state_jacobian,
    lstmc.input_jacobian,
    lstmc.jacobian_spectrum,
    lstmc.lyapunov_exponents,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_errors_of_every_function(function):
    layer, x, state = make_case("lstm")
    _, _, trace = layer.forward(x, state)
    net = lstmc.Sequential(make_layer("lstm"))
    with pytest.raises(
        TypeError, match="layer must be a recurrent layer, got Sequential: of a net"
    ):
        function(net, x)
    with pytest.raises(ValueError, match="x must be given, or the trace of a forward call"):
        function(layer)
    with pytest.raises(ValueError, match="trace holds what forward saw: x, state, lengths"):
        function(layer, x, trace=trace)
    with pytest.raises(ValueError, match="trace holds what forward saw: x, state, lengths"):
        function(layer, state=state, trace=trace)
    with pytest.raises(ValueError, match=r"trace must come from this layer's forward\(\)"):
        function(make_layer("lstm"), trace=trace)
    with pytest.raises(TypeError, match="trace must come from forward"):
        function(layer, trace=x)
    with pytest.raises(TypeError, match="x must be float64, got float32"):
        function(layer, x.astype(np.float32))
    with pytest.raises(TypeError, match=r"state must be None or the tuple \(h, c\)"):
        function(layer, x, state=state[0])
    with pytest.raises(ValueError, match=r"step|t0 and t1"):
        function(layer, x[:0])
    layer.backward(np.ones((STEPS, BATCH, HIDDEN)), trace, consume=True)
    with pytest.raises(ValueError, match="trace was consumed by an earlier backward"):
        function(layer, trace=trace)
    _, _, trace = layer.forward(x, state)
    layer["bias_l0"][0] += 1
    with pytest.raises(ValueError, match="the weights have changed since forward"):
        function(layer, trace=trace)


@pytest.mark.parametrize(
    "span", [(2, 2), (3, 2), (-1, 2), (0, 6), (0, 0), (5, None), (0.0, 2), (0, True), ("0", 1)]
)
def test_spans_that_are_none(span):
    layer, x, _ = make_case("rnn_tanh")
    with pytest.raises(ValueError, match="t0 and t1 must be states with 0 <= t0 < t1 <= 5, got"):
        lstmc.state_jacobian(layer, x, *span)


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        (lstmc.input_jacobian, {"t": 5}, ValueError, r"t must be a step in \[0, 5\), got 5"),
        (lstmc.input_jacobian, {"t": -1}, ValueError, "got -1"),
        (lstmc.input_jacobian, {"t": 1.0}, ValueError, "got 1.0"),
        (lstmc.jacobian_spectrum, {"t1": 6}, ValueError, "0 <= t0 < t1 <= 5"),
        (lstmc.jacobian_spectrum, {"t1": 0}, ValueError, "0 <= t0 < t1 <= 5"),
        (lstmc.jacobian_spectrum, {"distances": [1, 6]}, ValueError, r"distances must be in \[1, 5\], got 6"),
        (lstmc.jacobian_spectrum, {"t1": 3, "distances": [4]}, ValueError, r"in \[1, 3\], got 4"),
        (lstmc.jacobian_spectrum, {"distances": [0]}, ValueError, "got 0"),
        (lstmc.jacobian_spectrum, {"distances": [1.5]}, ValueError, "got 1.5"),
        (lstmc.lyapunov_exponents, {"count": 5}, ValueError, "count must be at most 4, .* got 5"),
        (lstmc.lyapunov_exponents, {"count": 0}, ValueError, "count must be a positive integer"),
        (lstmc.lyapunov_exponents, {"every": 0}, ValueError, "every must be a positive integer"),
        (lstmc.lyapunov_exponents, {"every": 2.0}, TypeError, "every must be a positive integer"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)  # fmt: skip
def test_errors_of_numbers(function, options, error, message):
    layer, x, _ = make_case("rnn_tanh")
    with pytest.raises(error, match=message):
        function(layer, x, **options)


def test_errors_of_step_factors():
    layer, x, _ = make_case("rnn_tanh")
    _, _, trace = layer.forward(x)
    with pytest.raises(TypeError, match="layer must be a recurrent layer, got Linear"):
        lstmc.step_factors(lstmc.Linear(2, 3), trace)
    with pytest.raises(ValueError, match="trace must come from this layer's forward"):
        lstmc.step_factors(make_layer("rnn_tanh"), trace)


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3)])
def test_factors_of_nothing_are_refused(shape):
    layer = lstmc.LSTM(3, 4, rng=0)
    trace = layer.forward(np.ones(shape, np.float32))[2]
    with pytest.raises(ValueError, match="x must have at least one step and one row"):
        lstmc.step_factors(layer, trace)
    if not shape[0]:
        with pytest.raises(ValueError, match="x must have at least one step"):
            lstmc.input_jacobian(layer, trace=trace)


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_of_rows_without_a_step_the_state_stays(cell):
    """Its change is passed on as it is, and no activation multiplies it."""
    layer, x, state = make_case(cell)
    actual = lstmc.jacobian_spectrum(layer, x, state=state, lengths=np.zeros(x.shape[1], int))
    assert np.all(actual.singular_values == 1)
    lines = str(actual).splitlines()
    assert lines[-1] == "  median of the factors of a step: no row has a step"
    assert all(np.isnan(q).all() for q in actual.factors[0]["derivatives"].values())
