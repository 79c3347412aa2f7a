"""What every recurrent layer is: a stack of layers of one cell, forward, backward and step by step.

The arithmetic is in the kernels, what differs between cells in their records. Here are shapes, states and
what a trace holds.
"""

import math

import numpy as np

from ._kernels.calls import BackwardLayer, ForwardLayer, Weights
from ._kernels.messages import shape_text
from ._kernels.turns import in_turn
from .cells import Cell
from .files import generator
from .layer import Layer, check_size, fixed
from .steppers import stepper_of
from .traces import LayerTrace, StateGradients, Trace, thawed

__all__ = ["Recurrent"]

OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first")  # of all cells


class Recurrent(Layer):
    """A stack of recurrent layers of one cell. Use a class that names its cell, such as LSTM."""

    _not_pickled = (*Layer._not_pickled, "handle", "_stacks", "_stacked")
    cell: Cell = fixed("cell")
    input_size, hidden_size, num_layers, bias, batch_first = map(fixed, OPTIONS)

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False,
                 dtype=np.float32, rng=None, device="cpu"):  # fmt: skip
        super().__init__(dtype, device)
        self._input_size = check_size("input_size", input_size)
        self._hidden_size = check_size("hidden_size", hidden_size)
        self._num_layers = check_size("num_layers", num_layers)
        self._bias, self._batch_first = bool(bias), bool(batch_first)
        bound = 1 / math.sqrt(self._hidden_size)
        self._allocate(generator(rng), dict.fromkeys(self.parameters(), bound))

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {name: getattr(self, name) for name in OPTIONS} | {"dtype": self._dtype.name}

    def use_kernels(self, kernels):
        """Compute with the kernels of another device from now on."""
        self.handle = kernels.cell(self._cell.name)  # first: a GPU may not have it
        super().use_kernels(kernels)
        self._stacks = None  # made when they are first needed

    def check_movable(self, kernels):
        """Refuse to move to a device that does not have the cell."""
        kernels.cell(self._cell.name)

    def parameters(self):
        """Return the shapes of the parameters by PyTorch's names, with one bias per gate.

        For each layer l: weight_ih_l (G*H, I or H), weight_hh_l (G*H, H), bias_l (S*H,).
        """
        rows, shapes = len(self._cell.gates) * self._hidden_size, {}
        for i in range(self._num_layers):
            shapes[f"weight_ih_l{i}"] = (rows, self._hidden_size if i else self._input_size)
            shapes[f"weight_hh_l{i}"] = (rows, self._hidden_size)
            if self._bias:
                shapes[f"bias_l{i}"] = (self._cell.biases * self._hidden_size,)
        return shapes

    def weights(self):
        """Return the Weights of each layer of the stack, as kernels take them: views, not copies."""
        return [Weights(*(w.view() for w in one)) for one in self._both_stacks()[0]]

    def _both_stacks(self):
        """Return the Weights of each layer of the stack, and those of the gradients."""
        if self._stacks is None or self._stacked is not self._params:
            # Without biases, kernels add zeros, and leave their gradient where nobody looks.
            size = 0 if self._bias else self._cell.biases * self._hidden_size
            self._stacks = [
                [
                    Weights(
                        views[f"weight_ih_l{i}"],
                        views[f"weight_hh_l{i}"],
                        views[f"bias_l{i}"] if self._bias else no_bias,
                    )
                    for i in range(self._num_layers)
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
        """Check a state, or its gradient, and return its parts as a list of arrays (L, B, H)."""
        shape = (
            (self._num_layers, self._hidden_size)
            if unbatched
            else (self._num_layers, batch, self._hidden_size)
        )
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

    # -- calls -----------------------------------------------------------------------------------

    def forward(self, x, state=None, training=True, num_threads=None):
        """Run a sequence.

        Parameters
        ----------
        x : ndarray (T, B, I), or (T, I) for one unbatched sequence
            (B, T, I) with ``batch_first``.
        state : ndarray (L, B, H) for an RNN, the tuple (h, c) of such for an LSTM, or None
            The initial state; None means zeros. (L, H) for an unbatched sequence.
        training : bool
            Return a trace, for backward and inspection.
        num_threads : int, optional

        Returns
        -------
        y : ndarray (T, B, H)
            The hidden state of the last layer after every step, in the layout of x.
        state
            The state after the last step, in the form of `state`.
        trace : Trace or None
            None without `training`.

        Raises
        ------
        TypeError
            An array is not of the layer's type.
        ValueError
            A shape does not fit.
        """
        x_in, unbatched = self._enter("x", x, self._input_size)
        steps, batch, _ = x_in.shape
        layers, hidden = self._num_layers, self._hidden_size
        if state is None:
            zeros = self.kernels.arrays.zeros
            initial = [zeros((layers, batch, hidden), self._dtype) for _ in self._cell.states]
        else:
            initial = self.enter_state("state", state, batch, unbatched)
        final = [self.kernels.arrays.empty_like(part) for part in initial]
        y = self._empty((steps, batch, hidden))
        traces = [None] * layers
        if training:
            room = self.pool, self._dtype, (steps, batch, hidden)
            traces = [LayerTrace.empty(self._cell, *room, unbatched) for _ in range(layers)]
            x_copy = self.pool.array(x_in.shape, self._dtype)
            x_copy[...] = x_in
        if batch:
            calls = []
            for i, weights in enumerate(self._both_stacks()[0]):
                t = traces[i]
                h_n, c_n = self._pair(final, i)
                h0, c0 = self._pair(initial, i)
                saved = {"h": t.all_h, "c": t.all_c, "gates": t.all_gates} if t else {}
                calls.append(ForwardLayer(weights, h_n=h_n, c_n=c_n, h0=h0, c0=c0, **saved))
            self.kernels.recurrent_forward(self.handle, calls, x_in, y, num_threads)
        trace = None
        if training:
            saved = {"x": x_copy, "layers": [t.frozen() for t in traces]}
            trace = Trace(self, self.fingerprint(), **saved, unbatched=unbatched)
        return self._leave(y, unbatched), self._leave_state(final, unbatched), trace

    @in_turn
    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, consume=False,
                 need_grads=True, record=None):  # fmt: skip
        """Differentiate a forward call: add to ``grads``, and return the gradients of x and state.

        Parameters
        ----------
        dy : ndarray, in the shape of y, or None for zeros
            The gradient of the loss with respect to y.
        trace : Trace
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
            A StateGradients for each layer of the stack, the first one first, is appended to it: the
            gradients at the states of every step. Not with `consume`.

        Returns
        -------
        dx : ndarray, in the shape of x, or None
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
        steps, batch, _ = trace.x.shape
        unbatched = trace.unbatched
        if dy is not None:
            dy, _ = self._enter("dy", dy, self._hidden_size, (steps, batch, unbatched))
        arriving = [None] * len(self._cell.states)
        if dstate is not None:
            arriving = self.enter_state("dstate", dstate, batch, unbatched)
        departing = [
            self.kernels.arrays.zeros((self._num_layers, batch, self._hidden_size), self._dtype)
            for _ in self._cell.states
        ]
        dx = None
        if need_dx:
            dx = thawed(trace.x) if consume else self._empty(trace.x.shape)
        recorded = None
        if record is not None:
            recorded = [StateGradients.empty(t, self.pool) for t in trace.layers]
        if batch:
            calls, (weights, dweights) = [], self._both_stacks()
            for i, t in enumerate(trace.layers):
                fits = consume and len(self._cell.saved) == len(self._cell.gates)
                at_states = {"dgates": thawed(t.all_gates) if fits else None}
                if recorded:
                    one = recorded[i]
                    at_states = {
                        "dgates": one.dgates, "dh": one.dh_later, "dc": one.dc_later,
                        "dx": recorded[i - 1].dh_above if i else None,
                    }  # fmt: skip
                dh0, dc0 = self._pair(departing, i)
                dh_n, dc_n = self._pair(arriving, i)
                calls.append(
                    BackwardLayer(
                        weights[i], h=t.all_h, c=t.all_c, gates=t.all_gates, dh0=dh0, dc0=dc0,
                        dh_n=dh_n, dc_n=dc_n,
                        dweights=dweights[i] if need_grads else Weights(), **at_states,
                    )
                )  # fmt: skip
            self.kernels.recurrent_backward(
                self.handle, calls, dx, dy, trace.x, steps, batch, num_threads
            )
        if recorded:
            recorded[-1].dh_above[...] = 0 if dy is None else dy
            for i, gradients in enumerate(recorded):
                gradients.dx = recorded[i - 1].dh_above if i else dx
            record.extend(recorded)
        if consume:
            trace.x = trace.layers = None
        if dx is not None:
            dx = self._leave(dx, unbatched)
        return dx, self._leave_state(departing, unbatched)

    def carry_back(self, trace, carried, t0, t1, repeat, dx=None, num_threads=None):
        """Carry gradients at state t1 back to state t0, `repeat` of them for each row of the trace.

        Parameters
        ----------
        trace : Trace
        carried : ndarray (1 or 2, L, B * repeat, H)
            The gradients of h, or of h and c.
        t0, t1, repeat : int
        dx : ndarray (t1 - t0, B * repeat, I), optional
            The gradients of the inputs are written to it.
        num_threads : int, optional

        Returns
        -------
        ndarray, in the shape of `carried`
        """
        out, calls = self.kernels.arrays.empty_like(carried), []
        weights = self._both_stacks()[0]
        for i in range(self._num_layers):
            t = trace.layers[i]
            h, c, gates = (None if a is None else a[t0:] for a in (t.all_h, t.all_c, t.all_gates))
            dh0, dc0 = self._pair(out, i)
            dh_n, dc_n = self._pair(carried, i)
            calls.append(
                BackwardLayer(
                    weights[i], h=h, c=c, gates=gates, dh0=dh0, dc0=dc0, dh_n=dh_n, dc_n=dc_n
                )
            )
        self.kernels.recurrent_backward(
            self.handle, calls, dx, None, None, t1 - t0, carried.shape[2], num_threads, repeat
        )
        return out

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
            batch or num_threads is not a positive integer.
        """
        return stepper_of(self, check_size("batch", batch), num_threads)

    def check_form(self, trace, dstate=None):
        """Refuse anything but a trace of this layer and a dstate that fits; the weights are not compared."""
        super().check_form(trace)
        if trace.x is None:
            raise ValueError("trace was consumed by an earlier backward: call forward again")
        if dstate is not None:
            self.enter_state("dstate", dstate, trace.x.shape[1], trace.unbatched)

    @staticmethod
    def _pair(parts, i):
        """Return the h and c of layer i, c None where the cell has none."""
        both = [None if part is None else part[i] for part in parts]
        return both if len(both) == 2 else [both[0], None]
