"""What reports have in common, how they write names, counts and numbers, and numbers for JSON."""

import math
import re

import numpy as np

__all__ = [
    "BEYOND",
    "Report",
    "count_of",
    "layer_texts",
    "number_text",
    "numbers_text",
    "place_text",
    "plain",
]

BEYOND = "beyond all numbers"  # infinity, and what is NaN because of one


class Report:
    """A report: text where it is printed, in a notebook its picture too, if it has one.

    ``plot(path=None)`` returns the picture as a figure of matplotlib, which must be installed, and writes
    it to path, if there is one, as a PNG file.
    """

    def __repr__(self):
        return str(self)

    def _repr_html_(self):
        import base64  # these two cost `import lstmc` more than most of its modules
        import html

        shown = f"<pre>{html.escape(str(self))}</pre>"
        if hasattr(self, "plot"):
            try:
                png = base64.b64encode(self.plot()._repr_png_()).decode()
            except ImportError:  # without matplotlib there is the text
                return shown
            shown += (
                f'<img alt="{type(self).__name__}" width="600" src="data:image/png;base64,{png}">'
            )
        return shown


def count_of(n, what):
    """Return a number of things as text: 1 row, 2 rows."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def layer_texts(names):
    """Return what a report calls layers, by their names "1.l0", "1.l0_reverse", "3.l0" and so on.

    All layers of all stacks are counted from the input up: "layer 0", "layer 0, reverse", "layer 1".
    """
    texts, layers = {}, []
    for name in names:
        layer = name.removesuffix("_reverse")
        if layer not in layers:
            layers.append(layer)
        texts[name] = f"layer {layers.index(layer)}" + (", reverse" if name != layer else "")
    return texts


def place_text(name):
    """Return where in a network something is: "1.l0" is "layer 0 of net.layers[1]", "1." the latter.

    The name of anything else, such as a weight's, stays what it is.
    """
    parts = re.fullmatch(r"((?:\d+\.)*)(?:l(\d+)(_reverse)?)?", name)
    if not parts:
        return name
    places, layer, reverse = parts.groups()
    net = "net" + re.sub(r"(\d+)\.", r".layers[\1]", places) if places else ""
    text = "" if layer is None else f"layer {layer}" + (", reverse" if reverse else "")
    between = (", of " if reverse else " of ") if net and text else ""
    return text + between + net


def number_text(value, form):
    """Return a number as text in a format such as ".3g", or the words for one that is not finite."""
    return format(value, form) if math.isfinite(value) else BEYOND


def numbers_text(numbers):
    """Return a dict of numbers as text: "i 8.13, f 4.72"."""
    return ", ".join(f"{name} {number_text(value, '.3g')}" for name, value in numbers.items())


def plain(value):
    """Return an array as a list, and a number that is not finite as None, for JSON."""
    if value is None:
        return None
    if np.ndim(value):
        return [plain(v) for v in value]
    value = float(value)
    return value if math.isfinite(value) else None
