"""What was measured on a GPU, as Markdown and as JSON. Nothing is measured here."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lstmc.cli.bench import time_text

from .measure import OURS, Result
from .workloads import CPU_TOLERANCE, PUBLISHED

LEGEND = """\
Times are medians over rounds in which all take their turn, after the answers were compared; the ratio is
the median of the ratios within a round of the best of PyTorch's sides to lstmc: at 2 it took twice as long.
"train" is forward and backward with every gradient, "step" one step from Python by the clock on the wall,
"model" a whole training step; all but "step" are timed by CUDA events. The first line of a workload is the
way that lstmc takes by itself, and is what a floor is asked of; the lines below it are the others that fit.
"of peak" is the operations of the products over the rate of a large matrix product of that precision,
measured here. "WRONG" is off by more than is allowed and was not timed."""
COLUMNS = (
    "workload", "precision", "way", "lstmc", "cuDNN", "ratio", "floor", "met", "best way", "of peak",
)  # fmt: skip


@dataclass
class Report:
    """Everything that one run measured."""

    description: dict[str, str] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    partial: str = ""  # why this is not everything

    def timed(self):
        return [r for r in self.results if r.precision != "CPU"]

    def compared(self):
        return [r for r in self.results if r.precision == "CPU"]

    def defects(self):
        """List what is wrong or broken."""
        return [
            f"{r.workload}, {r.precision}: {name}: {what}"
            for r in self.results
            for name, what in [
                *((n, f"WRONG, off by {r.off[n]:.1e}") for n in r.wrong),
                *r.failed.items(),
            ]
        ]

    def missed(self):
        """List the workloads whose floor was not met."""
        return [f"{r.workload}, {r.precision}" for r in self.timed() if verdict(r) == "missed"]


def verdict(result):
    """Say of the way that lstmc takes by itself whether the floor was met."""
    if OURS in result.wrong:
        return "WRONG"
    if OURS not in result.rounds:
        return "FAILED"
    if result.floor is None or result.ratio() is None:
        return ""
    return "met" if result.ratio()[0] >= result.floor else "missed"


def best_way(result):
    """Name the fastest side of lstmc's."""
    ours = [name for name in result.rounds if name.startswith(OURS)]
    if len(ours) < 2:
        return ""
    best = min(ours, key=result.seconds)
    return _way(result, best)


def _way(result, name):
    return f"{result.way} (default)".strip() if name == OURS else name.removeprefix(f"{OURS} ")


def rows_of(result, limits):
    """Give the lines of the table for one result."""
    ours = [OURS, *(n for n in result.off if n.startswith(OURS) and n != OURS)]
    ours += [n for n in result.failed if n.startswith(OURS) and n not in ours]
    rows = []
    for name in ours:
        timed, ratio = name in result.rounds, result.ratio(name)
        if name != OURS and not timed and name not in result.wrong and name not in result.failed:
            continue  # the same as the default
        row = dict.fromkeys(COLUMNS, "")
        row |= {
            "workload": result.workload,
            "precision": result.precision,
            "way": _way(result, name),
        }
        if timed:
            row["lstmc"] = time_text(result.seconds(name))
            if peak := limits.get(result.precision):
                row["of peak"] = f"{result.flops / result.seconds(name) / peak:.1%}"
        if ratio:
            row["ratio"], peer = f"{ratio[0]:.2f}", ratio[1]
            row["cuDNN"] = time_text(result.seconds(peer))
            row["cuDNN"] += f" ({peer})" if peer != "nn.LSTM" else ""
        if name == OURS:
            row["floor"] = "" if result.floor is None else f"{result.floor:g}"
            row["met"], row["best way"] = verdict(result), best_way(result)
        elif not timed:
            row["met"] = "WRONG" if name in result.wrong else "FAILED"
        rows.append(row)
    return rows


def table(header, rows):
    """Write a Markdown table with its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells):
        return "| " + " | ".join(f"{c:<{n}}" for c, n in zip(cells, widths)) + " |"

    rule = "|" + "|".join("-" * (n + 2) for n in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def limits_text(limits):
    """Write what the GPU reaches, a line each."""
    units = {
        "float32": ("matrix product 4096³, float32", 1e12, "TFLOP/s"),
        "tf32": ("matrix product 4096³, TF32", 1e12, "TFLOP/s"),
        "copy": ("copy on the device, read and written", 1e9, "GB/s"),
        "launch": ("a kernel launched from Python, one of many", 1e-6, "µs"),
        "wait": ("a kernel launched and waited for", 1e-6, "µs"),
    }
    return [f"- {units[k][0]}: {v / units[k][1]:.1f} {units[k][2]}" for k, v in limits.items()]


def agreement_table(results):
    """Write how near the answers come to those of the CPU, of the largest element."""
    rows = []
    for r in results:
        ways = dict.fromkeys(name.rpartition(" ")[0] for name in r.off)
        for way in ways:
            names = [f"{way} {dtype}" for dtype in CPU_TOLERANCE]
            cells = [
                f"{r.off[n]:.1e}{' WRONG' * (n in r.wrong)}" if n in r.off else "" for n in names
            ]
            rows.append([r.workload, way.removeprefix(OURS).strip() or "default", *cells])
    header = [f"{dtype}, at most {allowed:g}" for dtype, allowed in CPU_TOLERANCE.items()]
    return table(["workload", "way", *header], rows)


def summary(result):
    """Write a result in a line or some."""
    if result.precision == "CPU":
        parts = [f"{name} {off:.1e}" for name, off in result.off.items()]
        head = f"{result.workload}, off the CPU by: {', '.join(parts) or 'nothing compared'}"
    else:
        parts = []
        for name in result.rounds:
            ratio = result.ratio(name) if name.startswith(OURS) else None
            title = f"{name} ({result.way})" if name == OURS and result.way else name
            parts.append(
                f"{title} {time_text(result.seconds(name))}"
                + (f" ({ratio[0]:.2f}×)" if ratio else "")
                + (f" off {result.off[name]:.0e}" if name in result.off else "")
            )
        head = f"{result.workload}, {result.precision}: {', '.join(parts)}; floor {result.floor}: "
        head += verdict(result) or "not judged"
        if result.workload in PUBLISHED:
            head += f"\n    published, half precision, H100: {PUBLISHED[result.workload]}"
    wrong = [f"    WRONG: {name}, off by {result.off[name]:.1e}" for name in result.wrong]
    failed = [f"    FAILED: {name}: {why}" for name, why in result.failed.items()]
    return "\n".join([head, *wrong, *failed, *(f"    {note}" for note in result.notes)])


def text(report):
    """Write the whole report in Markdown."""
    parts = ["# Results on a GPU", "", "Written by `benchmarks/gpu.sh time`.", "", LEGEND, ""]
    if report.partial:
        parts += [f"This was {report.partial}.", ""]
    parts += ["## The GPU", "", *(f"- {k}: {v}" for k, v in report.description.items())]
    parts += [*limits_text(report.limits), ""]
    rows = [row for r in report.timed() for row in rows_of(r, report.limits)]
    if rows:
        parts += ["## Beside PyTorch", "", table(COLUMNS, [list(r.values()) for r in rows]), ""]
    names = dict.fromkeys(r.workload for r in report.timed() if r.workload in PUBLISHED)
    parts += [f"Published, half precision, H100: {name}: {PUBLISHED[name]}.\n" for name in names]
    if report.compared():
        parts += [
            "## Beside lstmc on the CPU, few steps",
            "",
            agreement_table(report.compared()),
            "",
        ]
    if defects := report.defects():
        parts += ["## Defects", "", *(f"- {line}" for line in defects), ""]
    notes = dict.fromkeys(f"{r.workload}: {note}" for r in report.results for note in r.notes)
    if notes:
        parts += ["## Notes", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(parts)


def as_json(report):
    """Give everything as JSON can hold it, medians and verdicts too."""
    results = []
    for r in report.results:
        ratios = {n: r.ratio(n) for n in r.rounds if n.startswith(OURS)}
        results.append(
            asdict(r)
            | {"seconds": {name: r.seconds(name) for name in r.rounds}}
            | {"ratios": {n: found and found[0] for n, found in ratios.items()}}
            | {"verdict": verdict(r) if r.precision != "CPU" else ""}
        )
    return {
        "description": report.description,
        "limits": report.limits,
        "partial": report.partial,
        "results": results,
    }


def write(report, folder):
    """Write RESULTS-GPU.md and results-gpu.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RESULTS-GPU.md").write_text(text(report), encoding="utf-8")
    content = json.dumps(as_json(report), indent=1, ensure_ascii=False)
    (folder / "results-gpu.json").write_text(content + "\n", encoding="utf-8")
