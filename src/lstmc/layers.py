"""The layers that are not recurrent: Linear, Embedding, Dropout, Last. What a layer is, is in layer.py."""

import math

import numpy as np

from ._kernels import cpu, kernels_of
from ._kernels.messages import shape_text
from ._kernels.turns import in_turn
from .files import built_in, check_rng, generator
from .layer import (
    Layer,
    check_flag,
    check_share,
    check_size,
    fixed,
    float_array,
    leading_rows,
    write_out,
)
from .lengths import check_lengths
from .steppers import LinearStepper
from .traces import Trace

__all__ = ["Dropout", "Embedding", "Last", "Linear"]


@built_in("in_features", "out_features", bias=True, dtype="float32")
class Linear(Layer):
    """An affine map of the last axis: y = x weight^T + bias.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Draws the initial weights, uniform within 1/sqrt(in_features).
    device : "cpu", "cuda" or "cuda:N"

    Raises
    ------
    TypeError, ValueError
        A size is not a positive integer, or the type is another one.
    """

    in_features = fixed("in_features")
    out_features = fixed("out_features")
    bias = fixed("bias")

    def __init__(
        self, in_features, out_features, bias=True, dtype=np.float32, rng=None, device="cpu"
    ):
        super().__init__(dtype, device)
        self._in_features = check_size("in_features", in_features)
        self._out_features = check_size("out_features", out_features)
        self._bias = check_flag("bias", bias)
        bound = 1 / math.sqrt(self._in_features)
        self._allocate(generator(rng), {"weight": bound, "bias": bound})

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {
            "in_features": self._in_features,
            "out_features": self._out_features,
            "bias": self._bias,
            "dtype": self._dtype.name,
        }

    def parameters(self):
        """Return the shapes of weight (out, in) and bias (out,)."""
        shapes = {"weight": (self._out_features, self._in_features)}
        return {**shapes, "bias": (self._out_features,)} if self._bias else shapes

    def forward(self, x, state=None, training=True, num_threads=None):
        """Return y (..., out_features) for x (..., in_features), the state unchanged, and a trace.

        Raises
        ------
        TypeError, ValueError
            x is not an array of the layer's type, or its shape does not fit.
        """
        x = self.kernels.adopt(x)
        rows = leading_rows(self.kernels, x, "x", self._in_features, self._dtype)
        y = self.empty((*x.shape[:-1], self._out_features))
        if rows.size:
            flat = y.reshape(-1, self._out_features)
            self.kernels.linear_forward(
                flat, rows, self._params["weight"], self._params.get("bias"), num_threads
            )
        trace = None
        if training:
            copy = self.pool.array(rows.shape, self._dtype)
            copy[...] = rows
            trace = Trace(self, self.fingerprint(), x=copy, shape=x.shape)
        return y, state, trace

    @in_turn
    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, need_grads=True):
        """Add to the gradients, if needed; return dx in the shape of x, or None, and dstate unchanged.

        Raises
        ------
        TypeError, ValueError
            dy does not fit, the trace is not this layer's, or the weights have changed since.
        """
        self.check_trace(trace)
        rows = self.kernels.checked("dy", dy, self._dtype, (*trace.shape[:-1], self._out_features))
        dx = self.empty(trace.shape) if need_dx else None
        if rows.size:
            flat_dx = None if dx is None else dx.reshape(-1, self._in_features)
            self.kernels.linear_backward(
                flat_dx,
                self._grads["weight"] if need_grads else None,
                self._grads.get("bias") if need_grads else None,
                rows.reshape(-1, self._out_features),
                trace.x,
                self._params["weight"],
                num_threads,
            )
        return dx, dstate

    def stepper(self, batch=1, num_threads=None):
        """Return a LinearStepper: it takes one step x (batch, in) or, for one row, (in,)."""
        return LinearStepper(self, num_threads)


@built_in("num_embeddings", "embedding_dim", dtype="float32")
class Embedding(Layer):
    """A table with one row of features per token.

    Parameters
    ----------
    num_embeddings : int
        V, the number of tokens.
    embedding_dim : int
        The features of a row.
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Draws the initial weights, standard normal.
    device : "cpu", "cuda" or "cuda:N"

    Raises
    ------
    TypeError, ValueError
        A size is not a positive integer, or the type is another one.
    """

    num_embeddings = fixed("num_embeddings")
    embedding_dim = fixed("embedding_dim")

    def __init__(self, num_embeddings, embedding_dim, dtype=np.float32, rng=None, device="cpu"):
        super().__init__(dtype, device)
        self._num_embeddings = check_size("num_embeddings", num_embeddings)
        self._embedding_dim = check_size("embedding_dim", embedding_dim)
        rng = generator(rng)
        self._allocate(rng, {"weight": 0})
        if rng is not None:
            self._fill("weight", rng.standard_normal(self._params["weight"].shape))

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {
            "num_embeddings": self._num_embeddings,
            "embedding_dim": self._embedding_dim,
            "dtype": self._dtype.name,
        }

    def parameters(self):
        """Return the shape of weight: (V, features)."""
        return {"weight": (self._num_embeddings, self._embedding_dim)}

    def forward(self, x, state=None, training=True, num_threads=None):
        """Return y (..., features) for token ids x (...), the state unchanged, and a trace.

        Raises
        ------
        TypeError, ValueError
            x is not an int64 or int32 array, or a token is not in [0, V).
        """
        tokens = self.kernels.checked_tokens("tokens", x, self._num_embeddings)
        # A copy, before it is used: backward is to see what forward saw.
        if training and self.kernels.arrays.may_share_memory(tokens, self.kernels.adopt(x)):
            tokens = tokens.copy()
        y = self.empty((*tokens.shape, self._embedding_dim))
        self.kernels.embedding_forward(y, tokens, self._params["weight"])
        return y, state, Trace(self, None, tokens=tokens) if training else None

    @in_turn
    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, need_grads=True):
        """Add to the gradient, if needed; return None, as tokens have no gradient, and dstate unchanged.

        Raises
        ------
        TypeError, ValueError
            dy does not fit, or the trace is not this layer's.
        """
        self.check_trace(trace)
        shape = (*trace.tokens.shape, self._embedding_dim)
        dy = self.kernels.checked("dy", dy, self._dtype, shape)
        if need_grads:
            self.kernels.embedding_backward(self._grads["weight"], dy, trace.tokens, num_threads)
        return None, dstate

    def fingerprint(self):
        """Return None: backward does not read the weights."""

    def stepper(self, batch=1, num_threads=None):
        """Return a function of one step: tokens (batch,) to (batch, features), or one to (features,)."""

        def step(x, out=None):
            if not hasattr(x, "shape") or isinstance(x, np.generic):
                x = self.kernels.arrays.asarray(x)
            y = self.forward(x, training=False)[0]
            return y if out is None else write_out(self.kernels, out, y)

        return step


@built_in(p=0.5)
class Dropout(Layer):
    """Zero a share of x in training and scale the rest up by 1 / (1 - p) (Zaremba et al. 2014, section 3.1).

    Parameters
    ----------
    p : float
        The share that is dropped, in [0, 1).
    rng : int, numpy Generator or None
        Draws the masks, in training only.

    Raises
    ------
    ValueError
        p is not in [0, 1).
    """

    keeps_features = True

    def __init__(self, p=0.5, rng=None):
        super().__init__()
        self.p, self.rng = p, generator(rng, of_weights=False)

    @property
    def p(self):
        """The share that is dropped, in [0, 1)."""
        return self._p

    @p.setter
    def p(self, p):
        self._p = check_share("p", p)

    @property
    def rng(self):
        """The generator of the masks; an int or None, when set, makes a new one."""
        return self._rng

    @rng.setter
    def rng(self, rng):
        self._rng = check_rng(rng)

    def options(self):
        """Return the arguments that make a layer like this one, as plain data; not where masks come from."""
        return {"p": self.p}

    def forward(self, x, state=None, training=True, drop=True):
        """Return y in the shape and type of x, the state unchanged, and a trace.

        Parameters
        ----------
        x : ndarray
        state : optional
        training : bool
            Return a trace, and drop.
        drop : bool
            If not, nothing is dropped in training either: the trace is then that of inference.

        Raises
        ------
        TypeError
            x is not an array of floats.
        """
        kernels = kernels_of(x)
        x = float_array(kernels, "x", x)
        if not training:
            return x.copy(), state, None
        mask = kernels.dropout_mask(self.rng, self.p, x.shape) if drop else None
        form = {"shape": x.shape, "dtype": x.dtype, "kernels": kernels}
        trace = Trace(self, None, mask=mask, factor=1 / (1 - self.p), **form)
        return self._masked(x, trace), state, trace

    def fingerprint(self):
        """Return None: there are no weights."""

    def _masked(self, x, trace):
        if trace.mask is None:
            return x.copy()
        pool = self.pool if trace.kernels is self.kernels else trace.kernels.Pool()
        y = pool.array(x.shape, trace.dtype)
        trace.kernels.masked(y, x, trace.mask, trace.factor)
        return y

    def backward(self, dy, trace, dstate=None):
        """Return dx, and dstate unchanged.

        Raises
        ------
        TypeError, ValueError
            dy does not fit, or the trace is not this layer's.
        """
        self.check_trace(trace)
        dy = trace.kernels.checked("dy", dy, trace.dtype, trace.shape)
        return self._masked(dy, trace), dstate

    def stepper(self, batch=1, num_threads=None):
        """Return a function of one step. Stepping is inference, which drops nothing."""
        return _copying(self)


@built_in()
class Last(Layer):
    """Where each row of a sequence ends: (B, D*P) of (T, B, D*P), of an unbatched one (D*P,) of (T, D*P).

    The features of the forward direction are those of the row's last real step, T-1 or ``lengths[b] - 1``.
    Those of the reverse direction, where the recurrent layer before is bidirectional, are those of its
    first step, at which that direction ends. Of a row without a step they are zero.

    In a network it follows a recurrent layer, perhaps with other layers between: after a bidirectional one
    only such as keep features apart (``keeps_features``), as Dropout does. No layer that needs time may
    follow it. By itself it takes all features for those of the forward direction.
    """

    keeps_time = False

    def __init__(self):
        super().__init__()
        self._directions = 1

    def options(self):
        """Return the arguments that make a layer like this one: none."""
        return {}

    def use_kernels(self, kernels):
        """Compute with the kernels of another device from now on; a GPU is refused."""
        self.check_movable(kernels)
        super().use_kernels(kernels)

    def check_movable(self, kernels):
        """Refuse a GPU, which does not have the layer."""
        if kernels is not cpu:
            raise ValueError("a GPU does not have the layer Last yet")

    def follow(self, directions):
        """Read an x that has so many directions, 1 or 2, from now on."""
        self._directions = directions

    def _sources(self, shape, lengths):
        """Yield where y comes from in x (T, B, D*P): the steps, their rows, and the features."""
        steps, batch, features = shape
        ends = np.full(batch, steps) if lengths is None else np.atleast_1d(lengths)
        rows, half = np.flatnonzero(ends), features // self._directions
        yield ends[rows] - 1, rows, slice(0, half)
        if self._directions == 2:
            yield np.zeros_like(rows), rows, slice(half, features)

    def __call__(self, x, state=None, lengths=None):
        """Run without a trace for backward: return y and the state."""
        y, state, _ = self.forward(x, state, training=False, lengths=lengths)
        return y, state

    def forward(self, x, state=None, training=True, lengths=None):
        """Return y, the state unchanged, and a trace.

        Parameters
        ----------
        x : ndarray (T, B, D*P), or (T, D*P) for one unbatched sequence
        state : optional
        training : bool
            Return a trace.
        lengths : array_like (B,) of integers, or an integer for an unbatched sequence, optional
            The real steps of each row, 0 to T.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit, or x is on a GPU.
        """
        self.check_movable(kernels_of(x))
        x = float_array(self.kernels, "x", x)
        if x.ndim not in (2, 3) or x.shape[-1] % self._directions:
            even = " with an even number of features" if self._directions == 2 else ""
            raise ValueError(
                f"x must be (T, B, features) or (T, features){even}, got {shape_text(x.shape)}"
            )
        if lengths is not None:
            lengths = check_lengths(lengths, x.shape[:-1])
        batched = x if x.ndim == 3 else x[:, None]
        y = np.zeros(batched.shape[1:], x.dtype)
        for steps, rows, part in self._sources(batched.shape, lengths):
            y[rows, part] = batched[steps, rows, part]
        form = {"shape": x.shape, "dtype": x.dtype, "lengths": lengths}
        y = y.reshape(x.shape[1:])
        return y, state, Trace(self, None, **form) if training else None

    def backward(self, dy, trace, dstate=None):
        """Return dx, zero but where y was taken from, and dstate unchanged.

        Raises
        ------
        TypeError, ValueError
            dy does not fit, or the trace is not this layer's.
        """
        self.check_trace(trace)
        dy = self.kernels.checked("dy", dy, trace.dtype, trace.shape[1:])
        dx = self.pool.array(trace.shape, trace.dtype)
        dx[...] = 0
        batched = dx if dx.ndim == 3 else dx[:, None]
        dy = dy.reshape(batched.shape[1:])
        for steps, rows, part in self._sources(batched.shape, trace.lengths):
            batched[steps, rows, part] = dy[rows, part]
        return dx, dstate

    def fingerprint(self):
        """Return None: there are no weights."""

    def stepper(self, batch=1, num_threads=None):
        """Return a function of one step, which returns a copy of x: the step is the last so far.

        Raises
        ------
        ValueError
            The layer before it runs in two directions: the reverse one begins at the end.
        """
        if self._directions == 2:
            raise ValueError(
                "Last of a bidirectional layer has no stepper: it needs the whole sequence"
            )
        return _copying(self)


def _copying(layer):
    """Return the step of a layer that copies x."""

    def step(x, out=None):
        is_plain = type(x) is np.ndarray and x.dtype.char in "fd" and x.dtype.isnative
        kernels = layer.kernels if is_plain else kernels_of(x)
        if not is_plain:
            x = float_array(kernels, "x", x)
        return x.copy() if out is None else write_out(kernels, out, x)

    return step
