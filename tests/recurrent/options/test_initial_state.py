"""Tests of the learned initial state: what state=None means, and its gradient.

The judges are the NumPy reference, whose pieces begin with it, and central differences.
"""

import copy

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from stacks import (
    arriving_state,
    as_state,
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
from times import PARAMETERS, TIMES

import lstmc
from lstmc import reference
from lstmc.inspection import check_gradients
from lstmc.training import evaluate

# As in test_time.py.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
DIFFERENCE_TOLERANCE = 1e-7

SIZES = (6, 5, 3)  # T, B, I


def problem_of(cell, time, layers=2, directions=2, hidden=9, sizes=SIZES):
    """A problem with learned initial states: "initial_h_l0" and so on."""
    problem = random_problem(cell, *sizes, hidden, layers, directions) | TIMES[time](*sizes[:2])
    rng = np.random.default_rng(layers + hidden)
    for end in suffixes_of(problem):
        for state in CELLS[cell].states:
            units = problem[f"{state}0"].shape[-1]
            problem[f"initial_{state}_{end}"] = np.round(1024 * rng.standard_normal(units)) / 1024
    return problem


def initial_of(problem):
    states = CELLS[problem["cell"]].states
    return [[problem[f"initial_{s}_{end}"] for s in states] for end in suffixes_of(problem)]


def by_reference(problem, has_state):
    """Return what comes out by golden key: without a state, each row has the initial one."""
    cell, ends, initial = CELLS[problem["cell"]], suffixes_of(problem), initial_of(problem)
    first = [problem[f"{state}0"] for state in cell.states]
    if not has_state:
        rows = [np.stack(part)[:, None] for part in zip(*initial, strict=True)]
        first = [np.broadcast_to(a, b.shape) for a, b in zip(rows, first, strict=True)]
    weights = [layer_weights(problem, end) for end in ends]
    directions = problem.get("directions", 1)
    y, last, saved = reference.stack_forward(
        cell.forward, problem["x"], first, weights, directions, **time_of(problem), initial=initial
    )
    dlast = [problem[f"d{state}_n"] for state in cell.states]
    dx, dfirst, dweights = reference.stack_backward(
        cell.backward, problem["dy"], dlast, saved, weights, directions, initial
    )
    result = {"y": y, "dx": dx}
    names = [*cell.weights, *(f"initial_{state}" for state in cell.states)]
    for number, (end, gradients) in enumerate(zip(ends, dweights, strict=True)):
        for name, gradient in zip(names, gradients, strict=True):
            result[f"d_{name}_{end}"] = gradient
        for state, part in zip(cell.states, dfirst, strict=True):
            if not has_state:
                result[f"d_initial_{state}_{end}"] += part[number].sum(axis=0)
    for state, final, part in zip(cell.states, last, dfirst, strict=True):
        result |= {f"{state}_n": final, f"d{state}0": part}
    return result


def by_layer(problem, has_state, layer=None, **options):
    layer = layer or make_layer(problem, learn_initial_state=True)
    layer.zero_grad()
    state = first_state(problem) if has_state else None
    y, state, trace = layer.forward(problem["x"], state, **time_of(problem))
    dx, dstate = layer.backward(problem["dy"], trace, arriving_state(problem), **options)
    return collect(layer, problem, y, state, dx, dstate)


# --------------------------------------------------------------------------------------------------
# Against the judges
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("time", PARAMETERS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_like_the_reference(cell, directions, time, has_state, dtype):
    problem = problem_of(cell, time, directions=directions)
    expected = by_reference(problem, has_state)
    actual = by_layer(as_type(problem, dtype), has_state)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_close(actual[name], value, TOLERANCE[dtype], name)
    if not has_state:
        assert all(np.abs(expected[n]).max() > 0.01 for n in expected if n.startswith("d_initial"))


@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("time", ["plain", "lengths and resets"])
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_the_gradient_is_the_derivative(cell, time, has_state):
    problem = problem_of(cell, time, hidden=4, sizes=(4, 4, 3))
    result = by_layer(problem, has_state)
    arriving = [problem["dy"], *parts_of(arriving_state(problem))]

    def loss(name, array):
        layer = make_layer(problem | {name: array}, learn_initial_state=True)
        state = first_state(problem) if has_state else None
        y, last, _ = layer.forward(problem["x"], state, **time_of(problem))
        return sum(
            float((a * b).sum()) for a, b in zip([y, *parts_of(last)], arriving, strict=True)
        )

    for end in suffixes_of(problem):
        for state in CELLS[cell].states:
            name = f"initial_{state}_{end}"
            expected = numerical_gradient(lambda a, n=name: loss(n, a), problem[name])
            assert_close(result[f"d_{name}"], expected, DIFFERENCE_TOLERANCE, name)


def test_a_network_against_differences():
    net = lstmc.Sequential(
        lstmc.LSTM(3, 5, 2, dtype=np.float64, rng=1, learn_initial_state=True),
        lstmc.Linear(5, 4, dtype=np.float64, rng=2),
        lstmc.GRU(4, 3, dtype=np.float64, rng=3, learn_initial_state=True, bidirectional=True),
        batch_first=True,
    )
    rng = np.random.default_rng(4)
    net.params[:] = rng.standard_normal(net.params.shape) / 2
    lengths, resets = np.array([6, 0, 4]), rng.random((3, 6)) < 0.3
    x = rng.standard_normal((3, 6, 3))
    report = check_gradients(net, x, lengths=lengths, resets=resets, tolerance=1e-7)
    assert report, str(report)
    names = [one.name for one in report.tensors if "initial" in one.name]
    assert names == [
        *(f"0.initial_{state}_l{k}" for k in (0, 1) for state in "hc"),
        "2.initial_h_l0", "2.initial_h_l0_reverse",
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------
# What the same is, to the bit
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", ["plain", "lengths and resets"])
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_any_number_of_threads_gives_the_same_bits(cell, time, dtype):
    problem = as_type(problem_of(cell, time, hidden=33, sizes=(9, 17, 5)), dtype)
    one = by_layer(problem, False, num_threads=1)
    assert_same_bits(by_layer(problem, False, num_threads=2), one)
    assert_same_bits(by_layer(problem, False, num_threads=2, consume=True), one)


@pytest.mark.parametrize("time", ["plain", "lengths and resets"])
def test_it_is_a_state_that_is_given(time, cell, dtype):
    """Of each row, and of each sequence that a reset begins."""
    problem = as_type(problem_of(cell, time, directions=1), dtype)
    layer = make_layer(problem, learn_initial_state=True)
    rows = SIZES[1]
    state = as_state([np.repeat(part[:, None], rows, 1) for part in layer.initial_state()])
    y, last = layer(problem["x"], None, **time_of(problem))
    same, also = layer(problem["x"], state, **time_of(problem))
    assert_same_bits(same, y)
    assert_same_bits(also, last)
    plain = make_layer(problem)  # and as other layers take it, where nothing is reset
    if "resets" not in problem:
        assert_same_bits(plain(problem["x"], state, **time_of(problem))[0], y)
    assert not np.array_equal(plain(problem["x"], None, **time_of(problem))[0], y)


def test_gradients_add_up_or_are_left_alone():
    problem = problem_of("lstm", "lengths and resets")
    layer = make_layer(problem, learn_initial_state=True)
    by_layer(problem, False, layer)
    once = layer.grad("initial_c_l1").copy()
    trace = layer.forward(problem["x"], **time_of(problem))[2]
    layer.backward(problem["dy"], trace, arriving_state(problem), need_grads=False)
    assert_same_bits(layer.grad("initial_c_l1"), once)
    layer.backward(problem["dy"], trace, arriving_state(problem))
    assert_same_bits(layer.grad("initial_c_l1"), 2 * once)


def test_a_row_without_a_step_and_an_unbatched_sequence():
    layer = lstmc.LSTM(3, 4, learn_initial_state=True, dtype=np.float64, rng=0)
    layer["initial_h_l0"], layer["initial_c_l0"] = [1, 2, 3, 4], [-1, 0, 5, 7]
    y, (h, c), trace = layer.forward(np.ones((2, 3)), lengths=0)
    assert not y.any()
    assert (h.tolist(), c.tolist()) == ([[1, 2, 3, 4]], [[-1, 0, 5, 7]])
    arriving = np.arange(8.0).reshape(2, 1, 4)
    layer.backward(y, trace, tuple(arriving))
    assert_same_bits(layer.grad("initial_h_l0"), arriving[0, 0])
    assert_same_bits(layer.grad("initial_c_l0"), arriving[1, 0])
    _, (h, _) = layer(np.ones((0, 2, 3)))  # nor a step at all
    assert h.tolist() == [[[1, 2, 3, 4]] * 2]


# --------------------------------------------------------------------------------------------------
# Steppers and networks
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_the_sequence(cell, isa, dtype):
    problem = as_type(problem_of(cell, "resets", directions=1), dtype)
    layer, x, resets = (
        make_layer(problem, learn_initial_state=True),
        problem["x"],
        problem["resets"],
    )
    y, last = layer(x, resets=resets)
    stepper = layer.stepper(batch=SIZES[1])
    for again in range(2):
        for t, x_t in enumerate(x):
            stepper.reset(resets[t])
            assert_same_bits(stepper(x_t), y[t], f"step {t}, time {again}")
        assert_same_bits(stepper.state, last)
        stepper.state = None


def test_a_stepper_begins_as_when_it_was_made_or_refreshed():
    layer = lstmc.GRU(3, 4, 2, learn_initial_state=True, rng=0)
    layer["initial_h_l1"] = 0.5
    stepper = layer.stepper()
    layer["initial_h_l1"] = 0.25
    for value in (0.5, 0.25):
        stepper.reset()
        assert stepper.state.tolist() == [[[0.0] * 4], [[value] * 4]]
        stepper(np.ones(3, np.float32))
        stepper.refresh()  # which leaves the state as it is
        assert value not in stepper.state


def test_a_network_and_its_stepper_begin_with_it():
    layer = lstmc.LSTM(4, 5, learn_initial_state=True, rng=1)
    net = lstmc.Sequential(lstmc.Linear(3, 4, rng=0), layer, lstmc.RNN(5, 2, rng=2))
    layer["initial_h_l0"], layer["initial_c_l0"] = 0.5, -2
    x = np.random.default_rng(3).standard_normal((4, 2, 3)).astype(np.float32)
    y, state = net(x)
    assert_same_bits(net(x, (None, None, None))[0], y)
    stepper = net.stepper(batch=2)
    for _ in range(2):
        for x_t, y_t in zip(x, y, strict=True):
            assert_same_bits(stepper(x_t), y_t)
        assert_same_bits(stepper.state[1], state[1])
        stepper.state = (None, None, None)
    layer["initial_h_l0"] = layer["initial_c_l0"] = 0
    assert not np.array_equal(net(x)[0], y)


def test_training_learns_it():
    """A trainer begins an epoch with it, and so does what evaluates."""
    net = lstmc.Sequential(
        lstmc.Embedding(5, 4, rng=1),
        lstmc.LSTM(4, 6, rng=2, learn_initial_state=True),
        lstmc.Linear(6, 5, rng=3),
    )
    tokens = np.arange(130) % 5
    trainer = lstmc.Trainer(net, lstmc.Adam(net, 0.05), batch=4, steps=8)
    trainer.fit(tokens, tokens, epochs=2)
    assert np.abs(net["1.initial_h_l0"]).max() > 0.01
    assert np.abs(net["1.initial_c_l0"]).max() > 0.01
    loss = evaluate(net, tokens, batch=4)
    plain = lstmc.Sequential(lstmc.Embedding(5, 4), lstmc.LSTM(4, 6), lstmc.Linear(6, 5))
    for name in plain.parameters():
        plain[name] = net[name]
    assert loss != evaluate(plain, tokens, batch=4)


# --------------------------------------------------------------------------------------------------
# What the layer is
# --------------------------------------------------------------------------------------------------


def test_names_and_shapes():
    layer = lstmc.LSTM(3, 4, 2, bidirectional=True, learn_initial_state=True)
    own = [name for name in layer.parameters() if name.endswith("_l1_reverse")]
    assert own == [f"{kind}_l1_reverse" for kind in
                   ("weight_ih", "weight_hh", "bias", "initial_h", "initial_c")]  # fmt: skip
    assert layer["initial_c_l1_reverse"].shape == (4,)
    assert not any(layer[name].any() for name in layer if "initial" in name)
    assert "initial_c_l0" not in lstmc.GRU(3, 4, learn_initial_state=True)


def test_copies_and_files(tmp_path):
    layer = lstmc.LSTM(3, 4, learn_initial_state=True, rng=1)
    layer["initial_h_l0"] = 3
    layer.save(tmp_path / "layer")
    for one in (lstmc.load(tmp_path / "layer"), copy.deepcopy(layer), layer.astype("float64")):
        assert one.learn_initial_state
        assert one["initial_h_l0"].tolist() == [3] * 4
    fresh = layer.clone(rng=1)
    assert not fresh["initial_h_l0"].any()
    assert_same_bits(fresh["bias_l0"], layer["bias_l0"])
    assert "learn_initial_state" not in lstmc.LSTM(3, 4).description["options"]


def test_weights_are_drawn_as_without_it():
    plain, learning = (lstmc.RNN(3, 4, 2, rng=7, learn_initial_state=b) for b in (False, True))
    for name in plain.parameters():
        assert_same_bits(learning[name], plain[name])


def test_what_is_refused():
    with pytest.raises(TypeError, match="learn_initial_state must be True or False, got 1"):
        lstmc.GRU(3, 4, learn_initial_state=1)
    layer = lstmc.LSTM(3, 4, learn_initial_state=True)
    trace = layer.forward(np.ones((2, 1, 3), np.float32))[2]
    layer["initial_c_l0"] = 1
    with pytest.raises(ValueError, match="weights have changed"):
        layer.backward(np.ones((2, 1, 4), np.float32), trace)


def test_a_gpu_refuses_it_by_name(cupy):
    with pytest.raises(ValueError, match="learn_initial_state must be False on a GPU"):
        lstmc.LSTM(3, 4, learn_initial_state=True, device="cuda")
    with pytest.raises(ValueError, match="learn_initial_state must be False on a GPU"):
        lstmc.LSTM(3, 4, learn_initial_state=True).to("cuda")
