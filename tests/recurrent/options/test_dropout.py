"""Tests of dropout between the layers of a stack.

The judges are the NumPy reference with the masks that the trace shows, and central differences with masks
that stay the same; test_torch.py has PyTorch.
"""

import copy
import pickle

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from stacks import (
    arriving_state,
    as_type,
    collect,
    first_state,
    layer_weights,
    make_layer,
    parts_of,
    random_problem,
    suffixes_of,
    time_of,
)
from support import assert_close, assert_same_bits, numerical_gradient
from times import PARAMETERS, TIMES, beyond
from trainers import TRAIN

import lstmc
from lstmc import reference
from lstmc.inspection import check_gradients, gradient_flow, state_jacobian
from lstmc.recurrent import carry_back
from lstmc.training import Trainer

# As in test_time.py.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
DIFFERENCE_TOLERANCE = 1e-7

SIZES = (6, 5, 3)  # T, B, I
P = 0.4


def problem_of(cell, time, layers=3, directions=1, hidden=9, sizes=SIZES):
    return random_problem(cell, *sizes, hidden, layers, directions) | TIMES[time](*sizes[:2])


def layer_of(problem, seed=7, **options):
    layer = make_layer(problem, **{"dropout": P} | options)
    layer.rng = seed
    return layer


def forward(layer, problem, **options):
    return layer.forward(problem["x"], first_state(problem), **time_of(problem), **options)


def by_layer(problem, layer=None, num_threads=None, **options):
    """Return what comes out by golden key, and the masks."""
    layer = layer or layer_of(problem)
    layer.zero_grad()
    y, state, trace = forward(layer, problem, num_threads=num_threads)
    masks = trace.masks
    arriving = arriving_state(problem)
    dx, dstate = layer.backward(problem["dy"], trace, arriving, num_threads=num_threads, **options)
    return collect(layer, problem, y, state, dx, dstate), masks


def by_reference(problem, masks):
    cell, ends, factor = CELLS[problem["cell"]], suffixes_of(problem), 1 / (1 - P)
    first = [problem[f"{state}0"] for state in cell.states]
    weights, directions = (
        [layer_weights(problem, end) for end in ends],
        problem.get("directions", 1),
    )
    y, last, saved = reference.stack_forward(
        cell.forward, problem["x"], first, weights, directions, **time_of(problem),
        masks=masks, factor=factor,
    )  # fmt: skip
    dlast = [problem[f"d{state}_n"] for state in cell.states]
    dx, dfirst, dweights = reference.stack_backward(
        cell.backward, problem["dy"], dlast, saved, weights, directions, None, masks, factor
    )
    result = {"y": y, "dx": dx}
    for state, final, initial in zip(cell.states, last, dfirst, strict=True):
        result |= {f"{state}_n": final, f"d{state}0": initial}
    for end, gradients in zip(ends, dweights, strict=True):
        for kind, gradient in zip(cell.weights, gradients, strict=True):
            result[f"d_{kind}_{end}"] = gradient
    return result


# --------------------------------------------------------------------------------------------------
# Against the judges
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_like_the_reference(cell, directions, time, variational, dtype):
    problem = problem_of(cell, time, directions=directions)
    actual, masks = by_layer(
        as_type(problem, dtype), layer_of(as_type(problem, dtype), variational=variational)
    )
    expected = by_reference(problem, masks)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_close(actual[name], value, TOLERANCE[dtype], name)


@pytest.mark.parametrize("time", ["plain", "lengths and resets"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_gradients_are_the_derivatives(cell, directions, time):
    """Of everything that backward returns, with the masks of one seed."""
    problem = problem_of(cell, time, 2, directions, hidden=3, sizes=(4, 3, 2))
    result, _ = by_layer(problem)
    arriving = [problem["dy"], *parts_of(arriving_state(problem))]

    def loss(name, array):
        changed = problem | {name: array}
        y, last, _ = forward(layer_of(changed), changed)
        return sum(
            float((a * b).sum()) for a, b in zip([y, *parts_of(last)], arriving, strict=True)
        )

    names = ["x", *(f"{state}0" for state in CELLS[cell].states)]
    gradients = {name: result[f"d{name}"] for name in names}
    gradients |= {name: result[f"d_{name}"] for name in make_layer(problem).parameters()}
    for name, actual in gradients.items():
        expected = numerical_gradient(lambda a, n=name: loss(n, a), problem[name])
        assert_close(actual, expected, DIFFERENCE_TOLERANCE, name)


# --------------------------------------------------------------------------------------------------
# Masks
# --------------------------------------------------------------------------------------------------


def test_masks_are_drawn_in_the_order_of_steps_and_rows():
    """After the weights, by the same generator; the mask of a lower layer first."""
    rng, x = np.random.default_rng(5), np.ones((4, 3, 2), np.float32)
    layer = lstmc.LSTM(2, 6, 3, rng=5, dropout=P, bidirectional=True)
    for name in layer.parameters():
        rng.uniform(size=layer[name].shape)
    for options in ({}, {"lengths": [2, 0, 4]}, {"resets": np.eye(4, 3) > 0}):
        masks = layer.forward(x, **options)[2].masks
        for mask in masks:
            assert_same_bits(mask, rng.random((4, 3, 12), np.float32) >= np.float32(P))
            assert not mask.flags.writeable
        assert len(masks) == 2
    layer = lstmc.LSTM(2, 6, 2, rng=5, dropout=P, batch_first=True)
    assert layer.forward(x)[2].masks[0].shape == (3, 4, 6)  # T and B as everywhere in a trace
    assert layer.forward(x[0])[2].masks[0].shape == (3, 1, 6)


def test_a_variational_mask_is_that_of_every_step():
    layer = lstmc.GRU(2, 50, 3, rng=5, dropout=P, variational=True)
    first, second = layer.forward(np.ones((4, 3, 2), np.float32))[2].masks
    assert first.shape == (4, 3, 50)
    for mask in (first, second):
        assert_same_bits(mask, np.repeat(mask[:1], 4, axis=0))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[:, 0], first[:, 1])
    mask = lstmc.GRU(2, 50, 2, rng=5, dropout=P).forward(np.ones((4, 3, 2), np.float32))[2].masks[0]
    assert not np.array_equal(mask[0], mask[1])


@pytest.mark.parametrize("variational", [False, True])
def test_the_share_that_is_dropped(variational):
    layer = lstmc.RNN(1, 200, 2, rng=1, dropout=0.3, variational=variational)
    kept = layer.forward(np.ones((5, 20, 1), np.float32))[2].masks[0].mean()
    assert kept == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("time", ["plain", "lengths and resets"])
def test_what_the_layer_above_reads(time, directions):
    problem = problem_of("lstm", time, directions=directions)
    layer = layer_of(problem)
    trace = forward(layer, problem)[2]
    for k in range(1, 3):
        below = trace.layers[(k - 1) * directions : k * directions]
        h = np.concatenate([one.h for one in below], axis=2)
        expected = np.where(trace.masks[k - 1], h / (1 - P), 0)
        expected[beyond(problem)] = 0
        assert_close(trace.input_of(k), expected, 1e-15)
    assert_same_bits(trace.input_of(0)[~beyond(problem)], problem["x"][~beyond(problem)])


def test_nothing_is_dropped_outside_training():
    problem = as_type(problem_of("lstm", "lengths and resets"), np.float32)
    layer, plain = layer_of(problem), make_layer(problem)
    before = layer.rng.bit_generator.state
    expected = forward(plain, problem)[0]
    y, _, trace = forward(layer, problem, drop=False)
    assert trace.masks is None
    assert_same_bits(y, expected)
    assert_same_bits(forward(layer, problem, training=False)[0], expected)
    assert_same_bits(layer(problem["x"], first_state(problem), **time_of(problem))[0], expected)
    stepper, x = layer.stepper(SIZES[1]), problem["x"]
    assert_same_bits(np.stack([stepper(x_t) for x_t in x]), layer(x)[0])
    state_jacobian(layer, x, t0=1, t1=3)
    report = gradient_flow(lstmc.Sequential(layer), x, np.ones_like(y))
    other = gradient_flow(lstmc.Sequential(plain), x, np.ones_like(y))
    assert [flow.dh.tolist() for flow in report.layers] == [
        flow.dh.tolist() for flow in other.layers
    ]
    assert layer.rng.bit_generator.state == before
    assert not np.array_equal(forward(layer, problem)[0], expected)
    assert layer.rng.bit_generator.state != before


def test_without_dropout_nothing_changes():
    problem = as_type(problem_of("gru", "lengths and resets"), np.float32)
    layer = make_layer(problem, dropout=0.0)
    assert_same_bits(by_layer(problem, layer)[0], by_layer(problem, make_layer(problem))[0])
    assert layer.rng is None


# --------------------------------------------------------------------------------------------------
# To the bit
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("time", ["plain", "lengths and resets"])
def test_any_number_of_threads_gives_the_same_bits(time, directions, dtype):
    problem = problem_of("lstm", time, directions=directions, hidden=33, sizes=(9, 17, 5))
    problem = as_type(problem, dtype)
    one, _ = by_layer(problem, num_threads=1)
    assert_same_bits(by_layer(problem, num_threads=2)[0], one)
    assert_same_bits(by_layer(problem, num_threads=2, consume=True)[0], one)
    assert_same_bits(by_layer(problem, record=[])[0], one)
    without, _ = by_layer(problem, need_dx=False)
    assert without["dx"] is None
    assert_same_bits(without | {"dx": one["dx"]}, one)
    grads = layer_of(problem)
    _, _, trace = forward(grads, problem)
    dx, _ = grads.backward(problem["dy"], trace, arriving_state(problem), need_grads=False)
    assert_same_bits(dx, one["dx"])
    assert not grads.grads.any()


def test_a_row_has_its_mask_wherever_it_ends():
    """What a row gives does not depend on where its companions end."""
    x = np.random.default_rng(0).standard_normal((6, 4, 3))
    layer = lstmc.LSTM(3, 5, 3, dropout=P, dtype=np.float64, rng=1)
    results = []
    for lengths in ([6, 3, 6, 6], [1, 3, 2, 0], None):
        layer.rng = 3
        results.append(layer.forward(x, lengths=lengths)[0])
    first, second, whole = results
    assert_same_bits(second[:, 1], first[:, 1])
    assert_same_bits(second[:2, 2], whole[:2, 2])
    assert_same_bits(first[:, 3], whole[:, 3])


# --------------------------------------------------------------------------------------------------
# What is recorded
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("time", ["plain", "lengths and resets"])
def test_recorded_gradients_are_those_behind_the_mask(time, directions):
    """What arrives at h from above, by the chain rule by hand; and so the gradients of all weights."""
    problem = problem_of("lstm", time, directions=directions)
    layer, record = layer_of(problem), []
    _, _, trace = forward(layer, problem)
    layer.backward(problem["dy"], trace, arriving_state(problem), record=record)
    hidden, end = problem["h0"].shape[-1], suffixes_of(problem)
    for number, one in enumerate(record):
        k, d = divmod(number, directions)
        below = trace.input_of(k)
        dgates = one.dgates.reshape(-1, 4 * hidden)
        assert_close(
            dgates.T @ below.reshape(-1, below.shape[-1]),
            layer.grad(f"weight_ih_{end[number]}"),
            1e-12,
        )
        assert_close(one.dx, one.dgates @ problem[f"weight_ih_{end[number]}"], 1e-12)
        if k < 2:
            above = sum(record[(k + 1) * directions + e].dx for e in range(directions))
            expected = np.where(trace.masks[k], above / (1 - P), 0)
            part = slice(d * hidden, (d + 1) * hidden)
            assert_close(one.dh_above, expected[..., part], 1e-12)


# --------------------------------------------------------------------------------------------------
# Where masks come from
# --------------------------------------------------------------------------------------------------


class OfItsOwn(lstmc.LSTM):
    """A layer of a user's own, which is given the generator of the whole where it is cloned."""


@pytest.mark.parametrize("make", [lstmc.LSTM, OfItsOwn])
def test_layers_of_a_clone_do_not_share_a_generator(make):
    """What one draws would depend on the others, and a checkpoint of the network could not be read."""
    net = lstmc.Sequential(
        make(2, 3, 2, dropout=P), lstmc.Dropout(P), lstmc.GRU(3, 2, 2, dropout=P), make(2, 3)
    )
    first, second = (net.clone(rng=5) for _ in range(2))
    generators = [layer.rng for layer in first.layers[:3]]
    assert len({id(rng.bit_generator) for rng in generators}) == 3
    assert len({rng.random() for rng in generators}) == 3
    assert_same_bits(first.params, second.params)


def test_the_generator_can_be_set():
    layer, x = lstmc.LSTM(2, 9, 2, dropout=P, rng=0), np.ones((3, 2, 2), np.float32)
    layer.rng = 4
    first, second = (layer.forward(x)[2].masks[0] for _ in range(2))
    assert not np.array_equal(first, second)
    layer.rng = np.random.default_rng(4)
    assert_same_bits(layer.forward(x)[2].masks[0], first)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same_bits(twin.forward(x)[2].masks[0], second)
    with pytest.raises(TypeError, match="rng must be an integer"):
        layer.rng = "4"
    with pytest.raises(ValueError, match="this layer has no dropout"):
        lstmc.LSTM(2, 9, 2).rng = 4


def test_copies_and_files(tmp_path):
    layer = lstmc.GRU(2, 9, 2, dropout=P, variational=True, rng=0)
    assert layer.description["options"] == {
        "input_size": 2, "hidden_size": 9, "num_layers": 2, "dropout": P, "variational": True,
    }  # fmt: skip
    layer.save(tmp_path / "layer")
    loaded = lstmc.load(tmp_path / "layer")
    assert loaded.description == layer.description
    x = np.ones((3, 2, 2), np.float32)
    loaded.rng = layer.rng = 1
    assert_same_bits(loaded.forward(x)[0], layer.forward(x)[0])
    one, two = (layer.clone(rng=3).forward(x) for _ in range(2))
    assert_same_bits(one[2].masks[0], two[2].masks[0])


def test_a_checkpoint_has_it(tmp_path):
    """A run that is stopped and resumed ends with the bits of one that is not."""

    def trainer():
        net = lstmc.Sequential(
            lstmc.Embedding(5, 4, rng=1),
            lstmc.LSTM(4, 9, 3, rng=2, dropout=0.3),
            lstmc.Linear(9, 5, rng=3),
        )
        return Trainer(net, lstmc.Adam(net, 1e-2), 4, 20, num_threads=1)

    whole = trainer()
    whole.fit(TRAIN, epochs=3)
    half = trainer()
    half.fit(TRAIN, epochs=2, checkpoint=tmp_path / "checkpoint")
    resumed = trainer()
    resumed.net.layers[1].rng = 99
    resumed.load(tmp_path / "checkpoint")
    resumed.fit(TRAIN, epochs=3)
    assert_same_bits(resumed.net.params, whole.net.params)


def test_check_gradients_drops_nothing():
    layer = lstmc.LSTM(3, 5, 2, dropout=0.5, dtype=np.float64, rng=1)
    x = np.random.default_rng(0).standard_normal((4, 2, 3))
    assert check_gradients(lstmc.Sequential(layer), x, tolerance=1e-7)


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------


def test_what_is_refused():
    with pytest.raises(
        ValueError, match="dropout must be 0 with num_layers=1: it is between the layers"
    ):
        lstmc.LSTM(3, 4, dropout=0.5)
    for share in (1.0, -0.1, "0.5", None, np.nan):
        with pytest.raises(ValueError, match=r"dropout must be a number in \[0, 1\), got"):
            lstmc.GRU(3, 4, 2, dropout=share)
    with pytest.raises(TypeError, match="variational must be True or False, got 1"):
        lstmc.RNN(3, 4, 2, dropout=0.5, variational=1)
    with pytest.raises(ValueError, match="variational must be False with dropout=0"):
        lstmc.LSTM(3, 4, 2, variational=True)


def test_a_trace_that_dropped_has_no_jacobian():
    layer = lstmc.LSTM(3, 4, 2, dropout=0.5, rng=0)
    trace = layer.forward(np.ones((3, 1, 3), np.float32))[2]
    with pytest.raises(ValueError, match="trace must be of a forward call with drop=False"):
        state_jacobian(layer, trace=trace, t0=0, t1=2)
    with pytest.raises(ValueError, match="trace must be of a forward call with drop=False"):
        carry_back(layer, trace, np.ones((2, 2, 1, 4), np.float32), 0, 2, 1)


def test_a_gpu_refuses_it_by_name(cupy):
    with pytest.raises(ValueError, match=r"dropout must be 0\.0 on a GPU"):
        lstmc.LSTM(3, 4, 2, dropout=0.5, device="cuda")
    with pytest.raises(ValueError, match=r"dropout must be 0\.0 on a GPU"):
        lstmc.Sequential(lstmc.LSTM(3, 4, 2, dropout=0.5)).to("cuda")
