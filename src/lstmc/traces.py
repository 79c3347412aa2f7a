"""What a forward call keeps, and what a backward call hands out."""

import numpy as np

__all__ = ["LayerTrace", "StateGradients", "Trace", "freeze", "thaw"]


class Trace:
    """What backward needs of one forward call. Read-only; it belongs to the layer that made it."""

    def __init__(self, owner, weights, **kept):
        self._owner = owner
        self._weights = weights
        self._checked_for = None  # the layer, where the network around it has just checked it
        for name, value in kept.items():
            freeze(value)
            setattr(self, name, value)


class LayerTrace:
    """What one layer of a stack did: read-only views, states 1..T.

    Attributes
    ----------
    cell : Cell
    h : ndarray (T, B, H)
        The hidden state after each step.
    c : ndarray (T, B, H) or None
        The cell state after each step; None for an RNN.
    gates : dict of str to ndarray (T, B, H)
        The activated gates, "i", "f", "g", "o" of an LSTM; empty where the only gate is h.
    all_h, all_c : ndarray (T+1, B, H)
        With the initial state first, rows of a batch even of an unbatched sequence; all_c may be None.
    all_gates : ndarray (T, B, G*H) or None
    """

    def __init__(self, cell, h, c, gates, unbatched):
        def view(a):
            return a[:, 0] if unbatched else a

        self.cell = cell
        self.all_h, self.all_c, self.all_gates = h, c, gates
        for array in (h, c, gates):
            freeze(array)
        self.h = view(h[1:])
        self.c = None if c is None else view(c[1:])
        self.gates = {name: view(part) for name, part in self.split(gates).items()}

    def split(self, gates):
        """Return the parts of an array (T, B, G*H) by the names of the gates; of None, none."""
        if gates is None:
            return {}
        size = gates.shape[2] // len(self.cell.gates)
        return {
            gate.name: gates[:, :, i * size : (i + 1) * size]
            for i, gate in enumerate(self.cell.gates)
        }


class StateGradients:
    """The gradients of a loss at the states of one layer of a stack, at every step: what backward hands out.

    Attributes
    ----------
    dh_above, dh_later : ndarray (T, B, H)
        What arrives at h after each step from the layer above (or the loss) at that step, and from the step
        after in this layer; at the last step, through the final state.
    dc_later : ndarray (T, B, H) or None
        What arrives at c through c of the step after; None for an RNN.
    dgates : ndarray (T, B, G*H)
        At the sums before the activations.
    dx : ndarray (T, B, I)
        At the layer's input; None of the first layer if backward was told that it is not needed.
    """

    def __init__(self, trace, dh_above, dh_later, dc_later, dgates):
        self.dh_above, self.dh_later, self.dc_later = dh_above, dh_later, dc_later
        self.dgates = dgates
        self._trace = trace

    @property
    def dh(self):
        """The whole gradient at h: dh_above + dh_later."""
        return self.dh_above + self.dh_later

    @property
    def dc_through_h(self):
        """What arrives at c through h of the same step. None where there is no c."""
        if self.dc_later is None:
            return None
        kept = self._trace
        return self.dh * kept.cell.dc_per_dh(kept.all_c[1:], kept.split(kept.all_gates))

    @property
    def dc(self):
        """The whole gradient at c: dc_through_h + dc_later. None where there is no c."""
        return None if self.dc_later is None else self.dc_through_h + self.dc_later


def freeze(array):
    """Make an array read-only, where it can be: those of a GPU can not."""
    if isinstance(array, np.ndarray):
        array.flags.writeable = False


def thaw(array):
    """Undo freeze."""
    if isinstance(array, np.ndarray):
        array.flags.writeable = True
