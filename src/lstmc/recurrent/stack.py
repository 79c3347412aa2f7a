"""What every recurrent layer does: forward, backward and step by step.

The arithmetic is in the kernels, what differs between cells in their records, what a layer is made of in
options.py. Here are shapes, states and what a trace holds.
"""

import numpy as np

from .._kernels.messages import shape_text
from .._kernels.turns import in_turn
from ..layer import check_size
from ..lengths import check_lengths, check_on_cpu, check_resets
from ..steppers import stepper_of
from ..traces import LayerTrace, RecurrentTrace, StateGradients
from .dropout import draw_masks
from .options import Options
from .run import Run
from .sequences import Sequences

__all__ = ["Recurrent"]


class Recurrent(Options):
    """A stack of recurrent layers of one cell. Use a class that names its cell, such as LSTM.

    Parameters
    ----------
    input_size : int
        I, the features of x.
    hidden_size : int
        H, the hidden units of each layer.
    num_layers : int
        L, stacked layers: each reads the h of the one below.
    bias : bool
        Whether each sum has a bias: one, where PyTorch has two to add.
    batch_first : bool
        Whether x and y are (B, T, .) instead of (T, B, .). States are not affected.
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Draws the initial weights, and then what is dropped.
    device : "cpu", "cuda" or "cuda:N"
        Where the weights are, and all arrays of its calls: NumPy's, or CuPy's on the current GPU or GPU N. A
        GPU has neither a GRU nor variants of the LSTM, two directions, dropout, a learned initial state or
        grad_clip yet.
    bidirectional : bool
        Whether each layer has a second direction, which reads the sequence from its end: D is 2 then. The
        layer above reads both, the forward one's h first, and y is (T, B, 2 H).
    dropout : float
        The share, in [0, 1), of the output of each layer but the last that is zeroed in training; the rest is
        scaled up by 1 / (1 - dropout). What a layer passes on in time is not dropped (Zaremba et al. 2014,
        section 3.1).
    variational : bool
        Whether all steps of a sequence lose the same units (Gal & Ghahramani 2016), or each step its own.
    learn_initial_state : bool
        Whether the state that a sequence begins with, where none is given and after a reset, is made of
        parameters, initial_h_l0 and so on, one for all rows: zeros at first. Otherwise it is zero.
    grad_clip : float, optional
        The limit, on either side, of the gradients of the sums at every step of backward, as they go on to
        the weights, to x and to the step before (Graves 2013, section 2.1): those of W x and R h each, where
        a cell keeps the two apart. What goes on in c by itself is not limited.
    init : "uniform", "orthogonal" or "identity"
        How weights are drawn. "uniform": all within 1/sqrt(H), as in PyTorch. "orthogonal": of each gate, R
        orthogonal (Saxe et al. 2014) and W uniform within sqrt(6 / (I + H)) (Glorot & Bengio 2010), biases
        zero. "identity", of an RNN that is no tanh: R the identity and biases zero, so that a state passes on
        unchanged (Le et al. 2015), W uniform.

    Raises
    ------
    TypeError, ValueError
        A size is not a positive integer, an option is unknown, options contradict each other, or the device
        does not have one.
    """

    # -- shapes at the edge ----------------------------------------------------------------------

    def _enter(self, name, x, features, like=None):
        """Check a sequence; return it as (T, B, features), and whether it is unbatched.

        `like` holds the (T, B, unbatched) that it must have.
        """
        x = self.kernels.adopt(x)
        unbatched = like[2] if like else getattr(x, "ndim", None) == 2
        steps, batch = like[:2] if like else ("T", "B")
        order = (batch, steps) if self._batch_first else (steps, batch)
        shape = (steps, features) if unbatched else (*order, features)
        if not like and getattr(x, "ndim", 3) not in (2, 3):
            raise ValueError(
                f"{name} must be {shape_text(shape)} or (T, {features}), got {shape_text(x.shape)}"
            )
        # Checked before it is transposed, so that a message shows the caller's shape.
        x = self.kernels.checked(name, x, self._dtype, shape)
        if unbatched:
            return x[:, None], True
        return (self._transposed(x) if self._batch_first else x), False

    def _transposed(self, x):
        return self.kernels.arrays.ascontiguousarray(x.swapaxes(0, 1))

    def _leave(self, y, unbatched):
        if unbatched:
            return y[:, 0]
        return self._transposed(y) if self._batch_first else y

    def enter_state(self, name, state, batch, unbatched):
        """Check a state, or its gradient, and return its parts as a list of arrays (L*D, B, H)."""
        count = self._num_layers * self.num_directions
        shapes = [(count, size) if unbatched else (count, batch, size) for size in self.state_sizes]
        if len(self._cell.states) == 1:
            parts = (state,)
        elif isinstance(state, (tuple, list)) and len(state) == len(self._cell.states):
            parts = state
        else:
            names = ", ".join(self._cell.states)
            raise TypeError(
                f"{name} must be None or the tuple ({names}), got {type(state).__name__}"
            )
        labels = [f"{name}.{part}" if len(parts) > 1 else name for part in self._cell.states]
        parts = [
            self.kernels.checked(label, part, self._dtype, shape)
            for label, part, shape in zip(labels, parts, shapes)
        ]
        return [part[:, None] if unbatched else part for part in parts]

    def _leave_state(self, parts, unbatched):
        parts = [part[:, 0] if unbatched else part for part in parts]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _sequences(self, x, unbatched, lengths, resets):
        """Return the Sequences of a call whose x is (T, B, .)."""
        steps, batch, _ = x.shape
        if lengths is None and resets is None:
            of = self._whole
            if of is None or of.steps != steps or of.batch != batch:
                self._whole = of = Sequences(steps, batch, directions=self.num_directions)
            return of
        first = self._batch_first and not unbatched
        check_on_cpu(x, lengths=lengths, resets=resets)
        if lengths is not None:
            lengths = check_lengths(lengths, (steps,) if unbatched else (steps, batch))
            lengths = np.atleast_1d(lengths)
        if resets is not None:
            order = (batch, steps) if first else (steps,) if unbatched else (steps, batch)
            resets = check_resets(resets, order)
            resets = resets.T if first else resets.reshape(steps, batch)
        return Sequences(steps, batch, lengths, resets, self.num_directions)

    def _begin(self, batch):
        """Return the state (L*D, B, .), by its parts, of rows for which none is given."""
        count, arrays = self._num_layers * self.num_directions, self.kernels.arrays
        parts = [arrays.zeros((count, batch, size), self._dtype) for size in self.state_sizes]
        for part, initial in zip(parts, self.initial_state() or ()):
            part[...] = initial[:, None]
        return parts

    # -- calls -----------------------------------------------------------------------------------

    def __call__(self, x, state=None, lengths=None, resets=None):
        """Run without a trace for backward: return y and the state. See ``forward``."""
        return self.forward(x, state, training=False, lengths=lengths, resets=resets)[:2]

    def forward(self, x, state=None, training=True, num_threads=None, lengths=None, resets=None,
                drop=True):  # fmt: skip
        """Run a sequence.

        Parameters
        ----------
        x : ndarray (T, B, I), or (T, I) for one unbatched sequence
            (B, T, I) with ``batch_first``. Beyond a row's end it may hold anything.
        state : ndarray (L*D, B, H), or the tuple (h, c) of such for an LSTM, or None
            The initial state, of each layer the forward direction's first; None means zeros, or what
            ``learn_initial_state`` learned. (L*D, H) for an unbatched sequence.
        training : bool
            Return a trace, for backward and inspection, and drop where there is dropout.
        num_threads : int, optional
        lengths : integers (B,), optional
            How many steps each row has, 0 to T in any order; an integer for an unbatched sequence.
        resets : ndarray (T, B) of bool, optional
            Where a row begins anew: before that step its state becomes what `state` None means, and what
            lies on the two sides knows nothing of the other, in either direction. In the layout of x: (B,
            T) with ``batch_first``, (T,) for an unbatched sequence. A reset at step 0 discards the forward
            direction's `state`; beyond a row's end it means nothing.
        drop : bool
            If not, nothing is dropped in training either.

        Returns
        -------
        y : ndarray (T, B, D*H)
            The hidden state of the last layer after every step, in the layout of x: that of the forward
            direction, then that of the reverse one. Zeros beyond a row's end.
        state
            The state after the last step, in the form of `state`: the reverse direction's is that after x's
            first step. A row without a step keeps its own.
        trace : RecurrentTrace or None
            None without `training`.

        Raises
        ------
        TypeError
            An array is not of the layer's type.
        ValueError
            A shape does not fit, or a length is out of range.
        """
        x_in, unbatched = self._enter("x", x, self._input_size)
        of = self._sequences(x_in, unbatched, lengths, resets)
        directions = self.num_directions
        has_state = state is not None
        if has_state:
            state = self.enter_state("state", state, of.batch, unbatched)
        else:
            state = self._begin(of.batch)
        initial = state
        if not of.are_rows:
            after_reset = self._begin(1)
            initial = [of.entering(*parts) for parts in zip(state, after_reset)]
        final = [self.kernels.arrays.empty_like(part) for part in initial]
        inputs = of.packed(x_in, num_threads, self.pool.array)
        if training and inputs is x_in:
            inputs = self.pool.array(x_in.shape, self._dtype)
            inputs[...] = x_in
        layers = [None] * (self._num_layers * directions)
        if training:
            layers = [
                LayerTrace.empty(self, unbatched, of, d)
                for _ in range(self._num_layers)
                for d in range(directions)
            ]
        masks = draw_masks(self, of) if training and drop and self._dropout else None
        y = Run(self, of, num_threads, masks).forward(inputs, initial, final, layers)
        trace = None
        if training:
            saved = [one.frozen() for one in layers]
            trace = RecurrentTrace(
                self, self.fingerprint(), of, inputs, saved, unbatched, has_state, masks
            )
        y = of.unpacked(y, num_threads, self._empty_rows)
        if not of.are_rows:
            final = [of.leaving(last, part) for last, part in zip(final, state)]
        return self._leave(y, unbatched), self._leave_state(final, unbatched), trace

    def _empty_rows(self, shape, dtype):
        return self.empty(shape)

    @in_turn
    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, consume=False,
                 need_grads=True, record=None, limit=True):  # fmt: skip
        """Differentiate a forward call: add to ``grads``, and return the gradients of x and state.

        Parameters
        ----------
        dy : ndarray, in the shape of y, or None for zeros
            The gradient of the loss with respect to y. Beyond a row's end it is not read.
        trace : RecurrentTrace
            From this layer's forward; the weights must not have changed since.
        dstate : in the form of the state, or None for zeros
            The gradient arriving through the final state.
        num_threads : int, optional
        need_dx : bool
            Whether to compute dx. If not, None is returned in its place.
        consume : bool
            Let backward overwrite the trace, which cannot be used again.
        need_grads : bool
            Whether to compute the gradients of the weights. If not, ``grads`` does not change.
        record : list, optional
            A StateGradients for each layer of the stack and each of its directions, in the order of
            ``trace.layers``, is appended to it: the gradients at the states of every step. Not with
            `consume`.
        limit : bool
            If not, ``grad_clip`` limits nothing: what is returned, and added, are the derivatives.

        Returns
        -------
        dx : ndarray, in the shape of x, or None
            Zeros beyond a row's end.
        dstate
            The gradient with respect to the initial state, in the form of the state.

        Raises
        ------
        TypeError
            An argument is not of its type.
        ValueError
            The trace is another layer's or was consumed, the weights have changed, or a shape does not fit.
        """
        self.check_trace(trace, dstate)
        if consume and record is not None:
            raise ValueError("record reads the trace: it cannot go with consume")
        if record is not None and not isinstance(record, list):
            raise TypeError(f"record must be a list, got {type(record).__name__}")
        of, unbatched = trace.sequences, trace.unbatched
        form = (of.steps, of.batch, unbatched)
        if dy is not None:
            dy, _ = self._enter("dy", dy, self.num_directions * self.features_of_h, form)
        arriving = gradient = [None] * len(self._cell.states)
        if dstate is not None:
            gradient = self.enter_state("dstate", dstate, of.batch, unbatched)
            arriving = [of.arriving(part) for part in gradient]
        count, zeros = self._num_layers * self.num_directions, self.kernels.arrays.zeros
        departing = [zeros((count, of.count, size), self._dtype) for size in self.state_sizes]
        recorded = None
        if record is not None:
            recorded = [
                StateGradients.empty(t, self.pool, weights)
                for t, weights in zip(trace.layers, self.both_weights()[0])
            ]
        dx = Run(self, of, num_threads, trace.masks).backward(
            dy, trace, arriving, departing, recorded, need_dx, consume, need_grads, limit
        )
        if need_grads and self._learn_initial_state:
            for part, first, through in zip(self._cell.states, departing, gradient):
                sums = of.beginning(first, through, trace.has_state)
                for number, one in enumerate(sums):
                    self._grads[self.named(f"initial_{part}", number)] += one
        if recorded:
            record.extend(one.settle() for one in recorded)
        if consume:
            trace.inputs = trace.layers = None
        if dx is not None:
            dx = self._leave(of.unpacked(dx, num_threads, self._empty_rows), unbatched)
        if not of.are_rows:
            departing = [of.departing(first, part) for first, part in zip(departing, gradient)]
        return dx, self._leave_state(departing, unbatched)

    def stepper(self, batch=1, num_threads=None):
        """Return a Stepper: it takes one step per call and has its own state, at first that of None.

        It copies the weights; its ``refresh()`` copies them anew.

        Parameters
        ----------
        batch : int
        num_threads : int, optional

        Raises
        ------
        TypeError, ValueError
            batch or num_threads is not a positive integer, or the layer is bidirectional.
        """
        if self._bidirectional:
            raise ValueError(
                "a bidirectional layer has no stepper: its reverse direction begins with the last step"
            )
        return stepper_of(self, check_size("batch", batch), num_threads)

    def check_form(self, trace, dstate=None):
        """Refuse anything but a trace of this layer and a dstate that fits; the weights are not compared."""
        super().check_form(trace)
        if trace.inputs is None:
            raise ValueError("trace was consumed by an earlier backward: call forward again")
        if dstate is not None:
            self.enter_state("dstate", dstate, trace.batch, trace.unbatched)
