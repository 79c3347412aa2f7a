"""What was measured on a GPU, as Markdown and as JSON. Nothing is measured here."""

import json
from pathlib import Path

from lstmc.cli.bench import time_text

from ..limits import flops
from ..report import closing, meets_floor, table, title
from ..timing import OURS
from .measure import CPU
from .workloads import CPU_TOLERANCE, PEER, PUBLISHED

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


def timed(report):
    """List the results that have times."""
    return [r for r in report.results if r.setting.precision != CPU]


def compared(report):
    """List the comparisons with the CPU."""
    return [r for r in report.results if r.setting.precision == CPU]


def missed(report):
    """List the workloads whose floor was not met."""
    return [title(r) for r in timed(report) if verdict(r) == "missed"]


def verdict(result):
    """Say of the way that lstmc takes by itself whether the floor was met."""
    if OURS in result.wrong:
        return "WRONG"
    if OURS not in result.rounds:
        return "FAILED"
    met = meets_floor(result)
    return "" if met is None else "met" if met else "missed"


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
    """Return the rows of the table for one result."""
    ours = [OURS, *(n for n in result.off if n.startswith(OURS) and n != OURS)]
    ours += [n for n in result.failed if n.startswith(OURS) and n not in ours]
    rows = []
    for name in ours:
        ran, best = name in result.rounds, result.best(side=name)
        if name != OURS and not ran and name not in result.wrong and name not in result.failed:
            continue  # the same as the default
        row = dict.fromkeys(COLUMNS, "")
        row |= {
            "workload": result.workload.name,
            "precision": result.setting.precision,
            "way": _way(result, name),
        }
        if ran:
            row["lstmc"] = time_text(result.seconds(name))
            if peak := limits.get(result.setting.precision):
                row["of peak"] = f"{flops(result.workload) / result.seconds(name) / peak:.1%}"
        if best:
            ratio, peer = best
            row["ratio"] = f"{ratio:.2f}"
            row["cuDNN"] = time_text(result.seconds(peer))
            row["cuDNN"] += f" ({peer})" if peer != PEER else ""
        if name == OURS:
            floor = result.workload.floor
            row["floor"] = "" if floor is None else f"{floor:g}"
            row["met"], row["best way"] = verdict(result), best_way(result)
        elif not ran:
            row["met"] = "WRONG" if name in result.wrong else "FAILED"
        rows.append(row)
    return rows


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
            rows.append([r.workload.name, way.removeprefix(OURS).strip() or "default", *cells])
    header = [f"{dtype}, at most {allowed:g}" for dtype, allowed in CPU_TOLERANCE.items()]
    return table(["workload", "way", *header], rows)


def summary(result):
    """Write a result in a line or some."""
    name = result.workload.name
    if result.setting.precision == CPU:
        differences = ", ".join(f"{side} {off:.1e}" for side, off in result.off.items())
        lines = [f"{name}, off the CPU by: {differences or 'nothing compared'}"]
    else:
        sides = ", ".join(_side_text(result, side) for side in result.rounds)
        lines = [f"{title(result)}: {sides}; floor {result.workload.floor}: "]
        lines[0] += verdict(result) or "not judged"
        if name in PUBLISHED:
            lines.append(f"published, half precision, H100: {PUBLISHED[name]}")
    return "\n    ".join([*lines, *result.defects(), *result.notes])


def _side_text(result, name):
    """Write what was measured of one side."""
    text = f"{name} ({result.way})" if name == OURS and result.way else name
    text += f" {time_text(result.seconds(name))}"
    if name.startswith(OURS) and (best := result.best(side=name)):
        text += f" ({best[0]:.2f}×)"
    return text + (f" off {result.off[name]:.0e}" if name in result.off else "")


def text(report):
    """Write the whole report in Markdown."""
    parts = ["# Results on a GPU", "", "Written by `benchmarks/gpu.sh time`.", "", LEGEND, ""]
    if report.partial:
        parts += [f"This was {report.partial}.", ""]
    parts += ["## The GPU", "", *(f"- {k}: {v}" for k, v in report.description.items())]
    parts += [*limits_text(report.limits), ""]
    rows = [row for r in timed(report) for row in rows_of(r, report.limits)]
    if rows:
        parts += ["## Beside PyTorch", "", table(COLUMNS, [list(r.values()) for r in rows]), ""]
    names = dict.fromkeys(r.workload.name for r in timed(report))
    parts += [
        f"Published, half precision, H100: {name}: {PUBLISHED[name]}.\n"
        for name in names
        if name in PUBLISHED
    ]
    if compared(report):
        parts += ["## Beside lstmc on the CPU, few steps", "", agreement_table(compared(report))]
    return "\n".join([*parts, *closing(report)]) + "\n"


def as_json(report):
    """Return everything as JSON can hold it, medians and verdicts too."""
    results = [_result_as_json(r) for r in report.results]
    parts = {name: getattr(report, name) for name in ("description", "limits", "partial")}
    return {**parts, "results": results}


def _result_as_json(result):
    w, ours = result.workload, [name for name in result.rounds if name.startswith(OURS)]
    ratios = {name: result.best(side=name) for name in ours}
    return {
        "workload": w.name,
        "precision": result.setting.precision,
        "floor": w.floor,
        "flops": flops(w),
        **{
            name: getattr(result, name)
            for name in ("way", "rounds", "off", "wrong", "failed", "notes")
        },
        "seconds": {name: result.seconds(name) for name in result.rounds},
        "ratios": {name: best and best[0] for name, best in ratios.items()},
        "verdict": verdict(result) if result.setting.precision != CPU else "",
    }


def write(report, folder):
    """Write RESULTS-GPU.md and results-gpu.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RESULTS-GPU.md").write_text(text(report), encoding="utf-8")
    content = json.dumps(as_json(report), indent=1, ensure_ascii=False)
    (folder / "results-gpu.json").write_text(content + "\n", encoding="utf-8")
