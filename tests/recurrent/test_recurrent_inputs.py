"""Tests of what RNN and LSTM take, keep and refuse: arrays of all kinds, traces, steppers, errors.

That the numbers are right is tested in test_recurrent.py; here equal bits are asked of an input
that is the same in another form.
"""

import gc
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from cases import CELLS
from stacks import (
    arriving_state,
    as_state,
    as_type,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    reference_solution,
    solution,
    states_of,
)
from support import assert_close, assert_same_bits

import lstmc

CASE = (5, 3, 7, 9, 2)  # T, B, I, H, L


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


def float32_problem(cell="lstm", case=CASE):
    return as_type(random_problem(cell, *case), np.float32)


# --------------------------------------------------------------------------------------------------
# The same array in other forms
# --------------------------------------------------------------------------------------------------


def unaligned(a):
    """Return a copy that starts one byte off, so that no element is on a boundary of its size."""
    memory = bytearray(a.nbytes + 1)
    copy = np.frombuffer(memory, a.dtype, offset=1).reshape(a.shape)
    copy[...] = a
    assert not copy.flags.aligned
    return copy


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


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
    given = dict(problem)
    for name in ("x", "h0", "c0", "dy", "dh_n", "dc_n"):
        given[name] = form(problem[name])
    layer = make_layer(problem)
    assert_same_bits(solution(given, layer), solution(problem))
    for name in ("x", "h0", "c0", "dy", "dh_n", "dc_n"):
        np.testing.assert_array_equal(given[name], problem[name])


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
    assert actual["y"].shape == (5, 9)
    assert actual["h_n"].shape == actual["dh0"].shape == (2, 9)
    _, _, trace = layer.forward(bare["x"])
    assert trace.layers[0].h.shape == (5, 9)


def test_no_bias(isa, dtype, cell):
    problem = random_problem(cell, *CASE)
    for k in range(2):
        problem[f"bias_l{k}"][...] = 0
    expected = {k: v for k, v in reference_solution(problem).items() if "bias" not in k}
    given = as_type(problem, dtype)
    layer = make_layer(given, bias=False)
    assert not any("bias" in name for name in layer.parameters())
    actual = solution(given, layer)
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
        assert y.shape == (steps, batch, 9)
        assert_same_bits(last, state)
        for part, given in zip(parts_of(last), parts_of(state), strict=True):
            assert not np.may_share_memory(part, given)
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


FORKING = """
import os, signal, numpy as np, lstmc
lstm = lstmc.LSTM(60, 128, rng=1)
x = np.random.default_rng(2).standard_normal((20, 16, 60), np.float32)

def run():
    y, _, trace = lstm.forward(x, num_threads=2)
    dx, _ = lstm.backward(y, trace, num_threads=2)
    return y.tobytes() + dx.tobytes()

before = run()
child = os.fork()
if child == 0:
    signal.alarm(20)  # a child that hangs ends
    os._exit(0 if run() == before else 3)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert run() == before
print(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_works():
    """In a process of its own: the threads of a team do not survive a fork."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "0", done.stderr


def affinities():
    """Give the cores that each thread of this process may run on."""
    return {int(task): os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is no affinity here")
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_may_run_where_they_might_before(threads):
    """A member that finds its core taken moves, and is then as free as it was; more members than cores."""
    layer = lstmc.LSTM(60, 128, rng=1)
    x = np.random.default_rng(2).standard_normal((20, 16, 60), np.float32)
    expected, _, _ = layer.forward(x, num_threads=1)
    before = os.sched_getaffinity(0)
    for _ in range(10):
        time.sleep(0.005)  # asleep, the others wake where the scheduler puts them
        assert_same_bits(layer.forward(x, num_threads=threads)[0], expected)
        assert set(map(frozenset, affinities().values())) == {frozenset(before)}


# --------------------------------------------------------------------------------------------------
# Traces and what belongs to whom
# --------------------------------------------------------------------------------------------------


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
    kept = trace.layers[-1].h.copy()
    dx, dstate = layer.backward(problem["dy"], trace)
    results = [y, *parts_of(state), dx, *parts_of(dstate)]
    for i, result in enumerate(results):
        assert result.flags.writeable
        assert not any(np.may_share_memory(result, other) for other in results[i + 1 :])
        assert not np.may_share_memory(result, layer.params)
        result[...] = 7
    assert_same_bits(trace.layers[-1].h, kept)


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
        kept = trace.layers
        return {a.__array_interface__["data"][0] for k in kept for a in (k.h, k.c, k.gates["i"])}

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


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------

X_ERRORS = {
    "a list": (lambda x: x.tolist(), TypeError, r"x must be a float32 array .*7\), got list"),
    "rank 1": (lambda x: x[0, 0], ValueError, r"x must be \(T, B, 7\) or \(T, 7\), got \(7,\)"),
    "rank 4": (lambda x: x[None], ValueError, r"x must be \(T, B, 7\).*got \(1, 5, 3, 7\)"),
    "features": (lambda x: x[..., :6], ValueError, r"x must be \(T, B, 7\), got \(5, 3, 6\)"),
    "one row": (lambda x: x[:, 0, :6], ValueError, r"x must be \(T, 7\), got \(5, 6\)"),
    "float16": (lambda x: x.astype(np.float16), TypeError, "x must be float32, got float16"),
    "float64": (lambda x: x.astype(np.float64), TypeError, "x must be float32, got float64"),
    "complex": (lambda x: x.astype(complex), TypeError, "x must be float32, got complex128"),
    "object": (lambda x: x.astype(object), TypeError, "x must be float32, got object"),
    "integers": (lambda x: x.astype(int), TypeError, "x must be float32, got int64"),
    "nothing": (lambda x: None, TypeError, "x must be a float32 array .*got NoneType"),
}


@pytest.mark.parametrize(("change", "error", "message"), X_ERRORS.values(), ids=X_ERRORS)
def test_x_that_is_refused(cell, change, error, message):
    problem = float32_problem(cell)
    with pytest.raises(error, match=message):
        make_layer(problem).forward(change(problem["x"]))


def test_the_shape_in_a_message_is_the_shape_that_was_given():
    layer = lstmc.LSTM(7, 9, batch_first=True)
    with pytest.raises(ValueError, match=r"x must be \(B, T, 7\), got \(3, 5, 6\)"):
        layer(np.zeros((3, 5, 6), np.float32))


STATE_ERRORS = {
    "a wrong size": (lambda h, c: (h, c[..., :8]), ValueError, r"c must be \(2, 3, 9\), got \(2, 3, 8\)"),
    "a wrong batch": (lambda h, c: (h[:, :1], c), ValueError, r"h must be \(2, 3, 9\), got \(2, 1, 9\)"),
    "a layer less": (lambda h, c: (h[:1], c), ValueError, r"h must be \(2, 3, 9\), got \(1, 3, 9\)"),
    "a wrong rank": (lambda h, c: (h[0], c), ValueError, r"h must be \(2, 3, 9\), got \(3, 9\)"),
    "a wrong type": (lambda h, c: (h, c.astype(float)), TypeError, "c must be float32, got float64"),
    "an array": (lambda h, c: np.stack([h, c]), TypeError, r"the tuple \(h, c\), got ndarray"),
    "three": (lambda h, c: (h, c, c), TypeError, r"the tuple \(h, c\), got"),
    "None inside": (lambda h, c: (h, None), TypeError, "c must be a float32 array .*got NoneType"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), STATE_ERRORS.values(), ids=STATE_ERRORS)
def test_states_that_are_refused(change, error, message):
    problem = float32_problem()
    layer, wrong = make_layer(problem), change(problem["h0"], problem["c0"])
    with pytest.raises(error, match="state.*" + message):
        layer.forward(problem["x"], wrong)
    _, _, trace = layer.forward(problem["x"])
    layer.grads[...] = 1
    with pytest.raises(error, match="dstate.*" + message):
        layer.backward(problem["dy"], trace, wrong)
    with pytest.raises(error, match="state.*" + message):
        layer.stepper(batch=3).state = wrong
    assert (layer.grads == 1).all()


def test_the_state_of_an_rnn_is_no_tuple():
    problem = float32_problem("rnn_tanh")
    with pytest.raises(TypeError, match=r"state must be a float32 array \(2, 3, 9\), got tuple"):
        make_layer(problem).forward(problem["x"], (problem["h0"],))


DY_ERRORS = {
    "a step less": (lambda dy: dy[1:], ValueError, r"dy must be \(5, 3, 9\), got \(4, 3, 9\)"),
    "a unit less": (lambda dy: dy[..., 1:], ValueError, r"dy must be \(5, 3, 9\), got \(5, 3, 8\)"),
    "one row": (lambda dy: dy[:, 0], ValueError, r"dy must be \(5, 3, 9\), got \(5, 9\)"),
    "float64": (lambda dy: dy.astype(float), TypeError, "dy must be float32, got float64"),
    "a number": (lambda dy: 1.0, TypeError, r"dy must be a float32 array .*got float"),
}


@pytest.mark.parametrize(("change", "error", "message"), DY_ERRORS.values(), ids=DY_ERRORS)
def test_dy_that_is_refused(cell, change, error, message):
    """A refused backward leaves the gradients and the trace as they were."""
    problem = float32_problem(cell)
    layer = make_layer(problem)
    _, _, trace = layer.forward(problem["x"], first_state(problem))
    layer.grads[...] = 1
    with pytest.raises(error, match=message):
        layer.backward(change(problem["dy"]), trace, consume=True)
    assert (layer.grads == 1).all()
    dx, _ = layer.backward(problem["dy"], trace, arriving_state(problem))
    assert_same_bits(dx, solution(problem)["dx"])


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2", 2**40])
def test_numbers_of_threads_that_are_refused(threads):
    problem = float32_problem()
    layer = make_layer(problem)
    message = f"num_threads must be an integer from 1 to 4096, got {threads!r}"
    with pytest.raises(ValueError, match=message):
        layer.forward(problem["x"], num_threads=threads)
    _, _, trace = layer.forward(problem["x"])
    with pytest.raises(ValueError, match=message):
        layer.backward(problem["dy"], trace, num_threads=threads)
    assert not layer.grads.any()
    with pytest.raises(ValueError, match=message):
        layer.stepper(num_threads=threads)


@pytest.mark.parametrize("make", [lstmc.LSTM, lstmc.RNN])
@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-3, ValueError), (float("nan"), TypeError), (2.0, TypeError), (True, TypeError),
     ("4", TypeError), (None, TypeError)],
)  # fmt: skip
def test_sizes_that_are_refused(make, name, value, error):
    sizes = {"input_size": 3, "hidden_size": 4, "num_layers": 1, name: value}
    with pytest.raises(error, match=f"{name} must be a positive integer, got {value!r}"):
        make(**sizes)


@pytest.mark.parametrize(
    "sizes", [(2**40, 2**40), (1, 2**40), (2**62, 3), (2**31, 2**31), (1, 2**28)]
)
@pytest.mark.parametrize("make", [lstmc.LSTM, lstmc.RNN])
def test_sizes_beyond_all_memory(make, sizes):
    with pytest.raises((MemoryError, ValueError)):
        make(*sizes)


@pytest.mark.parametrize("dtype", [np.float16, int, complex, object, "nonsense", None])
def test_types_that_are_refused(dtype):
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got"):
        lstmc.LSTM(3, 4, dtype=dtype)


def test_an_unknown_nonlinearity_is_refused():
    with pytest.raises(ValueError, match="one of tanh, relu, identity, got 'sigmoid'"):
        lstmc.RNN(3, 4, nonlinearity="sigmoid")


def test_an_unknown_parameter_is_refused():
    layer = lstmc.LSTM(3, 4, bias=False)
    with pytest.raises(KeyError, match="no parameter 'bias_l0': there are weight_ih_l0"):
        layer["bias_l0"]
    with pytest.raises(KeyError, match="no parameter"):
        layer.grad("weight_ih_l1")


# --------------------------------------------------------------------------------------------------
# Steppers
# --------------------------------------------------------------------------------------------------


def test_stepper_forms(isa, dtype, cell):
    """(1, I) and (I,), a fresh result or `out`: the same numbers."""
    problem = as_type(random_problem(cell, 4, 1, 7, 9, 2), dtype)
    layer = make_layer(problem)
    expected = layer(problem["x"])[0]
    plain, flat, into, flat_into = (layer.stepper() for _ in range(4))
    out, flat_out = np.empty((1, 9), dtype), np.empty(9, dtype)
    for x_t, y_t in zip(problem["x"], expected, strict=True):
        assert_same_bits(plain(x_t), y_t)
        assert_same_bits(flat(x_t[0]), y_t[0])
        assert into(x_t, out=out) is out
        assert_same_bits(out, y_t)
        assert flat_into(x_t[0], flat_out) is flat_out
        assert_same_bits(flat_out, y_t[0])
    assert plain(x_t) is not plain(x_t)


def test_stepper_threads(isa):
    problem = float32_problem(case=(3, 4, 60, 201, 1))
    layer = make_layer(problem)
    one, two = layer.stepper(4, num_threads=1), layer.stepper(4, num_threads=2)
    for x_t in problem["x"]:
        assert_same_bits(two(x_t), one(x_t))


def test_stepper_state(cell):
    """It starts at zeros, is read and written as copies, and several steppers keep theirs apart."""
    problem = float32_problem(cell)
    layer = make_layer(problem)
    stepper, other = layer.stepper(3), layer.stepper(3)
    for part in parts_of(stepper.state):
        assert part.shape == (2, 3, 9)
        assert not part.any()
    given = first_state(problem)
    stepper.state = given
    first = stepper(problem["x"][0])
    after = stepper.state
    assert_same_bits(given, first_state(problem))
    assert not any(part.any() for part in parts_of(other.state))
    for part in parts_of(stepper.state):
        part[...] = 5
    assert_same_bits(stepper.state, after)
    stepper.state = given
    assert_same_bits(stepper(problem["x"][0]), first)
    stepper.state = None
    assert not any(part.any() for part in parts_of(stepper.state))


def test_stepper_reset(cell):
    problem = float32_problem(cell)
    stepper = make_layer(problem).stepper(3)
    stepper.state = first_state(problem)
    stepper.reset(np.array([True, False, True]))
    for part, before in zip(parts_of(stepper.state), parts_of(first_state(problem)), strict=True):
        assert not part[:, [0, 2]].any()
        assert_same_bits(part[:, 1], before[:, 1])
    stepper.reset()
    assert not any(part.any() for part in parts_of(stepper.state))
    for mask in ([True, False, True], np.ones(3), np.ones(2, bool), np.ones((3, 1), bool)):
        with pytest.raises(ValueError, match=r"mask must be a bool array \(3,\), got"):
            stepper.reset(mask)


@pytest.mark.parametrize("kind", ["weight_ih", "weight_hh", "bias"])
@pytest.mark.parametrize("hidden", [9, 65])
def test_stepper_refresh(isa, cell, kind, hidden):
    """The weights are those of when it was made, until refresh() takes the present ones."""
    problem = float32_problem(cell, (2, 3, 7, hidden, 2))
    layer = make_layer(problem)
    x, state = problem["x"][0], first_state(problem)
    old = layer(x[None], state)[0][0]
    stepper = layer.stepper(3)
    for k in range(2):
        layer[f"{kind}_l{k}"][...] *= 0.5
    new = layer(x[None], state)[0][0]
    assert not np.array_equal(new, old)
    for expected in (old, new):
        stepper.state = state
        assert_same_bits(stepper(x), expected)
        stepper.refresh()


def test_calls_see_the_present_weights(isa, cell):
    problem = float32_problem(cell)
    layer = make_layer(problem)
    layer(problem["x"])
    for name in layer.parameters():
        layer[name][...] *= 0.5
    changed = {**problem, **{name: layer[name].copy() for name in layer.parameters()}}
    assert_same_bits(layer(problem["x"]), make_layer(changed)(problem["x"]))


STEP_ERRORS = {
    "batch": ((2, 7), np.float32, ValueError, r"x must be \(3, 7\), got \(2, 7\)"),
    "features": ((3, 6), np.float32, ValueError, r"x must be \(3, 7\), got \(3, 6\)"),
    "rank 1": ((7,), np.float32, ValueError, r"x must be \(3, 7\), got \(7,\)"),
    "rank 3": ((1, 3, 7), np.float32, ValueError, r"x must be \(3, 7\), got \(1, 3, 7\)"),
    "rank 0": ((), np.float32, ValueError, r"x must be \(3, 7\), got \(\)"),
    "float64": ((3, 7), np.float64, TypeError, "x must be float32, got float64"),
    "object": ((3, 7), object, TypeError, "x must be float32, got object"),
}


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"), STEP_ERRORS.values(), ids=STEP_ERRORS
)
def test_steps_that_are_refused(cell, shape, dtype, error, message):
    stepper = make_layer(float32_problem(cell)).stepper(3)
    with pytest.raises(error, match=message):
        stepper(np.ones(shape, dtype))
    assert not any(part.any() for part in parts_of(stepper.state))


def test_a_step_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"x must be a float32 array \(1, 7\), got list"):
        lstmc.LSTM(7, 9).stepper()([0.0] * 7)


OUT_ERRORS = {
    "shape": lambda: np.empty((3, 8), np.float32),
    "rank": lambda: np.empty((1, 3, 9), np.float32),
    "rank 0": lambda: np.empty((), np.float32),
    "type": lambda: np.empty((3, 9)),
    "a list": lambda: [[0.0] * 9] * 3,
    "order": lambda: np.empty((9, 3), np.float32).T,
    "read-only": lambda: read_only(np.empty((3, 9), np.float32)),
    "byte-swapped": lambda: np.empty((3, 9), np.dtype(np.float32).newbyteorder()),
    "unaligned": lambda: unaligned(np.empty((3, 9), np.float32)),
}


@pytest.mark.parametrize("out", OUT_ERRORS.values(), ids=OUT_ERRORS)
def test_out_that_is_refused(out):
    stepper = make_layer(float32_problem()).stepper(3)
    with pytest.raises(
        ValueError, match=r"out must be a writable contiguous float32 array \(3, 9\)"
    ):
        stepper(np.ones((3, 7), np.float32), out=out())
    assert not any(part.any() for part in parts_of(stepper.state))


def test_out_may_not_overlap_x():
    stepper = lstmc.LSTM(9, 9).stepper(3)
    x = np.ones((3, 9), np.float32)
    with pytest.raises(ValueError, match="does not overlap x"):
        stepper(x, out=x)


@pytest.mark.parametrize("batch", [0, -1, True, 1.5])
def test_batches_of_a_stepper_that_are_refused(batch):
    with pytest.raises((TypeError, ValueError), match="batch must be a positive integer"):
        lstmc.LSTM(3, 4).stepper(batch)
