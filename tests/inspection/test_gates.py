"""Tests of gate statistics.

The judges are loops and plain NumPy over the gates that a trace keeps (which test_recurrent.py judges),
and weights that are made so that the answer is known.
"""

import json
import math

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND, cell_of
from stacks import draw_state, seed_of
from support import assert_close, assert_same_bits

import lstmc

# Sums of some tens of numbers, in float64 on both sides.
TOLERANCE = 1e-12

STEPS, BATCH, FEATURES, HIDDEN, CLASSES = 6, 3, 2, 5, 7


def make_layer(cell, layers=1, dtype=np.float32, **options):
    options = {"num_layers": layers, "dtype": dtype, "rng": 1, **options}
    return CELLS[cell].make(FEATURES, HIDDEN, **options)


def draw(layer, *order):
    """Return x and a state of a layer for rows of that order, large enough to open and shut gates."""
    rng = np.random.default_rng(seed_of("gates", *order))
    batch = order[0 if layer.batch_first else 1] if len(order) > 1 else None
    state = draw_state(layer, (batch,) if batch else (), rng)
    return 4 * rng.standard_normal((*order, FEATURES)).astype(layer.dtype), state


# --------------------------------------------------------------------------------------------------
# Statistics against loops
# --------------------------------------------------------------------------------------------------


def check_gates(actual, cell, layer_trace, batch_axis=True):
    """Assert all of one layer's statistics, of values (T, B, H) or (T, H) in its trace."""
    assert actual.cell == cell.kind
    values = {**layer_trace.gates, "h": layer_trace.h}
    if not batch_axis:
        values = {name: a[:, None] for name, a in values.items()}
    assert list(actual.means) == list(actual.histograms) == list(actual.ranges) == list(values)
    # Nothing bounds a projection.
    bounded = [
        n for n in values if cell.saturates and (n != "h" or "weight_hr" not in cell.weights)
    ]
    assert list(actual.low) == list(actual.high) == bounded
    for name, a in values.items():
        a = a.astype(np.float64)
        assert_close(actual.means[name], a.mean(1), TOLERANCE, f"mean of {name}")
        start, end = (0.0 if name in cell.bounded_below else -1.0), 1.0
        low, high = cell.saturation(name)
        if name in bounded:
            assert actual.low[name] == np.count_nonzero(a < low) / a.size
            assert actual.high[name] == np.count_nonzero(a > high) / a.size
        else:
            start, end = a.min(), a.max()
        if name == "h":  # a cell may carry on an initial state beyond 1
            start, end = min(start, a.min()), max(end, a.max())
        assert actual.ranges[name] == (start, end)
        counts = np.zeros(40)
        for value in a.reshape(-1):
            place = (value - start) / (end - start) * 40
            counts[min(int(place), 39)] += 1
        assert abs(actual.histograms[name].sum() - 1) < TOLERANCE
        assert_close(actual.histograms[name], counts / a.size, TOLERANCE, f"histogram of {name}")
    if cell.keeps:
        f = cell.keeps({name: a.astype(np.float64) for name, a in values.items()})
        memory = [1 / np.mean([-math.log(v) for v in f[:, :, unit].flat]) for unit in range(HIDDEN)]
        assert_close(actual.memory, memory, TOLERANCE, "memory")
    else:
        assert actual.memory is None


FORMS = {"time first": (STEPS, BATCH), "batch first": (BATCH, STEPS), "unbatched": (STEPS,)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_statistics(dtype, cell, layers, form):
    net = make_layer(cell, layers, dtype, batch_first=form == "batch first")
    x, state = draw(net, *FORMS[form])
    _, _, trace = net.forward(x, state)
    for report in (lstmc.gate_statistics(net, x, state), lstmc.gate_statistics(net, trace=trace)):
        assert (report.steps, report.batch) == (STEPS, 1 if form == "unbatched" else BATCH)
        assert [layer.name for layer in report.layers] == [f"l{k}" for k in range(layers)]
        for actual, layer_trace in zip(report.layers, trace.layers, strict=True):
            check_gates(actual, CELLS[cell], layer_trace, form != "unbatched")


def test_networks():
    """Recurrent layers wherever they are, with dropout off; a language model is its network."""
    own = {"dtype": np.float64, "rng": 4}
    net = lstmc.Sequential(
        lstmc.Embedding(CLASSES, FEATURES, **own),
        lstmc.Sequential(lstmc.Dropout(0.5, rng=1), make_layer("lstm", 2, np.float64)),
        lstmc.RNN(HIDDEN, HIDDEN, **own),
    )
    tokens = np.random.default_rng(1).integers(CLASSES, size=(STEPS, BATCH))
    report = lstmc.gate_statistics(net, tokens)
    assert [layer.name for layer in report.layers] == ["1.1.l0", "1.1.l1", "2.l0"]
    _, _, lstm = net.layers[1].layers[1].forward(net.layers[0](tokens)[0])
    _, _, rnn = net.layers[2].forward(np.ascontiguousarray(lstm.layers[1].h))
    cells = [cell_of(layer) for layer in (net.layers[1].layers[1],) * 2 + net.layers[2:]]
    for actual, cell, layer_trace in zip(
        report.layers, cells, [*lstm.layers, *rnn.layers], strict=True
    ):
        check_gates(actual, cell, layer_trace)

    _, _, trace = net.forward(tokens)  # what was dropped in training is seen as it was
    trained = lstmc.gate_statistics(net, trace=trace)
    check_gates(trained.layers[0], cells[0], trace.layers[1].layers[1].layers[0])
    assert np.any(trained.layers[0].means["i"] != report.layers[0].means["i"])

    model = lstmc.LanguageModel(
        lstmc.Vocabulary("abcdefg", "char"), "lstm", 2, HIDDEN, FEATURES, 0.5, rng=2
    )
    model.net.params[...] *= 3
    names = [layer.name for layer in lstmc.gate_statistics(model, tokens).layers]
    assert names == ["2.l0", "4.l0"]
    assert_same_bits(
        lstmc.gate_statistics(model, tokens).layers[1].means,
        lstmc.gate_statistics(model.net, tokens).layers[1].means,
    )


@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_nothing_is_changed(cell):
    net = lstmc.Sequential(lstmc.Dropout(0.5, rng=1), make_layer(cell, 2))
    net.grads[...] = 3
    x, state = draw(net.layers[1], STEPS, BATCH)
    generator = net.layers[0].rng.bit_generator.state
    before = [a.copy() for a in (net.params, net.grads, x)]
    lstmc.gate_statistics(net, x, (None, state)).to_dict()
    assert_same_bits([net.params, net.grads, x], before)
    assert net.layers[0].rng.bit_generator.state == generator


def test_threads_change_nothing():
    net = make_layer("lstm", 2)
    x, _ = draw(net, STEPS, BATCH)
    one, two = (lstmc.gate_statistics(net, x, num_threads=n) for n in (1, 2))
    assert one.to_dict() == two.to_dict()


# --------------------------------------------------------------------------------------------------
# Units that do nothing
# --------------------------------------------------------------------------------------------------


def constructed(**gates):
    """Return an LSTM whose gates are what the biases say: per gate a number for each unit."""
    net = lstmc.LSTM(FEATURES, HIDDEN, rng=1)
    net.params[...] = 0
    for k, name in enumerate("ifgo"):
        net["bias_l0"][k * HIDDEN : (k + 1) * HIDDEN] = gates.get(name, 0)
    return net


def statistics_of(net, steps=30):
    x = np.random.default_rng(1).standard_normal((steps, BATCH, net.input_size)).astype(np.float32)
    return lstmc.gate_statistics(net, x).layers[0]


def test_memory():
    """Gates of 1/2, e^-0.01 and 1 keep for 1 / log 2 and 100 steps, and forever; of 0, for none."""
    net = constructed(f=[0, -math.log(math.expm1(0.01)), 200, -200, 40])
    memory = statistics_of(net).memory
    assert abs(memory[0] - 1 / math.log(2)) < TOLERANCE
    assert abs(memory[1] - 100) < 0.01  # sigmoid's last bit is 6e-8 of 0.01
    assert memory[2] == math.inf
    assert memory[3] < 0.02  # as good as 0, or 0 where float32 ends
    assert memory[4] == math.inf
    text = str(lstmc.gate_statistics(net, np.ones((3, 1, FEATURES), np.float32)))
    assert "-inf" not in text
    assert "memory, steps to 1/e: " in text


def test_dead_units():
    """Those whose h moves by less than 0.001 over all steps and rows."""
    net = constructed(i=5, f=5, o=[-20, 5, -20, 5, 5])
    net["weight_ih_l0"][2 * HIDDEN : 3 * HIDDEN, 0] = [1, 1, 1, 1, 1e-6]
    assert statistics_of(net).dead == [0, 2, 4]
    net = make_layer("rnn_relu")
    net["bias_l0"][...] = [-1000, 0, -1000, 0, 0]
    assert statistics_of(net).dead == [0, 2]


def test_dead_units_of_a_projected_layer():
    """They are those of the cell, as the shut ones are, and not the fewer ones that are projected on."""
    net = lstmc.LSTM(FEATURES, HIDDEN, proj_size=2, rng=0)
    net.params[...] = 1
    net["bias_l0"][3 * HIDDEN :] = [5, 5, 5, -20, -20]
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, FEATURES)).astype(np.float32)
    one = lstmc.gate_statistics(net, x).layers[0]
    assert one.dead == one.shut == [3, 4]


def test_a_unit_that_moves_between_rows_is_not_dead():
    net = make_layer("rnn_tanh")
    net.params[...] = 0
    net["weight_ih_l0"][1, 0] = 1
    x = np.zeros((STEPS, BATCH, FEATURES), np.float32)
    x[:, 1, 0] = 0.01
    assert lstmc.gate_statistics(net, x).layers[0].dead == [0, 2, 3, 4]


def test_shut_units():
    """Input or output gate below 0.1 at every step and in every row, or a GRU's update gate above 0.9; an
    RNN has no such gates."""
    net = constructed(i=[-3, 0, 0, -2.1, -3], o=[0, -3, 0, 0, -3], f=-5)
    assert statistics_of(net).shut == [0, 1, 4]
    net["weight_ih_l0"][0, 0] = 3  # the gate opens now and then
    net["weight_ih_l0"][HIDDEN * 3 + 1, 0] = 0.01  # and this one stays below
    assert statistics_of(net).shut == [1, 4]
    assert statistics_of(make_layer("rnn_tanh")).shut == []
    gru = make_layer("gru")
    gru.params[...] = 0
    gru["bias_l0"][HIDDEN : 2 * HIDDEN] = [3, 0, -3, 2.1, 2.3]
    gru["bias_l0"][:HIDDEN] = -3  # r below 0.1 cuts nothing off
    assert statistics_of(gru).shut == [0, 4]


def test_pegged_units():
    """tanh(c), or an RNN's h, beyond 0.9 on one side at every step and in every row."""
    net = constructed(i=10, f=-10, g=[3, -3, 1, 3, -1.4])
    net["weight_ih_l0"][2 * HIDDEN + 3, 0] = 5  # to either side
    # c is i g = tanh(+-3) and tanh(c) 0.76: it is one step's writing that is not enough
    assert statistics_of(net).pegged == []
    net["bias_l0"][HIDDEN : 2 * HIDDEN] = [10, 10, -10, -10, 10]
    x = np.random.default_rng(1).standard_normal((30, BATCH, FEATURES)).astype(np.float32)
    c = np.full((1, BATCH, HIDDEN), 5, np.float32) * np.sign([1, -1, 1, 1, -1]).astype(np.float32)
    actual = lstmc.gate_statistics(net, x, (np.zeros_like(c), c)).layers[0]
    assert actual.pegged == [0, 1, 4]
    net = make_layer("rnn_tanh")
    net.params[...] = 0
    net["bias_l0"][...] = [2, -2, 0, 1, 2]
    net["weight_ih_l0"][4, 0] = 5
    x = np.ones((STEPS, BATCH, FEATURES), np.float32)
    x[3] = -1  # the last unit is then beyond on the other side
    assert lstmc.gate_statistics(net, x).layers[0].pegged == [0, 1]


# --------------------------------------------------------------------------------------------------
# Words and numbers
# --------------------------------------------------------------------------------------------------


def test_a_report_in_words_and_numbers():
    net = constructed(i=[-3, 5, 0, 0, 0], o=[0, 0, -9, 0, 0], f=[200, 0, 0, 0, 0], g=3)
    report = lstmc.gate_statistics(net, np.ones((STEPS, BATCH, FEATURES), np.float32))
    numbers = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (numbers["steps"], numbers["batch"]) == (STEPS, BATCH)
    (written,), (layer,) = numbers["layers"], report.layers
    assert written["memory"] == [None, *layer.memory[1:].tolist()]
    for key in ("name", "cell", "low", "high", "dead", "shut", "pegged"):
        assert written[key] == getattr(layer, key)
    for key in ("means", "histograms"):
        assert written[key] == {gate: a.tolist() for gate, a in getattr(layer, key).items()}
    lines = str(report).splitlines()
    assert lines[0].startswith("gates: ")
    assert lines[0].endswith("(6 steps, 3 rows)")
    assert lines[1] == "  layer 0: 5 units"
    i, f, g, o, h = (line.split() for line in lines[2:7])
    assert i[:4] == ["i:", "mean", f"{layer.means['i'].mean():.3f},", "20%"]
    assert " ".join(i[4:]) == "below 0.1, 20% above 0.9"
    assert g[0] == "g:"
    assert " ".join(g[3:]) == "0% below -0.9, 100% above 0.9"
    assert (f[0], o[0], h[0]) == ("f:", "o:", "h:")
    assert any("dead: 1 unit" in line and "(2)" in line for line in lines)
    assert any("shut: 2 units" in line and "(0, 2)" in line for line in lines)


def test_a_long_list_of_units_is_cut():
    net = lstmc.RNN(1, 15, nonlinearity="relu", rng=1)
    net["bias_l0"][...] = -1000
    text = str(lstmc.gate_statistics(net, np.ones((3, 1, 1), np.float32)))
    assert "dead: 15 units (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)" in text


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_finite(cell, value):
    """One row of three from step 2 of 6 on: it is counted, and all else is told of the other values."""
    net = make_layer(cell)
    x, state = draw(net, STEPS, BATCH)
    x[2, 1] = value
    report = lstmc.gate_statistics(net, x, state)
    trace = net.forward(x, state)[2]
    layer = report.layers[0]
    for name, a in {**trace.layers[0].gates, "h": trace.layers[0].h}.items():
        beyond = np.count_nonzero(~np.isfinite(a)) / a.size
        assert abs(layer.beyond[name] - beyond) < TOLERANCE
        assert abs(layer.histograms[name].sum() - (1 - beyond)) < TOLERANCE
        assert np.isfinite(layer.ranges[name]).all()
    text, numbers = str(report), json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert numbers["layers"][0]["beyond"] == layer.beyond
    assert any(layer.beyond.values()) == ("beyond all numbers" in text)
    assert any(layer.beyond.values()) or value == math.inf


def test_states_as_large_as_numbers_are(dtype):
    """Whose range is not a number."""
    net = make_layer("rnn_identity", dtype=dtype)
    most = np.finfo(dtype).max
    net.params[...] = 0
    state = np.broadcast_to(np.array([1, -1, 0, 0, 0], dtype) * most, (1, BATCH, HIDDEN)).copy()
    net["weight_hh_l0"][...] = np.eye(HIDDEN)
    layer = lstmc.gate_statistics(net, np.zeros((2, BATCH, FEATURES), dtype), state).layers[0]
    assert layer.ranges["h"] == (-most, most)
    assert layer.histograms["h"][[0, 20, 39]].tolist() == pytest.approx([0.2, 0.6, 0.2])


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


def test_errors_of_statistics():
    net, x = make_layer("lstm"), np.ones((STEPS, BATCH, FEATURES), np.float32)
    y, state, trace = net.forward(x)
    with pytest.raises(ValueError, match="x must be given, or the trace of a forward call"):
        lstmc.gate_statistics(net)
    for options in ({"x": x}, {"state": state}):
        with pytest.raises(ValueError, match="trace holds what forward saw: x, state, lengths"):
            lstmc.gate_statistics(net, trace=trace, **options)
    with pytest.raises(ValueError, match="net must have a recurrent layer"):
        lstmc.gate_statistics(lstmc.Linear(2, 2), x)
    with pytest.raises(ValueError, match=r"trace must come from this layer's forward\(\)"):
        lstmc.gate_statistics(make_layer("lstm"), trace=trace)
    with pytest.raises(TypeError, match=r"trace must come from forward\(\)"):
        lstmc.gate_statistics(net, trace=y)
    with pytest.raises(ValueError, match="x must have at least one step and one row"):
        lstmc.gate_statistics(net, x[:0])
    with pytest.raises(TypeError, match="x must be float32, got float64"):
        lstmc.gate_statistics(net, x.astype(float))
    net.backward(y, trace, consume=True)
    with pytest.raises(ValueError, match="trace was consumed by an earlier backward"):
        lstmc.gate_statistics(net, trace=trace)


# -- cells that save more than their gates ---------------------------------------------------------


@pytest.fixture
def saves_more():
    """A trace whose cell has a saved value that is no gate: of an LSTM, what is otherwise o."""
    net = lstmc.Sequential(make_layer("lstm"), lstmc.Linear(HIDDEN, CLASSES, rng=2))
    x, _ = draw(net.layers[0], STEPS, BATCH)
    y, _, trace = net.forward(x)
    for one in trace.layers[0].layers:
        saved = ("i", "f", "g", "sum")
        one.cell = one.cell._replace(
            saved=saved, doors=(("i", "shut"),), dc_through_h=lambda dh, c, gates: dh
        )
    return net, y, trace


def test_what_is_saved_and_no_gate_is_not_among_the_gates(saves_more):
    _, _, trace = saves_more
    one = trace.layers[0].layers[0]
    assert list(one.gates) == ["i", "f", "g"]
    assert list(one.saved) == ["i", "f", "g", "sum"]
    for k, name in enumerate(one.saved):
        assert_same_bits(one.saved[name], one.all_gates[:, :, k * HIDDEN : (k + 1) * HIDDEN])


def test_reports_are_of_gates_alone(saves_more):
    net, y, trace = saves_more
    layer = lstmc.gate_statistics(net, trace=trace).layers[0]
    assert list(layer.means) == list(layer.histograms) == ["i", "f", "g", "h"]
    record = lstmc.Watch(net, every=1)(1.0, np.ones_like(y), trace)
    gates = np.stack(list(trace.layers[0].layers[0].gates.values()))
    limits = np.array([(0.1, 0.9), (0.1, 0.9), (-0.9, 0.9)])[:, :, None, None, None]
    expected = ((gates < limits[:, 0]) | (gates > limits[:, 1])).mean()
    assert math.isclose(record["0.l0"]["saturated"], expected, rel_tol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_does_not_count(cell):
    """Statistics of rows of unequal length, in both directions, are those of their real steps."""
    rng = np.random.default_rng(3)
    layer = CELLS[cell].make(3, 5, dtype=np.float64, rng=rng, bidirectional=True)
    x, lengths = rng.standard_normal((6, 4, 3)), np.array([2, 0, 6, 3])
    real = np.arange(6)[:, None] < lengths
    padded = np.where(real[..., None], x, np.nan)
    report = lstmc.gate_statistics(layer, padded, lengths=lengths)
    trace = layer.forward(x, lengths=lengths)[2]
    assert [one.name for one in report.layers] == ["l0", "l0_reverse"]
    for one, of in zip(report.layers, trace.layers, strict=True):
        for name, values in {**of.gates, "h": of.h}.items():
            rows = values[real]
            counts = np.histogram(rows, 40, one.ranges[name])[0]
            assert_close(one.histograms[name], counts / rows.size, 1e-12)
            for t in range(6):
                assert_close(one.means[name][t], values[t, real[t]].mean(0), 1e-12)
            if name in one.low:
                low, high = one.gates[name].limits
                assert one.low[name] == (rows < low).mean()
                assert one.high[name] == (rows > high).mean()
    assert str(report)
    short = lstmc.gate_statistics(layer, padded[:4], lengths=np.array([2, 0, 1, 1]))
    assert np.isnan(short.layers[0].means["h"][2:]).all()
    with pytest.raises(ValueError, match="lengths must leave at least one step"):
        lstmc.gate_statistics(layer, x, lengths=np.zeros(4, int))


def test_a_gate_at_its_clip_is_saturated():
    """Its sum passes nothing on, though a sigmoid is far from 0 and 1 there; it is not shut."""
    lstm = lstmc.LSTM(3, 4, rng=0, clip=0.5)
    lstm["bias_l0"][...] = 9
    x = np.zeros((5, 2, 3), np.float32)
    report = lstmc.gate_statistics(lstm, x).layers[0]
    assert [report.high[name] for name in "ifgo"] == [1.0] * 4
    lstm["bias_l0"][...] = -9
    report = lstmc.gate_statistics(lstm, x).layers[0]
    assert [report.low[name] for name in "ifgo"] == [1.0] * 4
    assert report.shut == []
