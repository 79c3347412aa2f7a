"""Tests of what a trace keeps, of what belongs to the caller, and of traces that are refused."""

import copy
import gc
import pickle

import numpy as np
import pytest
from recurrent_inputs import float32_problem
from stacks import arriving_state, as_state, first_state, make_layer, parts_of, solution
from support import assert_same_bits

import lstmc


def test_inputs_are_not_written_and_not_kept(cell):
    """x may be changed after forward: the trace has its own copy."""
    problem = float32_problem(cell)
    expected = solution(problem)
    layer = make_layer(problem)
    x, state = problem["x"].copy(), first_state(problem)
    before = [part.copy() for part in parts_of(state)]
    y, _, trace = layer.forward(x, state)
    assert_same_bits(x, problem["x"])
    assert_same_bits(state, as_state(before))
    x[...] = 99
    y[...] = 99
    dx, _ = layer.backward(problem["dy"], trace, arriving_state(problem))
    assert_same_bits(dx, expected["dx"])
    assert_same_bits(layer.grad("weight_ih_l0"), expected["d_weight_ih_l0"])


def test_results_belong_to_the_caller(cell):
    problem = float32_problem(cell)
    layer = make_layer(problem)
    y, state, trace = layer.forward(problem["x"], first_state(problem))
    before = trace.layers[-1].h.copy()
    dx, dstate = layer.backward(problem["dy"], trace)
    results = [y, *parts_of(state), dx, *parts_of(dstate)]
    for i, result in enumerate(results):
        assert result.flags.writeable
        assert not any(np.may_share_memory(result, other) for other in results[i + 1 :])
        assert not np.may_share_memory(result, layer.params)
        result[...] = 7
    assert_same_bits(trace.layers[-1].h, before)


def test_a_view_outlives_its_trace(cell):
    """Memory goes back for the next trace when the last view of it goes, not before."""
    problem = float32_problem(cell)
    layer = make_layer(problem)
    _, _, trace = layer.forward(problem["x"], first_state(problem))
    view = trace.layers[1].h[2:]
    expected = view.copy()
    del trace
    gc.collect()
    for factor in range(4):
        layer.forward(factor * problem["x"])
    assert_same_bits(view, expected)


def test_a_dropped_trace_gives_its_memory_to_the_next():
    """Sizes such that no array fits in the place of a smaller one."""
    problem = float32_problem(case=(5, 30, 129, 129, 2))
    layer = make_layer(problem)

    def addresses():
        _, _, trace = layer.forward(problem["x"])
        layers = trace.layers
        return {a.__array_interface__["data"][0] for k in layers for a in (k.h, k.c, k.gates["i"])}

    first = addresses()
    gc.collect()
    assert addresses() == first


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("kind", ["weight_ih", "weight_hh", "bias"])
@pytest.mark.parametrize("hidden", [8, 9])
def test_backward_after_the_weights_changed(kind, place, hidden):
    """The smallest change of the first or the last number is seen; undone, the trace is good."""
    problem = float32_problem(case=(3, 2, 5, hidden, 1))
    layer = make_layer(problem)
    _, _, trace = layer.forward(problem["x"])
    layer.grads[...] = 1
    weight = layer[f"{kind}_l0"].reshape(-1)
    before = weight[place]
    weight[place] = np.nextafter(before, np.float32(99))
    with pytest.raises(ValueError, match=r"weights have changed since forward\(\)"):
        layer.backward(problem["dy"], trace)
    assert (layer.grads == 1).all()
    weight[place] = before
    layer.backward(problem["dy"], trace)


def test_traces_that_are_refused():
    problem = float32_problem()
    layer, other = make_layer(problem), make_layer(problem)
    _, _, trace = layer.forward(problem["x"])
    layer.grads[...] = other.grads[...] = 1
    with pytest.raises(ValueError, match=r"trace must come from this layer.*another LSTM"):
        other.backward(problem["dy"], trace)
    with pytest.raises(TypeError, match=r"trace must come from forward\(\), got NoneType"):
        layer.backward(problem["dy"], None)
    assert (layer.grads == 1).all()
    assert (other.grads == 1).all()
    layer.backward(problem["dy"], trace, consume=True)
    after = layer.grads.copy()
    with pytest.raises(ValueError, match="trace was consumed by an earlier backward"):
        layer.backward(problem["dy"], trace)
    assert_same_bits(layer.grads, after)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_traces_cannot_be_copied(copied):
    """A copy would share its arrays, and backward with consume writes over them."""
    problem = float32_problem()
    for layer in (make_layer(problem), lstmc.Sequential(make_layer(problem))):
        _, _, trace = layer.forward(problem["x"])
        with pytest.raises(TypeError, match=r"a (Recurrent)?Trace cannot be copied or pickled"):
            copied(trace)


def test_arrays_of_a_trace_are_read_only(cell):
    problem = float32_problem(cell)
    layer = make_layer(problem)
    _, _, trace = layer.forward(problem["x"], first_state(problem))
    for array in (trace.x, trace.layers[1].h, *trace.layers[1].gates.values()):
        assert not array.flags.writeable
    with pytest.raises(ValueError, match="num_threads"):
        layer.backward(problem["dy"], trace, consume=True, num_threads=0)
    assert not trace.layers[1].h.flags.writeable
    dx, _ = layer.backward(problem["dy"], trace, arriving_state(problem))
    assert_same_bits(dx, solution(problem)["dx"])
