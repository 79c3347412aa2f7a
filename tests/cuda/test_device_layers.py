"""Layers on a GPU compute what the CPU does: sequences, steps, and every way through time.

The judge is the CPU layer of the same weights, which other files judge.
"""

import importlib
import re

import numpy as np
import pytest
import stacks
from cases import ON_GPU
from devices import (
    CASE,
    CASES,
    TOLERANCE,
    WAYS,
    assert_alike,
    on_device,
    to_device,
    to_host,
)
from support import assert_close, assert_same_bits

import lstmc

# --------------------------------------------------------------------------------------------------
# The numbers are the CPU's
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("cell", ON_GPU)
def test_like_the_cpu(cupy, dtype, cell, case):
    problem = stacks.as_type(stacks.random_problem(cell, *case), dtype)
    assert_alike(on_device(cupy, problem), stacks.solution(problem), dtype)


@pytest.mark.parametrize(
    "options",
    [{"bias": False}, {"need_dx": False}, {"consume": True}, {"consume": True, "need_dx": False}],
    ids=str,
)
@pytest.mark.parametrize("cell", ["lstm", "rnn_relu"])
def test_options_like_the_cpu(cupy, dtype, cell, options):
    problem = stacks.as_type(stacks.random_problem(cell, *CASE), dtype)
    backward = {key: options[key] for key in options if key != "bias"}
    layer = stacks.make_layer(problem, bias=options.get("bias", True))
    expected = stacks.solution(problem, layer, **backward)
    assert (expected["dx"] is None) == (not options.get("need_dx", True))
    assert_alike(on_device(cupy, problem, **options), expected, dtype)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_forms_like_the_cpu(cupy, dtype, cell, batch_first, unbatched):
    problem = stacks.as_type(stacks.random_problem(cell, 5, 1 if unbatched else 3, 7, 9, 2), dtype)
    if unbatched:  # the axis of rows is the second one, of sequences and of states
        for key, value in problem.items():
            problem[key] = value[:, 0] if getattr(value, "ndim", 0) == 3 else value
        problem["h0"] = problem["h0"].reshape(2, 9)
    elif batch_first:
        problem |= {key: problem[key].swapaxes(0, 1) for key in ("x", "dy")}
    data = to_device(cupy, problem)
    results = []
    for one, device in ((problem, "cpu"), (data, "cuda")):
        make = lstmc.LSTM if cell == "lstm" else lstmc.RNN
        layer = make(7, 9, 2, batch_first=batch_first, dtype=dtype, device=device)
        for name in layer.parameters():
            layer[name][...] = one[name]
        results.append(stacks.solution(one, layer))
    assert_alike(to_host(cupy, results[1]), results[0], dtype)


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (5, 0), (0, 0)])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_no_steps_or_no_rows(cupy, dtype, cell, steps, batch):
    problem = stacks.as_type(stacks.random_problem(cell, steps, batch, 7, 9, 2), dtype)
    expected = stacks.solution(problem)
    actual = on_device(cupy, problem)
    for name, value in expected.items():
        assert_same_bits(actual[name], value)
    layer = stacks.make_layer(to_device(cupy, problem), device="cuda")
    y, _ = layer(cupy.empty((steps, batch, 7), dtype))
    assert y.shape == (steps, batch, 9)


@pytest.mark.parametrize("cell", ON_GPU)
def test_inference_like_the_cpu(cupy, dtype, cell):
    """By __call__ and without a trace, from zeros and from a state."""
    problem = stacks.as_type(stacks.random_problem(cell, 6, 4, 7, 19, 2), dtype)
    data = to_device(cupy, problem)
    layer, judge = stacks.make_layer(data, device="cuda"), stacks.make_layer(problem)
    for state, device_state in (
        (None, None),
        (stacks.first_state(problem), stacks.first_state(data)),
    ):
        expected, last = judge(problem["x"], state)
        for y, final, *trace in (
            layer(data["x"], device_state),
            layer.forward(data["x"], device_state, training=False),
        ):
            assert trace in ([], [None])
            assert_close(y.get(), expected, TOLERANCE[dtype], "y")
            for a, b in zip(stacks.parts_of(final), stacks.parts_of(last), strict=True):
                assert_close(a.get(), b, TOLERANCE[dtype], "state")


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_a_trace_holds_the_states(cupy, dtype, cell):
    problem = stacks.as_type(stacks.random_problem(cell, *CASE), dtype)
    data = to_device(cupy, problem)
    traces = (
        stacks.make_layer(data, device="cuda")
        .forward(data["x"], stacks.first_state(data))[2]
        .layers
    )
    expected = (
        stacks.make_layer(problem).forward(problem["x"], stacks.first_state(problem))[2].layers
    )
    assert len(traces) == 2
    for one, judge in zip(traces, expected, strict=True):
        for name in stacks.states_of(cell):
            array = getattr(one, name)
            assert isinstance(array, cupy.ndarray)
            assert_close(array.get(), getattr(judge, name), TOLERANCE[dtype], name)
        assert set(one.gates or ()) == set(judge.gates or ())
        for name, array in (one.gates or {}).items():
            assert_close(array.get(), judge.gates[name], TOLERANCE[dtype], name)


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_backward_again(cupy, dtype, cell):
    """Two over one trace agree, and gradients add to what was there."""
    problem = stacks.as_type(stacks.random_problem(cell, *CASE), dtype)
    expected = stacks.solution(problem)
    data = to_device(cupy, problem)
    layer = stacks.make_layer(data, device="cuda")
    _, _, trace = layer.forward(data["x"], stacks.first_state(data))
    first, second = (
        to_host(cupy, layer.backward(data["dy"], trace, stacks.arriving_state(data)))
        for _ in range(2)
    )
    assert_same_bits(first[0], second[0])
    assert_same_bits(stacks.parts_of(first[1]), stacks.parts_of(second[1]))
    for name in layer.parameters():
        assert_close(layer.grad(name).get(), 2 * expected[f"d_{name}"], TOLERANCE[dtype], name)
    layer.zero_grad()
    assert not layer.grads.any()


@pytest.mark.parametrize("need_grads", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "rnn_relu"])
def test_recording_like_the_cpu(cupy, dtype, cell, need_grads):
    problem = stacks.as_type(stacks.random_problem(cell, *CASE), dtype)
    data, records, grads = to_device(cupy, problem), [], []
    for one, device in ((problem, "cpu"), (data, "cuda")):
        layer = stacks.make_layer(one, device=device)
        _, _, trace = layer.forward(one["x"], stacks.first_state(one))
        layer.grads[...] = 3
        records.append([])
        options = {"need_grads": need_grads, "record": records[-1]}
        layer.backward(one["dy"], trace, stacks.arriving_state(one), **options)
        grads.append({name: layer.grad(name) for name in layer.parameters()})
        assert bool((layer.grads == 3).all()) is not need_grads
    assert len(records[1]) == 2
    for expected, actual in zip(*records, strict=True):
        for name in ("dh_above", "dh_later", "dc_later", "dgates", "dx", "dh"):
            a, b = (getattr(one, name) for one in (actual, expected))
            if b is None:
                assert a is None, name
            else:
                assert_close(a.get(), b, TOLERANCE[dtype], name)
    assert_alike(to_host(cupy, grads[1]), grads[0], dtype)


@pytest.mark.parametrize("rows", [(5, 3), (), (0, 2), (130,)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_like_the_cpu(cupy, dtype, rows, bias):
    generator = np.random.default_rng(stacks.seed_of("linear", rows))
    x, dy = (generator.standard_normal((*rows, n)).astype(dtype) for n in (7, 65))
    results = []
    for device in ("cpu", "cuda"):
        layer = lstmc.Linear(7, 65, bias=bias, dtype=dtype, rng=1, device=device)
        one, arriving = (x, dy) if device == "cpu" else to_device(cupy, (x, dy))
        y, state, trace = layer.forward(one, "the state")
        for _ in range(2):  # they add
            dx, dstate = layer.backward(arriving, trace, "its gradient")
        assert (state, dstate) == ("the state", "its gradient")
        assert layer.backward(arriving, trace, need_dx=False, need_grads=False)[0] is None
        parts = {"y": y, "dx": dx} | {name: layer.grad(name) for name in layer.parameters()}
        results.append(parts if device == "cpu" else to_host(cupy, parts))
    assert_alike(results[1], results[0], dtype)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(2, 4), (), (0, 3), (300,)], ids=str)
def test_embedding_like_the_cpu(cupy, dtype, kind, shape):
    generator = np.random.default_rng(stacks.seed_of("embedding", shape))
    tokens = generator.integers(5, size=shape).astype(kind)  # of 6: one never occurs, some often
    dy = generator.standard_normal((*shape, 33)).astype(dtype)
    layer, judge = (
        lstmc.Embedding(6, 33, dtype=dtype, rng=1, device=device) for device in ("cuda", "cpu")
    )
    y, _, trace = layer.forward(cupy.asarray(tokens))
    expected, _, judge_trace = judge.forward(tokens)
    assert_same_bits(y.get(), expected)
    for _ in range(2):
        assert layer.backward(cupy.asarray(dy), trace)[0] is None
        judge.backward(dy, judge_trace)
    assert_close(layer.grad("weight").get(), judge.grad("weight"), TOLERANCE[dtype])


def test_inputs_and_results_are_the_callers(cupy):
    """What is written after forward changes nothing, and results do not overlap."""
    problem = stacks.as_type(stacks.random_problem("lstm", *CASE), np.float32)
    expected, data = on_device(cupy, problem), to_device(cupy, problem)
    layer = stacks.make_layer(data, device="cuda")
    y, state, trace = layer.forward(data["x"], stacks.first_state(data))
    for array in (data["x"], data["h0"], data["c0"], y, *state):
        array[...] = 99
    dx, dstate = layer.backward(data["dy"], trace, stacks.arriving_state(data))
    for name in ("dy", "dh_n", "dc_n"):
        assert_same_bits(data[name].get(), problem[name])
    gradients = {"dx": dx, "dh0": dstate[0], "dc0": dstate[1]}
    gradients |= {f"d_{name}": layer.grad(name) for name in layer.parameters()}
    gradients = to_host(cupy, gradients)
    assert_same_bits(gradients, {name: expected[name] for name in gradients})
    for name, array in (("dx", dx), ("dh0", dstate[0])):
        array[...] = 99
        assert_same_bits(dstate[1].get(), expected["dc0"], name)


def test_a_device_that_is_current_with_a_stream_of_its_own(cupy, dtype):
    problem = stacks.as_type(stacks.random_problem("lstm", *CASE), dtype)
    expected = on_device(cupy, problem)
    for options in ({}, {"non_blocking": True}):
        with cupy.cuda.Stream(**options):
            assert_alike(on_device(cupy, problem), expected, dtype)


# --------------------------------------------------------------------------------------------------
# Steps
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "at_once"), [(1, True), (3, True), (67, True), (20, False)])
@pytest.mark.parametrize("cell", ON_GPU)
def test_a_loop_of_steps_is_the_sequence(cupy, monkeypatch, dtype, cell, batch, at_once):
    """By a warp for each sum, by tiles, some of which are partly empty, and by cuBLAS."""
    if not at_once:
        stepping = importlib.import_module("lstmc._kernels.cuda.stepper")
        monkeypatch.setattr(stepping, "AT_ONCE", 0)
    problem = stacks.as_type(stacks.random_problem(cell, 5, batch, 7, 19, 2), dtype)
    data = to_device(cupy, problem)
    layer = stacks.make_layer(data, device="cuda")
    y, last = stacks.make_layer(problem)(problem["x"], stacks.first_state(problem))
    stepper, into = layer.stepper(batch), layer.stepper(batch)
    stepper.state = into.state = stacks.first_state(data)
    out = cupy.empty((batch, 19), dtype)
    seen = []
    for x_t in data["x"]:
        seen.append(stepper(x_t))
        assert into(x_t, out=out) is out
        assert_same_bits(out.get(), seen[-1].get())
    assert_close(np.stack([y_t.get() for y_t in seen]), y, TOLERANCE[dtype], "y")
    for actual, expected in zip(stacks.parts_of(stepper.state), stacks.parts_of(last), strict=True):
        assert_close(actual.get(), expected, TOLERANCE[dtype], "state")
    if batch == 1:
        flat, flat_out = layer.stepper(), cupy.empty(19, dtype)
        flat.state = stacks.first_state(data)
        assert_same_bits(flat(data["x"][0, 0]).get(), seen[0].get()[0])
        assert flat(data["x"][1, 0], out=flat_out) is flat_out
        assert_same_bits(flat_out.get(), seen[1].get()[0])


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_the_state_of_a_stepper(cupy, cell):
    """Zeros at first; read and written as copies; rows are forgotten by a mask."""
    data = to_device(cupy, stacks.as_type(stacks.random_problem(cell, *CASE), np.float32))
    layer = stacks.make_layer(data, device="cuda")
    stepper, other = layer.stepper(3), layer.stepper(3)
    for part in stacks.parts_of(stepper.state):
        assert isinstance(part, cupy.ndarray)
        assert part.shape == (2, 3, 9)
        assert not part.any()
    stepper.state = stacks.first_state(data)
    first, after = stepper(data["x"][0]).get(), to_host(cupy, stacks.parts_of(stepper.state))
    assert not any(part.any() for part in stacks.parts_of(other.state))
    for part in stacks.parts_of(stepper.state):
        part[...] = 5
    assert_same_bits(to_host(cupy, stacks.parts_of(stepper.state)), after)
    stepper.state = stacks.first_state(data)
    assert_same_bits(stepper(data["x"][0]).get(), first)
    stepper.reset(cupy.asarray([True, False, True]))
    for part, before in zip(to_host(cupy, stacks.parts_of(stepper.state)), after, strict=True):
        assert not part[:, [0, 2]].any()
        assert_same_bits(part[:, 1], before[:, 1])
    for mask in ([1, 0, 1], [True, False]):
        with pytest.raises(ValueError, match=r"mask must be a bool array \(3,\)"):
            stepper.reset(cupy.asarray(mask))
    stepper.reset()
    assert not any(part.any() for part in stacks.parts_of(stepper.state))


@pytest.mark.parametrize("kind", ["weight_ih", "weight_hh", "bias"])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_a_stepper_has_its_own_weights_until_refreshed(cupy, cell, kind):
    data = to_device(cupy, stacks.as_type(stacks.random_problem(cell, 2, 3, 7, 9, 2), np.float32))
    layer = stacks.make_layer(data, device="cuda")
    x, state = data["x"][0], stacks.first_state(data)
    old, stepper = layer(x[None], state)[0][0].get(), layer.stepper(3)
    for k in range(2):
        layer[f"{kind}_l{k}"][...] *= 0.5
    new = layer(x[None], state)[0][0].get()
    assert np.abs(new - old).max() > 1e-3
    for expected in (old, new):
        stepper.state = state
        assert_close(stepper(x).get(), expected, 1e-5)
        stepper.refresh()


@pytest.mark.parametrize(
    ("shape", "dtype", "turned"),
    [((3, 8), np.float32, False), ((), np.float32, False), ((1, 3, 9), np.float32, False),
     ((3, 9), np.float64, False), ((9, 3), np.float32, True)],
)  # fmt: skip
def test_out_that_is_refused(cupy, shape, dtype, turned):
    data = to_device(cupy, stacks.as_type(stacks.random_problem("lstm", *CASE), np.float32))
    stepper, out = stacks.make_layer(data, device="cuda").stepper(3), cupy.empty(shape, dtype)
    with pytest.raises(ValueError, match=r"out must be a .*contiguous float32 array \(3, 9\)"):
        stepper(data["x"][0], out=out.T if turned else out)
    assert not any(part.any() for part in stepper.state)


def test_out_may_not_overlap_x(cupy):
    stepper, x = lstmc.LSTM(9, 9, device="cuda").stepper(3), cupy.ones((3, 9), np.float32)
    with pytest.raises(ValueError, match="does not overlap x"):
        stepper(x, out=x)


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_of_a_network(cupy, dtype, batch):
    """Tokens in, logits out."""
    own = {"dtype": dtype, "rng": 1}
    net = lstmc.Sequential(
        lstmc.Embedding(11, 7, **own), lstmc.LSTM(7, 9, 2, **own), lstmc.Linear(9, 11, **own)
    )
    tokens = np.random.default_rng(stacks.seed_of("net")).integers(11, size=(5, batch))
    y, after = net(tokens)
    net.to("cuda")
    data = cupy.asarray(tokens)
    stepper, out = net.stepper(batch), cupy.empty((batch, 11), dtype)
    outputs = np.stack([stepper(step).get() for step in data])
    assert_close(outputs, y, TOLERANCE[dtype])
    assert_close(net(data)[0].get(), y, TOLERANCE[dtype])
    for a, b in zip(stepper.state[1], after[1], strict=True):
        assert_close(a.get(), b, TOLERANCE[dtype])
    state = stepper.state
    stepper.reset(cupy.asarray(np.arange(batch) == 0))
    assert not any(part[:, 0].any() for part in stepper.state[1])
    stepper.state = state
    last = stepper(data[0]).get()
    stepper.state = state
    assert stepper(data[0], out=out) is out
    assert_same_bits(out.get(), last)
    if batch == 1:
        stepper.state = state
        assert_same_bits(stepper(int(tokens[0, 0])).get(), last[0])


# --------------------------------------------------------------------------------------------------
# Ways through time, and precision
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [CASE, (3, 20, 5, 17, 1)], ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh", "rnn_relu"])
def test_every_way_through_time(cupy, dtype, cell, way, case):
    """Each gives what the CPU does, and the same bits when run again."""
    from lstmc._kernels.cuda import ways

    problem = stacks.as_type(stacks.random_problem(cell, *case), dtype)
    with ways.use_way(way):
        first, second = (on_device(cupy, problem) for _ in range(2))
    assert_alike(first, stacks.solution(problem), dtype)
    assert_same_bits(second, first)


def test_ways_that_are_refused(cupy):
    from lstmc._kernels.cuda import ways

    with pytest.raises(ValueError, match=r"'sideways'"), ways.use_way("sideways"):
        pass
    layer, x = lstmc.LSTM(3, 200, rng=1, device="cuda"), cupy.ones((2, 2, 3), np.float32)
    with (
        pytest.raises(ValueError, match=r"(?=.*persistent)(?=.*\b200\b)"),
        ways.use_way("persistent"),
    ):
        layer(x)
    assert layer(x)[0].shape == (2, 2, 200)  # what was chosen is forgotten


def products(cupy, dtype):
    """Return what is made by matrix products of a map and a stack, forward and backward."""
    problem = stacks.as_type(stacks.random_problem("lstm", 6, 5, 40, 33, 1), dtype)
    generator = np.random.default_rng(stacks.seed_of("products"))
    x, dy = (generator.standard_normal((48, n)).astype(dtype) for n in (64, 40))
    layer = lstmc.Linear(64, 40, dtype=dtype, rng=1, device="cuda")
    y, _, trace = layer.forward(cupy.asarray(x))
    dx, _ = layer.backward(cupy.asarray(dy), trace)
    linear = {"y": y, "dx": dx, "weight": layer.grad("weight")}
    stack = on_device(cupy, problem)
    return to_host(cupy, linear) | {name: stack[name] for name in ("d_weight_ih_l0", "dh0")}


def test_matrix_products_of_tensor_cores(cupy, dtype, precision):
    assert lstmc.get_matmul_precision() == "float32"
    exact = products(cupy, dtype)
    lstmc.set_matmul_precision("tf32")
    assert lstmc.get_matmul_precision() == "tf32"
    rough = products(cupy, dtype)
    for name, value in exact.items():
        if dtype == np.float64:
            assert_same_bits(rough[name], value, name)
        else:
            assert 1e-6 < np.abs(rough[name] - value).max() / np.abs(value).max() < 1e-2, name
    lstmc.set_matmul_precision("float32")
    assert_same_bits(products(cupy, dtype), exact)


def test_precision_of_the_cpu_and_words_that_are_refused(precision):
    layer, x = lstmc.Linear(64, 40, rng=1), np.linspace(-1, 1, 192, dtype=np.float32).reshape(3, 64)
    expected = layer(x)[0]
    lstmc.set_matmul_precision("tf32")
    assert_same_bits(layer(x)[0], expected)
    for word in ("float16", "TF32", None, 32):
        with pytest.raises(ValueError, match=re.escape(repr(word))):
            lstmc.set_matmul_precision(word)
        assert lstmc.get_matmul_precision() == "tf32"
