"""The cells of a GPU: the one list of them here. A new cell is a source file and a row."""

from dataclasses import dataclass

__all__ = ["CELLS", "Cell", "cell"]


@dataclass(frozen=True)
class Cell:
    """What launching must know of a cell; the rest is in its source.

    Attributes
    ----------
    name : str
        As in lstmc.cells.
    file : str
        Its source: the pointwise functions of one hidden unit, as sequence.cuh describes them.
    gates : int
        Row blocks of the weights, CELL_GATES of the source.
    has_c : bool
        Whether there is a cell state beside h, CELL_HAS_C of the source.
    defines : tuple of (name, value)
        What the source is compiled with.
    """

    name: str
    file: str
    gates: int
    has_c: bool
    defines: tuple = ()


CELLS = {
    record.name: record
    for record in (
        Cell("lstm", "lstm.cu", gates=4, has_c=True),
        Cell("rnn_tanh", "rnn.cu", gates=1, has_c=False, defines=(("ACTIVATION", "TANH"),)),
        Cell("rnn_relu", "rnn.cu", gates=1, has_c=False, defines=(("ACTIVATION", "RELU"),)),
        Cell("rnn_identity", "rnn.cu", gates=1, has_c=False, defines=(("ACTIVATION", "IDENTITY"),)),
    )
}


def cell(name):
    """Return the record of the cell of this name, which recurrent calls take.

    Raises
    ------
    ValueError
        A GPU has no such cell.
    """
    if name not in CELLS:
        raise ValueError(f"a GPU has no cell {name!r} yet: there are {', '.join(CELLS)}")
    return CELLS[name]
