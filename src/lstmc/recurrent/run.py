"""One call of a recurrent layer over packed rows: what kernels are called with.

Rows are what ``Sequences`` says. One direction runs through all layers in one call. Of two directions each
layer is a call, both side by side: the reverse one reads the same rows flipped, and their outputs, joined,
are the input of the next layer. With dropout between them each layer is a call as well.
"""

from .._kernels.calls import BackwardLayer, BackwardStack, ForwardLayer, ForwardStack, Weights
from .._kernels.cpu import gather_rows
from ..traces import thawed
from .dropout import dropped

__all__ = ["Run"]


class Run:
    """A call of a layer.

    Parameters
    ----------
    layer : Recurrent
    of : Sequences
    num_threads : int or None
    masks : tuple of ndarray, or None
        As ``RecurrentTrace`` has them.
    """

    def __init__(self, layer, of, num_threads, masks=None):
        self.layer, self.of, self.num_threads, self.masks = layer, of, num_threads, masks
        self.directions, self.features = layer.num_directions, layer.features_of_h

    def forward(self, x, initial, final, traces):
        """Run all layers: return the rows of the output, (N, D*P), or the output itself, (T, B, P).

        Parameters
        ----------
        x : ndarray (N, I)
        initial, final : lists of ndarray (L*D, S, P or H)
            The parts of the states that sequences begin with, and of those that they end with, which are
            written.
        traces : list of LayerTrace, or of None
            One for each number l * D + d, to be filled in.
        """
        layer, weights = self.layer, self.layer.both_weights()[0]
        for group in self._groups():
            stacks, is_last = [], group[-1] + 1 == len(weights)
            for d in range(self.directions):
                calls = []
                for number in group[d :: self.directions]:
                    t = traces[number]
                    saved = (t.all_h, t.all_c, t.all_gates, t.all_m) if t else ()
                    states = *_pair(final, number), *_pair(initial, number)
                    calls.append(ForwardLayer(weights[number], *states, *saved))
                source, y = self._read_by(d, x), self._output(t, is_last)
                stacks.append(ForwardStack(calls, source, y, layer.limits[0]))
            if self.of.count:
                rows = self.of.rows_of_grid if self._writes_grid(t, is_last) else self.of.rows
                layer.kernels.recurrent_forward(layer.handle, stacks, rows, self.num_threads)
            outputs = [stack.y for stack in stacks]
            if outputs[0] is None:
                outputs = self._outputs(traces, group[-1] + 1 - self.directions)
            x = self._joined(outputs)
            if self.masks and not is_last:
                x = self._dropped(x, group)
        return x

    def backward(self, dy, trace, arriving, departing, recorded=None, need_dx=True, consume=False,
                 need_grads=True, limit=True):  # fmt: skip
        """Differentiate all layers: return the rows of dx, (N, I), or dx itself, (T, B, I), or None.

        Parameters
        ----------
        dy : ndarray (T, B, D*P) or None
        trace : RecurrentTrace
        arriving, departing : lists of ndarray (L*D, S, P or H)
            The gradients at the states that sequences end with (or None), and at those that they begin with,
            which are written.
        recorded : list of StateGradients, optional
            To be filled in.
        need_dx, consume, need_grads, limit
            As for ``Recurrent.backward``.
        """
        layer, directions = self.layer, self.directions
        weights, dweights = layer.both_weights()
        clip, grad_clip = layer.limits
        on_grid = directions == 1 and not recorded
        if dy is not None and not on_grid:
            dy = self.of.packed(dy, self.num_threads, layer.pool.array)
        rows = self.of.rows_of_grid if on_grid else self.of.rows
        for group in reversed(self._groups()):
            lowest = group[0] == 0
            x, stacks = trace.inputs if lowest else self._read(trace.layers, group), []
            for d in range(directions):
                numbers, calls = group[d::directions], []
                for i, number in enumerate(numbers):
                    t, at_states = trace.layers[number], {}
                    if consume and len(t.cell.saved) == len(t.cell.gates):
                        at_states = {"dgates": thawed(t.all_gates)}
                    if recorded:
                        one = recorded[number]
                        at_states = {"dgates": one.dgates, "dh": one.dh_later, "dc": one.dc_later}
                        if i:
                            at_states["dx"] = recorded[numbers[i - 1]].dh_above
                    states = *_pair(departing, number), *_pair(arriving, number)
                    saved, added = (t.all_h, t.all_c, t.all_gates), dweights[number]
                    calls.append(
                        BackwardLayer(
                            weights[number], *saved, *states, added if need_grads else Weights(),
                            m=t.all_m, **at_states,
                        )
                    )  # fmt: skip
                source, dx = self._read_by(d, x) if need_grads or not d else None, None
                if need_dx or not lowest:
                    # What was made for this call alone is written over; so is the trace, if it may be.
                    ours = source is not None and (source is not trace.inputs or consume)
                    if rows.order is not None:
                        dx = self.of.grid(x.shape[-1], layer.empty)
                    else:
                        dx = thawed(source) if ours else layer.empty(x.shape)
                arrives = self._arriving_at(d, dy)
                if recorded:
                    above = recorded[numbers[-1]].dh_above
                    above[...] = 0 if arrives is None else arrives.reshape(above.shape)
                stacks.append(
                    BackwardStack(calls, dx, arrives, source, clip, grad_clip if limit else 0.0)
                )
            if self.of.count:
                layer.kernels.recurrent_backward(layer.handle, stacks, rows, self.num_threads)
            dy = self._added([stack.dx for stack in stacks], recorded, group)
            if self.masks and not lowest:
                dy = self._dropped(dy, self._below(group))
        return dy

    # -- layers ------------------------------------------------------------------------------------

    def _groups(self):
        """Return the numbers that go into one call: all, or those of one layer."""
        numbers = range(self.layer.num_layers * self.directions)
        if self.directions == 1 and not self.masks:
            return [numbers]
        return [numbers[i : i + self.directions] for i in numbers[:: self.directions]]

    def _below(self, group):
        """Return the numbers of the layer below a group."""
        return range(group[0] - self.directions, group[0])

    def _read(self, traces, group):
        """Return the rows that a group above another has read."""
        below = self._below(group)
        rows = self._joined(self._outputs(traces, below[0]))
        return self._dropped(rows, below) if self.masks else rows

    def _dropped(self, rows, group):
        """Return what dropout leaves of the output of a group's layer, or of the gradient there."""
        mask = self.masks[group[0] // self.directions]
        return dropped(self.layer, rows, mask, self.of)

    # -- directions --------------------------------------------------------------------------------

    def _read_by(self, d, rows):
        """Return the rows that a direction reads, in its order."""
        return (
            self.of.flipped(_matrix(rows), self.num_threads, self.layer.pool.array) if d else rows
        )

    def _output(self, trace, is_last):
        """Return an array for the output of one direction; None where it is copied from a trace."""
        of = self.of
        if self._writes_grid(trace, is_last) or (of.order is None and not trace):
            return of.grid(self.features, self.layer.empty)
        return None if trace else self.layer.empty((of.rows.count, self.features))

    def _writes_grid(self, trace, is_last):
        """Whether kernels write the output as it is returned, beside the states that they save."""
        return self.directions == 1 and trace is not None and is_last

    def _outputs(self, traces, number):
        """Return what the directions of the layer of this number wrote, each in its own order."""
        below = traces[number : number + self.directions]
        return [one.states(one.all_h) for one in below]

    def _joined(self, parts):
        """Return the outputs of all directions side by side, (N, D*P), each row at its own step."""
        if self.directions == 1:
            return parts[0]
        y = self.layer.empty((self.of.rows.count, 2 * self.features))
        y[:, : self.features] = _matrix(parts[0])
        self._gather(y[:, self.features :], _matrix(parts[1]))
        return y

    def _arriving_at(self, d, dy):
        """Return the gradient at the output of a direction, in its order; None for None."""
        if dy is None or self.directions == 1:
            return dy
        part = self.layer.empty((len(_matrix(dy)), self.features))
        columns = _matrix(dy)[:, d * self.features : (d + 1) * self.features]
        if d:
            self._gather(part, columns)
        else:
            part[...] = columns
        return part

    def _added(self, parts, recorded, group):
        """Return the gradient at what all directions read, the forward one's first; record each one's own."""
        for d, dx in enumerate(parts):
            numbers = group[d :: self.directions] if recorded else ()
            for i, number in enumerate(numbers):
                recorded[number].dx = recorded[numbers[i - 1]].dh_above if i else dx
        if self.directions == 1 or parts[0] is None:
            return parts[0]
        total = parts[0].copy() if recorded else parts[0]
        self._gather(_matrix(total), _matrix(parts[1]), adds=True)
        return total

    def _gather(self, to, rows, adds=False):
        if to.size:
            gather_rows(to, rows, self.of.flip, adds, self.num_threads)


def _matrix(rows):
    return rows.reshape(-1, rows.shape[-1])


def _pair(parts, number):
    """Return the h and c of a number, c None where the cell has none; both None where there are none."""
    if parts[0] is None:
        return None, None
    return parts[0][number], parts[1][number] if len(parts) == 2 else None
