"""Composites in copies and files, and under inspection: they are as whole there as any layer."""

import copy
import pickle

import numpy as np
import pytest
from own_layers import (
    COMPOSITE_CLASSES,
    COMPOSITES,
    Block,
    Branches,
    Residual,
    draw,
    lstm,
    nested,
    rnn,
)
from support import assert_close, assert_same_bits

import lstmc

STEPS, BATCH, FEATURES = 5, 3, 4
LENGTHS = np.array([5, 2, 0])

# --------------------------------------------------------------------------------------------------
# Copies and files
# --------------------------------------------------------------------------------------------------


def through_file(net, path):
    net.save(path)
    return lstmc.load(path, layers=COMPOSITE_CLASSES)


WAYS = {
    "file": through_file,
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "astype": lambda net, path: net.astype(net.dtype),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", COMPOSITES)
def test_copies_compute_the_same(name, way, tmp_path):
    net, x = COMPOSITES[name](), draw(STEPS, BATCH, FEATURES)
    twin = WAYS[way](net, tmp_path / "net")
    assert twin.description == net.description
    assert not np.shares_memory(twin.params, net.params)
    results = []
    for one in (net, twin):
        y, _, trace = one.forward(x, lengths=LENGTHS)
        dx, _ = one.backward(draw(*y.shape), trace)
        results.append((y, dx, one.params, one.grads))
    assert_same_bits(*results)


def test_clone_and_type():
    net = nested(np.float32)
    first, again, other = (net.clone(rng=seed) for seed in (5, 5, 6))
    assert first.description == net.description
    assert_same_bits(first.params, again.params)
    for name in net:
        assert (first[name] != other[name]).all(), name
    wide = net.astype(np.float64)
    assert wide.layers[2].layers[0].layers[0].dtype == np.float64
    x = draw(STEPS, BATCH, FEATURES, dtype=np.float32)
    assert_close(net(x)[0], wide(x.astype(np.float64))[0], 1e-5)


def test_a_file_needs_the_class(tmp_path):
    nested().save(tmp_path / "net")
    with pytest.raises(
        ValueError, match=r"layer 'Residual' is not one of .*: give its class in layers="
    ):
        lstmc.load(tmp_path / "net")


# --------------------------------------------------------------------------------------------------
# What is looked at
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPOSITES)
def test_gradients_are_checked(name):
    assert lstmc.check_gradients(COMPOSITES[name](), draw(STEPS, BATCH, FEATURES), lengths=LENGTHS)


def test_layers_within_are_found_and_each_has_its_own_record():
    """Branches goes back through them in the order of forward, which records must not follow."""
    x, dy = draw(STEPS, BATCH, FEATURES), draw(STEPS, BATCH, 5)
    net = lstmc.Sequential(Branches(lstm(4, 3), rnn(4, 2)))
    net.grads[...] = draw(net.grads.size)
    before = net.grads.copy()
    flow = lstmc.gradient_flow(net, x, dy=dy)
    assert_same_bits(net.grads, before)
    assert [(layer.name, layer.cell) for layer in flow.layers] == [
        ("0.0.l0", "lstm"),
        ("0.1.l0", "rnn"),
    ]
    for got, alone, part in zip(flow.layers, (lstm(4, 3), rnn(4, 2)), (dy[..., :3], dy[..., 3:])):
        wanted = lstmc.gradient_flow(alone, x, dy=np.ascontiguousarray(part)).layers[0]
        assert_close(got.dh, wanted.dh, 1e-12)
        assert_close(got.reach.norms, wanted.reach.norms, 1e-12)
    gates = lstmc.gate_statistics(net, x).layers
    assert [one.name for one in gates] == ["0.0.l0", "0.1.l0"]
    assert_same_bits(gates[0].means["f"], lstmc.gate_statistics(lstm(4, 3), x).layers[0].means["f"])
    nested_names = [
        layer.name for layer in lstmc.gradient_flow(nested(), x, dy=draw(*x.shape)).layers
    ]
    assert nested_names == ["1.0.0.0.l0", "1.0.0.1.0.l0", "2.0.0.l0"]


def test_inspection_drops_nothing():
    def make(p):
        inner = lstmc.Sequential(lstmc.Dropout(p, rng=1), lstm(4, 4))
        return Residual(inner)

    x, dy = draw(STEPS, BATCH, FEATURES), draw(STEPS, BATCH, FEATURES)
    flows = [lstmc.gradient_flow(make(p), x, dy=dy).layers[0].dh for p in (0.0, 0.9)]
    assert_same_bits(*flows)
    assert lstmc.check_gradients(make(0.9), x)
    trained = [make(p).forward(x)[0] for p in (0.0, 0.9)]
    assert (trained[0] != trained[1]).any()


def test_numbers_that_are_not_finite_are_found_within():
    net, x = nested(), draw(STEPS, BATCH, FEATURES)
    assert lstmc.find_nonfinite(net, x, dy=draw(*x.shape)) is None
    trace = net.forward(x)[2]
    dy = draw(*x.shape)
    dy[3, 1] = 1e308
    net["1.0.1.weight"][...] = 1e5  # between the branches and the output
    found = lstmc.find_nonfinite(net, x, dy=dy)
    assert (found.what, found.layer, found.step, found.row) == ("a gradient", "1.0.0.1.0.l0", 3, 1)
    net["1.0.0.1.0.weight_hh_l0"][2, 1] = np.nan
    found = lstmc.find_nonfinite(net, x)
    assert (found.what, found.layer) == ("a weight", "1.0.0.1.0.weight_hh_l0")
    with pytest.raises(ValueError, match="weights have changed"):
        net.backward(dy, trace)


def test_a_watch_records_layers_within(tmp_path):
    net = lstmc.Sequential(
        lstmc.Embedding(7, 4, rng=1), Block(4, 3, rng=2), lstmc.Linear(4, 7, rng=3)
    )
    watch = lstmc.Watch(net, every=1, path=tmp_path / "watch.jsonl")
    tokens = np.random.default_rng(2).integers(7, size=200)
    trainer = lstmc.Trainer(net, lstmc.Adam(net), 4, 10, watch=watch)
    trainer.fit(tokens, epochs=1)
    assert '"1.0.0.l0"' in (tmp_path / "watch.jsonl").read_text()
