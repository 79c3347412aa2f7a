"""Recurrent layers: RNN and LSTM over a whole sequence, forward, backward and step by step.

The arithmetic is in the kernels; here are shapes, states and what a trace keeps.
"""

import math

import numpy as np

from ._kernels.calls import BackwardLayer, ForwardLayer, Weights
from ._kernels.messages import shape_text
from .cells import CELLS, Cell
from .layer import Layer, check_size
from .steppers import stepper_of
from .traces import LayerTrace, StateGradients, Trace, thaw

__all__ = ["LSTM", "RNN"]


NONLINEARITIES = ("tanh", "relu", "identity")  # of an RNN


class Recurrent(Layer):
    """A stack of recurrent layers of one cell. Use RNN or LSTM."""

    cell: Cell

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dtype=np.float32,
        rng=None,
        device="cpu",
    ):
        super().__init__(dtype, device)
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        bound = 1 / math.sqrt(self.hidden_size)
        self._zero_bias = None  # made where it is needed
        self._allocate(np.random.default_rng(rng), dict.fromkeys(self.parameters(), bound))

    def _use(self, kernels):
        super()._use(kernels)
        self._handle = kernels.cell(self.cell.name)
        self._zero_bias = None

    def parameters(self):
        """Tell the parameters: PyTorch's names and shapes, with one bias.

        For each layer l: weight_ih_l (G*H, I or H), weight_hh_l (G*H, H), bias_l (G*H,).
        """
        rows, shapes = len(self.cell.gates) * self.hidden_size, {}
        for i in range(self.num_layers):
            shapes[f"weight_ih_l{i}"] = (rows, self.hidden_size if i else self.input_size)
            shapes[f"weight_hh_l{i}"] = (rows, self.hidden_size)
            if self.bias:
                shapes[f"bias_l{i}"] = (rows,)
        return shapes

    def _weights(self, views):
        if not self.bias and self._zero_bias is None:
            size = len(self.cell.gates) * self.hidden_size
            self._zero_bias = self._kernels.arrays.zeros(size, self.dtype)
        return [
            Weights(
                views[f"weight_ih_l{i}"],
                views[f"weight_hh_l{i}"],
                views.get(f"bias_l{i}", self._zero_bias),
            )
            for i in range(self.num_layers)
        ]

    # -- shapes at the edge ----------------------------------------------------------------------

    def _enter(self, name, x, features, like=None):
        """Check a sequence and give it as (T, B, features). `like`: (T, B, unbatched) it must have."""
        x = self._kernels.adopt(x)
        unbatched = like[2] if like else getattr(x, "ndim", None) == 2
        steps, batch = like[:2] if like else ("T", "B")
        order = (batch, steps) if self.batch_first else (steps, batch)
        wanted = (steps, features) if unbatched else (*order, features)
        if not like and getattr(x, "ndim", 3) not in (2, 3):
            raise ValueError(
                f"{name} must be {shape_text(wanted)} or (T, {features}), got {shape_text(x.shape)}"
            )
        # Checked before it is transposed, so that a message shows the shape that was given.
        x = self._kernels.checked(name, x, self.dtype, wanted)
        if unbatched:
            return x[:, None], True
        return (self._turned(x) if self.batch_first else x), False

    def _turned(self, x):
        return self._kernels.arrays.ascontiguousarray(x.swapaxes(0, 1))

    def _leave(self, y, unbatched):
        if unbatched:
            return y[:, 0]
        return self._turned(y) if self.batch_first else y

    def _enter_state(self, name, state, batch, unbatched):
        """Check a state, or its gradient, and give its parts as (L, B, H) arrays."""
        shape = (
            (self.num_layers, self.hidden_size)
            if unbatched
            else (self.num_layers, batch, self.hidden_size)
        )
        if len(self.cell.states) == 1:
            parts = (state,)
        elif isinstance(state, (tuple, list)) and len(state) == len(self.cell.states):
            parts = state
        else:
            names = ", ".join(self.cell.states)
            raise TypeError(
                f"{name} must be None or the tuple ({names}), got {type(state).__name__}"
            )
        labels = [f"{name}.{part}" if len(parts) > 1 else name for part in self.cell.states]
        parts = [
            self._kernels.checked(label, part, self.dtype, shape)
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
            Keep what backward and inspection need.
        num_threads : int, optional

        Returns
        -------
        y : ndarray (T, B, H)
            The hidden state of the last layer after every step; laid out as x.
        state
            The state after the last step, in the form of `state`.
        trace : Trace or None

        Raises
        ------
        TypeError
            An array is not of the layer's type.
        ValueError
            A shape does not fit.
        """
        x_in, unbatched = self._enter("x", x, self.input_size)
        steps, batch, _ = x_in.shape
        layers, hidden = self.num_layers, self.hidden_size
        if state is None:
            zeros = self._kernels.arrays.zeros
            initial = [zeros((layers, batch, hidden), self.dtype) for _ in self.cell.states]
        else:
            initial = self._enter_state("state", state, batch, unbatched)
        final = [self._kernels.arrays.empty_like(part) for part in initial]
        y = self._empty((steps, batch, hidden))
        traces = [None] * layers
        if training:
            traces = [self._new_layer_trace(steps, batch, unbatched) for _ in range(layers)]
            kept = self._pool.array(x_in.shape, self.dtype)
            kept[...] = x_in
        if batch:
            calls = []
            for i, weights in enumerate(self._weights(self._params)):
                t = traces[i]
                h_n, c_n = self._pair(final, i)
                h0, c0 = self._pair(initial, i)
                saved = {"h": t.all_h, "c": t.all_c, "gates": t.all_gates} if t else {}
                calls.append(ForwardLayer(weights, h_n=h_n, c_n=c_n, h0=h0, c0=c0, **saved))
            self._kernels.recurrent_forward(self._handle, calls, x_in, y, num_threads)
        trace = None
        if training:
            trace = Trace(self, self._fingerprint(), x=kept, layers=traces, unbatched=unbatched)
        return self._leave(y, unbatched), self._leave_state(final, unbatched), trace

    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, consume=False,
                 need_grads=True, record=None):  # fmt: skip
        """Differentiate a forward call: adds to ``grads``, writes no parameter.

        Parameters
        ----------
        dy : ndarray, in the shape of y, or None for zeros
            The gradient of the loss with respect to y.
        trace : Trace
            Of this layer's forward, with the weights as they were.
        dstate : in the form of the state, or None for zeros
            The gradient arriving through the final state.
        num_threads : int, optional
        need_dx : bool
            Whether to compute dx; without, None takes its place.
        consume : bool
            Let backward use the trace's memory for its own: the trace is spent afterwards.
        need_grads : bool
            Whether to compute the gradients of the weights; without, ``grads`` stays as it is.
        record : list, optional
            Gets a StateGradients for each layer of the stack, the first one first: the gradients at the
            states of every step. Not with `consume`.

        Returns
        -------
        dx : ndarray, in the shape of x
        dstate
            The gradient with respect to the initial state, in the form of the state.

        Raises
        ------
        ValueError
            The trace is another layer's, or spent; the weights have changed; a shape does not fit.
        """
        self._check_trace(trace, dstate)
        if consume and record is not None:
            raise ValueError("record reads the trace: it can not go with consume")
        if record is not None and not isinstance(record, list):
            raise TypeError(f"record must be a list, got {type(record).__name__}")
        steps, batch, _ = trace.x.shape
        unbatched = trace.unbatched
        if dy is not None:
            dy, _ = self._enter("dy", dy, self.hidden_size, (steps, batch, unbatched))
        arriving = [None] * len(self.cell.states)
        if dstate is not None:
            arriving = self._enter_state("dstate", dstate, batch, unbatched)
        departing = [
            self._kernels.arrays.zeros((self.num_layers, batch, self.hidden_size), self.dtype)
            for _ in self.cell.states
        ]
        dx = None
        if need_dx:
            dx = trace.x.view() if consume else self._empty(trace.x.shape)
            thaw(dx)
        kept = (
            [self._new_gradients(t, trace.x.shape) for t in trace.layers]
            if record is not None
            else None
        )
        if batch:
            calls, weights = [], self._weights(self._params)
            for i, grads in enumerate(self._weights(self._grads)):
                t = trace.layers[i]
                if not need_grads:
                    grads = Weights()
                elif not self.bias:
                    grads = grads._replace(bias=self._kernels.arrays.zeros_like(grads.bias))
                handed_out = {"dgates": t.all_gates if consume else None}
                if kept:
                    handed_out = {
                        "dgates": kept[i].dgates, "dh": kept[i].dh_later, "dc": kept[i].dc_later,
                        "dx": kept[i - 1].dh_above if i else None,
                    }  # fmt: skip
                dh0, dc0 = self._pair(departing, i)
                dh_n, dc_n = self._pair(arriving, i)
                calls.append(
                    BackwardLayer(
                        weights[i], h=t.all_h, c=t.all_c, gates=t.all_gates, dh0=dh0, dc0=dc0,
                        dh_n=dh_n, dc_n=dc_n, dweights=grads, **handed_out,
                    )
                )  # fmt: skip
            self._kernels.recurrent_backward(
                self._handle, calls, dx, dy, trace.x, steps, batch, num_threads
            )
        if kept:
            kept[-1].dh_above[...] = 0 if dy is None else dy
            for i, gradients in enumerate(kept):
                gradients.dx = kept[i - 1].dh_above if i else dx
            record.extend(kept)
        if consume:
            trace.x = trace.layers = None
        if dx is not None:
            dx = self._leave(dx, unbatched)
        return dx, self._leave_state(departing, unbatched)

    def _new_gradients(self, kept, shape):
        """Make room for what backward hands out of one layer; what lies above it is made by the next one."""
        steps, batch, _ = shape
        state = (steps, batch, self.hidden_size)
        sums = (steps, batch, len(self.cell.gates) * self.hidden_size)
        above, later = (self._pool.array(state, self.dtype) for _ in range(2))
        through_c = None if kept.all_c is None else self._pool.array(state, self.dtype)
        return StateGradients(kept, above, later, through_c, self._pool.array(sums, self.dtype))

    def _carry_back(self, trace, carried, t0, t1, repeat, dx=None, num_threads=None):
        """Carry gradients of state t1 back to state t0, `repeat` of them for each row of the trace.

        carried (1 or 2, L, B * repeat, H) is one array for h, or h and c, and so is what comes back.
        dx (t1 - t0, B * repeat, I), optional, is written.
        """
        out, calls = self._kernels.arrays.empty_like(carried), []
        weights = self._weights(self._params)
        for i in range(self.num_layers):
            t = trace.layers[i]
            h, c, gates = (None if a is None else a[t0:] for a in (t.all_h, t.all_c, t.all_gates))
            dh0, dc0 = self._pair(out, i)
            dh_n, dc_n = self._pair(carried, i)
            calls.append(
                BackwardLayer(
                    weights[i], h=h, c=c, gates=gates, dh0=dh0, dc0=dc0, dh_n=dh_n, dc_n=dc_n
                )
            )
        self._kernels.recurrent_backward(
            self._handle, calls, dx, None, None, t1 - t0, carried.shape[2], num_threads, repeat
        )
        return out

    def stepper(self, batch=1, num_threads=None):
        """Give a Stepper: one step at a call, packed weights, own state, which starts at zeros.

        It keeps the weights as they are now; its ``refresh()`` takes them as they are then.
        """
        return stepper_of(self, check_size("batch", batch), num_threads)

    def _check_form(self, trace, dstate=None):
        super()._check_form(trace)
        if trace.x is None:
            raise ValueError("trace was consumed by an earlier backward: call forward again")
        if dstate is not None:
            self._enter_state("dstate", dstate, trace.x.shape[1], trace.unbatched)

    @staticmethod
    def _pair(parts, i):
        """Give layer i's h and c, c None where the cell has none."""
        both = [None if part is None else part[i] for part in parts]
        return both if len(both) == 2 else [both[0], None]

    def _new_layer_trace(self, steps, batch, unbatched):
        states = (steps + 1, batch, self.hidden_size)
        h = self._pool.array(states, self.dtype)
        c = self._pool.array(states, self.dtype) if self.cell.has_c else None
        gates = None
        if self.cell.saves_gates:
            sums = (steps, batch, len(self.cell.gates) * self.hidden_size)
            gates = self._pool.array(sums, self.dtype)
        return LayerTrace(self.cell, h, c, gates, unbatched)


class RNN(Recurrent):
    """The simple recurrent network (Elman 1990): h = nonlinearity(W x + R h_before + b).

    Parameters
    ----------
    input_size : int
        I, the features of x.
    hidden_size : int
        H, the units of each layer.
    num_layers : int
        L, stacked: each reads the h of the one below.
    nonlinearity : "tanh", "relu" or "identity"
    bias : bool
    batch_first : bool
        x and y are (B, T, .) instead of (T, B, .); states are not affected.
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Of the initial values, uniform within 1/sqrt(H).
    device : "cpu", "cuda" or "cuda:N"
        Where the weights are, and all arrays of its calls: of NumPy, or of CuPy on the current GPU or GPU N.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers, or an unknown nonlinearity or type.
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        nonlinearity="tanh",
        bias=True,
        batch_first=False,
        dtype=np.float32,
        rng=None,
        device="cpu",
    ):
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(
                f"nonlinearity must be one of {', '.join(NONLINEARITIES)}, got {nonlinearity!r}"
            )
        self.nonlinearity = nonlinearity
        self.cell = CELLS[f"rnn_{nonlinearity}"]
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dtype, rng, device)


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i, f, o = sigmoid(W x + R h_before + b) and g = tanh(...), by gate; c = f c_before + i g; h = o tanh(c).

    Parameters
    ----------
    input_size : int
        I, the features of x.
    hidden_size : int
        H, the units of each layer.
    num_layers : int
        L, stacked: each reads the h of the one below.
    bias : bool
        One bias per gate; PyTorch's two are to be summed.
    batch_first : bool
        x and y are (B, T, .) instead of (T, B, .); states are not affected.
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Of the initial values, uniform within 1/sqrt(H).
    device : "cpu", "cuda" or "cuda:N"
        Where the weights are, and all arrays of its calls: of NumPy, or of CuPy on the current GPU or GPU N.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers, or an unknown type.
    """

    cell = CELLS["lstm"]
