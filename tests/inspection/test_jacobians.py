"""Tests of Jacobians of states over time, their singular values, Lyapunov exponents and step factors.

The judges are central differences of a layer's own forward, run from a state that is moved, and closed
forms: powers of the recurrent weights where the network is linear, products of the forget gates where
nothing recurs, the eigenvalues of a normal matrix.
"""

from functools import cache

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from jacobian_cases import (
    BATCH,
    CLOSED_TOLERANCE,
    FEATURES,
    FORMS,
    HIDDEN,
    STEPS,
    TOLERANCE,
    differences,
    exact_state_jacobian,
    in_rows,
    input_jacobians,
    make_case,
    make_layer,
    state_jacobians,
    twin_of,
)
from stacks import (
    as_state,
    as_type,
    first_state,
    make_layer as layer_of,
    random_problem,
    seed_of,
    time_of,
)
from support import assert_close, assert_same_bits
from times import PARAMETERS, TIMES, beyond

import lstmc
from lstmc.inspection import sweeps


def exact_input_jacobian(layer, x, state, t, form="time first"):
    """Move x at each step up to t: (t+1, B, H, I)."""
    layer = twin_of(layer)
    x, parts = in_rows(x, state, form)
    actual = []
    for s in range(t + 1):

        def output(x_s, s=s):
            moved = np.concatenate([x[:s], x_s[None], x[s + 1 : t + 1]])
            return layer(moved, as_state(parts))[0][t]

        actual.append(differences(output, x[s]))
    return np.array(actual)


@pytest.mark.parametrize("span", [(), (0, 1), (1, 3), (2, 5), (4, None)], ids=str)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_state_jacobian(isa, dtype, cell, layers, span):
    layer, x, state = make_case(cell, layers, dtype)
    actual = lstmc.state_jacobian(layer, x, *span, state=state)
    assert actual.dtype == dtype
    t0, t1 = span or (0, STEPS)
    exact = exact_state_jacobian(layer, x, state, t0, t1 or STEPS)
    assert_close(actual, exact, TOLERANCE[dtype])
    _, _, trace = layer.forward(x, state)
    assert_same_bits(lstmc.state_jacobian(layer, None, *span, trace=trace), actual)


@pytest.mark.parametrize("t", [None, 0, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_input_jacobian(isa, dtype, cell, layers, t):
    layer, x, state = make_case(cell, layers, dtype)
    actual = lstmc.input_jacobian(layer, x, t, state)
    assert actual.dtype == dtype
    last = STEPS - 1 if t is None else t
    assert_close(actual, exact_input_jacobian(layer, x, state, last), TOLERANCE[dtype])
    _, _, trace = layer.forward(x, state)
    assert_same_bits(lstmc.input_jacobian(layer, t=t, trace=trace), actual)


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
    layer_trace = trace.layers[0]
    forget = layer_trace.gates["f"].astype(np.float64).prod(0)
    passed = layer_trace.gates["o"][-1] * (1 - np.tanh(layer_trace.c[-1].astype(np.float64)) ** 2)
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

    whole, calls, carry = results(), [], sweeps.carry_back

    def counted(*args, **options):
        calls.append(args)
        return carry(*args, **options)

    monkeypatch.setattr(sweeps, "carry_back", counted)
    results()
    before = len(calls)
    monkeypatch.setattr(sweeps, "SWEEP_BYTES", sweep_bytes)
    for actual, expected in zip(results(), whole, strict=True):
        assert_close(actual, expected, CLOSED_TOLERANCE[dtype])
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
    traced = [
        *(a for one in trace.layers for a in (one.h, one.c, *one.gates.values())),
        trace.x,
    ]
    arrays = [layer.params, layer.grads, x, *state, *traced]
    before = [a.copy() for a in arrays]
    lstmc.state_jacobian(layer, trace=trace)
    lstmc.input_jacobian(layer, x, state=state)
    lstmc.jacobian_spectrum(layer, trace=trace).to_dict()
    lstmc.lyapunov_exponents(layer, x, state)
    assert_same_bits(arrays, before)


# --------------------------------------------------------------------------------------------------
# Rows that end or begin anew, and both directions
# --------------------------------------------------------------------------------------------------


def timed(cell, time, layers=1, directions=1, dtype=np.float64):
    """Return a problem in float64, a layer of it, and what the layer's Jacobians are taken of."""
    sizes = STEPS, 4, FEATURES
    problem = random_problem(cell, *sizes, HIDDEN, layers, directions) | TIMES[time](*sizes[:2])
    # Larger weights, so that changes from afar are well above what differences are good to.
    problem |= {key: 1.5 * value for key, value in problem.items() if key.startswith("weight")}
    own = as_type(problem, dtype)
    options = {"x": own["x"], "state": first_state(own), **time_of(own)}
    return problem, layer_of(own), options


STACKS = [(1, 1), (2, 1), (1, 2)]


@cache
def judged(judge, cell, time, stack, *span):
    """Return what differences say, once for both types."""
    return judge(timed(cell, time, *stack)[0], *span)


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_state_jacobian_in_time(isa, dtype, cell, stack, time):
    """Beyond its end a row's state is its final one; across a reset nothing goes."""
    _, layer, options = timed(cell, time, *stack, dtype)
    trace = layer.forward(**options)[2]
    for t0, t1 in ((0, STEPS), (1, 3), (2, 5), (4, 5)):
        actual = lstmc.state_jacobian(layer, t0=t0, t1=t1, **options)
        assert actual.dtype == dtype
        expected = judged(state_jacobians, cell, time, stack, t0, t1)
        assert_close(actual, expected, TOLERANCE[dtype], f"{t0} to {t1}")
        assert_same_bits(lstmc.state_jacobian(layer, t0=t0, t1=t1, trace=trace), actual)


def test_no_change_crosses_a_reset():
    resets = np.zeros((STEPS, 4), bool)
    resets[2, 1] = resets[0, 2] = True
    for directions in (1, 2):
        _, layer, options = timed("gru", "plain", 1, directions)
        options["resets"] = resets
        for t0, t1 in ((0, 5), (1, 3), (2, 3), (2, 4)):
            jacobian = lstmc.state_jacobian(layer, t0=t0, t1=t1, **options)
            # The forward direction; the cut before step 2 is after 3 steps of the reverse one.
            assert not jacobian[1, :HIDDEN, :HIDDEN].any()
            assert jacobian[0].any()
            assert bool(jacobian[2, :HIDDEN, :HIDDEN].any()) == (t0 > 0)
            if directions == 2:
                assert bool(jacobian[1, HIDDEN:].any()) == (not t0 <= 3 < t1)
                assert jacobian[2, HIDDEN:].any()


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_input_jacobian_in_time(isa, dtype, cell, stack, time):
    problem, layer, options = timed(cell, time, *stack, dtype)
    trace, padding = layer.forward(**options)[2], beyond(problem)
    for t in (0, 2, STEPS - 1):
        actual = lstmc.input_jacobian(layer, t=t, **options)
        steps = STEPS if stack[1] == 2 else t + 1
        expected = judged(input_jacobians, cell, time, stack, t)
        assert not expected[steps:].any()
        assert_close(actual, expected[:steps], TOLERANCE[dtype], f"step {t}")
        assert not actual[padding[:steps]].any()
        assert not actual[:, padding[t]].any()
        assert_same_bits(lstmc.input_jacobian(layer, t=t, trace=trace), actual)


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("stack", STACKS, ids=str)
def test_spectrum_in_time(stack, time):
    _, layer, options = timed("gru", time, *stack)
    actual = lstmc.jacobian_spectrum(layer, distances=[1, 3, 5], **options)
    for k, values in zip([1, 3, 5], actual.singular_values, strict=True):
        jacobian = lstmc.state_jacobian(layer, t0=STEPS - k, **options)
        exact = np.linalg.svd(jacobian, compute_uv=False)
        assert_close(values, exact, CLOSED_TOLERANCE[layer.dtype], f"distance {k}")
    assert ("no row has a step" in str(actual)) == (time == "empty")
    assert actual.to_dict()["distances"] == [1, 3, 5]


@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_lyapunov_exponents_in_time(cell, stack):
    """Of a row by itself over its own steps; -inf where it is reset, NaN where it has no step."""
    _, layer, options = timed(cell, "lengths", *stack)
    actual = lstmc.lyapunov_exponents(layer, **options)
    lengths = options["lengths"]
    assert (lengths == 0).any()
    for row, end in enumerate(lengths):
        if not end:
            assert np.isnan(actual[row]).all()
            continue
        parts = options["state"] if isinstance(options["state"], tuple) else (options["state"],)
        alone = as_state([part[:, row : row + 1] for part in parts])
        expected = lstmc.lyapunov_exponents(layer, options["x"][:end, row : row + 1], alone)
        # A few QR decompositions of float64, divided by as many steps.
        assert np.abs(actual[row] - expected[0]).max() <= 1e-8, row
    resets = np.zeros((STEPS, 4), bool)
    resets[2, 1] = True
    cut = lstmc.lyapunov_exponents(layer, options["x"], options["state"], resets=resets)
    # Where only one direction of two is cut at a time, what it loses is lost to rounding: 1e-11 in 5 steps.
    assert (cut[1] <= (-np.inf if stack[1] == 1 else -5)).all()
    assert np.isfinite(cut[0]).all()


def test_stacks_of_both_directions_are_refused():
    layer = layer_of(random_problem("lstm", STEPS, 4, FEATURES, HIDDEN, 2, 2))
    x = np.zeros((STEPS, 4, FEATURES))
    for f in (lstmc.state_jacobian, lstmc.input_jacobian, lstmc.lyapunov_exponents,
              lstmc.jacobian_spectrum):  # fmt: skip
        with pytest.raises(ValueError, match="layer must have one layer or one direction"):
            f(layer, x)


def test_what_belongs_to_a_trace_is_refused_beside_it():
    _, layer, options = timed("lstm", "lengths and resets")
    trace = layer.forward(**options)[2]
    for name in ("lengths", "resets"):
        for f in (lstmc.state_jacobian, lstmc.input_jacobian, lstmc.lyapunov_exponents,
                  lstmc.jacobian_spectrum):  # fmt: skip
            with pytest.raises(ValueError, match="x, state, lengths and resets must not be given"):
                f(layer, trace=trace, **{name: options[name]})
            with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
                f(layer, options["x"], **{name: options[name].astype(float)})


def test_a_reset_at_the_first_step_discards_the_forward_state_alone():
    layer = lstmc.GRU(3, 4, dtype=np.float64, rng=0, bidirectional=True)
    x = np.random.default_rng(0).standard_normal((6, 2, 3))
    resets = np.zeros((6, 2), bool)
    resets[0, 0] = True
    exponents = lstmc.lyapunov_exponents(layer, x, resets=resets)
    assert np.isfinite(exponents[0, :4]).all()
    assert (exponents[0, 4:] == -np.inf).all()
    assert np.isfinite(exponents[1]).all()
    assert_close(
        lstmc.lyapunov_exponents(layer, x, resets=resets, count=2), exponents[:, :2], 1e-12
    )
