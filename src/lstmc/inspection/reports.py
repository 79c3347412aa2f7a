"""What reports have in common, how they write counts and numbers, and numbers for JSON."""

import math

import numpy as np

__all__ = ["BEYOND", "Report", "count_of", "number_text", "plain"]

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


def number_text(value, form):
    """Return a number as text in a format such as ".3g", or the words for one that is not finite."""
    return format(value, form) if math.isfinite(value) else BEYOND


def plain(value):
    """Return an array as a list, and a number that is not finite as None, for JSON."""
    if value is None:
        return None
    if np.ndim(value):
        return [plain(v) for v in value]
    value = float(value)
    return value if math.isfinite(value) else None
