"""What was measured, as tables (Markdown that also reads well in a terminal) and as a picture.

Nothing is measured here, and nothing is known of any machine but what the report holds.
"""

from dataclasses import dataclass, field
from pathlib import Path

from lstmc.cli.bench import time_text

from . import limits
from .machine import Machine
from .memory import Memory
from .timing import EQUAL, OURS, Result

TITLES = {
    "step": "One step, the state carried on",
    "forward": "Forward over a sequence, inference",
    "train": "Forward and backward, every gradient including dx",
    "model": "A training step of a language model: embedding, layers, softmax, clipping, SGD",
}
LEGEND = """\
Times are medians over rounds in which all take their turn, answers compared before; `(2.00×)` is the
median of the ratios within a round: it took twice as long as lstmc. "of limit" is the least time this
machine needs, as measured here, over lstmc's: for each product the longer of its operations at the rate
of the micro-kernel alone and of reading its weights from the level that holds them. "activations" and
"packing" are what these two, which the limit leaves out, would take of lstmc's time by themselves.
"onnxruntime" steps on bound buffers, "onnxruntime run" is fed arrays by `run()`. "T1..200" are rows of
lengths drawn evenly from that range, which PyTorch takes as a packed sequence, and "torch, sorted" the
longest first; "torch, padded" runs the padding too. "resets 2%" of the steps: PyTorch runs from one reset
of any row to the next, and clears that row's state. "equal rows" is lstmc with as many rows, but without
lengths and resets. "target" is what the project sets itself, in times of a speed named there or as a share
of the limit."""
NEUTRAL = "#808080"  # text that is read on white as on black
COLOURS = ("#ee4c2c", "#f2a487", "#3b82c4", "#8fbde0", "#2fa37c", "#b58900")


@dataclass
class Report:
    """Everything that one run measured, on a CPU or a GPU."""

    description: dict[str, str] = field(default_factory=dict)
    machines: list[Machine] = field(default_factory=list)  # a CPU's rates by number of threads
    limits: dict[str, float] = field(default_factory=dict)  # a GPU's rates
    results: list[Result] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    partial: str = ""  # why this is not everything

    def defects(self):
        """List what is wrong or broken."""
        return [f"{title(r)}: {line}" for r in self.results for line in r.defects()]

    def notes(self):
        """List who is missing, and why."""
        return list(dict.fromkeys(note for r in self.results for note in r.notes))


# -- numbers --------------------------------------------------------------------------------------


def table(header, rows):
    """Write a Markdown table with its columns aligned; the first to the left, the others right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells):
        first, *others = (f"{c:<{n}}" if i == 0 else f"{c:>{n}}"
                          for i, (c, n) in enumerate(zip(cells, widths)))  # fmt: skip
        return "| " + " | ".join([first, *others]) + " |"

    rule = (
        "|"
        + "|".join([f":{'-' * (widths[0] + 1)}", *(f"{'-' * (n + 1)}:" for n in widths[1:])])
        + "|"
    )
    return "\n".join([line(header), rule, *map(line, rows)])


def threads_text(n):
    return f"{n} thread" + "s" * (n > 1)


def title(result):
    """Name a workload and its setting."""
    setting = result.setting
    on_cpu = setting.device == "cpu"
    return (
        f"{result.workload.name}, {threads_text(setting.threads) if on_cpu else setting.precision}"
    )


def meets_floor(result):
    """Return whether a result meets its floor; None where it has none, or nobody to compare with."""
    w = result.workload
    best = result.best(w.against or None)
    return None if w.floor is None or best is None else best[0] >= w.floor


def closing(report):
    """List the lines that end every report: defects and notes."""
    lines = []
    for heading, items in (("Defects", report.defects()), ("Notes", report.notes())):
        if items:
            lines += ["", f"## {heading}", "", *(f"- {item}" for item in items)]
    return lines


# -- results --------------------------------------------------------------------------------------


def peers_of(results):
    """List the peers that took part, in the order they came, without lstmc and its twins."""
    return list(dict.fromkeys(name for r in results for name in r.peers()))


def verdicts(result, machine):
    """Return the targets of a result, and whether they are met."""
    w, targets = result.workload, []
    met = meets_floor(result)
    if met is not None:
        targets.append((f"≥ {w.floor:g}× {' or '.join(w.against)}", met))
    if w.of_limit is not None and machine.threads == 1:
        reached = limits.limit(w, machine) / result.seconds()
        targets.append((f"≥ {w.of_limit:.0%} of limit", reached >= w.of_limit))
    if (twin := "lstmc, 1 thread") in result.rounds:
        least = w.speed_up if result.seconds(twin) > 2e-3 else 1.0
        targets.append((f"≥ {least:.2g}× 1 thread", result.ratio(twin) >= least))
    if (twin := "lstmc, float32") in result.rounds:
        least = 1 / 2.16  # half its rate, within 8 %
        targets.append((f"≥ {least:.2g}× float32", result.ratio(twin) >= least))
    if EQUAL in result.rounds and w.of_equal is not None:
        targets.append((f"≥ {w.of_equal:.2g}× equal rows", result.ratio(EQUAL) >= w.of_equal))
    return "; ".join(f"{what}: {'met' if met else 'missed'}" for what, met in targets)


def summary(result, machine):
    """Write a result in one line."""
    ours = result.seconds()
    line = f"{title(result)}: {time_text(ours)}, "
    line += f"{limits.limit(result.workload, machine) / ours:.0%} of limit"
    others = [f"{name} {result.ratio(name):.2f}×" for name in result.rounds if name != OURS]
    return ", ".join([line, *others, *result.defects(), *result.notes])


def result_table(results, machine):
    """Write the results of one kind of workload and one number of threads."""
    names = peers_of(results)
    twins = list(dict.fromkeys(n for r in results for n in r.rounds if n.startswith(OURS + ",")))
    rows = []
    for r in results:
        w, ours = r.workload, r.seconds()
        row = {"workload": w.name, OURS: time_text(ours)}
        row["GFLOP/s"] = f"{limits.flops(w) / ours / 1e9:.1f}"
        if w.kind == "model":
            row["tokens/s"] = f"{w.steps * w.batch / ours:,.0f}"
        row["of limit"] = f"{limits.limit(w, machine) / ours:.0%}"
        activations = limits.activations(w) * machine.activation / machine.threads
        row["activations"] = f"{activations / ours:.0%}"
        if w.kind != "step":
            row["packing"] = f"{r.packing / ours:.1%}"
        for name in [*names, *twins]:
            ran = name in r.rounds
            row[name] = f"{time_text(r.seconds(name))} ({r.ratio(name):.2f}×)" if ran else ""
        best = r.best()
        row["best peer"] = "" if best is None else f"{best[0]:.2f}×"
        row["target"] = verdicts(r, machine)
        rows.append(row)
    return table(list(rows[0]), [row.values() for row in rows])


def machine_table(machines):
    """Write what the machine reaches, by number of threads."""
    header = ["", *(threads_text(m.threads) for m in machines)]
    rows = []
    for name, rates in (("OpenBLAS through NumPy", "blas"), ("micro-kernel alone", "kernel")):
        for dtype in getattr(machines[0], rates):
            cells = (f"{getattr(m, rates)[dtype] / 1e9:.0f} GFLOP/s" for m in machines)
            rows.append([f"{name}, {dtype}", *cells])
    for k, level in enumerate(machines[0].levels):
        cells = (f"{m.levels[k].bandwidth / 1e9:.0f} GB/s" for m in machines)
        rows.append([f"reading from {level.name}", *cells])
    rows.append(["tanh or sigmoid", *(f"{m.activation * 1e9:.2f} ns" for m in machines)])
    return table(header, rows)


def memory_table(memories):
    """Write what is beyond the weights; of training, the target is at most half of PyTorch's."""
    torch = {m.workload: m.extra for m in memories if m.peer == "torch"}
    rows = []
    for m in memories:
        share = ""
        if m.peer == OURS and m.workload in torch:
            share = f"{m.extra / torch[m.workload]:.0%}"
        rows.append([m.workload.name, m.peer, f"{m.extra / 2**20:.2f} MiB", share,
                     f"{m.growth:,.0f}", f"{m.growth / m.state_bytes:.1f}"])  # fmt: skip
    header = (
        "workload",
        "",
        "beyond the weights",
        "of torch's",
        "bytes a step",
        "B·H·L numbers a step",
    )
    return table(header, rows)


def text(report):
    """Write the whole report in Markdown."""
    parts = ["# Results", "", "Written by `python -m benchmarks`.", "", LEGEND]
    if report.partial:
        parts += ["", f"This was {report.partial}."]
    parts += ["", "## The machine", ""]
    parts += [f"- {name}: {value}" for name, value in report.description.items()]
    parts += [f"- instruction set of lstmc: {report.machines[0].isa}"] if report.machines else []
    if report.machines:
        parts += ["", machine_table(report.machines)]
    for machine in report.machines:
        for kind, heading in TITLES.items():
            results = [r for r in report.results
                       if r.setting.threads == machine.threads and r.workload.kind == kind]  # fmt: skip
            if results:
                parts += ["", f"## {heading}: {threads_text(machine.threads)}", ""]
                parts.append(result_table(results, machine))
    if report.memory:
        parts += [
            "",
            "## Peak memory, beyond weights, gradients and inputs",
            "",
            memory_table(report.memory),
        ]
    return "\n".join([*parts, *closing(report)]) + "\n"


# -- the picture ----------------------------------------------------------------------------------


def draw(report, path):
    """Draw how many times as long as lstmc each peer takes: a group of bars a workload, log axis.

    A bar ends in a dot, so that a ratio near 1, whose bar has no length, is seen too.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    counts = [m.threads for m in report.machines]
    names = peers_of(report.results)
    groups = list(dict.fromkeys(r.workload.name for r in report.results))
    lowest = min(r.ratio(name) for r in report.results for name in r.peers())
    size = (2 + 4.5 * len(counts), 1.5 + 0.42 * len(groups))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(counts), sharey=True, squeeze=False)
    for axis, threads in zip(axes[0], counts):
        results = [r for r in report.results if r.setting.threads == threads]
        for k, name in enumerate(names):
            bars = [
                (groups.index(r.workload.name), r.ratio(name)) for r in results if name in r.rounds
            ]
            width = 0.8 / len(names)
            places, ratios = [y - 0.4 + (k + 0.5) * width for y, _ in bars], [x for _, x in bars]
            colour = COLOURS[k % len(COLOURS)]
            axis.barh(places, [x - 1 for x in ratios], width, left=1, color=colour, label=name)
            axis.plot(ratios, places, "o", color=colour, markersize=4)
        axis.axvline(1, color=NEUTRAL, linewidth=1.5, zorder=1.5)  # below the dots
        axis.set_xscale("log")
        axis.set_xlim(left=0.9 * min(0.9, lowest))
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(threads_text(threads), color=NEUTRAL)
        axis.set_xlabel("times as long as lstmc (= 1)", color=NEUTRAL)
        axis.grid(axis="x", color=NEUTRAL, alpha=0.3)
        axis.tick_params(colors=NEUTRAL)
        axis.patch.set_alpha(0)
        for spine in axis.spines.values():
            spine.set_color(NEUTRAL)
    axes[0, 0].set_yticks(range(len(groups)), groups)
    axes[0, 0].set_ylim(len(groups) - 0.5, -0.5)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 * len(counts), frameon=False,
                  labelcolor=NEUTRAL)  # fmt: skip
    figure.savefig(path, dpi=110, transparent=True)


def write(report, folder):
    """Write RESULTS.md and, if anybody took part beside lstmc, results.png."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = text(report)
    if peers_of(report.results):
        draw(report, folder / "results.png")
        lines = lines.replace("## The machine", "![ratios](results.png)\n\n## The machine", 1)
    (folder / "RESULTS.md").write_text(lines)
