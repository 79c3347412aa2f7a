"""What a forward call saves for backward, and what a backward call can record."""

import numpy as np

__all__ = [
    "Bound",
    "LayerTrace",
    "RecurrentTrace",
    "StateGradients",
    "Trace",
    "freeze",
    "frozen",
    "thawed",
]


class Bound:
    """What belongs to a layer and to its weights as they are: it is neither copied nor pickled."""

    def __reduce_ex__(self, protocol):
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled: it belongs to one layer as it is"
        )


class Trace(Bound):
    """What backward needs of one forward call: read-only, and only for the layer that made it.

    Parameters
    ----------
    owner : Layer
    fingerprint
        Its ``fingerprint()``, or None if backward does not read the weights.
    **arrays
        Become attributes: read-only views of arrays, other values as they are. What the caller of forward
        may write to later is to be copied.

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
            setattr(self, name, frozen(value))

    def __repr__(self):
        return f"<trace of {type(self.owner).__name__}>"


class RecurrentTrace(Trace):
    """The trace of a recurrent layer.

    Attributes
    ----------
    sequences : Sequences
        What its rows are.
    inputs : ndarray (N, I) or (T, B, I)
        What forward read, as kernels saw it: see ``Sequences``. None once backward has consumed it.
    layers : list of LayerTrace
        One for each layer of the stack and each of its directions: ``layers[l * D + d]``.
    unbatched : bool
    has_state : bool
        Whether forward was given a state.
    masks : tuple of ndarray (T, B, D*P) of bool, or None
        What dropout kept of the output of each layer but the last; None where nothing is dropped.
    """

    def __init__(self, owner, fingerprint, sequences, inputs, layers, unbatched, has_state, masks):
        freeze(inputs)
        super().__init__(owner, fingerprint)
        self.sequences, self.inputs, self.layers = sequences, inputs, layers
        self.unbatched, self.has_state, self.masks = unbatched, has_state, masks

    @property
    def steps(self):
        """T."""
        return self.sequences.steps

    @property
    def batch(self):
        """B."""
        return self.sequences.batch

    @property
    def lengths(self):
        """The steps of each row (B,), or None: all have T."""
        return self.sequences.lengths

    @property
    def x(self):
        """The input (T, B, I), zero beyond an end."""
        return self.input_of(0)

    def input_of(self, layer):
        """Return what a layer of the stack read, (T, B, .).

        That is x, or h of both directions of the layer below, of which dropout may have taken a share.
        """
        if not layer:
            return self.sequences.unpacked(self.inputs)
        directions = self.sequences.directions
        below = self.layers[(layer - 1) * directions : layer * directions]
        parts = [one.on_grid(one.states(one.all_h)) for one in below]
        joined = parts[0] if directions == 1 else np.concatenate(parts, axis=2)
        if self.masks is None:
            return joined
        return joined * self.masks[layer - 1] * joined.dtype.type(1 / (1 - self.owner.dropout))


class LayerTrace:
    """What one direction of one layer of a stack did: read-only, states 1..T in the order of x's steps.

    Attributes
    ----------
    cell : Cell
    h : ndarray (T, B, P)
    c : ndarray (T, B, H)
        The states after each step; c is None where the cell has none. Zeros beyond an end.
    m : ndarray (T, B, H) or None
        What h is a projection of, where it is one.
    h_before : ndarray (T, B, P)
        The hidden state that each step began from.
    gates : dict of str to ndarray (T, B, H)
        The activated gates, such as "i", "f", "g", "o" of an LSTM; empty where the only gate is h.
    saved : dict of str to ndarray (T, B, H)
        All that forward saved beside the states: the gates, and what a cell has beside them.
    all_h, all_c : ndarray
        The states as kernels saw them, those before the first step first, then those of the rows that
        `sequences` has: (T+1, B, H), states 0..T, where these are the batch's. Batched even where the
        sequence is not; all_c may be None.
    all_gates : ndarray or None
        Likewise of all steps, (T, B, saved*H). None where the only gate is h.
    clip : float or None
        The limit of the gates' sums.
    all_m : ndarray or None
        Likewise what the cell makes, (T, B, H), where h is a projection of it; otherwise None.
    """

    def __init__(self, cell, h, c, gates, m, clip, unbatched, sequences, direction):
        self.cell, self.clip = cell, clip
        self.all_h, self.all_c, self.all_gates, self.all_m = h, c, gates, m
        self.sequences, self._direction = sequences, direction
        self._unbatched = unbatched

    @property
    def is_reverse(self):
        """Whether the direction reads x from its end."""
        return self._direction == 1

    def frozen(self):
        """Make the arrays read-only, once forward has filled them in; return the trace."""
        for array in (self.all_h, self.all_c, self.all_gates, self.all_m):
            freeze(array)
        return self

    def __repr__(self):
        of = self.sequences
        return f"<trace of one {self.cell.kind} layer: T {of.steps}, B {of.batch}, H {self.hidden}>"

    @property
    def hidden(self):
        """H."""
        return (self.all_h if self.all_m is None else self.all_m).shape[-1]

    @property
    def gate_records(self):
        """The Gate of ``gates`` and of h by name, with the layer's clip; a projection has no bounds."""
        records = {gate.name: gate._replace(clip=self.clip) for gate in self.cell.all_gates}
        h = self.cell.h
        return records | {"h": h if self.all_m is None else h._replace(activation="identity")}

    # Views, or copies where rows have other places, are made when they are asked for: a training step asks
    # for none.

    @property
    def h(self):
        """The hidden state after each step."""
        return self._shown(self.states(self.all_h))

    @property
    def m(self):
        """What h is a projection of, (T, B, H); None where it is none."""
        return None if self.all_m is None else self._shown(self.all_m)

    @property
    def c(self):
        """The cell state after each step; None where the cell has none."""
        return None if self.all_c is None else self._shown(self.states(self.all_c))

    @property
    def h_before(self):
        """The hidden state that each step began from."""
        return self._shown(self.rows_before(self.all_h))

    @property
    def gates(self):
        """The activated gates by name; empty where the only gate is h."""
        saved, gates = self.saved, {}
        for gate in self.cell.gates:
            if gate.name in saved:
                gates[gate.name] = saved[gate.name]
        for gate, of in self.cell.coupled:
            gates[gate.name] = self._shown(1 - self.split(self.all_gates)[of])
            freeze(gates[gate.name])
        return gates

    @property
    def saved(self):
        """All that forward saved beside the states, by name."""
        if self.all_gates is None:
            return {}
        return self.split(self._shown(self.all_gates))

    def real(self, shown):
        """Return what is shown of the steps that rows have, (T, B, .) or (T, .), as rows (n, .)."""
        of = self.sequences
        if of.lengths is None:
            return shown.reshape(-1, shown.shape[-1])
        rows = shown.reshape(of.steps, of.batch, shown.shape[-1])
        return rows[np.arange(of.steps)[:, None] < of.lengths]

    def states(self, array):
        """Return the states after each step of ``all_h`` or ``all_c``, as kernels saw them."""
        return array[self.sequences.count :] if array.ndim == 2 else array[1:]

    def rows_before(self, array):
        """Return the states that each step began from, likewise."""
        before = self.sequences.rows.before
        return array[:-1] if before is None else array[before]

    def operands(self):
        """Return what R multiplies: pairs of the columns of dgates that it makes, and an array (T, B, H)."""
        hidden, saved = self.hidden, self.split(self.all_gates)
        names, spans = dict(self.cell.operands), {}
        for i, gate in enumerate(self.cell.gates):
            name = names.get(gate.name)
            first = spans[name].start if name in spans else i * hidden
            spans[name] = slice(first, (i + 1) * hidden)
        before = self.rows_before(self.all_h)
        return [
            (columns, self.on_grid(before if name is None else saved[name]))
            for name, columns in spans.items()
        ]

    def on_grid(self, rows):
        """Return rows as kernels saw them as (T, B, .), in the order of x's steps; zeros beyond an end."""
        of = self.sequences
        index = of.on_grid(self._direction)
        rows = rows.reshape(-1, rows.shape[-1])
        if index is not None:
            source, rows = rows, np.zeros((len(index), rows.shape[1]), rows.dtype)
            rows[index >= 0] = source[index[index >= 0]]
            freeze(rows)
        return rows.reshape(of.steps, of.batch, rows.shape[1])

    def in_own_order(self, grid):
        """Return an array (T, B, .) by the steps of the direction's own order; zeros beyond an end."""
        of = self.sequences
        if not self._direction:
            return grid
        if of.lengths is None:
            return grid[::-1]
        steps = of.lengths - 1 - np.arange(of.steps)[:, None]
        rows = grid[np.maximum(steps, 0), np.arange(of.batch)]
        rows[steps < 0] = 0
        return rows

    def own_state(self, state, at_end):
        """Return the state after a step of x, 0 for none, as this direction counts it; or an array.

        `at_end`: what is asked for is where each direction ends, and not that step of x.
        """
        if not self._direction:
            return state
        ends = self.sequences.steps if self.sequences.lengths is None else self.sequences.lengths
        own = ends if at_end else ends - state + 1
        return np.where(state > 0, own, 0) if np.ndim(state) else own

    def _shown(self, rows):
        array = self.on_grid(rows)
        return array[:, 0] if self._unbatched else array

    @classmethod
    def empty(cls, layer, unbatched, sequences, direction):
        """Return one of a recurrent layer's, in arrays of its pool, for forward to fill in."""
        cell, pool, dtype = layer.cell, layer.pool, layer.dtype
        hidden, proj_size = layer.hidden_size, layer.proj_size
        count, rows = sequences.count, sequences.rows
        if sequences.are_rows:
            steps, states = (rows.steps, count), (rows.steps + 1, count)
        else:
            steps, states = (rows.count,), (rows.count + count,)
        h = pool.array((*states, proj_size or hidden), dtype)
        c = pool.array((*states, hidden), dtype) if cell.has_c else None
        gates = pool.array((*steps, len(cell.saved) * hidden), dtype) if cell.saved else None
        m = pool.array((*steps, hidden), dtype) if proj_size else None
        return cls(cell, h, c, gates, m, layer.clip, unbatched, sequences, direction)

    def split(self, gates):
        """Return the parts of what was saved, (..., saved*H), by name; for None, an empty dict."""
        if gates is None:
            return {}
        hidden = gates.shape[-1] // len(self.cell.saved)
        return {
            name: gates[..., i * hidden : (i + 1) * hidden]
            for i, name in enumerate(self.cell.saved)
        }


class StateGradients:
    """The gradients of a loss at the states of one layer of a stack, at every step, recorded by backward.

    Of one direction, in the order of x's steps, and zero beyond an end.

    Attributes
    ----------
    dh_above, dh_later : ndarray (T, B, P)
        What arrives at h after each step from the layer above (or the loss) at that step, and from the next
        step in this layer; at the last step, through the final state.
    dc_later : ndarray (T, B, H) or None
        What arrives at c from c of the next step; None where the cell has no c.
    dgates : ndarray (T, B, G*H)
        At the sums before the activations.
    dgates_of_h : ndarray (T, B, G*H)
        Likewise at what R makes of the sums: the same, unless the cell keeps the two apart.
    dx : ndarray (T, B, I) or None
        At the layer's input, by this direction; None in the first layer if backward was called without
        need_dx.
    """

    def __init__(self, trace, weights, dh_above, dh_later, dc_later, dgates):
        self.dh_above, self.dh_later, self.dc_later = dh_above, dh_later, dc_later
        self.dgates, self.dx = dgates, None
        self._trace = trace
        self._weight_hr, self._peephole = (
            None if w is None else w.copy() for w in (weights.weight_hr, weights.peephole)
        )

    @property
    def sequences(self):
        """The Sequences of the call."""
        return self._trace.sequences

    @property
    def is_reverse(self):
        """Whether the direction reads x from its end."""
        return self._trace.is_reverse

    def in_own_order(self, array):
        """Return an array (T, B, .) by the steps of the direction's own order: see ``LayerTrace``."""
        return self._trace.in_own_order(array)

    def own_state(self, state, at_end):
        """Return a state as the direction counts it: see ``LayerTrace``."""
        return self._trace.own_state(state, at_end)

    def __repr__(self):
        return f"<StateGradients of {self.dh_above.shape}>"

    @classmethod
    def empty(cls, trace, pool, weights):
        """Return those of a LayerTrace, in arrays of a pool, for backward to fill in."""
        dtype, states = trace.all_h.dtype, trace.states(trace.all_h).shape
        units = (*states[:-1], trace.hidden)
        sums = (*states[:-1], len(trace.cell.gates) * trace.hidden)
        above, later = (pool.array(states, dtype) for _ in range(2))
        c_later = None if trace.all_c is None else pool.array(units, dtype)
        return cls(trace, weights, above, later, c_later, pool.array(sums, dtype))

    def settle(self):
        """Bring the arrays, once backward has filled them in, into the order of x's steps."""
        for name in ("dh_above", "dh_later", "dc_later", "dgates", "dx"):
            rows = getattr(self, name)
            setattr(self, name, None if rows is None else self._trace.on_grid(rows))
        return self

    @property
    def dh(self):
        """The whole gradient at h: dh_above + dh_later."""
        return self.dh_above + self.dh_later

    @property
    def dgates_of_h(self):
        """The gradient at what R makes of the sums; ``dgates`` unless the cell keeps W's and R's apart."""
        cell = self._trace.cell
        return self.dgates if cell.dsums_of_h is None else cell.dsums_of_h(self.dgates, self._saved)

    @property
    def _saved(self):
        trace = self._trace
        return {name: trace.on_grid(part) for name, part in trace.split(trace.all_gates).items()}

    @property
    def dc_through_h(self):
        """What arrives at c through h of the same step; None where there is no c."""
        if self.dc_later is None:
            return None
        trace = self._trace
        c = trace.on_grid(trace.states(trace.all_c))
        dm = self.dh if self._weight_hr is None else self.dh @ self._weight_hr
        through = trace.cell.dc_through_h(dm, c, self._saved)
        if self._peephole is not None:  # o sees c
            through += self.dgates[..., -trace.hidden :] * self._peephole[-trace.hidden :]
        return through

    @property
    def dc(self):
        """The whole gradient at c: dc_through_h + dc_later; None where there is no c."""
        return None if self.dc_later is None else self.dc_through_h + self.dc_later


def freeze(array):
    """Make an array read-only where NumPy owns it: CuPy cannot."""
    if isinstance(array, np.ndarray):
        array.flags.writeable = False


def frozen(value):
    """Return a read-only view of an array; anything else as it is."""
    if type(value) is not np.ndarray:
        return value
    view = value.view()
    view.flags.writeable = False
    return view


def thawed(array):
    """Return a writable view of an array that was frozen; None for None."""
    if array is None:
        return None
    view = array.view()
    if isinstance(view, np.ndarray):
        view.flags.writeable = True
    return view
