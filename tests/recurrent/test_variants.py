"""Tests of the options of an LSTM's cell, alone and together, and of grad_clip with every cell.

The judges are the NumPy reference and central differences. That each option does what it should in all other
respects is tested with the rows that the table of cells has of them, wherever it is read.
"""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import cases
import numpy as np
import pytest
from cases import CELLS, LSTMS, OF_ALL_OPTIONS, ONE_OF_EACH_KIND
from recurrent_inputs import read_only, unaligned
from stacks import (
    arriving_state,
    as_type,
    collect,
    differences,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    reference_forward,
    reference_solution,
    solution,
    time_of,
)
from support import assert_close, assert_same_bits
from times import FIRST, TIMES, beyond

import lstmc

# float64: both sides round to 1e-16, and sums have some hundred terms. float32 rounds to 6e-8, and its
# inputs are exact.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

# Central differences at 1e-5 are good to some 1e-10 of losses of order 1; the losses here reach some tens.
DIFFERENCE_TOLERANCE = 1e-7

# Units on either side of the widths of vectors, and of two of them.
WIDTHS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65]

# Each option alone, two, and all; CELLS has fewer, as other tests are about more than options.
VARIANTS = [
    "lstm_peephole", "lstm_coupled", "lstm_coupled_peephole", "lstm_clipped", "lstm_projected",
    "lstm_coupled_peephole_clipped_projected",
]  # fmt: skip
STEPS, BATCH, INPUTS = 5, 4, 3


def problem_of(cell, time="plain", layers=1, directions=1, hidden=9, sizes=(STEPS, BATCH, INPUTS)):
    problem = random_problem(cell, *sizes, hidden, layers, directions)
    return problem | TIMES[time](*sizes[:2])


def check_against_reference(problem, dtype):
    actual, expected = solution(as_type(problem, dtype)), reference_solution(problem)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].dtype == dtype
        assert_close(actual[name], value, TOLERANCE[dtype], name)


# --------------------------------------------------------------------------------------------------
# Against the reference
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", FIRST)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", LSTMS)
def test_every_combination(dtype, cell, layers, directions, time):
    """Of odd units, half of which are an even number of them."""
    check_against_reference(problem_of(cell, time, layers, directions), dtype)


@pytest.mark.parametrize("cell", [name for name in LSTMS if "clipped" in name])
def test_a_third_of_the_sums_is_limited(cell):
    """Of the problems that tests draw: neither few nor all."""
    for hidden in (3, 9, 65):
        saved = reference_forward(problem_of(cell, hidden=hidden, layers=2))[2]
        inside = np.concatenate([pieces[0][1][-1].ravel() for _, pieces in saved])
        assert 0.2 < inside.mean() < 0.7


@pytest.mark.parametrize("cell", [name for name in LSTMS if "clipped" in name])
def test_a_sum_that_is_not_a_number_is_not_limited(isa, dtype, cell):
    """It stays in its row, and every unit of that sees it."""
    problem = as_type(problem_of(cell, layers=2, hidden=9), dtype)
    problem["x"][1, 2, 0] = np.nan
    y = solution(problem)["y"]
    assert np.isnan(y[1:, 2]).all()
    assert np.isfinite(y[:, [0, 1, 3]]).all()
    assert np.isfinite(y[0]).all()


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("projection", range(len(WIDTHS)), ids=lambda i: f"P{WIDTHS[i]}")
@pytest.mark.parametrize("cell", ["lstm_projected", *OF_ALL_OPTIONS])
def test_widths_of_projections(isa, dtype, cell, projection, directions):
    """Every width as P, with an even or odd H, features beside it and one or two layers."""
    units, inputs = WIDTHS[projection], WIDTHS[(projection + 4) % len(WIDTHS)]
    problem = problem_of(cell, "plain", 1 + projection % 2, directions,
                         2 * units + projection % 2, (4, 3, inputs))  # fmt: skip
    assert problem["h0"].shape[2] == units
    check_against_reference(problem, dtype)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("hidden", [2, 8, 9, 17, 65, 130])
@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
def test_projections_of_any_width(monkeypatch, isa, dtype, narrow, hidden, layers):
    """On one unit, and on all but one."""
    row = LSTMS["lstm_projected"]
    options = {"proj_size": (lambda hidden: 1) if narrow else (lambda hidden: hidden - 1)}
    monkeypatch.setitem(cases.ROWS, row.name, replace(row, options=options))
    problem = problem_of(row.name, "lengths", layers, 1, hidden)
    assert problem["h0"].shape[2] == (1 if narrow else hidden - 1)
    check_against_reference(problem, dtype)


@pytest.mark.parametrize(
    "sizes", [(3, 70, 9, 35), (40, 9, 130, 70), (2, 2, 3, 300)], ids=["many", "wide", "units"]
)
@pytest.mark.parametrize("cell", VARIANTS)
def test_blocks(isa, dtype, cell, sizes):
    """Sizes that are cut in several blocks: of time, of rows, of the sums' terms, of a projection's."""
    *others, hidden = sizes
    problem = problem_of(cell, "plain", 2, 1, hidden, others)
    check_against_reference(problem, dtype)
    problem = as_type(problem, dtype)
    layer, state = make_layer(problem), first_state(problem)
    y, last = layer(problem["x"], state)
    assert_same_bits(y, solution(problem)["y"])
    assert_same_bits(parts_of(last), parts_of(layer.forward(problem["x"], state)[1]))


@pytest.mark.parametrize("cell", ["lstm_projected", *OF_ALL_OPTIONS])
def test_without_biases(dtype, cell):
    problem = problem_of(cell, "lengths and resets", 2, 2)
    layer = make_layer(as_type(problem, dtype), bias=False)
    expected = reference_solution(
        problem | {key: 0 * value for key, value in problem.items() if key.startswith("bias")}
    )
    actual = solution(as_type(problem, dtype), layer)
    assert set(actual) == {key for key in expected if "bias" not in key}
    for name, value in actual.items():
        assert_close(value, expected[name], TOLERANCE[dtype], name)


# --------------------------------------------------------------------------------------------------
# Derivatives
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", LSTMS)
def test_derivatives(cell, directions):
    """Every output of backward is the derivative of the kernels' own forward."""
    time = "lengths and resets"
    problem = problem_of(cell, time, directions, directions, 3, (4, 3, 2))
    layer = make_layer(problem)
    actual = solution(problem, layer)
    for output, expected in differences(problem, layer):
        assert_close(actual[output], expected, DIFFERENCE_TOLERANCE, output)


@pytest.mark.parametrize("cell", LSTMS)
def test_check_gradients(dtype, cell):
    problem = as_type(problem_of(cell, "resets", 2), dtype)
    layer = make_layer(problem)
    report = lstmc.check_gradients(
        layer, problem["x"], problem["dy"], first_state(problem), samples=10, **time_of(problem)
    )
    assert report, str(report)


# --------------------------------------------------------------------------------------------------
# Limited gradients
# --------------------------------------------------------------------------------------------------

LIMIT = 0.05


@pytest.mark.parametrize("time", FIRST)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_limited_gradients(dtype, cell, layers, directions, time):
    """What comes forward is what it was; all gradients are others."""
    problem = problem_of(cell, time, layers, directions)
    limited = problem | {"grad_clip": LIMIT}
    check_against_reference(limited, dtype)
    whole, cut = solution(as_type(problem, dtype)), solution(as_type(limited, dtype))
    for name, value in whole.items():
        if name == "y" or name.endswith("_n"):
            assert_same_bits(cut[name], value, name)
        elif time == "plain":
            assert not np.array_equal(cut[name], value), name


@pytest.mark.parametrize("width", range(len(WIDTHS)), ids=lambda i: f"H{WIDTHS[i]}")
@pytest.mark.parametrize("cell", [*ONE_OF_EACH_KIND, "gru_before", *OF_ALL_OPTIONS])
def test_widths_of_limited_gradients(isa, dtype, cell, width):
    inputs = WIDTHS[(width + 4) % len(WIDTHS)]
    problem = problem_of(cell, "plain", 1, 1, WIDTHS[width], (4, 3, inputs))
    check_against_reference(problem | {"grad_clip": LIMIT}, dtype)


@pytest.mark.parametrize("cell", LSTMS)
def test_limited_gradients_of_every_combination(dtype, cell):
    problem = problem_of(cell, "lengths and resets", 2, 2)
    check_against_reference(problem | {"grad_clip": LIMIT}, dtype)


def test_what_is_not_limited_is_the_derivative(dtype, cell):
    problem = as_type(problem_of(cell, "lengths", 2, 2), dtype)
    limited = make_layer(problem, grad_clip=LIMIT)
    expected = solution(problem, make_layer(problem))
    _, _, trace = limited.forward(problem["x"], first_state(problem), **time_of(problem))
    dx, _ = limited.backward(problem["dy"], trace, arriving_state(problem), limit=False)
    assert_same_bits(dx, expected["dx"])
    dx, _ = limited.backward(problem["dy"], trace, arriving_state(problem))
    assert not np.array_equal(dx, expected["dx"])


def test_a_limit_that_is_not_reached_changes_nothing(dtype, cell):
    problem = as_type(problem_of(cell, "lengths", 2, 2), dtype)
    expected = solution(problem)
    for name, value in solution(problem | {"grad_clip": 1e6}).items():
        assert_close(value, expected[name], TOLERANCE[dtype], name)


def test_an_exploding_gradient_is_bounded(dtype, cell):
    """At what is made of the gradients of sums, each of which is at most the limit."""
    problem = as_type(problem_of(cell) | {"grad_clip": LIMIT}, dtype)
    problem["dy"][1, 0, 0] = 1e30
    actual, more = solution(problem), 1.001
    rows = STEPS * BATCH * LIMIT * more
    assert np.abs(actual["dx"]).max() <= LIMIT * np.abs(problem["weight_ih_l0"]).sum(0).max() * more
    assert np.abs(actual["d_weight_ih_l0"]).max() <= rows * np.abs(problem["x"]).max()
    assert LIMIT <= np.abs(actual["d_bias_l0"]).max() <= rows


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_before", "rnn_tanh", *VARIANTS])
def test_what_is_not_a_number_is_not_limited(dtype, cell):
    problem = as_type(problem_of(cell) | {"grad_clip": LIMIT}, dtype)
    problem["dy"][-1, 1] = np.nan
    actual = solution(problem)
    assert np.isnan(actual["dx"][-1, 1]).all()
    assert np.isfinite(actual["dx"][:, [0, 2, 3]]).all()


# --------------------------------------------------------------------------------------------------
# Equal bits
# --------------------------------------------------------------------------------------------------

# T, B, I, H, L that two threads share out by batch rows or by hidden units: see test_recurrent.py.
SHARED = [(10, 17, 20, 33, 2), (40, 5, 20, 33, 1), (5, 3, 120, 130, 2), (8, 1, 60, 201, 1)]


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("sizes", SHARED, ids=str)
@pytest.mark.parametrize("cell", VARIANTS)
def test_threads_do_not_change_a_bit(isa, dtype, cell, sizes, directions):
    *sizes, hidden, layers = sizes
    problem = as_type(problem_of(cell, "plain", layers, directions, hidden, sizes), dtype)
    expected = solution(problem, num_threads=1)
    for threads in (2, 3):
        assert_same_bits(solution(problem, num_threads=threads), expected)
    y, state, _ = make_layer(problem).forward(
        problem["x"], first_state(problem), training=False, num_threads=2
    )
    assert_same_bits(y, expected["y"])
    assert_same_bits(parts_of(state), [expected["h_n"], expected["c_n"]])


@pytest.mark.parametrize("time", ["lengths", "lengths and resets"])
@pytest.mark.parametrize("cell", [*ONE_OF_EACH_KIND, "gru_before", *VARIANTS])
def test_threads_and_limits_of_uneven_rows(dtype, cell, time):
    problem = problem_of(cell, time, 2, 2, 33, (10, 17, 20)) | {"grad_clip": LIMIT}
    problem = as_type(problem, dtype)
    expected = solution(problem, num_threads=1)
    for threads in (2, 3):
        assert_same_bits(solution(problem, num_threads=threads), expected)


@pytest.mark.parametrize("hidden", [3, 9, 65])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", LSTMS)
def test_a_loop_of_steps_is_the_sequence(isa, dtype, cell, layers, hidden):
    problem = as_type(problem_of(cell, "plain", layers, 1, hidden), dtype)
    layer, x, state = make_layer(problem), problem["x"], first_state(problem)
    y, last = layer(x, state)
    stepper = layer.stepper(batch=BATCH)
    stepper.state = state
    assert_same_bits(np.stack([stepper(x_t) for x_t in x]), y)
    assert_same_bits(stepper.state, last)
    head, between = layer(x[:2], state)
    tail, end = layer(x[2:], between)
    assert_same_bits(np.concatenate([head, tail]), y)
    assert_same_bits(end, last)


FORMS = {
    "every other element": lambda a: np.stack([a, a + 1], axis=-1)[..., 0],
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "unaligned": unaligned,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("cell", VARIANTS)
def test_forms_of_the_same_array(dtype, cell, form):
    problem = as_type(problem_of(cell, "plain", 2), dtype)
    inputs = dict(problem)
    for name in ("x", "h0", "c0", "dy", "dh_n", "dc_n"):
        inputs[name] = form(problem[name])
    layer = make_layer(problem)
    assert_same_bits(solution(inputs, layer), solution(problem))
    for name in ("x", "h0", "c0", "dy", "dh_n", "dc_n"):
        np.testing.assert_array_equal(inputs[name], problem[name])


@pytest.mark.parametrize("time", ["lengths", "lengths and resets"])
@pytest.mark.parametrize("cell", [name for name in LSTMS if "projected" in name])
def test_padding_reaches_nothing(dtype, cell, time):
    problem = as_type(problem_of(cell, time, 2, 2), dtype)
    expected, padding = solution(problem), beyond(problem)
    for name in ("x", "dy"):
        problem[name][padding] = np.nan
    actual = solution(problem)
    assert_same_bits(actual, expected)
    assert not actual["y"][padding].any()
    assert not actual["dx"][padding].any()


@pytest.mark.parametrize("options", [{"consume": True}, {"need_dx": False}, {"need_grads": False}])
@pytest.mark.parametrize("cell", VARIANTS)
def test_options_of_backward(dtype, cell, options):
    problem = as_type(problem_of(cell, "lengths", 2, 2), dtype)
    layer = make_layer(problem)
    expected = solution(problem, layer)
    y, state, trace = layer.forward(problem["x"], first_state(problem), **time_of(problem))
    layer.zero_grad()
    out = layer.backward(problem["dy"], trace, arriving_state(problem), **options)
    for name, value in collect(layer, problem, y, state, *out).items():
        if name == "dx" and "need_dx" in options:
            assert value is None
        elif name.startswith("d_") and "need_grads" in options:
            assert not value.any()
        else:
            assert_same_bits(value, expected[name], name)


# --------------------------------------------------------------------------------------------------
# What a layer is, and what is refused
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", LSTMS)
def test_a_description_holds_all_options(tmp_path, cell):
    layer = LSTMS[cell].make(3, 6, 2, rng=1, bidirectional=True, grad_clip=0.5)
    options = {name: getattr(layer, name) for name in ("peephole", "coupled", "clip", "proj_size")}
    assert options == {"peephole": False, "coupled": False, "clip": None, "proj_size": 0} | LSTMS[
        cell
    ].of(6)
    ends = ("l0", "l0_reverse", "l1", "l1_reverse")
    for i, end in enumerate(ends):
        shapes = LSTMS[cell].shapes(3 if i < 2 else 2 * LSTMS[cell].units("h", 6), 6)
        names = [name for name in layer.parameters() if name.endswith(f"_{end}")]
        assert names == [f"{name}_{end}" for name in shapes]
        assert [layer[name].shape for name in names] == list(shapes.values())
    lstmc.Sequential(layer).save(tmp_path / "net.safetensors")
    x = np.random.default_rng(2).standard_normal((4, 2, 3)).astype(np.float32)
    expected = layer(x)[0]
    loaded = lstmc.load(tmp_path / "net.safetensors").layers[0]
    for other in (loaded, copy.deepcopy(layer), layer.astype(np.float32)):
        assert other.description == layer.description
        assert other.grad_clip == 0.5
        assert_same_bits(other(x)[0], expected)
    plain = lstmc.LSTM(3, 6, 2, bidirectional=True, grad_clip=0.5)
    assert (layer.description == plain.description) == (cell == "lstm")


@pytest.mark.parametrize("name", ["peephole", "coupled"])
@pytest.mark.parametrize("value", [1, 0, None, "yes", 1.0])
def test_flags_that_are_refused(name, value):
    with pytest.raises(TypeError, match=f"{name} must be True or False, got {value!r}"):
        lstmc.LSTM(3, 4, **{name: value})


@pytest.mark.parametrize("value", [0, -1, 0.0, -0.5, 1e-60, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("make", "name"), [(lstmc.LSTM, "clip"), *((make, "grad_clip") for make in
                                               (lstmc.LSTM, lstmc.GRU, lstmc.RNN))],
)  # fmt: skip
def test_limits_that_are_refused(make, name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*got {value!r}"):
        make(3, 4, **{name: value})


@pytest.mark.parametrize(
    "value", ["1", [1.0], True, 1j, 10**400, np.ones(2)], ids=lambda x: repr(x)[:9]
)
@pytest.mark.parametrize(
    ("make", "name"), [(lstmc.LSTM, "clip"), *((make, "grad_clip") for make in
                                               (lstmc.LSTM, lstmc.GRU, lstmc.RNN))],
)  # fmt: skip
def test_limits_that_are_no_numbers(make, name, value):
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        make(3, 4, **{name: value})


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (4, ValueError), (5, ValueError), (2.0, TypeError), (True, TypeError),
     ("2", TypeError), (None, TypeError), (0.0, TypeError), (False, TypeError),
     (np.ones(2, int), TypeError)],
)  # fmt: skip
def test_projections_that_are_refused(value, error):
    with pytest.raises(error, match=f"proj_size must be .*got {re.escape(repr(value))}"):
        lstmc.LSTM(3, 4, proj_size=value)


@pytest.mark.parametrize("make", [lstmc.GRU, lstmc.RNN])
@pytest.mark.parametrize(
    "option", [{"peephole": True}, {"coupled": True}, {"clip": 1.0}, {"proj_size": 2}], ids=str
)
def test_options_that_only_an_lstm_has(make, option):
    with pytest.raises((TypeError, ValueError), match=next(iter(option))):
        make(3, 4, **option)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        *((lstmc.LSTM, option) for option in
          ({"peephole": True}, {"coupled": True}, {"clip": 1.0}, {"proj_size": 2})),
        *((make, {"grad_clip": 1.0}) for make in (lstmc.LSTM, lstmc.RNN)),
    ],
)  # fmt: skip
def test_options_that_a_gpu_does_not_have(make, option):
    layer, gpu = make(3, 4, **option), SimpleNamespace(cell=lambda name: None)
    with pytest.raises(ValueError, match=f"{next(iter(option))}.* GPU"):
        layer.check_movable(gpu)
