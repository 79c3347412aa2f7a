"""Tests of what gradient_flow leaves alone, and of a flow in words and numbers."""

import copy
import json
import math

import numpy as np
import pytest
from flow_cases import BATCH, PARTS, STEPS, linear_flow, make_case
from stacks import seed_of
from support import assert_same_bits

import lstmc

# --------------------------------------------------------------------------------------------------
# Nothing is changed
# --------------------------------------------------------------------------------------------------


def snapshot(case, trace=None):
    """Copy everything that a flow may read: bytes of arrays, and the states of generators."""

    def arrays_of(value):
        if isinstance(value, np.ndarray):
            yield value.copy()
        elif isinstance(value, (tuple, list)):
            for one in value:
                yield from arrays_of(one)

    def kept(one):
        if one is None:
            return
        for value in vars(one).values():
            yield from arrays_of(value)
            for part in value if isinstance(value, (tuple, list)) else ():
                if hasattr(part, "__dict__"):
                    yield from kept(part)

    def generators(layer):
        if isinstance(layer, lstmc.Dropout):
            yield copy.deepcopy(layer.rng.bit_generator.state)
        for one in getattr(layer, "layers", ()):
            yield from generators(one)

    layer = case.layer
    given = (layer.params, layer.grads, case.x, case.state, case.targets, case.dy)
    return [*arrays_of(given), *kept(trace)], list(generators(layer))


@pytest.mark.parametrize("with_trace", [False, True], ids=["x", "a trace"])
@pytest.mark.parametrize(
    "name", ["bare", "tokens", "nested", "own layers", "layers of no class", "model"]
)
def test_the_network_is_left_as_it_was(dtype, name, with_trace):
    case = make_case(name, "lstm", 2, dtype)
    rng = np.random.default_rng(seed_of("gradients"))
    case.layer.grads[...] = rng.standard_normal(case.layer.grads.shape)
    trace = None
    if with_trace:
        y, _, trace = case.layer.forward(case.x, case.state)
        case.dy = rng.standard_normal(y.shape).astype(dtype)
    arrays, generators = snapshot(case, trace)
    assert len(arrays) > (9 if with_trace else 4)
    if with_trace:
        flow = lstmc.gradient_flow(case.net, trace=trace, dy=case.dy, at=[0, -1], arrays=True)
    else:
        flow = case.flow(at=[0, -1], arrays=True)
    str(flow), flow.to_dict()
    after, generators_after = snapshot(case, trace)
    assert_same_bits(after, arrays)
    assert generators_after == generators
    if with_trace:  # the trace is good for backward, as if nothing had happened
        case.layer.backward(case.dy, trace)


def test_threads_change_no_bit(dtype):
    rng = np.random.default_rng(seed_of("threads"))
    net = lstmc.Sequential(
        lstmc.Embedding(50, 40, dtype=dtype, rng=rng),
        lstmc.LSTM(40, 48, 2, dtype=dtype, rng=rng),
        lstmc.Linear(48, 50, dtype=dtype, rng=rng),
    )
    x, targets = rng.integers(50, size=(2, 20, 16))
    one, two = (
        lstmc.gradient_flow(net, x, targets, num_threads=n, arrays=True, at=[3, -1]) for n in (1, 2)
    )
    assert one.loss == two.loss
    for a, b in zip(one.layers, two.layers, strict=True):
        for part in PARTS:
            assert_same_bits(getattr(a, part), getattr(b, part), part)
            assert_same_bits(getattr(a.gradients, part), getattr(b.gradients, part), part)
        assert_same_bits(a.weights, b.weights)
        assert_same_bits(a.reach.norms, b.reach.norms)


# --------------------------------------------------------------------------------------------------
# Words and numbers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cell"), [("tokens", "lstm"), ("nested", "rnn_relu")])
@pytest.mark.parametrize("at", [None, [0, 3]], ids=str)
def test_to_dict(name, cell, at):
    case = make_case(name, cell, 2, np.float32)
    flow = case.flow(at=at)
    numbers = json.loads(json.dumps(flow.to_dict(), allow_nan=False))
    assert numbers["loss"] == flow.loss
    assert (numbers["steps"], numbers["batch"]) == (STEPS, BATCH)
    assert (numbers["at"], numbers["verdict"]) == (at or [STEPS - 1], flow.verdict)
    assert len(numbers["layers"]) == len(flow.layers)
    for written, layer in zip(numbers["layers"], flow.layers, strict=True):
        assert (written["name"], written["cell"]) == (layer.name, layer.cell)
        for part in PARTS:
            value = getattr(layer, part)
            assert written[part] == (None if value is None else value.tolist())
        assert written["weights"] == {kind: a.tolist() for kind, a in layer.weights.items()}
        reach = written["reach"]
        assert reach["norms"] == layer.reach.norms.tolist()
        for key in ("rate", "fit", "half_life", "kept", "verdict", "turn"):
            value = getattr(layer.reach, key)
            infinite = isinstance(value, float) and not math.isfinite(value)
            assert reach[key] == (None if infinite else value)


def test_a_flow_in_words():
    flow, _ = linear_flow(0.5, steps=10)
    lines = str(flow).splitlines()
    assert lines[0] == "gradient flow over 10 steps, 2 rows: vanishing"
    assert lines[1].startswith("  l0: vanishing, 0.002 of the gradient is left 10 steps back")
    assert "it halves every 1 steps (R2 1.00)" in lines[1]
    table = {int(line.split()[0]): line.split()[1] for line in lines[4:]}
    assert list(table) == [0, 1, 2, 4, 8, 10]
    assert table == {k: f"{flow.layers[0].reach.norms[k]:.2e}" for k in table}
    flow, _ = linear_flow(2.0, steps=10, at=[9, 3])
    assert "it doubles every" in str(flow)
    assert "of the loss at steps 9, 3" in str(flow)
    case = make_case("tokens", "lstm", 2, np.float64)
    assert f"loss {case.flow().loss:.4g}" in str(case.flow())
    assert all(name in str(case.flow()) for name in ("2.l0", "2.l1"))
