"""Recurrent layers: RNN and LSTM over a whole sequence, forward, backward and step by step.

The arithmetic is in the kernels; here are shapes, states and what a trace keeps.
"""

import math

import numpy as np

from ._kernels import cpu, kind_of
from ._kernels.binding.core import ACTIVATIONS, CELLS
from ._kernels.messages import shape_text
from .layer import Layer, Trace, check_size, freeze, thaw

__all__ = ["LSTM", "RNN"]


class LayerTrace:
    """What one layer of a stack did: read-only views, states 1..T.

    Attributes
    ----------
    h : ndarray (T, B, H)
        The hidden state after each step.
    c : ndarray (T, B, H) or None
        The cell state after each step; None for an RNN.
    gates : dict of str to ndarray (T, B, H)
        The activated gates "i", "f", "g", "o" of an LSTM; empty for an RNN, whose only gate is h.
    """

    def __init__(self, h, c, gates, names, unbatched):
        def view(a):
            return a[:, 0] if unbatched else a

        self._h, self._c, self._gates = h, c, gates
        for array in (h, c, gates):
            freeze(array)
        self.h = view(h[1:])
        self.c = None if c is None else view(c[1:])
        size = h.shape[2]
        self.gates = {}
        if gates is not None:
            self.gates = {
                n: view(gates[:, :, i * size : (i + 1) * size]) for i, n in enumerate(names)
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
        """What arrives at c through h of the same step: dh o (1 - tanh(c)^2). None for an RNN."""
        if self.dc_later is None:
            return None
        hidden = self.dc_later.shape[2]
        passed = 1 - np.tanh(self._trace._c[1:]) ** 2
        return self.dh * self._trace._gates[:, :, 3 * hidden :] * passed

    @property
    def dc(self):
        """The whole gradient at c: dc_through_h + dc_later. None for an RNN."""
        return None if self.dc_later is None else self.dc_through_h + self.dc_later


class Recurrent(Layer):
    """A stack of recurrent layers of one cell. Use RNN or LSTM."""

    _cell: str
    _gates: tuple  # names, in the order of the weight rows
    _states: tuple  # names of what the state holds

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
        self._activation = 0
        bound = 1 / math.sqrt(self.hidden_size)
        self._zero_bias = None  # made where it is needed
        self._allocate(np.random.default_rng(rng), dict.fromkeys(self.parameters(), bound))

    def _use(self, kernels):
        super()._use(kernels)
        self._zero_bias = None

    def parameters(self):
        """Tell the parameters: PyTorch's names and shapes, with one bias.

        For each layer l: weight_ih_l (G*H, I or H), weight_hh_l (G*H, H), bias_l (G*H,).
        """
        rows, shapes = len(self._gates) * self.hidden_size, {}
        for i in range(self.num_layers):
            shapes[f"weight_ih_l{i}"] = (rows, self.hidden_size if i else self.input_size)
            shapes[f"weight_hh_l{i}"] = (rows, self.hidden_size)
            if self.bias:
                shapes[f"bias_l{i}"] = (rows,)
        return shapes

    def _weights(self, views):
        if not self.bias and self._zero_bias is None:
            size = len(self._gates) * self.hidden_size
            self._zero_bias = self._kernels.arrays.zeros(size, self.dtype)
        return [
            (
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
        if len(self._states) == 1:
            parts = (state,)
        elif isinstance(state, (tuple, list)) and len(state) == len(self._states):
            parts = state
        else:
            names = ", ".join(self._states)
            raise TypeError(
                f"{name} must be None or the tuple ({names}), got {type(state).__name__}"
            )
        labels = [f"{name}.{part}" if len(parts) > 1 else name for part in self._states]
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
            initial = [zeros((layers, batch, hidden), self.dtype) for _ in self._states]
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
                saved = (t._h, t._c, t._gates) if t else (None, None, None)
                calls.append((*self._pair(final, i), *saved, *self._pair(initial, i), *weights))
            self._kernels.recurrent_forward(
                CELLS[self._cell], self._activation, calls, x_in, y, num_threads
            )
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
        arriving = [None] * len(self._states)
        if dstate is not None:
            arriving = self._enter_state("dstate", dstate, batch, unbatched)
        departing = [
            self._kernels.arrays.zeros((self.num_layers, batch, self.hidden_size), self.dtype)
            for _ in self._states
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
            calls = []
            for i, grads in enumerate(self._weights(self._grads)):
                t = trace.layers[i]
                if not need_grads:
                    grads = (None, None, None)
                elif not self.bias:
                    grads = (*grads[:2], self._kernels.arrays.zeros_like(self._zero_bias))
                handed = (t._gates if consume else None, None, None, None)
                if kept:
                    above = kept[i - 1].dh_above if i else None
                    handed = (kept[i].dgates, kept[i].dh_later, kept[i].dc_later, above)
                calls.append(
                    (
                        *self._pair(departing, i),
                        *grads,
                        *self._pair(arriving, i),
                        *(t._h, t._c, t._gates),
                        *handed,
                        *self._weights(self._params)[i][:2],
                    )
                )
            self._kernels.recurrent_backward(
                CELLS[self._cell], self._activation, calls, dx, dy, trace.x, steps, batch,
                num_threads,
            )  # fmt: skip
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
        sums = (steps, batch, len(self._gates) * self.hidden_size)
        above, later = (self._pool.array(state, self.dtype) for _ in range(2))
        through_c = None if kept._c is None else self._pool.array(state, self.dtype)
        return StateGradients(kept, above, later, through_c, self._pool.array(sums, self.dtype))

    def _carry_back(self, trace, carried, t0, t1, repeat, dx=None, num_threads=None):
        """Carry gradients of state t1 back to state t0, `repeat` of them for each row of the trace.

        carried (1 or 2, L, B * repeat, H) is one array for h, or h and c, and so is what comes back.
        dx (t1 - t0, B * repeat, I), optional, is written.
        """
        out, calls = self._kernels.arrays.empty_like(carried), []
        for i in range(self.num_layers):
            t = trace.layers[i]
            states = (
                (t._h[t0:], None, None) if t._c is None else (t._h[t0:], t._c[t0:], t._gates[t0:])
            )
            calls.append(
                (
                    *self._pair(out, i),
                    *(None, None, None),
                    *self._pair(carried, i),
                    *states,
                    *(None, None, None, None),
                    *self._weights(self._params)[i][:2],
                )
            )
        self._kernels.recurrent_backward(
            CELLS[self._cell], self._activation, calls, dx, None, None, t1 - t0,
            carried.shape[2], num_threads, repeat,
        )  # fmt: skip
        return out

    def stepper(self, batch=1, num_threads=None):
        """Give a Stepper: one step at a call, packed weights, own state, which starts at zeros.

        It keeps the weights as they are now; its ``refresh()`` takes them as they are then.
        """
        return _stepper_on(self._kernels)(self, check_size("batch", batch), num_threads)

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
        c = gates = None
        if self._cell == "lstm":
            c = self._pool.array(states, self.dtype)
            gates = self._pool.array(
                (steps, batch, len(self._gates) * self.hidden_size), self.dtype
            )
        return LayerTrace(h, c, gates, self._gates, unbatched)


class StepperFace:
    """Steps a recurrent layer: ``y_t = stepper(x_t)`` or ``stepper(x_t, out=y_t)``.

    x_t is (B, I) and y_t (B, H), a fresh array unless `out` is given; with batch=1 also (I,) and (H,).
    The weights were packed when it was made: ``refresh()`` takes them as they are now. One thread may
    use a stepper at a time; several steppers may share a model.
    """

    def __new__(cls, layer, batch, num_threads):
        """Pack the weights of a layer."""
        return super().__new__(
            cls,
            CELLS[layer._cell],
            layer._activation,
            lambda: layer._weights(layer._params),
            batch,
            num_threads,
        )

    def __init__(self, layer, batch, num_threads):
        self._layer = layer
        self._batch = batch

    @property
    def state(self):
        """The state: h (L, B, H), or (h, c). Reading gives copies; assigning copies, None zeros."""
        parts = [part.copy() for part in self.states()]
        return parts[0] if len(parts) == 1 else tuple(parts)

    @state.setter
    def state(self, state):
        if state is None:
            return self.reset()
        parts = self._layer._enter_state("state", state, self._batch, False)
        for mine, given in zip(self.states(), parts):
            mine[...] = given

    def reset(self, mask=None):
        """Zero the state: of all rows, or of those where mask (B,), of booleans, is true."""
        if mask is None:
            for part in self.states():
                part[...] = 0
            return
        array = self._layer._kernels.arrays.ndarray
        if not isinstance(mask, array) or mask.dtype != bool or mask.shape != (self._batch,):
            got = (
                f"{mask.dtype} {shape_text(mask.shape)}"
                if isinstance(mask, array)
                else kind_of(mask)
            )
            raise ValueError(f"mask must be a bool array ({self._batch},), got {got}")
        for part in self.states():
            part[:, mask] = 0


class Stepper(StepperFace, cpu.RecurrentStepper):
    """A stepper on the CPU."""


def _stepper_on(kernels):
    """Give the class of steppers of a device."""
    if kernels is cpu:
        return Stepper
    return type(
        "Stepper", (StepperFace, kernels.RecurrentStepper), {"__doc__": StepperFace.__doc__}
    )


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

    _cell = "rnn"
    _gates = ("h",)
    _states = ("h",)

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
        if nonlinearity not in ACTIVATIONS:
            raise ValueError(
                f"nonlinearity must be one of {', '.join(ACTIVATIONS)}, got {nonlinearity!r}"
            )
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dtype, rng, device)
        self.nonlinearity = nonlinearity
        self._activation = ACTIVATIONS[nonlinearity]


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

    _cell = "lstm"
    _gates = ("i", "f", "g", "o")
    _states = ("h", "c")
