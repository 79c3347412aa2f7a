"""Pictures are written, hold what they should, and say what is missing where matplotlib is."""

import base64
import builtins
import html

import numpy as np
import pytest

import lstmc
from lstmc.inspection import plots
from lstmc.inspection.comparison import compare
from lstmc.inspection.problems import Problem
from lstmc.inspection.reports import layer_texts, place_text
from lstmc.inspection.sweeps import state_parts

PNG = b"\x89PNG\r\n\x1a\n"


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("rnn", "one unit", "vanished")]


@pytest.fixture(scope="module", params=["lstm", "exploded", *SLOW])
def reports(request):
    """Return reports of an LSTM, an RNN, the smallest network, and of gradients of zero and of infinity."""
    sizes = {"one unit": (1, 1)}.get(request.param, (3, 7))
    kind = lstmc.RNN if request.param in ("rnn", "vanished", "exploded") else lstmc.LSTM
    layer = kind(*sizes, num_layers=2, rng=0)
    if request.param == "exploded":
        layer = lstmc.RNN(3, 7, 2, nonlinearity="identity", rng=0)
        for k in range(2):
            layer[f"weight_hh_l{k}"][...] = 1e20 * np.eye(7)
    if request.param == "vanished":
        layer.params[:] = 0
    x = np.random.default_rng(1).standard_normal((30, 2, sizes[0])).astype(np.float32)
    return {
        "flow": lstmc.gradient_flow(layer, x),
        "gates": lstmc.gate_statistics(layer, x),
        "spectrum": lstmc.jacobian_spectrum(layer, x),
    }


@pytest.fixture
def drawn(monkeypatch):
    """Return the list of the figures that are drawn."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), save(f, *a, **k)))
    return figures


def draw(name, reports, path):
    report = reports[name.partition(".")[0]]
    report.plot_histograms(path) if name == "gates.histograms" else report.plot(path)


@pytest.mark.parametrize("name", ["flow", "gates", "gates.histograms", "spectrum"])
def test_a_report_draws_itself(name, reports, drawn, tmp_path):
    draw(name, reports, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(PNG)
    (figure,) = drawn
    assert figure.get_figwidth() <= 6 + 3 * (name == "gates")  # readable at 600 pixels
    panels = [axes for axes in figure.axes if axes.get_xlabel() and axes.axison]
    assert panels, "no panel has a labelled axis"
    title = figure.get_suptitle() or panels[0].get_title()
    assert len(title.split()) >= 3


@pytest.mark.parametrize("name", ["flow", "gates", "spectrum"])
def test_a_notebook_shows_text_and_picture(name, reports):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    report = reports[name]
    assert repr(report) == str(report)
    figure = report.plot()
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(PNG)
    shown = report._repr_html_()
    text, _, picture = shown.partition("</pre>")
    assert html.unescape(text.removeprefix("<pre>")) == str(report)
    data = picture.partition("base64,")[2].partition('"')[0]
    assert base64.b64decode(data).startswith(PNG)


@pytest.mark.parametrize("name", ["flow", "gates"])
def test_parts_of_a_report_print_in_a_line(name, reports):
    for layer in reports[name].layers:
        assert "\n" not in repr(layer)
        assert len(repr(layer)) < 250
        assert repr(layer).startswith(f"{type(layer).__name__}({layer.name!r}, {layer.cell!r}, ")


def test_layers_in_words():
    """Those of all stacks are counted together; by itself, one is named by its place in the network."""
    names = ["1.l0", "1.l0_reverse", "1.l1", "1.l1_reverse", "3.0.l0"]
    counted = ["layer 0", "layer 0, reverse", "layer 1", "layer 1, reverse", "layer 2"]
    assert layer_texts(iter(names)) == dict(zip(names, counted))
    assert place_text("l1_reverse") == "layer 1, reverse"
    assert place_text("1.l0") == "layer 0 of net.layers[1]"
    assert place_text("1.0.l12_reverse") == "layer 12, reverse, of net.layers[1].layers[0]"
    assert place_text("3.0.") == "net.layers[3].layers[0]"
    assert place_text("1.weight_ih_l0") == "1.weight_ih_l0"


def test_the_flow_is_drawn_as_it_is(reports, drawn, tmp_path):
    flow = reports["flow"]
    flow.plot(tmp_path / "flow.png")
    reach, total = drawn[0].axes
    scale = "log" if any(layer.dh.any() for layer in flow.layers) else "linear"
    assert (reach.get_yscale(), total.get_yscale()) == (scale, scale)
    lines = zip(flow.layers, reach.lines, total.lines, strict=True)
    for i, (layer, line, over_time) in enumerate(lines):
        for norms, drawn_line in ((layer.reach.norms, line), (layer.dh, over_time)):
            shown = np.nan_to_num(np.asarray(drawn_line.get_ydata(), float))
            assert np.array_equal(shown, np.where(np.isfinite(norms), norms, 0))
        assert line.get_label().startswith(f"layer {i}")
    verdict = "No gradient" if flow.verdict == "none" else flow.verdict.capitalize()
    assert verdict in reach.get_title()
    assert len({(line.get_color(), line.get_linestyle()) for line in reach.lines}) == 2


def test_a_comparison_shows_both_curves_and_both_flows(drawn, tmp_path):
    actual = compare(Problem("temporal_order", 10), updates=6, hidden=24, every=2, rows=20)
    plots.plot_comparisons([actual, actual], tmp_path / "comparisons.png")
    learning, reach = drawn[0].axes[:2]
    lines = [line for line in learning.lines if line.get_label() in ("LSTM", "RNN")]
    for run, line in zip(actual.learnings.values(), lines, strict=True):
        assert line.get_xdata().tolist() == run.updates
        assert np.allclose(line.get_ydata(), 100 * np.array(run.scores))
    for flow, line in zip(actual.flows.values(), reach.lines, strict=True):
        norms = flow.layers[0].reach.norms[1:]
        assert np.allclose(line.get_ydata(), norms / norms[0])


@pytest.mark.parametrize("losses", [[], [None, None]])
def test_no_losses_are_an_empty_picture(losses, drawn, tmp_path):
    plots.plot_losses(range(len(losses)), losses, losses, tmp_path / "loss.png")
    assert not drawn[0].axes[0].lines
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(("epochs", "valid", "best"), [
    ([1, 2, 3, 4, 5], [2.5, 2.25, None, 2.0, 2.125], "best: epoch 4, 2.0000"),
    ([1, 2], [np.inf, 1.79326], "best: epoch 2, 1.7933"),
    ([0.5, 1.25], [2.0, 3.0], "best: epoch 0.5, 2.0000"),
    ([1, 2], [None, None], None),
])  # fmt: skip
def test_the_best_epoch_is_marked(epochs, valid, best, drawn, tmp_path):
    plots.plot_losses(epochs, [2.0] * len(epochs), valid, tmp_path / "loss.png")
    (axes,) = drawn[0].axes
    assert axes.get_title()
    assert all(tick == int(tick) for tick in axes.get_xticks())
    marked = [line for line in axes.lines if line.get_label().startswith("best")]
    assert [line.get_label() for line in marked] == ([best] if best else [])
    if best:
        lowest = min(v for v in valid if v is not None)
        (line,) = marked
        assert (*line.get_xdata(), *line.get_ydata()) == (epochs[valid.index(lowest)], lowest)
        assert best in [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_jacobian_is_a_heat_map_around_zero(drawn, tmp_path):
    matrix = np.array([[0.0, -3.0, 1.0], [2.0, 0.5, 0.0]])
    plots.plot_jacobian(matrix, "a title of some words", tmp_path / "jacobian.png")
    image = drawn[0].axes[0].images[0]
    assert np.array_equal(image.get_array(), matrix)
    assert image.get_clim() == (-3, 3)
    # A logarithmic scale: a hundredth of the largest still has much of its colour.
    assert float(image.norm(0.03)) - 0.5 > 0.2
    assert float(image.norm(0)) == 0.5
    with pytest.raises(ValueError, match="jacobian must be a matrix"):
        plots.plot_jacobian(matrix[None], path=tmp_path / "no.png")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30, 0.0])
def test_a_jacobian_is_marked_by_layer_direction_and_state(scale, drawn, tmp_path):
    lstm = lstmc.LSTM(2, 3, 1, bidirectional=True, rng=0)
    jacobian = lstmc.state_jacobian(lstm, np.ones((4, 1, 2), np.float32))[0].astype(float)
    parts = state_parts(lstm)
    plots.plot_jacobian(scale * jacobian, path=tmp_path / "jacobian.png", parts=parts)
    axes = drawn[0].axes[0]
    expected = ["layer 0 h", "layer 0, reverse, h", "layer 0 c", "layer 0, reverse, c"]
    for axis, ticks in ((axes.xaxis, axes.get_xticks()), (axes.yaxis, axes.get_yticks())):
        assert [label.get_text() for label in axis.get_ticklabels()] == expected
        assert list(ticks) == [1, 4, 7, 10]
    assert [line.get_xdata()[0] for line in axes.lines[3:]] == [2.5, 5.5, 8.5]
    assert state_parts(lstmc.GRU(2, 3, 2), 1) == [("layer 1 h", 3), ("layer 2 h", 3)]


def test_the_smallest_singular_value_is_drawn(drawn, tmp_path):
    """As far as it is no rounding; where it is, at the most that it may be."""
    layer = lstmc.LSTM(3, 7, rng=0)
    x = np.random.default_rng(1).standard_normal((30, 2, 3)).astype(np.float32)
    spectrum = lstmc.jacobian_spectrum(layer, x)
    spectrum.plot(tmp_path / "spectrum.png")
    (line,) = (one for one in drawn[0].axes[0].lines if one.get_label() == "smallest")
    values = spectrum.singular_values
    floor = spectrum.precision * values[:, :, 0].max(1)
    assert np.array_equal(line.get_ydata(), np.maximum(values[:, :, -1].min(1), floor))
    assert values[-1, :, -1].min() < floor[-1] < floor[0] < values[0, :, -1].min()


@pytest.mark.parametrize("name", ["flow", "gates", "gates.histograms", "spectrum"])
def test_without_matplotlib_the_text_is_there_still(name, reports, monkeypatch, tmp_path):
    real = builtins.__import__

    def refuse(module, *args, **kinds):
        if module.partition(".")[0] == "matplotlib":
            raise ImportError(f"No module named {module!r}")
        return real(module, *args, **kinds)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install lstmc\[plot\]"):
        draw(name, reports, tmp_path / "picture.png")
    report = reports[name.partition(".")[0]]
    assert len(str(report)) > 50
    assert html.unescape(report._repr_html_()) == f"<pre>{report}</pre>"
