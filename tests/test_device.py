"""Layers on a GPU: where they are, that they compute what the CPU does, what they take and refuse.

The judge is the CPU layer of the same weights, which other files judge. Losses, optimisers, training and
inspection on a GPU are in test_device_training.py.
"""

import gc
import io
import re
import sys

import emulator
import numpy as np
import pytest
from own_layers import Bare, Halve, Scale
from stacks import (
    CELLS,
    arriving_state,
    as_type,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    seed_of,
    solution,
    states_of,
)
from support import assert_close, assert_same_bits
from test_recurrent_inputs import DY_ERRORS, STATE_ERRORS, X_ERRORS

import lstmc
from lstmc import _kernels

# The order of sums and the functions differ; of the largest element.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-11}

CASE = (5, 3, 7, 9, 2)  # T, B, I, H, L
CASES = [CASE, (1, 1, 1, 1, 1), (4, 1, 6, 33, 1), (3, 20, 5, 17, 2), (2, 33, 3, 70, 3)]
WAYS = ["steps", "graph", "persistent", "cooperative"]


def to_device(cupy, value):
    """Return the value with every array of NumPy's, however deep, as one on the device."""
    if isinstance(value, np.ndarray):
        return cupy.asarray(value)
    if isinstance(value, dict):
        return {key: to_device(cupy, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_device(cupy, part) for part in value)
    return value


def to_host(cupy, value):
    """Return the value with every array of the device's as one of NumPy's; it must hold no other."""
    if isinstance(value, dict):
        return {key: to_host(cupy, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_host(cupy, part) for part in value)
    assert value is None or isinstance(value, cupy.ndarray), type(value)
    return None if value is None else value.get()


def assert_alike(actual, expected, dtype):
    """Assert that two solutions have the same keys and near numbers."""
    assert set(actual) == set(expected)
    for name, value in expected.items():
        if value is None:
            assert actual[name] is None, name
        else:
            assert actual[name].dtype == value.dtype, name
            assert_close(actual[name], value, TOLERANCE[np.dtype(dtype)], name)


def on_device(cupy, problem, **options):
    """Solve a problem on the device; return the solution as arrays of the host."""
    given = to_device(cupy, problem)
    backward = {key: options.pop(key) for key in ("need_dx", "consume") if key in options}
    layer = make_layer(given, device="cuda", **options)
    return to_host(cupy, solution(given, layer, **backward))


def is_emulated(cupy):
    return cupy.cuda.runtime.getDeviceProperties(0)["name"] == b"emulated"


@pytest.fixture
def emulated(cupy):
    """For what a real device can not be brought to do."""
    if not is_emulated(cupy):
        pytest.skip("only of the double")
    return cupy


@pytest.fixture
def pool(emulated):
    """The memory of the device, whose limit is lifted afterwards."""
    gc.collect()
    yield emulated.get_default_memory_pool()
    emulated.get_default_memory_pool().set_limit(size=0)


@pytest.fixture
def precision():
    """Put back how matrices are multiplied."""
    before = lstmc.get_matmul_precision()
    yield
    lstmc.set_matmul_precision(before)


# --------------------------------------------------------------------------------------------------
# Where a network is
# --------------------------------------------------------------------------------------------------

MAKERS = {
    "lstm": lambda **o: lstmc.LSTM(7, 9, 2, **o),
    "rnn": lambda **o: lstmc.RNN(7, 9, 2, **o),
    "linear": lambda **o: lstmc.Linear(7, 9, **o),
    "embedding": lambda **o: lstmc.Embedding(7, 9, **o),
    "sequential": lambda **o: lstmc.Sequential(
        lstmc.Embedding(11, 7, **o), lstmc.Dropout(0.3), lstmc.LSTM(7, 9, **o), lstmc.Linear(9, 11, **o)
    ),
    "nested": lambda **o: lstmc.Sequential(
        lstmc.Sequential(lstmc.LSTM(7, 9, **o), lstmc.Dropout()), lstmc.Linear(9, 3, **o)
    ),
}  # fmt: skip
NAMES = {
    "lstm": "weight_hh_l1",
    "rnn": "bias_l1",
    "linear": "weight",
    "embedding": "weight",
    "sequential": "2.weight_hh_l0",
    "nested": "0.0.weight_hh_l0",
}


def assert_buffers(array_module, net):
    """Two flat arrays, aligned, of which the named weights are views, and zeros between them."""
    assert isinstance(net.params, array_module.ndarray)
    assert isinstance(net.grads, array_module.ndarray)
    assert net.params.shape == net.grads.shape
    for flat, part in ((net.params, net.__getitem__), (net.grads, net.grad)):
        kept = flat.copy()
        for name, shape in net.parameters().items():
            assert part(name).shape == shape
            part(name)[...] = 0
        assert not flat.any(), "the padding, or a weight that is no view"
        flat[...] = kept
        flat[...] += 1
        for name in net.parameters():
            assert (part(name) != 0).any(), name
        flat[...] = kept
    if array_module is not np:
        assert net.params.data.ptr % 64 == net.grads.data.ptr % 64 == 0
        assert all(net[name].data.ptr % 64 == 0 for name in net.parameters())


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_network_made_on_a_device(cupy, dtype, kind, device):
    """With the same seed its weights are those of the CPU."""
    net, twin = (MAKERS[kind](rng=3, dtype=dtype, device=d) for d in (device, "cpu"))
    assert (net.device, twin.device) == ("cuda:0", "cpu")
    assert net.params.dtype == dtype
    assert net.parameters() == twin.parameters()
    assert net.num_parameters == twin.num_parameters
    assert_buffers(cupy, net)
    assert not net.grads.any()
    for name in twin.parameters():
        assert_same_bits(net[name].get(), twin[name])


@pytest.mark.parametrize("kind", MAKERS)
def test_there_and_back(cupy, dtype, kind):
    """Values stay to the bit, names and views are as before."""
    net = MAKERS[kind](rng=3, dtype=dtype)
    for name in net.parameters():
        net.grad(name)[...] = np.random.default_rng(seed_of(name)).standard_normal(net[name].shape)
    before, grads, parameters = net.params.copy(), net.grads.copy(), net.parameters()
    assert before.size > net.num_parameters, "there must be padding"
    for device in ("cuda", "cuda:0", "cpu", "cpu"):
        assert net.to(device) is net
        assert net.device == {"cuda": "cuda:0"}.get(device, device)
        assert net.parameters() == parameters
        on_gpu = device != "cpu"
        assert_buffers(cupy if on_gpu else np, net)
        for now, then in ((net.params, before), (net.grads, grads)):
            assert_same_bits(now.get() if on_gpu else now, then)
    assert net.to("cuda")[NAMES[kind]].device.id == 0
    before = net.params.copy()
    net[NAMES[kind]][...] += 1
    assert (net.params != before).any()


def test_a_part_of_a_network_stays_with_it(cupy):
    """Moving it would tear it out of the flat arrays."""
    layer = lstmc.LSTM(7, 9, rng=1)
    net = lstmc.Sequential(layer, lstmc.Linear(9, 3, rng=2))
    for device, there in (("cuda", "cpu"), ("cpu", "cuda:0")):
        with pytest.raises(ValueError, match="part of a network"):
            layer.to(device)
        assert net.device == layer.device == there
        net.to(device)
    net.to("cuda")
    assert layer.device == net.layers[1].device == "cuda:0"
    layer["weight_hh_l0"][...] = 0
    assert not net["0.weight_hh_l0"].any()


def test_layers_of_different_devices_are_no_network(cupy):
    layers = lstmc.Linear(3, 4, device="cuda"), lstmc.Dropout(), lstmc.Linear(4, 5)
    with pytest.raises(ValueError, match=r"(?=.*cuda:0)(?=.*\bcpu\b)"):
        lstmc.Sequential(*layers)
    lstmc.Sequential(*layers[:2], layers[2].to("cuda"))  # they are as free as before


def test_a_layer_of_another_maker_does_not_move(cupy, dtype):
    """And nothing else has moved then."""
    net = lstmc.Sequential(
        lstmc.LSTM(4, 5, dtype=dtype, rng=1), Bare(5, dtype), lstmc.Linear(5, 3, dtype=dtype)
    )
    x = np.random.default_rng(seed_of("bare")).standard_normal((3, 2, 4)).astype(dtype)
    params, expected = net.params, net(x)[0]
    with pytest.raises((TypeError, ValueError), match=r"layers\[1\].*Bare|Bare.*layers\[1\]"):
        net.to("cuda")
    assert net.device == net.layers[0].device == net.layers[2].device == "cpu"
    assert net.params is params
    for name in net.parameters():
        if name != "1.shift":
            assert np.shares_memory(net[name], params)
    assert_same_bits(net(x)[0], expected)
    net["2.bias"][...] += 1
    assert_close(net(x)[0], expected + 1, 1e-6)


def test_a_layer_of_a_users_own_moves(cupy, dtype):
    """One that derives from Layer, and one that has no parameters."""
    net = lstmc.Sequential(lstmc.Linear(4, 5, dtype=dtype, rng=1), Scale(5, dtype), Halve())
    x, dy = (
        np.random.default_rng(seed_of("own", n)).standard_normal((3, 2, n)).astype(dtype)
        for n in (4, 5)
    )
    y, _, trace = net.forward(x)
    dx, _ = net.backward(dy, trace)
    grads = net.grads.copy()
    net.zero_grad()
    net.to("cuda")
    assert net.layers[1].device == "cuda:0"
    found, state, trace = net.forward(cupy.asarray(x))
    found_dx, _ = net.backward(cupy.asarray(dy), trace)
    assert state == (None, None, 1)
    for actual, expected in ((found, y), (found_dx, dx), (net.grads, grads)):
        assert_close(actual.get(), expected, TOLERANCE[dtype])


# --------------------------------------------------------------------------------------------------
# The numbers are the CPU's
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_like_the_cpu(cupy, dtype, cell, case):
    problem = as_type(random_problem(cell, *case), dtype)
    assert_alike(on_device(cupy, problem), solution(problem), dtype)


@pytest.mark.parametrize(
    "options",
    [{"bias": False}, {"need_dx": False}, {"consume": True}, {"consume": True, "need_dx": False}],
    ids=str,
)
@pytest.mark.parametrize("cell", ["lstm", "rnn_relu"])
def test_options_like_the_cpu(cupy, dtype, cell, options):
    problem = as_type(random_problem(cell, *CASE), dtype)
    backward = {key: options[key] for key in options if key != "bias"}
    layer = make_layer(problem, bias=options.get("bias", True))
    expected = solution(problem, layer, **backward)
    assert (expected["dx"] is None) == (not options.get("need_dx", True))
    assert_alike(on_device(cupy, problem, **options), expected, dtype)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_forms_like_the_cpu(cupy, dtype, cell, batch_first, unbatched):
    problem = as_type(random_problem(cell, 5, 1 if unbatched else 3, 7, 9, 2), dtype)
    if unbatched:  # the axis of rows is the second one, of sequences and of states
        for key, value in problem.items():
            problem[key] = value[:, 0] if getattr(value, "ndim", 0) == 3 else value
        problem["h0"] = problem["h0"].reshape(2, 9)
    elif batch_first:
        problem |= {key: problem[key].swapaxes(0, 1) for key in ("x", "dy")}
    given = to_device(cupy, problem)
    results = []
    for one, device in ((problem, "cpu"), (given, "cuda")):
        make = lstmc.LSTM if cell == "lstm" else lstmc.RNN
        layer = make(7, 9, 2, batch_first=batch_first, dtype=dtype, device=device)
        for name in layer.parameters():
            layer[name][...] = one[name]
        results.append(solution(one, layer))
    assert_alike(to_host(cupy, results[1]), results[0], dtype)


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (5, 0), (0, 0)])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_no_steps_or_no_rows(cupy, dtype, cell, steps, batch):
    problem = as_type(random_problem(cell, steps, batch, 7, 9, 2), dtype)
    expected = solution(problem)
    actual = on_device(cupy, problem)
    for name, value in expected.items():
        assert_same_bits(actual[name], value)
    layer = make_layer(to_device(cupy, problem), device="cuda")
    y, _ = layer(cupy.empty((steps, batch, 7), dtype))
    assert y.shape == (steps, batch, 9)


@pytest.mark.parametrize("cell", CELLS)
def test_inference_like_the_cpu(cupy, dtype, cell):
    """By __call__ and without a trace, from zeros and from a state."""
    problem = as_type(random_problem(cell, 6, 4, 7, 19, 2), dtype)
    given = to_device(cupy, problem)
    layer, judge = make_layer(given, device="cuda"), make_layer(problem)
    for state, device_state in ((None, None), (first_state(problem), first_state(given))):
        expected, last = judge(problem["x"], state)
        for y, found, *trace in (
            layer(given["x"], device_state),
            layer.forward(given["x"], device_state, training=False),
        ):
            assert trace in ([], [None])
            assert_close(y.get(), expected, TOLERANCE[dtype], "y")
            for a, b in zip(parts_of(found), parts_of(last), strict=True):
                assert_close(a.get(), b, TOLERANCE[dtype], "state")


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_a_trace_holds_the_states(cupy, dtype, cell):
    problem = as_type(random_problem(cell, *CASE), dtype)
    given = to_device(cupy, problem)
    kept = make_layer(given, device="cuda").forward(given["x"], first_state(given))[2].layers
    expected = make_layer(problem).forward(problem["x"], first_state(problem))[2].layers
    assert len(kept) == 2
    for one, judge in zip(kept, expected, strict=True):
        for name in states_of(cell):
            array = getattr(one, name)
            assert isinstance(array, cupy.ndarray)
            assert_close(array.get(), getattr(judge, name), TOLERANCE[dtype], name)
        assert set(one.gates or ()) == set(judge.gates or ())
        for name, array in (one.gates or {}).items():
            assert_close(array.get(), judge.gates[name], TOLERANCE[dtype], name)


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_backward_again(cupy, dtype, cell):
    """Two over one trace agree, and gradients add to what was there."""
    problem = as_type(random_problem(cell, *CASE), dtype)
    expected = solution(problem)
    given = to_device(cupy, problem)
    layer = make_layer(given, device="cuda")
    _, _, trace = layer.forward(given["x"], first_state(given))
    first, second = (
        to_host(cupy, layer.backward(given["dy"], trace, arriving_state(given))) for _ in range(2)
    )
    assert_same_bits(first[0], second[0])
    assert_same_bits(parts_of(first[1]), parts_of(second[1]))
    for name in layer.parameters():
        assert_close(layer.grad(name).get(), 2 * expected[f"d_{name}"], TOLERANCE[dtype], name)
    layer.zero_grad()
    assert not layer.grads.any()


@pytest.mark.parametrize("need_grads", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "rnn_relu"])
def test_recording_like_the_cpu(cupy, dtype, cell, need_grads):
    problem = as_type(random_problem(cell, *CASE), dtype)
    given, records, grads = to_device(cupy, problem), [], []
    for one, device in ((problem, "cpu"), (given, "cuda")):
        layer = make_layer(one, device=device)
        _, _, trace = layer.forward(one["x"], first_state(one))
        layer.grads[...] = 3
        records.append([])
        options = {"need_grads": need_grads, "record": records[-1]}
        layer.backward(one["dy"], trace, arriving_state(one), **options)
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
    generator = np.random.default_rng(seed_of("linear", rows))
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
    generator = np.random.default_rng(seed_of("embedding", shape))
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
    problem = as_type(random_problem("lstm", *CASE), np.float32)
    expected, given = on_device(cupy, problem), to_device(cupy, problem)
    layer = make_layer(given, device="cuda")
    y, state, trace = layer.forward(given["x"], first_state(given))
    for array in (given["x"], given["h0"], given["c0"], y, *state):
        array[...] = 99
    dx, dstate = layer.backward(given["dy"], trace, arriving_state(given))
    for name in ("dy", "dh_n", "dc_n"):
        assert_same_bits(given[name].get(), problem[name])
    found = {"dx": dx, "dh0": dstate[0], "dc0": dstate[1]}
    found |= {f"d_{name}": layer.grad(name) for name in layer.parameters()}
    found = to_host(cupy, found)
    assert_same_bits(found, {name: expected[name] for name in found})
    for name, array in (("dx", dx), ("dh0", dstate[0])):
        array[...] = 99
        assert_same_bits(dstate[1].get(), expected["dc0"], name)


def test_a_device_that_is_current_with_a_stream_of_its_own(cupy, dtype):
    problem = as_type(random_problem("lstm", *CASE), dtype)
    expected = on_device(cupy, problem)
    for options in ({}, {"non_blocking": True}):
        with cupy.cuda.Stream(**options):
            assert_same_bits(on_device(cupy, problem), expected)


# --------------------------------------------------------------------------------------------------
# Forms of the same array
# --------------------------------------------------------------------------------------------------


class Interface:
    """An array of another library's, as __cuda_array_interface__ tells it."""

    def __init__(self, array):
        self._array = array

    @property
    def __cuda_array_interface__(self):
        return self._array.__cuda_array_interface__


class Capsule:
    """An array of another library's, as DLPack hands it over."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def every_other(a):
    wide = a.repeat(2).reshape(*a.shape, 2)
    wide[..., 1] = 7
    return wide[..., 0]


FORMS = {
    "every other element": every_other,
    "axes turned": lambda a: a.T.copy().T,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "__cuda_array_interface__": Interface,
    "__cuda_array_interface__ with strides": lambda a: Interface(every_other(a)),
    "DLPack": Capsule,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_forms_of_the_same_array(cupy, dtype, cell, form):
    problem = as_type(random_problem(cell, *CASE), dtype)
    given = to_device(cupy, problem)
    layer = make_layer(given, device="cuda")
    expected = to_host(cupy, solution(given, layer))
    changed = dict(given)
    for name in [key for key in given if key in ("x", "dy") or (key[0] in "hc" and "0" in key)]:
        changed[name] = form(given[name])
    for state in states_of(cell):
        changed[f"d{state}_n"] = form(given[f"d{state}_n"])
    assert_same_bits(to_host(cupy, solution(changed, layer)), expected)
    for name in ("x", "dy", "h0"):
        assert_same_bits(given[name].get(), problem[name])
    stepper = layer.stepper(3)
    first = stepper(given["x"][0])
    stepper.reset()
    assert_same_bits(stepper(form(given["x"][0])).get(), first.get())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_tokens_and_targets(cupy, form):
    generator = np.random.default_rng(seed_of("tokens"))
    tokens = cupy.asarray(generator.integers(6, size=(4, 3)))
    layer = lstmc.Embedding(6, 6, rng=1, device="cuda")
    y = layer(tokens)[0]
    assert_same_bits(layer(form(tokens))[0].get(), y.get())
    loss, dy = lstmc.softmax_cross_entropy(y, tokens)
    again, found = lstmc.softmax_cross_entropy(form(y), form(tokens))
    assert float(loss) == float(again)
    assert_same_bits(found.get(), dy.get())


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------


class Setting:
    """A stack, a table, a map and what goes in, on one device; `wrong` is the same of the other."""

    def __init__(self, right, wrong, device):
        self.right, self.wrong = right, wrong
        self.layer = make_layer(right, device=device)
        self.table = lstmc.Embedding(6, 3, rng=1, device=device)
        self.map = lstmc.Linear(7, 9, rng=1, device=device)

    def trace(self, layer, name):
        return layer.forward(self.right[name])[2]


# What the argument is called, and a call where it alone is of the wrong kind.
MIXED = {
    "x": lambda s: s.layer.forward(s.wrong["x"]),
    "x of __call__": lambda s: s.layer(s.wrong["x"]),
    "state": lambda s: s.layer.forward(s.right["x"], first_state(s.wrong)),
    "dy": lambda s: s.layer.backward(s.wrong["dy"], s.trace(s.layer, "x")),
    "dstate": lambda s: s.layer.backward(
        s.right["dy"], s.trace(s.layer, "x"), arriving_state(s.wrong)
    ),
    "x of a stepper": lambda s: s.layer.stepper(3)(s.wrong["x"][0]),
    "out of a stepper": lambda s: s.layer.stepper(3)(s.right["x"][0], out=s.wrong["dy"][0]),
    "state of a stepper": lambda s: setattr(s.layer.stepper(3), "state", first_state(s.wrong)),
    "tokens": lambda s: s.table.forward(s.wrong["tokens"]),
    "tokens of a stepper": lambda s: s.table.stepper(3)(s.wrong["tokens"]),
    "x of linear": lambda s: s.map.forward(s.wrong["x"]),
    "dy of linear": lambda s: s.map.backward(s.wrong["dy"], s.trace(s.map, "x")),
    "dy of embedding": lambda s: s.table.backward(s.wrong["rows"], s.trace(s.table, "tokens")),
    "targets": lambda s: lstmc.softmax_cross_entropy(s.right["rows"], s.wrong["tokens"]),
    "logits": lambda s: lstmc.softmax_cross_entropy(s.wrong["rows"], s.right["tokens"]),
    "out of a loss": lambda s: lstmc.softmax_cross_entropy(
        s.right["rows"], s.right["tokens"], out=s.wrong["rows"]
    ),
    "target": lambda s: lstmc.squared_error(s.right["x"], s.wrong["x"]),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("what", MIXED)
def test_arrays_of_host_and_device_do_not_mix(cupy, device, what):
    """No copy is made unasked: the argument is named."""
    problem = as_type(random_problem("lstm", *CASE), np.float32)
    problem["tokens"] = np.array([2, 0, 1])
    problem["rows"] = np.ones((3, 3), np.float32)
    both = problem, to_device(cupy, problem)
    setting = Setting(*(both if device == "cpu" else both[::-1]), device)
    # A loss has no device of its own: it goes by the logits, and either may be the one that is named.
    name = "(logits|targets)" if what == "logits" else what.split()[0]
    told = "NumPy" if device == "cuda" and what != "logits" else ""
    # On the CPU, whatever is no good for out is a ValueError.
    errors = ValueError if (device, what) == ("cpu", "out of a stepper") else TypeError
    with pytest.raises(errors, match=rf"^{name}\b.*{told}"):
        MIXED[what](setting)
    for layer in (setting.layer, setting.map, setting.table):
        assert not layer.grads.any()


def kept(errors):
    """Return the errors but those of a type that CuPy has not."""
    return {name: error for name, error in errors.items() if name != "object"}


@pytest.mark.parametrize(
    ("change", "error", "message"), kept(X_ERRORS).values(), ids=kept(X_ERRORS)
)
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_x_that_is_refused(cupy, cell, change, error, message):
    given = to_device(cupy, as_type(random_problem(cell, *CASE), np.float32))
    message = message.replace(", got", ".*, got")  # it may say where the array is to be
    with pytest.raises(error, match=message):
        make_layer(given, device="cuda").forward(change(given["x"]))


@pytest.mark.parametrize(("change", "error", "message"), STATE_ERRORS.values(), ids=STATE_ERRORS)
def test_states_that_are_refused(cupy, change, error, message):
    given = to_device(cupy, as_type(random_problem("lstm", *CASE), np.float32))
    layer, wrong = make_layer(given, device="cuda"), change(given["h0"], given["c0"])
    with pytest.raises(error, match="state.*" + message):
        layer.forward(given["x"], wrong)
    _, _, trace = layer.forward(given["x"])
    with pytest.raises(error, match="dstate.*" + message):
        layer.backward(given["dy"], trace, wrong)
    with pytest.raises(error, match="state.*" + message):
        layer.stepper(batch=3).state = wrong
    assert not layer.grads.any()


@pytest.mark.parametrize(("change", "error", "message"), DY_ERRORS.values(), ids=DY_ERRORS)
def test_dy_that_is_refused(cupy, change, error, message):
    """The trace stays good, and the gradients as they were."""
    given = to_device(cupy, as_type(random_problem("lstm", *CASE), np.float32))
    layer = make_layer(given, device="cuda")
    _, _, trace = layer.forward(given["x"])
    with pytest.raises(error, match=message):
        layer.backward(change(given["dy"]), trace, consume=True)
    assert not layer.grads.any()
    layer.backward(given["dy"], trace, consume=True)
    assert layer.grads.any()
    with pytest.raises(ValueError, match="trace was consumed"):
        layer.backward(given["dy"], trace)


@pytest.mark.parametrize("tokens", [[[0, 1], [2, 6]], [0, -1], [2**40], 7], ids=str)
def test_tokens_out_of_range(cupy, tokens):
    """The first is named with its position, as on the CPU."""
    tokens = np.array(tokens, np.int64)
    with pytest.raises(ValueError, match=r"tokens\[.*\] must be in \[0, 6\), got") as expected:
        lstmc.Embedding(6, 3)(tokens)
    layer = lstmc.Embedding(6, 3, device="cuda")
    with pytest.raises(ValueError) as found:
        layer(cupy.asarray(tokens))
    assert str(found.value) == str(expected.value)
    assert layer(cupy.asarray([[5, 0]]))[0].shape == (1, 2, 3)  # one error does not spoil the next


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("kind", ["weight_ih", "weight_hh", "bias"])
def test_backward_after_the_weights_changed(cupy, dtype, kind, place):
    """The smallest change of the first or the last number is seen; undone, the trace is good."""
    given = to_device(cupy, as_type(random_problem("lstm", 3, 2, 5, 9, 2), dtype))
    layer = make_layer(given, device="cuda")
    _, _, trace = layer.forward(given["x"])
    layer.grads[...] = 1
    weight = layer[f"{kind}_l1"].reshape(-1)
    before = weight.get()
    weight[place] = np.nextafter(before[place], dtype.type(99))
    with pytest.raises(ValueError, match=r"weights have changed since forward\(\)"):
        layer.backward(given["dy"], trace)
    assert (layer.grads == 1).all()
    weight.set(before)
    layer.backward(given["dy"], trace)
    assert (layer.grads != 1).any()


def test_a_trace_of_before_a_move_is_refused(cupy):
    given = to_device(cupy, as_type(random_problem("lstm", *CASE), np.float32))
    layer = make_layer(given, device="cuda")
    _, _, trace = layer.forward(given["x"])
    layer.to("cpu")
    with pytest.raises((TypeError, ValueError), match=r"trace|weights have changed"):
        layer.backward(given["dy"].get(), trace)
    assert not layer.grads.any()


FOREIGN = {
    "x": lambda layer, a, far: layer.forward(far["x"]),
    "state": lambda layer, a, far: layer.forward(a["x"], first_state(far)),
    "dy": lambda layer, a, far: layer.backward(far["dy"], layer.forward(a["x"])[2]),
    "stepper": lambda layer, a, far: layer.stepper(3)(far["x"][0]),
    "targets": lambda layer, a, far: lstmc.squared_error(a["x"], far["x"]),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_an_array_of_another_device(emulated, what):
    problem = as_type(random_problem("lstm", *CASE), np.float32)
    given, far = (to_device(emulated, problem) for _ in range(2))
    for array in far.values():
        if isinstance(array, emulated.ndarray):
            emulator.pretend_device(array, 1)
    layer = make_layer(given, device="cuda")
    with pytest.raises((TypeError, ValueError), match=r"device.*\b0\b.*\b1\b"):
        FOREIGN[what](layer, given, far)
    assert not layer.grads.any()


# --------------------------------------------------------------------------------------------------
# Steps
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("cell", CELLS)
def test_a_loop_of_steps_is_the_sequence(cupy, dtype, cell, batch):
    problem = as_type(random_problem(cell, 5, batch, 7, 19, 2), dtype)
    given = to_device(cupy, problem)
    layer = make_layer(given, device="cuda")
    y, last = make_layer(problem)(problem["x"], first_state(problem))
    stepper, into = layer.stepper(batch), layer.stepper(batch)
    stepper.state = into.state = first_state(given)
    out = cupy.empty((batch, 19), dtype)
    seen = []
    for x_t in given["x"]:
        seen.append(stepper(x_t))
        assert into(x_t, out=out) is out
        assert_same_bits(out.get(), seen[-1].get())
    assert_close(np.stack([y_t.get() for y_t in seen]), y, TOLERANCE[dtype], "y")
    for found, expected in zip(parts_of(stepper.state), parts_of(last), strict=True):
        assert_close(found.get(), expected, TOLERANCE[dtype], "state")
    if batch == 1:
        flat, flat_out = layer.stepper(), cupy.empty(19, dtype)
        flat.state = first_state(given)
        assert_same_bits(flat(given["x"][0, 0]).get(), seen[0].get()[0])
        assert flat(given["x"][1, 0], out=flat_out) is flat_out
        assert_same_bits(flat_out.get(), seen[1].get()[0])


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_the_state_of_a_stepper(cupy, cell):
    """Zeros at first; read and written as copies; rows are forgotten by a mask."""
    given = to_device(cupy, as_type(random_problem(cell, *CASE), np.float32))
    layer = make_layer(given, device="cuda")
    stepper, other = layer.stepper(3), layer.stepper(3)
    for part in parts_of(stepper.state):
        assert isinstance(part, cupy.ndarray)
        assert part.shape == (2, 3, 9)
        assert not part.any()
    stepper.state = first_state(given)
    first, after = stepper(given["x"][0]).get(), to_host(cupy, parts_of(stepper.state))
    assert not any(part.any() for part in parts_of(other.state))
    for part in parts_of(stepper.state):
        part[...] = 5
    assert_same_bits(to_host(cupy, parts_of(stepper.state)), after)
    stepper.state = first_state(given)
    assert_same_bits(stepper(given["x"][0]).get(), first)
    stepper.reset(cupy.asarray([True, False, True]))
    for part, before in zip(to_host(cupy, parts_of(stepper.state)), after, strict=True):
        assert not part[:, [0, 2]].any()
        assert_same_bits(part[:, 1], before[:, 1])
    for mask in ([1, 0, 1], [True, False]):
        with pytest.raises(ValueError, match=r"mask must be a bool array \(3,\)"):
            stepper.reset(cupy.asarray(mask))
    stepper.reset()
    assert not any(part.any() for part in parts_of(stepper.state))


@pytest.mark.parametrize("kind", ["weight_ih", "weight_hh", "bias"])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_a_stepper_has_its_own_weights_until_refreshed(cupy, cell, kind):
    given = to_device(cupy, as_type(random_problem(cell, 2, 3, 7, 9, 2), np.float32))
    layer = make_layer(given, device="cuda")
    x, state = given["x"][0], first_state(given)
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
    given = to_device(cupy, as_type(random_problem("lstm", *CASE), np.float32))
    stepper, out = make_layer(given, device="cuda").stepper(3), cupy.empty(shape, dtype)
    with pytest.raises(ValueError, match=r"out must be a .*contiguous float32 array \(3, 9\)"):
        stepper(given["x"][0], out=out.T if turned else out)
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
    tokens = np.random.default_rng(seed_of("net")).integers(11, size=(5, batch))
    y, after = net(tokens)
    net.to("cuda")
    given = cupy.asarray(tokens)
    stepper, out = net.stepper(batch), cupy.empty((batch, 11), dtype)
    found = np.stack([stepper(step).get() for step in given])
    assert_close(found, y, TOLERANCE[dtype])
    assert_close(net(given)[0].get(), y, TOLERANCE[dtype])
    for a, b in zip(stepper.state[1], after[1], strict=True):
        assert_close(a.get(), b, TOLERANCE[dtype])
    kept = stepper.state
    stepper.reset(cupy.asarray(np.arange(batch) == 0))
    assert not any(part[:, 0].any() for part in stepper.state[1])
    stepper.state = kept
    last = stepper(given[0]).get()
    stepper.state = kept
    assert stepper(given[0], out=out) is out
    assert_same_bits(out.get(), last)
    if batch == 1:
        stepper.state = kept
        assert_same_bits(stepper(int(tokens[0, 0])).get(), last[0])


# --------------------------------------------------------------------------------------------------
# Ways through time, and precision
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [CASE, (3, 20, 5, 17, 1)], ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh", "rnn_relu"])
def test_every_way_through_time(cupy, dtype, cell, way, case):
    """Each gives what the CPU does, and the same bits when run again."""
    from lstmc._kernels import cuda

    problem = as_type(random_problem(cell, *case), dtype)
    with cuda.use_way(way):
        first, second = (on_device(cupy, problem) for _ in range(2))
    assert_alike(first, solution(problem), dtype)
    assert_same_bits(second, first)


def test_ways_that_are_refused(cupy):
    from lstmc._kernels import cuda

    with pytest.raises(ValueError, match=r"'sideways'"), cuda.use_way("sideways"):
        pass
    layer, x = lstmc.LSTM(3, 200, rng=1, device="cuda"), cupy.ones((2, 2, 3), np.float32)
    with (
        pytest.raises(ValueError, match=r"(?=.*persistent)(?=.*\b200\b)"),
        cuda.use_way("persistent"),
    ):
        layer(x)
    assert layer(x)[0].shape == (2, 2, 200)  # what was chosen is forgotten


def products(cupy, dtype):
    """Return what is made by matrix products of a map and a stack, forward and backward."""
    problem = as_type(random_problem("lstm", 6, 5, 40, 33, 1), dtype)
    generator = np.random.default_rng(seed_of("products"))
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


# --------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1 << 12, 300 << 10])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_a_call_that_does_not_fit(emulated, pool, cell, room):
    """It says how much was asked for and leaves nothing behind; a smaller one then works."""
    problem = as_type(random_problem(cell, *CASE), np.float32)
    expected = solution(problem)
    given = to_device(emulated, problem)
    layer = make_layer(given, device="cuda")
    x = emulated.ones((200, 40, 7), np.float32)
    layer.forward(given["x"])
    gc.collect()
    before = pool.used_bytes()
    pool.set_limit(size=before + room)
    with pytest.raises(MemoryError, match=r"\b\d[\d,]{3,} bytes"):
        layer.forward(x)
    gc.collect()
    assert pool.used_bytes() == before
    pool.set_limit(size=before + (300 << 10))
    assert_alike(to_host(emulated, solution(given, layer)), expected, np.float32)


@pytest.mark.parametrize("kind", ["layer", "network"])
@pytest.mark.parametrize("share", [0.1, 1.5])
def test_a_network_that_does_not_fit_stays(emulated, pool, kind, share):
    """Where there is no room for the weights, or none for the gradients beside them."""
    net = layer = lstmc.LSTM(20, 60, rng=1)
    if kind == "network":
        net = lstmc.Sequential(layer, lstmc.Linear(60, 30, rng=2))
    x = np.random.default_rng(seed_of("room")).standard_normal((3, 2, 20)).astype(np.float32)
    expected, params = net(x)[0], net.params
    lstmc.Linear(2, 3, device="cuda")  # what is made once, for all
    before = pool.used_bytes()
    pool.set_limit(size=before + int(share * params.nbytes))
    with pytest.raises(MemoryError, match=r"\b\d[\d,]{3,} bytes"):
        net.to("cuda")
    gc.collect()
    assert pool.used_bytes() == before
    assert net.device == layer.device == "cpu"
    assert net.params is params
    assert isinstance(net.grads, np.ndarray)
    y, _, trace = net.forward(x)
    assert_same_bits(y, expected)
    net.backward(y, trace)
    assert net.grads.any()
    pool.set_limit(size=0)
    assert_close(net.to("cuda")(emulated.asarray(x))[0].get(), expected, 1e-5)


# --------------------------------------------------------------------------------------------------
# Without a device
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def forgotten():
    """Have lstmc find its GPU anew, here and afterwards."""
    names = [name for name in sys.modules if name.startswith("lstmc._kernels.cuda")]
    before = {name: sys.modules.pop(name) for name in names}
    attributes = {name.rpartition(".")[2]: module for name, module in before.items()}
    for name in attributes:
        vars(_kernels).pop(name, None)
    yield
    for name in [name for name in sys.modules if name.startswith("lstmc._kernels.cuda")]:
        del sys.modules[name]
        vars(_kernels).pop(name.rpartition(".")[2], None)
    sys.modules.update(before)
    vars(_kernels).update(attributes)


def config():
    """Return what show_config tells of the GPU."""
    out = io.StringIO()
    lstmc.show_config(out)
    (line,) = [line for line in out.getvalue().splitlines() if line.startswith("GPU")]
    return line


def test_without_cupy(forgotten, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    layer = lstmc.LSTM(3, 4, rng=1)
    for attempt in (lambda: lstmc.LSTM(3, 4, device="cuda"), lambda: layer.to("cuda:0")):
        with pytest.raises(ImportError, match=r"lstmc\[cuda13\]"):
            attempt()
    assert layer.device == "cpu"
    assert layer(np.ones((2, 3), np.float32))[0].shape == (2, 4)
    assert re.search("CuPy", config())


@pytest.mark.parametrize("how", ["an error", "none"])
def test_without_a_device(cupy, forgotten, monkeypatch, how):
    def count():
        if how == "an error":
            raise cupy.cuda.runtime.CUDARuntimeError(100)
        return 0

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", count)
    layer = lstmc.Linear(3, 4, rng=1)
    for attempt in (lambda: lstmc.Linear(3, 4, device="cuda"), lambda: layer.to("cuda")):
        with pytest.raises((RuntimeError, ValueError), match="no usable GPU"):
            attempt()
    assert layer.device == "cpu"
    assert re.search(r"^GPU\s+(no|none)\b", config())


def test_the_device_is_told(cupy):
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    assert name in config()


@pytest.mark.parametrize(
    "device",
    ["gpu", "cuda:99", "cuda:7", "cuda:", "cuda:-1", "cuda:x", "cuda:0.5", "CUDA", "", None, 0],
)
def test_devices_that_are_refused(cupy, device):
    layer = lstmc.Linear(3, 4, rng=1)
    for attempt in (lambda: lstmc.Linear(3, 4, device=device), lambda: layer.to(device)):
        with pytest.raises(ValueError, match=rf"^device\b.*{re.escape(repr(device))}"):
            attempt()
    assert layer.device == "cpu"
