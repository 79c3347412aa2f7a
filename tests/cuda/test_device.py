"""Where a network is: moving it, room for it, and what is said where there is no GPU.

What it computes there is tested in test_device_layers.py, what it takes in test_device_inputs.py, learning
in test_device_losses.py and test_device_training.py, looking in test_device_inspection.py.
"""

import gc
import io
import re
import sys

import numpy as np
import pytest
from devices import (
    CASE,
    TOLERANCE,
    assert_alike,
    to_device,
    to_host,
)
from own_layers import Bare, Halve, Scale
from stacks import (
    as_type,
    make_layer,
    random_problem,
    seed_of,
    solution,
)
from support import assert_close, assert_same_bits

import lstmc
from lstmc import _kernels

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
        before = flat.copy()
        for name, shape in net.parameters().items():
            assert part(name).shape == shape
            part(name)[...] = 0
        assert not flat.any(), "the padding, or a weight that is no view"
        flat[...] = before
        flat[...] += 1
        for name in net.parameters():
            assert (part(name) != 0).any(), name
        flat[...] = before
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
    assert np.shares_memory(net.params, params)
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
    actual_y, state, trace = net.forward(cupy.asarray(x))
    actual_dx, _ = net.backward(cupy.asarray(dy), trace)
    assert state == (None, None, 1)
    for actual, expected in ((actual_y, y), (actual_dx, dx), (net.grads, grads)):
        assert_close(actual.get(), expected, TOLERANCE[dtype])


# --------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1 << 12, 300 << 10])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_a_call_that_does_not_fit(emulated, pool, cell, room):
    """It says how much was asked for and leaves nothing behind; a smaller one then works."""
    problem = as_type(random_problem(cell, *CASE), np.float32)
    expected = solution(problem)
    data = to_device(emulated, problem)
    layer = make_layer(data, device="cuda")
    x = emulated.ones((200, 40, 7), np.float32)
    layer.forward(data["x"])
    gc.collect()
    before = pool.used_bytes()
    pool.set_limit(size=before + room)
    with pytest.raises(MemoryError, match=r"\b\d[\d,]{3,} bytes"):
        layer.forward(x)
    gc.collect()
    assert pool.used_bytes() == before
    pool.set_limit(size=before + (300 << 10))
    assert_alike(to_host(emulated, solution(data, layer)), expected, np.float32)


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
    assert np.shares_memory(net.params, params)
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
    package = vars(_kernels).pop("cuda", None)
    yield
    for name in [name for name in sys.modules if name.startswith("lstmc._kernels.cuda")]:
        del sys.modules[name]
    vars(_kernels).pop("cuda", None)
    sys.modules.update(before)
    if package is not None:
        vars(_kernels)["cuda"] = package


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


def test_without_the_libraries_of_cuda(emulated, forgotten, monkeypatch):
    def absent(name):
        raise ImportError(f"no lib{name}.so")

    monkeypatch.delattr(emulated.cuda, "cublas")
    monkeypatch.setattr(emulated.cuda, "__getattr__", absent, raising=False)
    with pytest.raises(ImportError, match=r"cuda.*no libcublas.so.*\[ctk\]"):
        lstmc.Linear(3, 4, device="cuda")
    assert re.search(r"^GPU\s+no\b", config(), re.MULTILINE)


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
