"""The ways through time on a GPU: which one is taken, what fits, and the cache of graphs.

What they compute is tested in test_cuda.py.
"""

import importlib
import itertools

import numpy as np
import pytest
from devices import draw
from support import assert_close

import lstmc
from lstmc._kernels.cuda import cells


@pytest.fixture
def cuts(cupy):
    return importlib.import_module("lstmc._kernels.cuda.ways.cuts")


def _chosen(cupy, ways, hidden, batch, dtype=np.float32):
    """Return the name of the way that an LSTM of these sizes takes."""
    weight = cupy.zeros((4 * hidden, hidden), dtype)
    return ways.choose(ways.LayerRun(cells.cell("lstm"), weight, 5, batch)).name


def test_the_first_way_that_fits_is_taken(request, cupy, ways):
    ways.forget_graphs()
    sizes = [(30, 3, "persistent"), (256, 64, "cooperative"), (3000, 1, "graph")]
    if "emulated" in request.node.name:  # whose multiprocessors are few and small
        sizes = [(30, 3, "persistent"), (130, 3, "cooperative"), (600, 3, "graph")]
    for hidden, batch, way in sizes:
        assert [_chosen(cupy, ways, hidden, batch) for _ in range(2)] == [way] * 2, (hidden, batch)


def test_blocks_with_too_much_work_each_are_left_to_cublas(request, cupy, ways):
    few, many = (16, 40) if "emulated" in request.node.name else (500, 1000)
    assert _chosen(cupy, ways, 70, few, np.float64) == "cooperative"
    assert _chosen(cupy, ways, 70, many, np.float64) == "graph"
    weight = cupy.zeros((280, 70), np.float64)
    run = ways.LayerRun(cells.cell("lstm"), weight, 5, many)
    assert ways.WAYS["cooperative"].fitting(run), "it would fit"


def test_the_ways_that_are_taken_can_be_watched(cupy, ways):
    layer, x = lstmc.LSTM(2, 4, 2, device="cuda"), cupy.ones((3, 2, 2), np.float32)
    with ways.watch_ways() as outer:
        y, _, trace = layer.forward(x)
        with ways.use_way("steps"), ways.watch_ways() as inner:
            layer.backward(y, trace)
    layer(x)
    assert inner == ["steps"] * 2  # one per layer
    assert outer == ["persistent"] * 2 + inner


@pytest.mark.parametrize("way", ["persistent", "cooperative"])
def test_a_way_that_does_not_fit_says_so(ways, cupy, way):
    layer = lstmc.LSTM(2, 3000, device="cuda")
    x = cupy.zeros((2, 3, 2), np.float32)
    with ways.use_way(way), pytest.raises(ValueError, match=f"{way}.*3 rows of 3000 units"):
        layer(x)


def test_an_unknown_way_is_refused(ways):
    with (
        pytest.raises(ValueError, match=r"one of persistent, .* got 'fast'"),
        ways.use_way("fast"),
    ):
        pass


def test_graphs_are_cached_by_shape_and_limited(ways, cupy, monkeypatch):
    graphs = ways.WAYS["graph"]
    monkeypatch.setattr(graphs, "MOST", 3)
    ways.forget_graphs()
    layer = lstmc.LSTM(2, 4, device="cuda")
    with ways.use_way("graph"):
        for _ in range(2):
            for steps in range(1, 6):
                layer(cupy.zeros((steps, 2, 2), np.float32))
    assert len(graphs.cache) == 3
    ways.forget_graphs()
    assert not graphs.cache


@pytest.mark.parametrize("gates", [1, 4])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_cuts_cover_all_and_fit(cuts, gates, itemsize):
    """Every row and unit is some block's, and a block asks for no more than a multiprocessor has."""
    fitting = 0
    for hidden, batch in itertools.product((1, 5, 64, 200, 512, 768, 1100), (1, 3, 16, 64, 300)):
        problem = cuts.Problem(gates, hidden, batch, itemsize, 132, 227 << 10)
        for cut in (cuts.cut_forward(problem), cuts.cut_backward(problem)):
            if cut is None:
                continue
            assert cut.units * cut.unit_blocks >= hidden > cut.units * (cut.unit_blocks - 1)
            assert cut.rows * cut.row_blocks >= batch > cut.rows * (cut.row_blocks - 1) - 4
            assert cut.unit_blocks * cut.row_blocks == cut.blocks <= 132
            assert cut.rows % 4 == 0
            assert cut.shared <= 227 << 10
            fitting += 1
        if cut := cuts.cut_forward(problem):
            assert cut.outputs % 4 == cut.chunk % 4 == 0
            assert cut.outputs >= cut.units * gates
            assert 1 <= cut.parts * (cut.rows // 4) * (cut.outputs // 4) <= 256
            assert 4 <= cut.chunk <= hidden + 3
    assert fitting > 30


def test_a_graph_is_recorded_at_the_second_call(ways, cupy):
    ways.forget_graphs()
    layer, x = lstmc.LSTM(2, 4, device="cuda"), cupy.ones((3, 2, 2), np.float32)
    recorded = []
    with ways.use_way("graph"):
        for _ in range(3):
            y, _, trace = layer.forward(x)
            layer.backward(y, trace)
            (way,) = ways.WAYS["graph"].cache.values()
            recorded.append({name: graph is not None for name, graph in way.graphs.items()})
    assert recorded == [{"forward": n > 0, "backward": n > 0} for n in range(3)]


def test_graphs_of_two_layers_do_not_mix(ways, cupy):
    x = cupy.asarray(draw(np.float32, 3, 2, 4))
    layers = [lstmc.LSTM(4, 6, rng=seed, device="cuda") for seed in (1, 2)]
    expected = [layer(x)[0].get() for layer in layers]
    with ways.use_way("graph"):
        for _ in range(3):
            for layer, y in zip(layers, expected):
                assert_close(layer(x)[0].get(), y, 1e-5)
