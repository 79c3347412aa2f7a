"""Rows of unequal length, resets and directions as one picture: sequences sorted by length, in one direction.

A batch is a grid of T steps and B rows. A row that ends early, or that is reset on its way, is one sequence
or several, or none. Kernels run sequences that begin at one step, the longest first, their rows packed:
those of step s of all that have one, then those of step s + 1. What is here gathers rows of the grid into
that order, and back. Nothing beyond an end is read. The reverse direction has the same sequences, each from
its end.
"""

import numpy as np

from .._kernels.calls import Rows
from .._kernels.cpu import gather_rows

__all__ = ["Sequences"]


class Sequences:
    """The sequences of one call.

    Parameters
    ----------
    steps, batch : int
        T and B, of the grid.
    lengths : ndarray (B,) of intp or None
    resets : ndarray (T, B) of bool or None
    directions : int

    Attributes
    ----------
    rows : Rows
        As kernels take them; of either direction.
    rows_of_grid : Rows
        The same, of calls whose y, dy and dx are the grid.
    count : int
        The number of sequences.
    are_rows : bool
        Whether each row of the batch is one sequence of T steps.
    order : ndarray (N,) of intp or None
        Of every packed row its row in the grid, t*B + b. None: packed rows are those of the grid.
    place : ndarray (T*B,) of intp or None
        The reverse: of every row of the grid its packed row, -1 beyond an end.
    flip : ndarray (N,) of intp or None
        Of every row of one direction the row of the other that is at the same step. None for one direction.
    """

    def __init__(self, steps, batch, lengths=None, resets=None, directions=1):
        self.steps, self.batch, self.directions = steps, batch, directions
        self.lengths, self.resets = lengths, resets
        if lengths is not None and (lengths == steps).all():
            lengths = None
        if resets is not None and not resets.any():
            resets = None
        if steps == 0 or (lengths is None and resets is None):
            self._make_equal()
        else:
            self._make_unequal(lengths, resets)

    @property
    def ends(self):
        """The steps of each row, (B,)."""
        return np.full(self.batch, self.steps) if self.lengths is None else self.lengths

    @property
    def have_steps(self):
        """Which steps a row has, (T,)."""
        return np.arange(self.steps) < self.ends.max(initial=0)

    def _make_equal(self):
        steps, batch = self.steps, self.batch
        self.rows, self.count, self.are_rows = Rows(steps, batch), batch, True
        self.rows_of_grid = self.rows
        self.order = self.place = self.flip = None
        if self.directions == 2:
            rows = np.arange(steps * batch).reshape(steps, batch)
            self.flip = _indices(rows[::-1].reshape(-1))  # of one row a view, and not contiguous

    def _make_unequal(self, lengths, resets):
        steps, batch, self.are_rows = self.steps, self.batch, False
        ends = self.ends
        begins = np.zeros((batch, steps), bool) if resets is None else resets.T.copy()
        fresh = begins[:, :1].copy() if steps else begins  # a reset at step 0 discards the state
        begins[:, :1] = True
        begins &= np.arange(steps) < ends[:, None]
        row, start = np.nonzero(begins)  # of each sequence, row by row
        is_first = start == 0
        is_last = np.append(row[1:] != row[:-1], True)[: len(row)]
        length = np.where(is_last, ends[row], np.append(start[1:], 0)) - start
        rank = np.argsort(-length, kind="stable")
        row, start, length = row[rank], start[rank], length[rank]
        is_first, is_last = is_first[rank], is_last[rank]

        longest = int(length[0]) if len(length) else 0
        alive = len(length) - np.cumsum(np.bincount(length, minlength=longest + 1))[:-1]
        starts = np.concatenate([[0], np.cumsum(alive)])
        step = np.repeat(np.arange(longest), alive)
        number = (
            np.arange(starts[-1]) - starts[step]
        )  # of the sequence that a packed row belongs to
        self.count = len(length)
        self.order = _indices((start[number] + step) * batch + row[number])
        self.place = _indices(np.full(steps * batch, -1))
        self.place[self.order] = np.arange(len(self.order))
        before = np.where(step == 0, number, self.count + starts[step - 1] + number)
        self.rows = Rows(longest, self.count, _indices(starts), _indices(before))
        self.rows_of_grid = self.rows._replace(order=self.order, places=steps * batch)
        self.flip = None
        if self.directions == 2:
            self.flip = _indices(starts[length[number] - 1 - step] + number)
        # The sequences that begin with a state and those that end with one, of each direction, with their
        # rows.
        forward = np.flatnonzero(is_first)
        forward = forward[~fresh[row[forward], 0]]
        last, first = np.flatnonzero(is_last), np.flatnonzero(is_first)
        self._entered = [(forward, row[forward]), (last, row[last])]
        self._left = [(last, row[last]), (first, row[first])]
        self._empty = np.flatnonzero(ends == 0)

    # -- rows ------------------------------------------------------------------------------------------

    def packed(self, grid, num_threads=None, room=None):
        """Return the rows (N, .) of an array (T, B, .); that array itself where they are the same.

        `room` makes the new array from its shape and type.
        """
        if self.order is None:
            return grid
        return _gathered(grid.reshape(-1, grid.shape[2]), self.order, num_threads, room)

    def unpacked(self, rows, num_threads=None, room=None):
        """Return rows (N, .) as an array (T, B, .), zeros beyond an end; a view where they are the same."""
        if rows.ndim == 3:
            return rows
        shape = (self.steps, self.batch, rows.shape[1])
        if self.place is None:
            return rows.reshape(shape)
        return _gathered(rows, self.place, num_threads, room).reshape(shape)

    def grid(self, features, make):
        """Return a new array (T, B, features) from make(shape), with zeros beyond each end."""
        out = make((self.steps, self.batch, features))
        if self.order is not None and len(self.order) < self.steps * self.batch:
            out.reshape(-1, features)[self.place < 0] = 0
        return out

    def flipped(self, rows, num_threads=None, room=None):
        """Return the rows (N, .) of one direction in the order of the other, each at its own step."""
        return _gathered(rows, self.flip, num_threads, room)

    def on_grid(self, direction):
        """Return of every row of the grid the packed row of a direction, -1 beyond an end; None: the same."""
        if not direction:
            return self.place
        if self.place is None:
            return self.flip
        flipped = np.append(self.flip, -1)  # -1 stays -1
        return flipped[self.place]

    # -- states ----------------------------------------------------------------------------------------

    def entering(self, state, initial=0):
        """Return a state (L*D, B, .) as each sequence begins with it, (L*D, S, .).

        After a reset that is `initial`, (L*D, 1, .) or zero.
        """
        return self._moved(state, self._entered, True, initial) if self.order is not None else state

    def leaving(self, last, state):
        """Return the states (L*D, S, .) after each sequence as those after each row (L*D, B, .).

        A row without a step keeps its part of `state`, the initial one.
        """
        if self.order is None:
            return last
        out = self._moved(last, self._left, False)
        out[:, self._empty] = state[:, self._empty]
        return out

    def arriving(self, gradient):
        """Return the gradient (L*D, B, .) at the states after each row as those after each sequence."""
        return self._moved(gradient, self._left, True) if self.order is not None else gradient

    def departing(self, first, gradient):
        """Return the gradients (L*D, S, .) at the states that sequences begin with, of those of rows.

        What arrives at the final state of a row without a step, of `gradient` or None, goes on.
        """
        if self.order is None:
            return first
        out = self._moved(first, self._entered, False)
        if gradient is not None:
            out[:, self._empty] = gradient[:, self._empty]
        return out

    def beginning(self, first, gradient, has_state):
        """Return the sums (L*D, .) of the gradients at the states of sequences that began without a state.

        Parameters
        ----------
        first : ndarray (L*D, S, .)
            At the states that sequences begin with.
        gradient : ndarray (L*D, B, .) or None
            What arrives at the states after each row: a row without a step passes it on.
        has_state : bool
            Whether rows began with a state, so that only what follows a reset did not.
        """
        if self.order is None:
            return first[:, :0].sum(1) if has_state else first.sum(1)
        sums = np.zeros((len(first), first.shape[2]), first.dtype)
        for d in range(self.directions):
            part = first[d :: self.directions]
            if has_state:
                part = np.delete(part, self._entered[d][0], axis=1)
            sums[d :: self.directions] = part.sum(1)
        if gradient is not None and not has_state:
            sums += gradient[:, self._empty].sum(1)
        return sums

    def _moved(self, states, pairs, to_sequences, rest=0):
        shape = (states.shape[0], self.count if to_sequences else self.batch, states.shape[2])
        out = np.empty(shape, states.dtype)
        out[...] = rest
        for d in range(self.directions):
            sequences, rows = pairs[d]
            to, source = (sequences, rows) if to_sequences else (rows, sequences)
            out[d :: self.directions, to] = states[d :: self.directions, source]
        return out


def _indices(array):
    return np.ascontiguousarray(array, np.intp)


def _gathered(rows, index, num_threads, room):
    make = room or np.empty
    out = make((len(index), rows.shape[1]), rows.dtype)
    if out.size:
        gather_rows(out, rows, index, False, num_threads)
    return out
