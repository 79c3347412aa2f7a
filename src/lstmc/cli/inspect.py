"""The command ``lstmc inspect``: the reports of a model on a text, and their pictures.

Every number comes from ``lstmc.inspection``.
"""

import json
import sys
from pathlib import Path

import numpy as np

from ..files import check_writable_folder
from ..inspection.comparison import compare
from ..inspection.flow import gradient_flow
from ..inspection.gates import gate_statistics, writers
from ..inspection.jacobians import jacobian_spectrum, state_jacobian
from ..inspection.problems import Problem
from ..inspection.sweeps import state_parts, state_size
from ..inspection.watch import find_nonfinite
from ..losses import softmax_cross_entropy
from ..passes import recurrent_layers, run as run_network
from ..training.language_model import LanguageModel
from ..training.text import read_text
from .options import UsageError, add_model, count, natural, say
from .unknown import add_unknown, policy, tell

__all__ = ["EXAMPLE", "HELP", "add_options", "run"]

HELP = "show where in time the gradients live, and what the gates do"
EXAMPLE = """\
  lstmc inspect run/model.safetensors --text "The value of the expression is" --out seen
  lstmc inspect --demo --out demo     why an LSTM learns what an RNN cannot"""

MOST_TOKENS = 1000  # the last ones of a longer text are read
MOST_NUMBERS = 1024  # of a state: the Jacobian of a larger one is not taken


def add_options(parser):
    """Add the options of this command."""
    add_model(parser, nargs="?")
    add = parser.add_argument
    add("--text", help="what the model reads")
    add("--file", metavar="FILE", help="or a text in UTF-8; - reads standard input")
    add("--out", default="inspect", metavar="DIR", help="where the pictures go (default: inspect)")
    add("--unit", type=natural, metavar="N",
        help="show which tokens wrote this unit (default: the one that holds most)")  # fmt: skip
    add("--layer", type=natural, metavar="N", help="of this layer, from 0 (default: the last)")
    add_unknown(parser, default="error")
    add("--demo", action="store_true",
        help="let an LSTM and an RNN learn what needs a long memory, and show why one cannot")  # fmt: skip
    add("--steps", type=count, metavar="N",
        help="how long a memory the demo asks for (default: 100)")  # fmt: skip
    add("--updates", type=count, metavar="N",
        help="how often either may learn in the demo, at most (default: 3000)")  # fmt: skip
    add("--seed", type=natural, metavar="N", help="of the demo (default: 0)")


def run(args):
    """Report on a model and a text, or compare an LSTM with an RNN."""
    if args.demo:
        if any(v is not None for v in (args.model, args.text, args.file, args.unit, args.layer)):
            raise UsageError("--demo takes no model, no text and no unit")
        return demo(args)
    if args.model is None:
        raise UsageError("a model is needed, or --demo")
    if any(v is not None for v in (args.steps, args.updates, args.seed)):
        raise UsageError("--steps, --updates and --seed need --demo")
    if (args.text is None) == (args.file is None):
        raise UsageError("say what the model is to read: --text or --file")
    model = LanguageModel.load(args.model)
    text = args.text if args.file is None else read_text(args.file)
    ids = model.vocabulary.encode(text, policy(args))
    if len(ids) < 3:
        raise ValueError(f"the text must have at least 3 tokens, got {len(ids)}")
    out = make_folder(args.out)
    tell(args, model.vocabulary, text, sys.stderr)
    if len(ids) > MOST_TOKENS:
        say(f"of {len(ids):,} tokens the last {MOST_TOKENS:,} are read")
        ids = ids[-MOST_TOKENS:]
    writers_text = describe_writers(model, ids[:-1], args.unit, args.layer)
    reports = make_reports(model, ids)
    for name, report in reports.items():
        _, of, layer = name.partition("spectrum_")
        say(f"{layer.replace('_', ' ')}, {report}\n" if of else f"{report}\n")
    say(writers_text)
    write_report(reports, out)
    draw(reports, model, ids, out)
    return 0


def make_folder(path):
    """Return a folder as a Path: created if it does not exist, and checked to be writable."""
    out = Path(path)
    out.mkdir(parents=True, exist_ok=True)
    check_writable_folder(out / "report.json")
    return out


def make_reports(model, ids):
    """Return the reports by name; a spectrum only of stacks whose state is small enough.

    It is "spectrum" of the only stack, "spectrum_layer_1" of several that begins with the network's layer 1.
    """
    y, _, trace = run_network(model.net, ids[:-1, None])
    loss, dy = softmax_cross_entropy(y, ids[1:, None])
    if not np.isfinite(loss):
        raise ValueError(f"the loss is {loss}: {find_nonfinite(model.net, trace=trace, dy=dy)}")
    flow = gradient_flow(model.net, trace=trace, dy=dy)
    flow.loss = loss
    reports = {"flow": flow, "gates": gate_statistics(model.net, trace=trace)}
    for first, name, layer, part in stacks(model.net, trace):
        if state_size(layer) <= MOST_NUMBERS:
            reports[name] = jacobian_spectrum(layer, trace=part)
        else:
            say(f"layer {first}: no Jacobian of a state of over {MOST_NUMBERS:,} numbers")
    return reports


def stacks(net, trace):
    """Yield the recurrent stacks: their first layer's number, a spectrum's name, the layer, the trace."""
    found, first = list(recurrent_layers(net, trace)), 0
    for _, layer, part in found:
        yield first, "spectrum" if len(found) == 1 else f"spectrum_layer_{first}", layer, part
        first += layer.num_layers


def write_report(reports, out):
    """Write the numbers of all reports into report.json."""
    with open(out / "report.json", "w", encoding="utf-8") as file:
        json.dump({name: report.to_dict() for name, report in reports.items()}, file)
    say(f"wrote {out / 'report.json'}")


def describe_writers(model, ids, unit, layer):
    """Return a text: which tokens wrote one unit, by default the one that holds most at the end."""
    trace = run_network(model.net, ids[:, None])[2]
    stack = [one for _, _, part in recurrent_layers(model.net, trace) for one in part.layers]
    cell = stack[0].cell  # that of all layers
    if not cell.writes:
        return f"who wrote a unit: {cell.kind.upper()} layers have no cell state that is written to"
    layer = len(stack) - 1 if layer is None else layer
    if not 0 <= layer < len(stack):
        raise ValueError(f"--layer must be in [0, {len(stack)}), got {layer}")
    c = stack[layer].c[-1, 0]
    unit = int(np.abs(c).argmax()) if unit is None else unit
    writes = writers(model, ids, unit, layer, k=5)
    lines = [f"who wrote unit {unit} of layer {layer}: the tokens that added most to its c, "
             f"{c[unit]:.4g} at the end"]  # fmt: skip
    for w in writes:
        before = model.vocabulary.decode(ids[max(0, w.position - 20) : w.position])[-20:]
        lines.append(
            f"  {w.contribution:+8.4f}  token {w.position:5} {w.token!r}  "
            f"(wrote {w.written:+.4f}, {w.kept:.3f} of it is left)"
            + (f"  after {before!r}" if before else "")
        )
    return "\n".join(lines)


def draw(reports, model, ids, out):
    """Draw the reports if matplotlib is installed."""
    try:
        from ..inspection.plots import plot_jacobian

        pictures = []
        for name, report in reports.items():
            report.plot(out / f"{name}.png")
            pictures.append(f"{name}.png")
        reports["gates"].plot_histograms(out / "histograms.png")
        pictures.append("histograms.png")
        trace = run_network(model.net, ids[:-1, None])[2]
        first, name, layer, part = list(stacks(model.net, trace))[-1]
        if name in reports:
            steps = len(part.x)
            back = min(10, steps)
            jacobian = state_jacobian(layer, trace=part, t0=steps - back, t1=steps)[0]
            title = f"d s({steps}) / d s({steps - back}): how the last state"
            title += f"\nchanges with the state {back} steps before"
            plot_jacobian(jacobian, title, out / "jacobian.png", state_parts(layer, first))
            pictures.append("jacobian.png")
        say(f"wrote {', '.join(pictures)} in {out}")
    except ImportError as error:
        say(f"no pictures: {error}")


def demo(args):
    """Let an LSTM and an RNN of as many parameters learn long-term dependencies, and show why one cannot."""
    steps = 100 if args.steps is None else args.steps
    if steps < 10:
        raise UsageError(f"--steps must be 10 or more for the demo, got {steps}")
    updates = 3000 if args.updates is None else args.updates
    out = make_folder(args.out)
    comparisons = {}
    for name in ("adding", "temporal_order"):
        problem = Problem(name, steps)
        say(f"{problem}: an LSTM and a tanh RNN learn it ...")
        comparison = compare(problem, updates, seed=args.seed or 0, num_threads=args.threads or 1)
        comparisons[name] = comparison
        say(f"{comparison}\n")
    write_report(comparisons, out)
    try:
        from ..inspection.plots import plot_comparisons

        plot_comparisons(list(comparisons.values()), out / "demo.png")
        say(f"wrote {out / 'demo.png'}")
    except ImportError as error:
        say(f"no picture: {error}")
    return 0
