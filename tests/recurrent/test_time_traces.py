"""Tests of what can be seen of rows that end, begin anew or are read from their ends: traces, gradients.

All of it is in the order of x's steps, for either direction, and zero beyond an end. The judges are the
reference, laid out in that order, and central differences of a walk of single steps.
"""

import numpy as np
import pytest
from cases import CELLS, OF_ALL_OPTIONS
from stacks import (
    arriving_state,
    as_type,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    reference_solution,
    states_of,
    suffixes_of,
    time_of,
)
from support import assert_close, assert_same_bits, numerical_gradient
from times import PARAMETERS, TIMES, beyond, reference_traces, walk

# As in test_time.py.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
DIFFERENCE_TOLERANCE = 1e-7

STEPS, BATCH, INPUTS = 5, 4, 3
# But for the case of no steps at all, of which the reference saves nothing.
SOME = [name for name in TIMES if name != "empty"]


def problem_of(cell, time, layers=2, directions=2, hidden=7, sizes=(STEPS, BATCH, INPUTS)):
    problem = random_problem(cell, *sizes, hidden, layers, directions)
    return problem | TIMES[time](*sizes[:2])


def traced(problem, **options):
    """Return the layer, y, the trace, dx and, of each direction, the gradients at its states."""
    layer, record = make_layer(problem, **options), []
    y, _, trace = layer.forward(problem["x"], first_state(problem), **time_of(problem))
    dx, _ = layer.backward(problem["dy"], trace, arriving_state(problem), record=record)
    return layer, y, trace, dx, record


# --------------------------------------------------------------------------------------------------
# Traces
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", SOME)
@pytest.mark.parametrize("directions", [1, 2])
def test_traces_are_those_of_the_reference(isa, dtype, cell, directions, time):
    problem = problem_of(cell, time, 2, directions)
    _, y, trace, _, _ = traced(as_type(problem, dtype))
    expected = reference_traces(problem)
    assert len(trace.layers) == len(expected) == 2 * directions
    cell, tolerance = CELLS[cell], TOLERANCE[dtype]
    for one, saved in zip(trace.layers, expected, strict=True):
        assert_close(one.h, saved["h"], tolerance, "h")
        assert_close(one.h_before, saved["h_before"], tolerance, "h before")
        assert (one.c is not None) == cell.has_c
        if cell.has_c:
            assert_close(one.c, saved["c"], tolerance, "c")
        assert tuple(one.gates) == cell.trace_gates
        if cell.trace_gates:
            gates = np.concatenate([one.gates[name] for name in cell.gates], axis=2)
            assert_close(gates, saved["gates"], tolerance, "gates")
    for d in range(directions):
        units = cell.units("h", 7)
        half = y[..., d * units : (d + 1) * units]
        assert_same_bits(np.ascontiguousarray(half), trace.layers[d - directions].h.copy(), "y")


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
def test_traces_are_zero_beyond_an_end_and_read_only(dtype, cell, directions, time):
    problem = as_type(problem_of(cell, time, 2, directions), dtype)
    _, _, trace, _, _ = traced(problem)
    padding = beyond(problem)
    for one in trace.layers:
        projected = [one.h, one.h_before]
        others = [*([one.c] if one.c is not None else []), *one.gates.values()]
        for array, units in (
            *((array, CELLS[cell].units("h", 7)) for array in projected),
            *((array, 7) for array in others),
        ):
            assert array.shape == (STEPS, BATCH, units)
            assert array.dtype == dtype
            assert not array[padding].any()
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
def test_what_layers_read(dtype, directions, time):
    problem = as_type(problem_of("gru", time, 2, directions), dtype)
    _, _, trace, _, _ = traced(problem)
    real = ~beyond(problem)[:, :, None]
    assert (trace.steps, trace.batch) == (STEPS, BATCH)
    assert_same_bits(np.array(trace.x), np.where(real, problem["x"], dtype.type(0)))
    below = [one.h for one in trace.layers[:directions]]
    assert_same_bits(np.array(trace.input_of(1)), np.concatenate(below, axis=2))


@pytest.mark.parametrize("directions", [1, 2])
def test_traces_of_one_sequence(dtype, cell, directions):
    problem = as_type(problem_of(cell, "plain", 1, directions, 7, (STEPS, 1, INPUTS)), dtype)
    resets = np.arange(STEPS)[:, None] == 2
    _, y, expected, _, _ = traced(problem | {"lengths": np.array([4]), "resets": resets})
    alone = {key: value[:, 0] if np.ndim(value) == 3 else value for key, value in problem.items()}
    layer = make_layer(problem)
    y1, _, trace = layer.forward(
        alone["x"], first_state(alone), lengths=4, resets=resets[:, 0].copy()
    )
    assert_same_bits(y1, np.ascontiguousarray(y[:, 0]))
    for one, batched in zip(trace.layers, expected.layers, strict=True):
        assert_same_bits(np.array(one.h), batched.h[:, 0].copy())
        assert_same_bits(np.array(one.h_before), batched.h_before[:, 0].copy())
        for name, gate in one.gates.items():
            assert_same_bits(np.array(gate), batched.gates[name][:, 0].copy())


# --------------------------------------------------------------------------------------------------
# Gradients at states
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "time"),
    [("rnn_tanh", time) for time in TIMES]
    + [("gru", "resets"), *((cell, "lengths and resets") for cell in ("lstm", *OF_ALL_OPTIONS))],
)
@pytest.mark.parametrize("directions", [1, 2])
def test_gradients_at_states(isa, cell, directions, time):
    """They are the derivatives with respect to a state at one step, of either direction of either layer."""
    problem = problem_of(cell, time, 2, directions, 3, (4, 3, 2))
    _, _, _, _, record = traced(problem)
    assert len(record) == 2 * directions
    arriving = [problem["dy"], *parts_of(arriving_state(problem))]
    for number, one in enumerate(record):
        actual = {"h": one.dh, "c": one.dc_later}
        for name in states_of(cell):

            def loss(value, where=(number, name)):
                y, last = walk(problem, {where: value})
                return sum(np.sum(a * b) for a, b in zip(arriving, [y, *last], strict=True))

            expected = numerical_gradient(loss, np.zeros((4, 3, CELLS[cell].units(name, 3))))
            assert_close(actual[name], expected, DIFFERENCE_TOLERANCE, f"d{name} of {number}")


@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
def test_gradients_at_sums(dtype, cell, directions, time):
    """Those of weights and inputs are made of them; what goes down is what arrives below."""
    problem = as_type(problem_of(cell, time, 2, directions), dtype)
    layer, _, trace, dx, record = traced(problem)
    expected, padding = reference_solution(problem), beyond(problem)
    tolerance, ends = 10 * TOLERANCE[dtype], suffixes_of(problem)  # sums of what is rounded
    for number, (one, end) in enumerate(zip(record, ends, strict=True)):
        for name in ("dh_above", "dh_later", "dgates", "dgates_of_h", "dh"):
            assert not getattr(one, name)[padding].any(), name
        read, of = trace.input_of(number // directions), trace.layers[number]
        operands = CELLS[cell].operands(of.h_before, of.gates)  # of R, one for each gate
        for name, dsums, left in (
            ("weight_ih", one.dgates, [read] * len(operands)),
            ("weight_hh", one.dgates_of_h, operands),
        ):
            parts = zip(np.split(dsums, len(left), axis=2), left, strict=True)
            product = np.concatenate([np.einsum("tbg,tbi->gi", *part) for part in parts])
            assert_close(product, expected[f"d_{name}_{end}"], tolerance, f"d_{name}_{end}")
        assert_close(one.dx, one.dgates @ layer[f"weight_ih_{end}"], tolerance, "dx of a direction")
    assert_close(sum(one.dx for one in record[:directions]), dx, tolerance, "dx")
    between = sum(one.dx for one in record[directions:])
    for d in range(directions):
        units = slice(d * CELLS[cell].units("h", 7), (d + 1) * CELLS[cell].units("h", 7))
        assert_close(record[d].dh_above, between[..., units], tolerance, "what arrives from above")
        top = np.where(padding[..., None], 0, problem["dy"])[..., units]
        assert_close(record[directions + d].dh_above, top, 0, "dy")


@pytest.mark.parametrize("directions", [1, 2])
def test_recording_changes_no_bit(dtype, cell, directions):
    problem = as_type(problem_of(cell, "lengths and resets", 3, directions), dtype)
    layer, _, trace, dx, record = traced(problem)
    grads = layer.grads.copy()
    layer.zero_grad()
    again, _ = layer.backward(problem["dy"], trace, arriving_state(problem))
    assert_same_bits(again, dx)
    assert_same_bits(layer.grads, grads)
    longer = list(record)
    layer.backward(problem["dy"], trace, arriving_state(problem), record=longer)
    assert longer[: len(record)] == record  # what was there stays, what comes is appended
    assert_same_bits([one.dh for one in longer[len(record) :]], [one.dh for one in record])
