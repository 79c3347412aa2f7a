"""Tests of what recurrent layers take: arrays in all forms, nothing at all, and what is not a number.

That the numbers are right is tested in test_recurrent.py; here equal bits are asked of an input
that is the same in another form.
"""

import numpy as np
import pytest
from cases import CELLS
from recurrent_inputs import CASE, float32_problem, read_only, unaligned
from stacks import (
    arriving_state,
    as_type,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    reference_solution,
    seed_of,
    solution,
    states_of,
)
from support import assert_close, assert_same_bits

import lstmc

FORMS = {
    "every other element": lambda a: np.stack([a, a + 1], axis=-1)[..., 0],
    "Fortran order": np.asfortranarray,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": read_only,
    "unaligned": unaligned,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_the_same_array(isa, dtype, form):
    problem = as_type(random_problem("lstm", *CASE), dtype)
    inputs = dict(problem)
    for name in ("x", "h0", "c0", "dy", "dh_n", "dc_n"):
        inputs[name] = form(problem[name])
    layer = make_layer(problem)
    assert_same_bits(solution(inputs, layer), solution(problem))
    for name in ("x", "h0", "c0", "dy", "dh_n", "dc_n"):
        np.testing.assert_array_equal(inputs[name], problem[name])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_given_to_a_stepper(isa, dtype, form):
    problem = as_type(random_problem("lstm", *CASE), dtype)
    layer = make_layer(problem)
    results = []
    for change in (form, np.copy):
        stepper = layer.stepper(batch=3)
        stepper.state = tuple(change(part) for part in first_state(problem))
        results.append(np.stack([stepper(change(x_t)) for x_t in problem["x"]]))
    assert_same_bits(*results)


def test_batch_first(cell):
    problem = float32_problem(cell)
    turned = {**problem, "x": problem["x"].swapaxes(0, 1), "dy": problem["dy"].swapaxes(0, 1)}
    actual = solution(turned, make_layer(problem, batch_first=True))
    expected = solution(problem)
    for name in ("y", "dx"):
        assert actual[name].flags.c_contiguous
        actual[name] = actual[name].swapaxes(0, 1)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched(cell, batch_first):
    problem = float32_problem(cell, (5, 1, 7, 9, 2))
    expected = solution(problem)
    # The axis of batch rows is the second one, of sequences and of states.
    bare = {
        key: value[:, 0] if getattr(value, "ndim", 0) == 3 else value
        for key, value in problem.items()
    }
    layer = make_layer(problem, batch_first=batch_first)
    actual = solution(bare, layer)
    for name, value in actual.items():
        assert_same_bits(value, expected[name].reshape(value.shape))
    units = CELLS[cell].units("h", 9)
    assert actual["y"].shape == (5, units)
    assert actual["h_n"].shape == actual["dh0"].shape == (2, units)
    _, _, trace = layer.forward(bare["x"])
    assert trace.layers[0].h.shape == (5, units)


def test_no_bias(isa, dtype, cell):
    problem = random_problem(cell, *CASE)
    for k in range(2):
        problem[f"bias_l{k}"][...] = 0
    expected = {k: v for k, v in reference_solution(problem).items() if "bias" not in k}
    inputs = as_type(problem, dtype)
    layer = make_layer(inputs, bias=False)
    assert not any("bias" in name for name in layer.parameters())
    actual = solution(inputs, layer)
    assert set(actual) == set(expected)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12  # as in test_recurrent.py
    for name, value in expected.items():
        assert_close(actual[name], value, tolerance, name)


# --------------------------------------------------------------------------------------------------
# Nothing, and what is not a number
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (5, 0), (0, 0)])
@pytest.mark.parametrize("threads", [1, 2])
def test_no_steps_or_no_rows(isa, cell, steps, batch, threads):
    problem = float32_problem(cell, (steps, batch, 7, 9, 2))
    layer, x, state = make_layer(problem), problem["x"], first_state(problem)
    for training in (False, True):
        y, last, trace = layer.forward(x, state, training=training, num_threads=threads)
        assert y.shape == (steps, batch, CELLS[cell].units("h", 9))
        assert_same_bits(last, state)
        for part, start in zip(parts_of(last), parts_of(state), strict=True):
            assert not np.may_share_memory(part, start)
    arriving = arriving_state(problem)
    dx, dstate = layer.backward(np.ones_like(y), trace, arriving, num_threads=threads)
    assert dx.shape == x.shape
    assert_same_bits(dstate, arriving)
    assert not layer.grads.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "state", "dy"])
@pytest.mark.parametrize("batch", [3, 7])
def test_what_is_not_finite_stays_in_its_row(isa, dtype, cell, value, where, batch):
    problem = as_type(random_problem(cell, 4, batch, 5, 9, 2), dtype)
    expected = solution(problem)
    poisoned = {key: np.copy(array) for key, array in problem.items()} | {"cell": cell}
    poisoned |= {"num_layers": 2}
    if where == "state":
        poisoned["h0"][0, 1, 2] = value
    else:  # at a unit that relu lets through
        poisoned[where][1, 1, np.argmax(expected["y"][1, 1]) if where == "dy" else 2] = value
    actual = solution(poisoned, make_layer(problem))
    others = np.arange(batch) != 1
    for name in ("y", "dx", *(f"{s}_n" for s in states_of(cell)), "dh0"):
        assert_same_bits(actual[name][:, others], expected[name][:, others])
    if np.isnan(value):
        reached = "dx" if where == "dy" else "y"
        assert np.isnan(actual[reached][1, 1]).any()
        assert not np.isnan(actual[reached][2 if where == "dy" else 0, 1]).any() or where == "state"


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_are_flushed_inside_and_not_outside(isa, dtype, threads):
    """A product that is denormal is zero in a kernel; NumPy's arithmetic keeps its own."""
    tiny = np.finfo(dtype).tiny
    layer = lstmc.RNN(64, 64, nonlinearity="identity", bias=False, dtype=dtype)
    layer["weight_ih_l0"][...] = np.eye(64) / 4
    layer["weight_hh_l0"][...] = 0
    y, _ = layer.forward(np.full((40, 16, 64), 2 * tiny, dtype), num_threads=threads)[:2]
    assert not y.any()
    denormal = np.full(64, tiny, dtype) / dtype.type(4)
    assert denormal.all()
    assert (denormal * dtype.type(0.5)).all()


@pytest.mark.parametrize("layers", [2, 3])
def test_wide_batches_in_layers_have_one_result(isa, layers):
    """So many rows that the sums of one step fill a chunk of time, whose states are used again.

    A member of the team that is a step ahead must not write where another still reads.
    """
    rng = np.random.default_rng(seed_of("wide", layers))
    net = lstmc.LSTM(16, 272, num_layers=layers, rng=rng)
    x = rng.standard_normal((4, 256, 16)).astype(np.float32)
    expected, state, _ = net.forward(x, num_threads=1)
    for _ in range(3):
        y, after, _ = net.forward(x, training=False, num_threads=2)
        assert_same_bits(y, expected)
        assert_same_bits(after, state)
