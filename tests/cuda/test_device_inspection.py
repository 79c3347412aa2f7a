"""Looking inside a network on a GPU: every report says there what it says on the CPU."""

import json

import numpy as np
import pytest
from devices import (
    NEAR,
    TEXT,
    VOCABULARY,
    assert_reports_alike,
    draw,
    make_model,
    to_device,
)
from own_layers import Scale
from stacks import first_state, make_layer, random_problem
from support import assert_close, assert_same_bits

import lstmc
from lstmc.inspection import NonFinite

# --------------------------------------------------------------------------------------------------
# Looking
# --------------------------------------------------------------------------------------------------


class Looked:
    """The same network, input and gradients on the device and on the CPU."""

    def __init__(self, cupy, cell="lstm"):
        problem = random_problem(cell, 6, 3, 4, 5, 2)
        self.sides = []
        for data, device in ((to_device(cupy, problem), "cuda"), (problem, "cpu")):
            layer = make_layer(data, device=device)
            head = lstmc.Linear(5, 7, dtype=np.float64, rng=1, device=device)
            net = lstmc.Sequential(layer, head)
            targets = np.random.default_rng(4).integers(7, size=(6, 3))
            if device == "cuda":
                targets = cupy.asarray(targets)
            self.sides.append((net, data, targets, (first_state(data), None)))

    def both(self, look):
        return [look(*side) for side in self.sides]


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
@pytest.mark.parametrize("at", [None, [2, -1]])
def test_gradient_flow(cupy, cell, at):
    def look(net, data, targets, state):
        net.grads[...] = 3
        asked = lstmc.gradient_flow(net, data["x"], targets, state, at=at, arrays=True)
        y, _, trace = net.forward(data["x"], state)
        _, dy = lstmc.softmax_cross_entropy(y, targets)
        known = lstmc.gradient_flow(net, trace=trace, dy=dy, at=at, arrays=True)
        assert (net.grads == 3).all()
        assert known.layers[0].dh.tolist() == asked.layers[0].dh.tolist()
        return asked

    actual, expected = Looked(cupy, cell).both(look)
    assert_reports_alike(actual.to_dict(), expected.to_dict())
    assert str(actual) == str(expected)
    for a, b in zip(actual.layers, expected.layers, strict=True):
        assert isinstance(a.dh, np.ndarray), "a report is for the host"
        assert_close(a.dh_later, b.dh_later, NEAR)
        assert_close(a.gradients.dgates.get(), b.gradients.dgates, NEAR)


@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_gate_statistics(cupy, cell):
    def look(net, data, targets, state):
        report = lstmc.gate_statistics(net, data["x"], state)
        trace = net.forward(data["x"], state)[2]
        assert lstmc.gate_statistics(net, trace=trace).to_dict() == report.to_dict()
        json.dumps(report.to_dict())
        return report

    actual, expected = Looked(cupy, cell).both(look)
    assert_reports_alike(actual.to_dict(), expected.to_dict())
    assert str(actual) == str(expected)


JACOBIANS = {
    "state_jacobian": [{}, {"t0": 1, "t1": 4}],
    "input_jacobian": [{}, {"t": 3}],
    "jacobian_spectrum": [{}, {"t1": 5, "distances": [1, 3]}],
    "lyapunov_exponents": [{}, {"count": 3, "every": 2}],
}


@pytest.mark.parametrize("name", JACOBIANS)
@pytest.mark.parametrize("which", [0, 1], ids=["plain", "options"])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_jacobians(cupy, cell, which, name):
    options, function = JACOBIANS[name][which], getattr(lstmc, name)

    def look(net, data, targets, state):
        result = function(net.layers[0], data["x"], state=state[0], **options)
        trace = net.forward(data["x"], state)[2].layers[0]
        again = function(net.layers[0], trace=trace, **options)
        if name == "jacobian_spectrum":
            json.dumps(result.to_dict())
            assert again.to_dict() == result.to_dict()
        else:
            assert bool((again == result).all())
        return result

    actual, expected = Looked(cupy, cell).both(look)
    if name == "jacobian_spectrum":
        assert_reports_alike(actual.to_dict(), expected.to_dict())
        return
    assert isinstance(actual, cupy.ndarray) or name != "state_jacobian"
    actual = actual.get() if isinstance(actual, cupy.ndarray) else actual
    assert_close(actual, expected, NEAR)


def poison(what, net, data, state):
    if what == "a weight":
        net["0.weight_hh_l1"][3, 2] = np.nan
    elif what == "x":
        data["x"][2, 1, 3] = np.inf
    elif what == "a state":
        state[0][0][1, 2, 4] = np.nan
    elif what == "a gradient":
        data["dy"] = data["dy"][..., :1].repeat(7, axis=-1) * 1e300
        net["0.weight_hh_l0"][...] *= 1e200


@pytest.mark.parametrize("what", ["nothing", "a weight", "x", "a state", "a gradient"], ids=str)
def test_find_nonfinite(cupy, what):
    def look(net, data, targets, state):
        poison(what, net, data, state)
        dy = {"dy": data["dy"]} if what == "a gradient" else {"targets": targets}
        return lstmc.find_nonfinite(net, data["x"], state=state, **dy)

    actual, expected = Looked(cupy).both(look)
    assert actual == expected
    assert str(actual) == str(expected)
    if what == "nothing":
        assert actual is None
    else:
        assert isinstance(actual, NonFinite)
        assert actual.what == what


class WrongScale(Scale):
    """One whose backward is off by one part in a thousand."""

    def backward(self, dy, trace, dstate=None):
        dx, dstate = super().backward(dy, trace, dstate)
        return dx * 1.001, dstate


def test_check_gradients(cupy):
    def look(net, data, targets, state):
        report = lstmc.check_gradients(net, data["x"], targets, state, samples=3, directions=1)
        assert report, str(report)
        return [(tensor.name, tensor.size, tensor.checked) for tensor in report.tensors]

    actual, expected = Looked(cupy).both(look)
    assert actual == expected


@pytest.mark.parametrize("kind", ["float32", "tokens", "wrong"])
def test_check_gradients_of_other_networks(cupy, kind):
    """Of float32 and of tokens; and a backward that is wrong is found."""
    dtype = np.float64 if kind == "wrong" else np.float32
    own = {"dtype": dtype, "rng": 1}
    below = lstmc.Embedding(5, 4, **own) if kind == "tokens" else lstmc.Linear(3, 4, **own)
    above = WrongScale(4, dtype) if kind == "wrong" else lstmc.RNN(4, 4, **own)
    net = lstmc.Sequential(below, above, lstmc.LSTM(4, 5, **own)).to("cuda")
    x = np.array([[1, 4], [0, 1], [2, 2]]) if kind == "tokens" else draw(dtype, 3, 2, 3)
    before = net.params.get()
    report = lstmc.check_gradients(net, cupy.asarray(x), samples=3)
    assert bool(report) is (kind != "wrong"), str(report)
    assert net.device == "cuda:0"
    assert_same_bits(net.params.get(), before)
    assert not net.grads.any()


def test_writers(cupy):
    results = []
    for device in ("cuda", "cpu"):
        model = make_model(device, dtype=np.float64)
        ids = VOCABULARY.encode(TEXT[:30])
        results.append([vars(w) for w in lstmc.writers(model, TEXT[:30], unit=4, layer=0, k=7)])
        data = ids if device == "cpu" else cupy.asarray(ids)
        assert [vars(w) for w in lstmc.writers(model, data, unit=4, layer=0, k=7)] == results[-1]
    assert len(results[0]) == 7
    assert_reports_alike(*results)
