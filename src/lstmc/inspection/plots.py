"""Pictures of reports, as figures or PNG files. No other file of the library imports matplotlib.

Line colours are those of Okabe and Ito (2008), which colour-blind people can tell apart, and each has a line
style of its own; heat maps are viridis, or blue to red around zero.
"""

import functools
import io
from typing import Any

import numpy as np

from .reports import BEYOND, layer_texts, number_text

__all__ = [
    "plot_comparisons",
    "plot_flow",
    "plot_gates",
    "plot_histograms",
    "plot_jacobian",
    "plot_losses",
    "plot_spectrum",
]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES = ("-", "--", "-.", ":")
WIDTH = 6.0  # inches: 900 pixels, and readable at 600
DPI = 150
SHOWN = 1e4  # a Jacobian's largest derivative over the smallest that has a colour of its own


def _figure(height, width=WIDTH):
    try:
        from matplotlib.figure import Figure  # no pyplot: nothing global, no window system
    except ImportError:
        raise ImportError("matplotlib is not installed: pip install lstmc[plot]") from None
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure._repr_png_ = functools.partial(_png, figure)  # for notebooks, whose own way needs pyplot
    return figure


def _png(figure):
    """Return a figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _finish(figure, path):
    """Write the figure to path, unless that is None, and return it."""
    if path is not None:
        figure.savefig(path, dpi=DPI)
    return figure


def _line(i):
    """Return the style of the i-th line."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": STYLES[i % len(STYLES)],
        "linewidth": 1.6,
    }


def _positive(values):
    """Return values for a logarithmic axis: what is not above zero becomes NaN."""
    values = np.asarray(values, float)
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _finite(values):
    """Return values for a heat map: what is not finite becomes NaN, which is not drawn."""
    return np.where(np.isfinite(values), values, np.nan)


def _log(axes):
    """Make the y axis logarithmic if there is anything above zero to show."""
    if any(np.isfinite(np.asarray(line.get_ydata(), float)).any() for line in axes.lines):
        axes.set_yscale("log")
    else:
        what = f"zero or {BEYOND} throughout"
        axes.text(0.5, 0.5, what, transform=axes.transAxes, ha="center")


def plot_losses(epochs, train, valid, path=None):
    """Draw the losses over epochs, and mark the epoch of the lowest validation loss.

    Parameters
    ----------
    epochs : list of float
        Where each loss belongs on the axis.
    train, valid : list of float or None
        Mean loss of an epoch's training, and of validation, in nats per token; None where unknown.
    path : str or path, optional
        Where to write it as a PNG file.

    Returns
    -------
    matplotlib Figure
    """
    figure = _figure(4)
    axes = figure.add_subplot()
    for i, (name, losses) in enumerate((("training", train), ("validation", valid))):
        values = np.array(losses, float)
        if np.isfinite(values).any():
            axes.plot(epochs, values, marker="o", markersize=3, label=name, **_line(i))
    valid = _finite(np.array(valid, float))
    if np.isfinite(valid).any():
        best = int(np.nanargmin(valid))
        label = f"best: epoch {round(epochs[best], 2):g}, {valid[best]:.4f}"
        axes.plot(epochs[best], valid[best], "*", color=COLOURS[-1], markersize=11, label=label)
    axes.set_title("The loss, epoch by epoch", fontsize=11)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss, nats per token")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return _finish(figure, path)


def plot_flow(flow, path=None):
    """Draw a GradientFlow: how far back the loss of the chosen steps reaches, and the total over time.

    Parameters
    ----------
    flow : GradientFlow
    path : str or path, optional
        Where to write it as a PNG file.

    Returns
    -------
    matplotlib Figure
    """
    figure = _figure(6.4)
    reach, total = figure.subplots(2, 1)
    asked = "the loss at the last step" if flow.at == [flow.steps - 1] else flow.asked
    verdict = "No gradient" if flow.verdict == "none" else flow.verdict.capitalize()
    dots = {"marker": "o"} if flow.steps == 1 else {}
    texts = layer_texts(layer.name for layer in flow.layers)
    for i, layer in enumerate(flow.layers):
        norms = _positive(layer.reach.norms)
        half_life, label = layer.reach.half_life, texts[layer.name]
        if layer.reach.is_steady and np.isfinite(half_life):
            label += f", half-life {half_life:.3g} steps"
        reach.plot(np.arange(len(norms)), norms, label=label, **_line(i))
        total.plot(
            np.arange(flow.steps), _positive(layer.dh), label=texts[layer.name], **dots, **_line(i)
        )
    reach.set_title(f"{verdict}: {asked}, followed back", fontsize=11)
    reach.set_xlabel("steps back")
    reach.set_ylabel("norm of the gradient\nat the state")
    total.set_title("The loss of all steps: what arrives at each", fontsize=11)
    total.set_xlabel("step")
    total.set_ylabel("norm of the gradient\nat h")
    for axes in (reach, total):
        _log(axes)
        axes.grid(alpha=0.3)
        axes.margins(x=0.02)
    reach.legend(fontsize=8)
    return _finish(figure, path)


def plot_gates(report, path=None):
    """Draw a GateReport: heat maps of every gate over time and unit, a column for each layer.

    Parameters
    ----------
    report : GateReport
    path : str or path, optional
        Where to write it as a PNG file.

    Returns
    -------
    matplotlib Figure
    """
    gates = {name: gate for layer in report.layers for name, gate in layer.gates.items()}
    columns, texts = len(report.layers), layer_texts(layer.name for layer in report.layers)
    figure = _figure(1.45 * len(gates) + 0.9, max(WIDTH, 2.8 * columns))
    grid = figure.subplots(len(gates), columns, squeeze=False, sharex=True)
    for column, layer in enumerate(report.layers):
        grid[0][column].set_title(texts[layer.name], fontsize=10)
        for row, (name, gate) in zip(grid, gates.items()):
            axes = row[column]
            if name not in layer.gates:
                axes.set_axis_off()
                continue
            image = _draw_gate(axes, layer, name)
            if not column:
                axes.set_ylabel(f"{gate.title}\nunit", fontsize=8)
            axes.tick_params(labelsize=7)
            if column == columns - 1:
                bar = figure.colorbar(image, ax=list(row), fraction=0.04, pad=0.01)
                bar.ax.tick_params(labelsize=7)
        grid[-1][column].set_xlabel("step", fontsize=9)
    rows = f", mean of {report.batch} rows" if report.batch > 1 else ""
    what = "The states" if list(gates) == ["h"] else "How far each gate opens"
    figure.suptitle(f"{what}, over time and units{rows}", fontsize=11)
    return _finish(figure, path)


def _draw_gate(axes, layer, name):
    """Draw the heat map of one gate; return the image."""
    bounds = layer.gates[name].bounds
    is_share = bounds is not None and bounds[0] == 0
    # Where there are no bounds, as far as the values go; what is beyond all numbers stays white.
    far = max(map(abs, layer.ranges[name])) or 1.0
    return axes.imshow(
        _finite(layer.means[name].T),
        aspect="auto",
        interpolation="nearest",
        cmap="viridis" if is_share else "RdBu_r",
        vmin=0 if is_share else -far,
        vmax=far,
    )


def plot_histograms(report, path=None):
    """Draw a GateReport: how the values of each gate are distributed, a line for each layer.

    Parameters
    ----------
    report : GateReport
    path : str or path, optional
        Where to write it as a PNG file.

    Returns
    -------
    matplotlib Figure
    """
    gates = {name: gate for layer in report.layers for name, gate in layer.gates.items()}
    figure = _figure(1.5 * len(gates) + 0.7)
    panels = figure.subplots(len(gates), 1, squeeze=False)[:, 0]
    texts = layer_texts(layer.name for layer in report.layers)
    for axes, name in zip(panels, gates):
        limits = set()
        for i, layer in enumerate(report.layers):
            if name in layer.gates:
                share = layer.histograms[name]
                edges = np.linspace(*layer.ranges[name], len(share) + 1)
                axes.stairs(100 * share, edges, label=texts[layer.name], **_line(i))
                limits.update(layer.gates[name].limits or ())
        for limit in sorted(limits):
            axes.axvline(limit, color="#888888", linewidth=0.8)
        axes.set_ylabel(f"{name}\n% of values", fontsize=9)
        axes.tick_params(labelsize=8)
    panels[0].legend(fontsize=8)
    panels[-1].set_xlabel("value; beyond the grey lines a gate is saturated")
    what = "states" if list(gates) == ["h"] else "gates"
    figure.suptitle(f"How the {what} are distributed over steps, rows and units", fontsize=11)
    return _finish(figure, path)


def plot_spectrum(spectrum, path=None):
    """Draw a JacobianSpectrum: singular values over the distance.

    Parameters
    ----------
    spectrum : JacobianSpectrum
    path : str or path, optional
        Where to write it as a PNG file.

    Returns
    -------
    matplotlib Figure
    """
    figure = _figure(4.2)
    axes = figure.add_subplot()
    values, k = spectrum.singular_values, spectrum.distances
    flat = values.reshape(len(k), -1)
    floor = spectrum.precision * values[:, :, 0].max(1)  # what is below is rounding
    with np.errstate(all="ignore"):
        low, high = (
            _positive(np.maximum(np.quantile(flat, q, axis=1), floor)) for q in (0.25, 0.75)
        )
    axes.fill_between(k, low, high, color=COLOURS[0], alpha=0.2, label="middle half")
    lines = (
        ("largest", values[:, :, 0].max(1)),
        ("median", np.median(flat, 1)),
        ("smallest", values[:, :, -1].min(1)),
    )
    for i, (name, line) in enumerate(lines):
        axes.plot(
            k, _positive(np.maximum(line, floor)), marker="o", markersize=3, label=name, **_line(i)
        )
    if floor.all() and np.isfinite(floor).all():
        axes.fill_between(k, floor / 10, floor, color="#888888", alpha=0.4, label="rounding")
    _log(axes)
    axes.axhline(1, color="#888888", linewidth=0.8)
    if k[-1] > 20 and axes.get_yscale() == "log":
        axes.set_xscale("log")
    axes.set_xlabel("distance k, steps")
    axes.set_ylabel("singular value")
    most = number_text(values[-1, :, 0].max(), ".2g")
    axes.set_title(
        f"d s({spectrum.t1}) / d s({spectrum.t1} - k): over {k[-1]} steps changes of the state\n"
        f"are multiplied by {most + (' at most' if most != BEYOND else '')}",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=5)
    return _finish(figure, path)


def plot_jacobian(
    jacobian,
    title="How each number of a state changes with each of an earlier one",
    path=None,
    parts=(),
):
    """Draw one Jacobian as a heat map, on a scale that is logarithmic on both sides of zero.

    Parameters
    ----------
    jacobian : ndarray (S, S) or (H, I)
        That of one row: ``state_jacobian(...)[b]``.
    title : str
    path : str or path, optional
        Where to write it as a PNG file.
    parts : list of (str, int), optional
        What a state consists of, parts and their sizes, for the axes: as ``sweeps.state_parts(layer)``.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        It is not a matrix.
    """
    jacobian = np.asarray(jacobian)
    if jacobian.ndim != 2:
        raise ValueError(f"jacobian must be a matrix, that of one row, got {jacobian.ndim} axes")
    figure = _figure(5)  # which finds out whether matplotlib is there
    from matplotlib.colors import SymLogNorm

    axes = figure.add_subplot()
    most = float(np.abs(jacobian[np.isfinite(jacobian)]).max(initial=0)) or 1.0
    norm = SymLogNorm(most / SHOWN, vmin=-most, vmax=most, base=10)
    image = axes.imshow(
        _finite(jacobian), cmap="RdBu_r", norm=norm, interpolation="nearest", aspect="auto"
    )
    decades = 10.0 ** np.arange(np.ceil(np.log10(3 * most / SHOWN)), np.log10(most) + 1e-9)
    ticks = [*-decades, 0, *decades]
    figure.colorbar(image, ax=axes, ticks=ticks, label="derivative, logarithmic scale")
    axes.set_xlabel("the earlier state" if parts else "number of the earlier vector")
    axes.set_ylabel("the later state" if parts else "number of the later vector")
    for axis in (axes.yaxis, axes.xaxis):
        if parts:
            _mark_parts(axis, parts)
        else:
            axis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_title(title, fontsize=10)
    return _finish(figure, path)


def _mark_parts(axis, parts):
    """Label the parts, each a name and a size, that an axis consists of, and part them by lines."""
    names, sizes = zip(*parts)
    ends = np.cumsum(sizes)
    axis.set_ticks(ends - np.array(sizes) / 2 - 0.5, names, fontsize=8)
    across = axis.axis_name == "x"
    axis.set_tick_params(length=0, labelrotation=90 if across and len(parts) > 4 else 0)
    draw = axis.axes.axvline if across else axis.axes.axhline
    for end in ends[:-1]:
        draw(end - 0.5, color="#888888", linewidth=0.8)


def plot_comparisons(comparisons, path=None) -> Any:  # so that typed programs may call it
    """Draw how networks of equal size learn the same problems, and beside it why: a row for each problem.

    Parameters
    ----------
    comparisons : list of comparison.Comparison
    path : str or path, optional
        Where to write it as a PNG file.

    Returns
    -------
    matplotlib Figure
    """
    figure = _figure(0.4 + 3.1 * len(comparisons), 7)
    rows = figure.subfigures(len(comparisons), 1, squeeze=False)[:, 0]
    for row, comparison in zip(rows, comparisons):
        ends = []
        for name, run, _ in comparison.sides:
            how = "learns it" if run.solved_at is not None else "does not learn it"
            ends.append(f"the {name} {how} in {run.solved_at or run.updates[-1]:,} updates")
        lines = [", ".join(ends[i : i + 2]) for i in range(0, len(ends), 2)]  # two fit on one
        row.suptitle(f"{comparison.problem}:\n" + ",\n".join(lines), fontsize=11)
        learning, reach = row.subplots(1, 2)
        _draw_learning(learning, comparison)
        _draw_reach(reach, comparison)
    return _finish(figure, path)


def _draw_learning(axes, comparison):
    problem = comparison.problem
    error = problem.name == "adding"
    unit = 1 if error else 100  # a share is shown in percent
    for i, (name, run, _) in enumerate(comparison.sides):
        scores = unit * np.asarray(run.scores, float)
        axes.plot(run.updates, scores, label=name, marker="o", markersize=2, **_line(i))
        if run.solved_at is not None:
            axes.plot(run.solved_at, scores[-1], "o", color=COLOURS[i])
    axes.axhline(unit * problem.limit, color=COLOURS[-1], linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("updates")
    if error:
        _log(axes)
        axes.set_ylabel(problem.measure)
    else:
        axes.set_ylim(0, 104)
        axes.set_ylabel(f"{problem.measure} (%)")
    axes.set_title(f"learned: {'below' if error else 'above'} the black line", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_reach(axes, comparison):
    for i, (name, _, flow) in enumerate(comparison.sides):
        norms = _positive(flow.layers[0].reach.norms[1:])  # float32 ends at 1e-38
        axes.plot(np.arange(1, len(norms) + 1), norms / norms[0], label=name, **_line(i))
    _log(axes)
    axes.set_xlabel("steps back from the loss")
    axes.set_ylabel("gradient left (1 = one step back)")
    axes.set_title("gradient before training", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
