"""What every recurrent layer is: a stack of layers of one cell, forward, backward and step by step.

The arithmetic is in the kernels, what differs between cells in their records. Here are shapes, states and
what a trace holds.
"""

import math

import numpy as np

from .._kernels import cpu
from .._kernels.calls import Weights
from .._kernels.messages import shape_text
from .._kernels.turns import in_turn
from ..cells import Cell
from ..layer import Layer, check_flag, check_size, fixed
from ..lengths import check_lengths, check_on_cpu, check_resets
from ..steppers import stepper_of
from ..traces import LayerTrace, RecurrentTrace, StateGradients
from .run import Run
from .sequences import Sequences

__all__ = ["Recurrent"]

OPTIONS = (
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "bidirectional",
)  # of all cells


class Recurrent(Layer):
    """A stack of recurrent layers of one cell. Use a class that names its cell, such as LSTM."""

    _not_pickled = (*Layer._not_pickled, "handle", "_stacks", "_stacked", "_whole")
    cell: Cell = fixed("cell")
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional = map(fixed, OPTIONS)
    num_directions = fixed("num_directions")  # D: 2 of a bidirectional layer, else 1
    in_features = fixed("input_size")

    @property
    def out_features(self):
        """The features of y: D*H."""
        return self.num_directions * self._hidden_size

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False,
                 dtype=np.float32, rng=None, device="cpu", *, bidirectional=False):  # fmt: skip
        self._bidirectional = check_flag("bidirectional", bidirectional)
        self._num_directions = 1 + self._bidirectional
        super().__init__(dtype, device)
        self._input_size = check_size("input_size", input_size)
        self._hidden_size = check_size("hidden_size", hidden_size)
        self._num_layers = check_size("num_layers", num_layers)
        self._bias = check_flag("bias", bias)
        self._batch_first = check_flag("batch_first", batch_first)
        bound = 1 / math.sqrt(self._hidden_size)
        self.allocate(rng, dict.fromkeys(self.parameters(), bound))

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {name: getattr(self, name) for name in OPTIONS} | {"dtype": self._dtype.name}

    def use_kernels(self, kernels):
        """Compute with the kernels of another device from now on."""
        self.check_movable(kernels)
        self.handle = kernels.cell(self._cell.name)
        super().use_kernels(kernels)
        self._stacks = self._whole = None  # made when they are first needed

    def check_movable(self, kernels):
        """Refuse to move to a device that does not have the cell, or both directions."""
        kernels.cell(self._cell.name)
        if self._bidirectional and kernels is not cpu:
            raise ValueError("bidirectional must be False on a GPU, which has one direction as yet")

    def parameters(self):
        """Return the shapes of the parameters by PyTorch's names, with one bias per gate.

        For each layer l: weight_ih_l (G*H, I or D*H), weight_hh_l (G*H, H), bias_l (S*H,); where the layer is
        bidirectional, then those of the reverse direction, which end in _reverse.
        """
        rows, shapes = len(self._cell.gates) * self._hidden_size, {}
        for number in range(self._num_layers * self.num_directions):
            shapes[self.named("weight_ih", number)] = (rows, self.features(number))
            shapes[self.named("weight_hh", number)] = (rows, self._hidden_size)
            if self._bias:
                shapes[self.named("bias", number)] = (self._cell.biases * self._hidden_size,)
        return shapes

    def named(self, kind, number):
        """Return the name of a weight of the stack's direction number l * D + d: "weight_ih_l0_reverse"."""
        layer, direction = divmod(number, self.num_directions)
        return f"{kind}_l{layer}{'_reverse' * direction}"

    def part_name(self, number):
        """Return the name of the stack's direction number l * D + d, as weights end in it: "l0_reverse"."""
        return self.named("", number)[1:]

    def features(self, number):
        """Return the features that the stack's direction number l * D + d reads."""
        first = number < self.num_directions
        return self._input_size if first else self.num_directions * self._hidden_size

    def weights(self):
        """Return the Weights of each layer and direction, as kernels take them: views, not copies."""
        return [Weights(*(w.view() for w in one)) for one in self.both_weights()[0]]

    def both_weights(self):
        """Return the Weights of each layer and direction, and those of the gradients: its own views."""
        if self._stacks is None or self._stacked is not self._params:
            # Without biases, kernels add zeros, and leave their gradient where nobody looks.
            size = 0 if self._bias else self._cell.biases * self._hidden_size
            self._stacks = [
                [
                    Weights(
                        views[self.named("weight_ih", number)],
                        views[self.named("weight_hh", number)],
                        views[self.named("bias", number)] if self._bias else no_bias,
                    )
                    for number in range(self._num_layers * self.num_directions)
                ]
                for views in (self._params, self._grads)
                for no_bias in (self.kernels.arrays.zeros(size, self._dtype),)
            ]
            self._stacked = self._params  # whose views these are
        return self._stacks

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
        shape = (count, self._hidden_size) if unbatched else (count, batch, self._hidden_size)
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
            for label, part in zip(labels, parts)
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

    # -- calls -----------------------------------------------------------------------------------

    def __call__(self, x, state=None, lengths=None, resets=None):
        """Run without a trace for backward: return y and the state. See ``forward``."""
        return self.forward(x, state, training=False, lengths=lengths, resets=resets)[:2]

    def forward(self, x, state=None, training=True, num_threads=None, lengths=None, resets=None):
        """Run a sequence.

        Parameters
        ----------
        x : ndarray (T, B, I), or (T, I) for one unbatched sequence
            (B, T, I) with ``batch_first``. Beyond a row's end it may hold anything.
        state : ndarray (L*D, B, H), or the tuple (h, c) of such for an LSTM, or None
            The initial state, of each layer the forward direction's first; None means zeros. (L*D, H) for an
            unbatched sequence.
        training : bool
            Return a trace, for backward and inspection.
        num_threads : int, optional
        lengths : integers (B,), optional
            How many steps each row has, 0 to T in any order; an integer for an unbatched sequence.
        resets : ndarray (T, B) of bool, optional
            Where a row begins anew: before that step its state becomes what `state` None means, and what
            lies on the two sides knows nothing of the other, in either direction. In the layout of x: (B,
            T) with ``batch_first``, (T,) for an unbatched sequence. A reset at step 0 discards the forward
            direction's `state`; beyond a row's end it means nothing.

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
        directions, hidden = self.num_directions, self._hidden_size
        if state is None:
            shape = (self._num_layers * directions, of.batch, hidden)
            state = [self.kernels.arrays.zeros(shape, self._dtype) for _ in self._cell.states]
        else:
            state = self.enter_state("state", state, of.batch, unbatched)
        initial = state if of.are_rows else [of.entering(part) for part in state]
        final = [self.kernels.arrays.empty_like(part) for part in initial]
        inputs = of.packed(x_in, num_threads, self.pool.array)
        if training and inputs is x_in:
            inputs = self.pool.array(x_in.shape, self._dtype)
            inputs[...] = x_in
        layers = [None] * (self._num_layers * directions)
        if training:
            layers = [
                LayerTrace.empty(self._cell, self.pool, self._dtype, hidden, unbatched, of, d)
                for _ in range(self._num_layers)
                for d in range(directions)
            ]
        y = Run(self, of, num_threads).forward(inputs, initial, final, layers)
        trace = None
        if training:
            saved = [one.frozen() for one in layers]
            trace = RecurrentTrace(self, self.fingerprint(), of, inputs, saved, unbatched)
        y = of.unpacked(y, num_threads, self._empty_rows)
        if not of.are_rows:
            final = [of.leaving(last, part) for last, part in zip(final, state)]
        return self._leave(y, unbatched), self._leave_state(final, unbatched), trace

    def _empty_rows(self, shape, dtype):
        return self.empty(shape)

    @in_turn
    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, consume=False,
                 need_grads=True, record=None):  # fmt: skip
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
            dy, _ = self._enter("dy", dy, self.num_directions * self._hidden_size, form)
        arriving = gradient = [None] * len(self._cell.states)
        if dstate is not None:
            gradient = self.enter_state("dstate", dstate, of.batch, unbatched)
            arriving = [of.arriving(part) for part in gradient]
        shape = (self._num_layers * self.num_directions, of.count, self._hidden_size)
        departing = [self.kernels.arrays.zeros(shape, self._dtype) for _ in self._cell.states]
        recorded = None
        if record is not None:
            recorded = [StateGradients.empty(t, self.pool) for t in trace.layers]
        dx = Run(self, of, num_threads).backward(
            dy, trace, arriving, departing, recorded, need_dx, consume, need_grads
        )
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
        """Return a Stepper: it takes one step per call and has its own state, which starts at zeros.

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
