"""Tests of what backward hands out with record=, and of backward without gradients of weights."""

import copy

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from flow_cases import BATCH, FEATURES, FORMS, HIDDEN, STEPS, TOLERANCE, make_case
from stacks import (
    arriving_state,
    as_state,
    as_type,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    seed_of,
)
from support import assert_close, assert_same_bits

import lstmc


@pytest.mark.parametrize("need_grads", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_backward_that_records(isa, cell, layers, form, need_grads):
    """dx, dstate and the gradients are bit for bit those of a backward that records nothing."""
    case = make_case("bare", cell, layers, np.float32, form)
    net, rng = case.net, np.random.default_rng(seed_of("record"))
    before = rng.standard_normal(net.grads.shape).astype(np.float32)
    _, state, trace = net.forward(case.x, case.state)
    dstate = as_state([rng.standard_normal(a.shape).astype(np.float32) for a in parts_of(state)])
    net.grads[...] = before
    expected = net.backward(case.dy, trace, dstate)
    grads = net.grads.copy()

    net.grads[...] = before
    records = ["what was there"]
    actual = net.backward(case.dy, trace, dstate, need_grads=need_grads, record=records)
    assert_same_bits(parts_of(actual[1]), parts_of(expected[1]))
    assert_same_bits(actual[0], expected[0])
    assert_same_bits(net.grads, grads if need_grads else before)
    assert records[0] == "what was there"
    assert len(records) == 1 + layers

    top = records[-1]
    rows = 1 if form == "unbatched" else BATCH
    assert top.dh_above.shape == (STEPS, rows, CELLS[cell].units("h", HIDDEN))
    assert_same_bits(
        np.ascontiguousarray(top.dh_above), np.ascontiguousarray(case.time_first(case.dy))
    )
    for k, one in enumerate(records[1:]):
        assert_same_bits(one.dh, one.dh_above + one.dh_later)
        # What arrives through the final state is what the last step sends on to itself.
        arriving = [a[k].reshape(rows, -1) for a in parts_of(dstate)]
        assert_same_bits(one.dh_later[-1], arriving[0])
        if CELLS[cell].has_c:
            assert_same_bits(one.dc_later[-1], arriving[1])
        if k:
            assert_same_bits(one.dx, records[k].dh_above)
    kept = [copy.deepcopy([one.dh_above, one.dh_later, one.dgates]) for one in records[1:]]
    for _ in range(3):  # later calls do not write into what was handed out
        net.backward(case.dy + 1, net.forward(case.x + 1)[2], record=[])
    case.dy[...] = 0
    for one, arrays in zip(records[1:], kept, strict=True):
        assert_same_bits([one.dh_above, one.dh_later, one.dgates], arrays)


@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_backward_without_gradients(isa, dtype, cell):
    """Of more units and rows than a vector, without recording; with and without dx."""
    problem = as_type(random_problem(cell, 6, 5, 19, 33, 2), dtype)
    net = make_layer(problem)
    _, _, trace = net.forward(problem["x"], first_state(problem))
    net.grads[...] = 3
    before = net.grads.copy()
    inputs = problem["dy"], trace, arriving_state(problem)
    dx, dstate = net.backward(*inputs, need_grads=False)
    none, again = net.backward(*inputs, need_grads=False, need_dx=False)
    assert none is None
    assert_same_bits(net.grads, before)
    expected_dx, expected = net.backward(*inputs)
    assert_same_bits(dx, expected_dx)
    for actual in (dstate, again):
        assert_same_bits(parts_of(actual), parts_of(expected))
    assert np.any(net.grads != before)


def test_dy_may_be_none_while_recording():
    net = lstmc.LSTM(FEATURES, HIDDEN, rng=1)
    x = np.ones((STEPS, BATCH, FEATURES), np.float32)
    dstate = tuple(np.ones((1, BATCH, HIDDEN), np.float32) for _ in range(2))
    records = []
    net.backward(None, net.forward(x)[2], dstate, record=records)
    assert not records[0].dh_above.any()
    assert records[0].dh_above.shape == (STEPS, BATCH, HIDDEN)
    assert records[0].dh_later.all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("need_dx", [True, False])
def test_a_linear_layer_without_gradients(isa, dtype, bias, need_dx):
    net = lstmc.Linear(19, 33, bias=bias, dtype=dtype, rng=1)
    rng = np.random.default_rng(seed_of("linear layer"))
    x, dy = (rng.standard_normal((4, 5, n)).astype(dtype) for n in (19, 33))
    _, _, trace = net.forward(x)
    net.grads[...] = 3
    before = net.grads.copy()
    dx, _ = net.backward(dy, trace, need_grads=False, need_dx=need_dx)
    assert_same_bits(net.grads, before)
    expected, _ = net.backward(dy, trace)
    assert dx is None if not need_dx else dx.tobytes() == expected.tobytes()
    added = np.einsum("tbo,tbi->oi", dy.astype(np.float64), x)
    assert_close(net.grad("weight"), 3 + added, TOLERANCE[dtype])


def test_recording_cannot_consume():
    net = lstmc.LSTM(FEATURES, HIDDEN, rng=1)
    y, _, trace = net.forward(np.ones((STEPS, BATCH, FEATURES), np.float32))
    records = []
    with pytest.raises(ValueError, match="record reads the trace: it cannot go with consume"):
        net.backward(y, trace, consume=True, record=records)
    assert records == []
    assert not net.grads.any()
    net.backward(y, trace, record=records)  # the trace is as good as before
    assert len(records) == 1


@pytest.mark.parametrize("record", [True, (), "list"])
def test_a_record_that_is_no_list_is_refused_before_anything_is_added(record):
    net = lstmc.LSTM(2, 3, rng=0)
    y, _, trace = net.forward(np.ones((5, 1, 2), np.float32))
    with pytest.raises(TypeError, match="record must be a list, got"):
        net.backward(y, trace, record=record)
    assert not net.grads.any()
