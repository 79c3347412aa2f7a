"""What a forward call saves for backward, and what a backward call can record."""

import numpy as np

__all__ = ["Bound", "LayerTrace", "StateGradients", "Trace", "freeze", "thawed"]


class Bound:
    """What belongs to a layer and to its weights as they are: it is neither copied nor pickled."""

    def __reduce_ex__(self, protocol):
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled: it belongs to one layer as it is"
        )


class Trace(Bound):
    """What backward needs of one forward call: read-only, and only for the layer that made it.

    Attributes
    ----------
    owner : Layer
    fingerprint
        That of the weights that forward saw.
    checked_for : Layer or None
        The owner while the network around it, which has checked the trace, runs its backward.
    """

    def __init__(self, owner, fingerprint, **arrays):
        self.owner = owner
        self.fingerprint = fingerprint
        self.checked_for = None
        for name, value in arrays.items():
            freeze(value)
            setattr(self, name, value)

    def __repr__(self):
        return f"<trace of {type(self.owner).__name__}>"


class LayerTrace:
    """What one layer of a stack did: read-only views, states 1..T.

    Attributes
    ----------
    cell : Cell
    h, c : ndarray (T, B, H)
        The states after each step; c is None where the cell has none.
    gates : dict of str to ndarray (T, B, H)
        The activated gates, such as "i", "f", "g", "o" of an LSTM; empty where the only gate is h.
    saved : dict of str to ndarray (T, B, H)
        All that forward saved beside the states: the gates, and what a cell has beside them.
    all_h, all_c : ndarray (T+1, B, H)
        The states 0..T, batched even where the sequence is not; all_c may be None.
    all_gates : ndarray (T, B, saved*H) or None
        None where the only gate is h.
    """

    def __init__(self, cell, h, c, gates, unbatched):
        self.cell = cell
        self.all_h, self.all_c, self.all_gates = h, c, gates
        self._unbatched = unbatched

    def frozen(self):
        """Make the arrays read-only, once forward has filled them in; return the trace."""
        for array in (self.all_h, self.all_c, self.all_gates):
            freeze(array)
        return self

    def __repr__(self):
        steps, batch, hidden = self.all_h.shape
        return f"<trace of one {self.cell.kind} layer: T {steps - 1}, B {batch}, H {hidden}>"

    # Views are made when they are asked for: a training step asks for none.

    @property
    def h(self):
        """The hidden state after each step."""
        return self._view(self.all_h[1:])

    @property
    def c(self):
        """The cell state after each step; None where the cell has none."""
        return None if self.all_c is None else self._view(self.all_c[1:])

    @property
    def gates(self):
        """The activated gates by name; empty where the only gate is h."""
        saved = self.saved
        return {gate.name: saved[gate.name] for gate in self.cell.gates if gate.name in saved}

    @property
    def saved(self):
        """All that forward saved beside the states, by name."""
        return {name: self._view(part) for name, part in self.split(self.all_gates).items()}

    def _view(self, array):
        return array[:, 0] if self._unbatched else array

    @classmethod
    def empty(cls, cell, pool, dtype, size, unbatched):
        """Return one of size (T, B, H), in arrays of a pool, for forward to fill in."""
        steps, batch, hidden = size
        states, saved = (steps + 1, batch, hidden), (steps, batch, len(cell.saved) * hidden)
        h = pool.array(states, dtype)
        c = pool.array(states, dtype) if cell.has_c else None
        gates = pool.array(saved, dtype) if cell.saved else None
        return cls(cell, h, c, gates, unbatched)

    def split(self, gates):
        """Return the parts of what was saved, (T, B, saved*H), by name; for None, an empty dict."""
        if gates is None:
            return {}
        hidden = gates.shape[2] // len(self.cell.saved)
        return {
            name: gates[:, :, i * hidden : (i + 1) * hidden]
            for i, name in enumerate(self.cell.saved)
        }


class StateGradients:
    """The gradients of a loss at the states of one layer of a stack, at every step, recorded by backward.

    Attributes
    ----------
    dh_above, dh_later : ndarray (T, B, H)
        What arrives at h after each step from the layer above (or the loss) at that step, and from the next
        step in this layer; at the last step, through the final state.
    dc_later : ndarray (T, B, H) or None
        What arrives at c from c of the next step; None where the cell has no c.
    dgates : ndarray (T, B, G*H)
        At the sums before the activations.
    dgates_of_h : ndarray (T, B, G*H)
        Likewise at what R makes of the sums: the same, unless the cell keeps the two apart.
    dx : ndarray (T, B, I) or None
        At the layer's input; None in the first layer if backward was called without need_dx.
    """

    def __init__(self, trace, dh_above, dh_later, dc_later, dgates):
        self.dh_above, self.dh_later, self.dc_later = dh_above, dh_later, dc_later
        self.dgates = dgates
        self._trace = trace

    def __repr__(self):
        return f"<StateGradients of {self.dh_above.shape}>"

    @classmethod
    def empty(cls, trace, pool):
        """Return those of a LayerTrace, in arrays of a pool, for backward to fill in."""
        dtype, (states, batch, hidden) = trace.all_h.dtype, trace.all_h.shape
        state, sums = (
            (states - 1, batch, hidden),
            (states - 1, batch, len(trace.cell.gates) * hidden),
        )
        above, later = (pool.array(state, dtype) for _ in range(2))
        c_later = None if trace.all_c is None else pool.array(state, dtype)
        return cls(trace, above, later, c_later, pool.array(sums, dtype))

    @property
    def dh(self):
        """The whole gradient at h: dh_above + dh_later."""
        return self.dh_above + self.dh_later

    @property
    def dgates_of_h(self):
        """The gradient at what R makes of the sums; ``dgates`` unless the cell keeps W's and R's apart."""
        cell, trace = self._trace.cell, self._trace
        if cell.dsums_of_h is None:
            return self.dgates
        return cell.dsums_of_h(self.dgates, trace.split(trace.all_gates))

    @property
    def dc_through_h(self):
        """What arrives at c through h of the same step; None where there is no c."""
        if self.dc_later is None:
            return None
        trace = self._trace
        gates = trace.split(trace.all_gates)
        return trace.cell.dc_through_h(self.dh, trace.all_c[1:], gates)

    @property
    def dc(self):
        """The whole gradient at c: dc_through_h + dc_later; None where there is no c."""
        return None if self.dc_later is None else self.dc_through_h + self.dc_later


def freeze(array):
    """Make an array read-only where NumPy owns it: CuPy cannot."""
    if isinstance(array, np.ndarray):
        array.flags.writeable = False


def thawed(array):
    """Return a writable view of an array that was frozen; None for None."""
    if array is None:
        return None
    view = array.view()
    if isinstance(view, np.ndarray):
        view.flags.writeable = True
    return view
