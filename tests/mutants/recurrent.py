"""Mutants of how rows become sequences, in Python: lengths, resets, directions."""

SEQUENCES, RUN = "../recurrent/sequences.py", "../recurrent/run.py"
WINDOWS = "../recurrent/windows.py"

# name, file, what is there, what takes its place
MUTANTS = [
    ("sequences: a reset at step 0 keeps the state", SEQUENCES,
     "forward = forward[~fresh[row[forward], 0]]", "pass"),
    ("sequences: a reset just beyond an end counts", SEQUENCES,
     "begins &= np.arange(steps) < ends[:, None]", "begins &= np.arange(steps) <= ends[:, None]"),
    ("sequences: a row without a step loses its state", SEQUENCES,
     "out[:, self._empty] = state[:, self._empty]", "pass"),
    ("sequences: a row without a step passes no gradient on", SEQUENCES,
     "out[:, self._empty] = gradient[:, self._empty]", "pass"),
    ("sequences: the reverse state enters at the row's start", SEQUENCES,
     "self._entered = [(forward, row[forward]), (last, row[last])]",
     "self._entered = [(forward, row[forward]), (first, row[first])]"),
    ("sequences: the reverse state leaves at the row's end", SEQUENCES,
     "self._left = [(last, row[last]), (first, row[first])]",
     "self._left = [(last, row[last]), (last, row[last])]"),
    ("sequences: the reverse direction begins at its start", SEQUENCES,
     "starts[length[number] - 1 - step] + number", "starts[step] + number"),
    ("sequences: a reset is zeros in any case", SEQUENCES, "out[...] = rest", "out[...] = 0"),
    ("sequences: what a reset begins with learns nothing", SEQUENCES,
     "part = np.delete(part, self._entered[d][0], axis=1)", "part = part[:, :0]"),
    ("sequences: a row without a step teaches nothing", SEQUENCES,
     "sums += gradient[:, self._empty].sum(1)", "pass"),
    ("run: what dropout zeroed gets a gradient", RUN,
     "dy = self._dropped(dy, self._below(group))", "pass"),
    ("run: weights learn of what dropout zeroed", RUN,
     "return self._dropped(rows, below) if self.masks else rows", "return rows"),
    ("lengths: one may be T + 1", "../lengths.py", "(array > steps)", "(array > steps + 1)"),
    ("run: what a direction records has both in it", RUN,
     "total = parts[0].copy() if recorded else parts[0]", "total = parts[0]"),
    ("run: dx of the forward direction is lost", RUN,
     "self._gather(_matrix(total), _matrix(parts[1]), adds=True)",
     "self._gather(_matrix(total), _matrix(parts[1]))"),
    ("run: both directions get the forward one's dy", RUN,
     "[:, d * self.features : (d + 1) * self.features]", "[:, : self.features]"),
    ("windows: changes cross a reset", WINDOWS, "departed[:, window.cut] = 0", "pass"),
    ("windows: they begin at the first reset", WINDOWS,
     "steps - 1 - within[::-1].argmax(0)", "within.argmax(0)"),
]  # fmt: skip
