"""Tests of Jacobians of states over time, their singular values, Lyapunov exponents and step factors.

The judges are central differences of a layer's own forward, run from a state that is moved, and closed
forms: powers of the recurrent weights where the network is linear, products of the forget gates where
nothing recurs, the eigenvalues of a normal matrix.
"""

import json
import math

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND, cell_of
from stacks import as_state, draw_state, parts_of, seed_of
from support import assert_close, assert_same_bits

import lstmc
from lstmc.inspection import jacobians

# Central differences at 1e-5 in float64 are good to 1e-10 where the numbers are of the order of 1, as
# here. A float32 layer is compared with those of its twin in float64: it rounds at 6e-8, some tens of
# times.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-8}
# Both sides round at the layer's own type.
CLOSED_TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

STEPS, BATCH, FEATURES, HIDDEN = 5, 2, 3, 4
FORMS = ["time first", "batch first", "unbatched"]


def make_layer(cell, layers=1, dtype=np.float64, hidden=HIDDEN, features=FEATURES, **options):
    options = {"num_layers": layers, "dtype": dtype, "rng": 1, **options}
    return CELLS[cell].make(features, hidden, **options)


def make_case(cell, layers=1, dtype=np.float64, form="time first", steps=STEPS):
    """Return a layer with weights as large as make a difference, what it reads and its state."""
    rng = np.random.default_rng(seed_of(cell, layers, form, steps))
    layer = make_layer(cell, layers, dtype, batch_first=form == "batch first")
    layer.params[...] *= 1.5
    order = {"time first": (steps, BATCH), "batch first": (BATCH, steps), "unbatched": (steps,)}
    rows = () if form == "unbatched" else (BATCH,)
    x = rng.standard_normal((*order[form], FEATURES)).astype(dtype)
    return layer, x, draw_state(layer, rows, rng)


# --------------------------------------------------------------------------------------------------
# The judge
# --------------------------------------------------------------------------------------------------


def twin_of(layer):
    """Return a layer of the same weights: float64, time first."""
    cell = cell_of(layer)
    twin = make_layer(cell.name, layer.num_layers, np.float64, layer.hidden_size, layer.input_size)
    for name in layer.parameters():
        twin[name][...] = layer[name]
    return twin


def in_rows(x, state, form):
    """Give x as (T, B, I) and the state as parts of (L, B, H), in float64."""
    x = x.swapaxes(0, 1) if form == "batch first" else x
    parts = parts_of(state)
    if form == "unbatched":
        x, parts = x[:, None], [part[:, None] for part in parts]
    return x.astype(np.float64), [part.astype(np.float64) for part in parts]


def doubles(x, state):
    """Give x and a state in float64."""
    return x.astype(np.float64), as_state([part.astype(np.float64) for part in parts_of(state)])


def as_vector(parts):
    """Write parts (L, B, H) as rows (B, S): h of all layers, then c of all."""
    return np.concatenate([part.swapaxes(0, 1).reshape(part.shape[1], -1) for part in parts], 1)


def as_parts(vectors, like):
    """The way back."""
    pieces = np.split(vectors, len(like), axis=1)
    return [v.reshape(len(v), len(a), -1).swapaxes(0, 1) for v, a in zip(pieces, like, strict=True)]


def differences(f, start, eps=1e-5):
    """Differentiate f (B, S) -> (B, R), whose rows are apart, by central differences: (B, R, S)."""
    columns = []
    for j in range(start.shape[1]):
        above, below = start.copy(), start.copy()
        above[:, j] += eps
        below[:, j] -= eps
        columns.append((f(above) - f(below)) / (above[:, j] - below[:, j])[:, None])
    return np.stack(columns, axis=2)


def exact_state_jacobian(layer, x, state, t0, t1, form="time first"):
    """Move the state after t0 steps and run on to t1: (B, S, S)."""
    layer = twin_of(layer)
    x, parts = in_rows(x, state, form)
    if t0:
        parts = parts_of(layer(x[:t0], as_state(parts))[1])

    def later(vectors):
        return as_vector(parts_of(layer(x[t0:t1], as_state(as_parts(vectors, parts)))[1]))

    return differences(later, as_vector(parts))


def exact_input_jacobian(layer, x, state, t, form="time first"):
    """Move x at each step up to t: (t+1, B, H, I)."""
    layer = twin_of(layer)
    x, parts = in_rows(x, state, form)
    found = []
    for s in range(t + 1):

        def output(x_s, s=s):
            moved = np.concatenate([x[:s], x_s[None], x[s + 1 : t + 1]])
            return layer(moved, as_state(parts))[0][t]

        found.append(differences(output, x[s]))
    return np.array(found)


# --------------------------------------------------------------------------------------------------
# Jacobians
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [(), (0, 1), (1, 3), (2, 5), (4, None)], ids=str)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_state_jacobian(isa, dtype, cell, layers, span):
    layer, x, state = make_case(cell, layers, dtype)
    found = lstmc.state_jacobian(layer, x, *span, state=state)
    assert found.dtype == dtype
    t0, t1 = span or (0, STEPS)
    exact = exact_state_jacobian(layer, x, state, t0, t1 or STEPS)
    assert_close(found, exact, TOLERANCE[dtype])
    _, _, trace = layer.forward(x, state)
    assert_same_bits(lstmc.state_jacobian(layer, None, *span, trace=trace), found)


@pytest.mark.parametrize("t", [None, 0, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_input_jacobian(isa, dtype, cell, layers, t):
    layer, x, state = make_case(cell, layers, dtype)
    found = lstmc.input_jacobian(layer, x, t, state)
    assert found.dtype == dtype
    last = STEPS - 1 if t is None else t
    assert_close(found, exact_input_jacobian(layer, x, state, last), TOLERANCE[dtype])
    _, _, trace = layer.forward(x, state)
    assert_same_bits(lstmc.input_jacobian(layer, t=t, trace=trace), found)


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_forms_of_a_sequence(cell, form):
    """A Jacobian has a first axis for the rows of a batch, in any form, and none without a batch."""
    layer, x, state = make_case(cell, 2, form=form)
    exact = exact_state_jacobian(layer, x, state, 1, 4, form)
    exact_input = exact_input_jacobian(layer, x, state, 3, form)
    if form == "unbatched":
        exact, exact_input = exact[0], exact_input[:, 0]
    assert_close(lstmc.state_jacobian(layer, x, 1, 4, state), exact, 1e-8)
    assert_close(lstmc.input_jacobian(layer, x, 3, state), exact_input, 1e-8)


def test_states_are_zeros_unless_given():
    layer, x, state = make_case("lstm", 2)
    zeros = tuple(np.zeros_like(part) for part in state)
    assert_same_bits(lstmc.state_jacobian(layer, x), lstmc.state_jacobian(layer, x, state=zeros))
    assert np.any(lstmc.state_jacobian(layer, x) != lstmc.state_jacobian(layer, x, state=state))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_linear_network(dtype, steps):
    """d h_T / d h_0 is R to the power T, and d y_t / d x_s is R^(t-s) W."""
    layer, x, state = make_case("rnn_identity", 1, dtype, steps=steps)
    r = layer["weight_hh_l0"].astype(np.float64)
    exact = np.linalg.matrix_power(r, steps)
    tolerance = CLOSED_TOLERANCE[dtype]
    assert_close(lstmc.state_jacobian(layer, x, state=state), np.stack([exact] * BATCH), tolerance)
    w = layer["weight_ih_l0"].astype(np.float64)
    exact = [np.stack([np.linalg.matrix_power(r, steps - 1 - s) @ w] * BATCH) for s in range(steps)]
    assert_close(lstmc.input_jacobian(layer, x, state=state), np.array(exact), tolerance)


def test_an_lstm_that_does_not_recur(dtype):
    """Without recurrent weights c is multiplied by the forget gates, and h sees only the last c."""
    layer, x, state = make_case("lstm", 1, dtype)
    layer["weight_hh_l0"][...] = 0
    _, _, trace = layer.forward(x, state)
    kept = trace.layers[0]
    forget = kept.gates["f"].astype(np.float64).prod(0)
    passed = kept.gates["o"][-1] * (1 - np.tanh(kept.c[-1].astype(np.float64)) ** 2)
    exact = np.zeros((BATCH, 2 * HIDDEN, 2 * HIDDEN))
    for unit in range(HIDDEN):
        exact[:, HIDDEN + unit, HIDDEN + unit] = forget[:, unit]
        exact[:, unit, HIDDEN + unit] = (passed * forget)[:, unit]
    assert_close(lstmc.state_jacobian(layer, trace=trace), exact, CLOSED_TOLERANCE[dtype])


@pytest.mark.parametrize("sweep_bytes", [1, 300])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_sweeps_in_pieces(monkeypatch, dtype, cell, layers, sweep_bytes):
    """Cut in time and in rows of the Jacobian, they differ by rounding at most."""
    layer, x, state = make_case(cell, layers, dtype, steps=7)

    def results():
        spectrum = lstmc.jacobian_spectrum(layer, x, state=state)
        return (
            lstmc.state_jacobian(layer, x, 1, 7, state),
            lstmc.input_jacobian(layer, x, state=state),
            spectrum.singular_values,
        )

    whole, calls, carry = results(), [], type(layer)._carry_back

    def counted(self, *args, **options):
        calls.append(args)
        return carry(self, *args, **options)

    monkeypatch.setattr(type(layer), "_carry_back", counted)
    results()
    before = len(calls)
    monkeypatch.setattr(jacobians, "SWEEP_BYTES", sweep_bytes)
    for found, wanted in zip(results(), whole, strict=True):
        assert_close(found, wanted, CLOSED_TOLERANCE[dtype])
    assert len(calls) - before > before  # they were cut indeed


def test_threads_change_no_bit(dtype):
    rng = np.random.default_rng(seed_of("threads"))
    layer = make_layer("lstm", 2, dtype, hidden=24)
    x = rng.standard_normal((9, 3, FEATURES)).astype(dtype)
    for f in (lstmc.state_jacobian, lstmc.input_jacobian, lstmc.lyapunov_exponents):
        assert_same_bits(f(layer, x, num_threads=2), f(layer, x, num_threads=1))


def test_the_layer_is_left_as_it_was():
    layer, x, state = make_case("lstm", 2)
    layer.grads[...] = 3
    _, _, trace = layer.forward(x, state)
    kept = [*(a for one in trace.layers for a in (one.h, one.c, *one.gates.values())), trace.x]
    arrays = [layer.params, layer.grads, x, *state, *kept]
    before = [a.copy() for a in arrays]
    lstmc.state_jacobian(layer, trace=trace)
    lstmc.input_jacobian(layer, x, state=state)
    lstmc.jacobian_spectrum(layer, trace=trace).to_dict()
    lstmc.lyapunov_exponents(layer, x, state)
    assert_same_bits(arrays, before)


# --------------------------------------------------------------------------------------------------
# Spectra
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_spectrum(dtype, cell, layers):
    """Against the singular values of the Jacobians by differences, at every distance."""
    layer, x, state = make_case(cell, layers, dtype)
    found = lstmc.jacobian_spectrum(layer, x, 4, [3, 1, 4, 3], state)
    assert (found.t1, found.distances) == (4, [1, 3, 4])
    for k, values in zip(found.distances, found.singular_values, strict=True):
        jacobian = exact_state_jacobian(layer, x, state, 4 - k, 4)
        exact = np.linalg.svd(jacobian, compute_uv=False)
        assert_close(values, exact, TOLERANCE[dtype], f"distance {k}")
        assert np.all(np.diff(values, axis=1) <= 0)
    logs = np.log(found.singular_values[:, :, 0])
    assert_close(found.largest, np.exp(logs.mean(1)), 1e-12)
    assert abs(found.rate - (logs[-1] - logs[0]).mean() / 3) <= 1e-12


@pytest.mark.parametrize(("steps", "wanted"), [(1, [1]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])])
def test_distances_unless_given(steps, wanted):
    layer, x, _ = make_case("rnn_tanh", steps=steps)
    found = lstmc.jacobian_spectrum(layer, x)
    assert (found.t1, found.distances) == (steps, wanted)
    assert found.singular_values.shape == (len(wanted), BATCH, HIDDEN)


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
        kept = {name: a.tolist() for name, a in factors["derivatives"].items()}
        assert written["derivatives"] == kept
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
    found = lstmc.step_factors(layer, trace)
    assert len(found) == 2
    cell = CELLS[cell]
    for k, factors in enumerate(found):
        blocks = np.split(layer[f"weight_hh_l{k}"], len(cell.gates))
        assert tuple(factors["spectral_norm"]) == cell.gates
        for name, block in zip(cell.gates, blocks, strict=True):
            # The root of the largest eigenvalue of R'R.
            norm = math.sqrt(np.linalg.eigvalsh(block.T @ block)[-1])
            assert abs(factors["spectral_norm"][name] - norm) <= 1e-12 * norm
        kept = trace.layers[k]
        if len(blocks) > 1:
            assert factors["spectral_radius"] is None
        else:
            radius = np.abs(np.roots(np.poly(blocks[0]))).max()
            # The roots of a polynomial of degree 4 are good to some 1e-12.
            assert abs(factors["spectral_radius"] - radius) <= 1e-9
        exact = cell.factors(kept.h, kept.c, kept.gates)
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
    found = lstmc.lyapunov_exponents(layer, x, every=every)
    assert found.dtype == np.float64
    assert_close(found, np.full((BATCH, HIDDEN), math.log(0.9)), CLOSED_TOLERANCE[dtype])


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
    found = lstmc.lyapunov_exponents(layer, 0 * x, state, count=count)
    exact = np.log([1.05, 0.8, 0.8, 0.3])[:count]
    assert found.shape == (BATCH, len(exact))
    assert np.abs(found - exact).max() < 5 / steps


@pytest.mark.parametrize("form", ["time first", "unbatched"])
@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("lstm", 2), ("rnn_tanh", 2)])
def test_exponents_sum_to_the_volume(cell, layers, form):
    """To the mean of log |det J| of the steps, which are by differences here."""
    layer, x, state = make_case(cell, layers, form=form)
    found = lstmc.lyapunov_exponents(layer, x, state, every=2)
    jacobians_ = [exact_state_jacobian(layer, x, state, t, t + 1, form) for t in range(STEPS)]
    volumes = np.array([np.linalg.slogdet(j)[1] for j in jacobians_]).mean(0)
    exact = volumes[0] if form == "unbatched" else volumes
    # A determinant is off by as much as the smallest of the differences' singular values is.
    assert_close(found.sum(-1), exact, 1e-6)
    assert np.all(np.diff(found, axis=-1) <= 0)


@pytest.mark.parametrize("every", [1, 2])
def test_small_exponents_of_a_longer_sequence(dtype, every):
    """All that an orthogonalisation every few steps should keep of exponents that are nats apart."""
    layer, x, state = make_case("lstm", 1, dtype, steps=40)
    exact = lstmc.lyapunov_exponents(twin_of(layer), *doubles(x, state), every=1)
    found = lstmc.lyapunov_exponents(layer, x, state, every=every)
    jacobians_ = [exact_state_jacobian(layer, x, state, t, t + 1) for t in range(40)]
    volume = np.array([np.linalg.slogdet(j)[1] for j in jacobians_]).mean(0)
    # The largest and the smallest are 5 nats a step apart: of every step between two
    # orthogonalisations, rounding grows by exp(5).
    tolerance = np.finfo(dtype).eps * math.exp(5 * every)
    assert_close(found, exact, tolerance)
    assert_close(found.sum(1), volume, max(tolerance, 1e-6))


def test_directions_that_are_lost():
    """Minus infinity, and no warning."""
    layer, x, _ = make_case("rnn_relu")
    layer["bias_l0"][...] = -100
    found = lstmc.lyapunov_exponents(layer, x)
    assert found.shape == (BATCH, HIDDEN)
    assert np.all(found == -math.inf)


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------

FUNCTIONS = [
    lstmc.state_jacobian,
    lstmc.input_jacobian,
    lstmc.jacobian_spectrum,
    lstmc.lyapunov_exponents,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_errors_of_every_function(function):
    layer, x, state = make_case("lstm")
    _, _, trace = layer.forward(x, state)
    net = lstmc.Sequential(make_layer("lstm"))
    with pytest.raises(
        TypeError, match="layer must be an LSTM or an RNN, got Sequential: of a net"
    ):
        function(net, x)
    with pytest.raises(ValueError, match="x must be given, or the trace of a forward call"):
        function(layer)
    with pytest.raises(ValueError, match="trace holds what forward saw: x and state must not be"):
        function(layer, x, trace=trace)
    with pytest.raises(ValueError, match="trace holds what forward saw: x and state must not be"):
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
    ids=str,
)  # fmt: skip
def test_errors_of_numbers(function, options, error, message):
    layer, x, _ = make_case("rnn_tanh")
    with pytest.raises(error, match=message):
        function(layer, x, **options)


def test_errors_of_step_factors():
    layer, x, _ = make_case("rnn_tanh")
    _, _, trace = layer.forward(x)
    with pytest.raises(TypeError, match="layer must be an LSTM or an RNN, got Linear"):
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
