"""The layers that are not recurrent: Linear, Embedding, Dropout. What a layer is, is in layer.py."""

import math

import numpy as np

from ._kernels import kernels_of
from .layer import Layer, check_share, check_size, check_writable, float_array, leading_rows
from .steppers import LinearStepper
from .traces import Trace

__all__ = ["Dropout", "Embedding", "Linear"]


class Linear(Layer):
    """An affine map of the last axis: y = x weight^T + bias.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Of the initial values, uniform within 1/sqrt(in_features).
    device : "cpu", "cuda" or "cuda:N"

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers.
    """

    def __init__(
        self, in_features, out_features, bias=True, dtype=np.float32, rng=None, device="cpu"
    ):
        super().__init__(dtype, device)
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        self.bias = bool(bias)
        bound = 1 / math.sqrt(self.in_features)
        self._allocate(np.random.default_rng(rng), {"weight": bound, "bias": bound})

    def parameters(self):
        """Tell the parameters: weight (out, in) and bias (out,)."""
        shapes = {"weight": (self.out_features, self.in_features)}
        return {**shapes, "bias": (self.out_features,)} if self.bias else shapes

    def forward(self, x, state=None, training=True, num_threads=None):
        """Give y (..., out_features) for x (..., in_features), the state as it came, and a trace."""
        x = self._kernels.adopt(x)
        rows = leading_rows(self._kernels, x, "x", self.in_features, self.dtype)
        y = self._empty((*x.shape[:-1], self.out_features))
        if rows.size:
            flat = y.reshape(-1, self.out_features)
            self._kernels.linear_forward(
                flat, rows, self._params["weight"], self._params.get("bias"), num_threads
            )
        trace = None
        if training:
            kept = self._pool.array(rows.shape, self.dtype)
            kept[...] = rows
            trace = Trace(self, self._fingerprint(), x=kept, shape=x.shape)
        return y, state, trace

    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True, need_grads=True):
        """Add to the gradients, if needed; give dx in the shape of x, or None, and dstate as it came."""
        self._check_trace(trace)
        rows = self._kernels.checked("dy", dy, self.dtype, (*trace.shape[:-1], self.out_features))
        dx = self._empty(trace.shape) if need_dx else None
        if rows.size:
            flat_dx = None if dx is None else dx.reshape(-1, self.in_features)
            self._kernels.linear_backward(
                flat_dx,
                self._grads["weight"] if need_grads else None,
                self._grads.get("bias") if need_grads else None,
                rows.reshape(-1, self.out_features),
                trace.x,
                self._params["weight"],
                num_threads,
            )
        return dx, dstate

    def stepper(self, batch=1, num_threads=None):
        """Give an object that maps one step: x (batch, in) or, for one row, (in,)."""
        return LinearStepper(self, num_threads)


class Embedding(Layer):
    """A table of rows, one per token.

    Parameters
    ----------
    num_embeddings : int
        V, the number of tokens.
    embedding_dim : int
        Features of a row.
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Of the initial values, standard normal.
    device : "cpu", "cuda" or "cuda:N"

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers.
    """

    def __init__(self, num_embeddings, embedding_dim, dtype=np.float32, rng=None, device="cpu"):
        super().__init__(dtype, device)
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        self._allocate(rng := np.random.default_rng(rng), {"weight": 0})
        self._fill("weight", rng.standard_normal(self._params["weight"].shape))

    def parameters(self):
        """Tell the parameters: weight (V, features)."""
        return {"weight": (self.num_embeddings, self.embedding_dim)}

    def forward(self, x, state=None, training=True, num_threads=None):
        """Give y (..., features) for token ids x (...), int64 or int32, each in [0, V)."""
        tokens = self._kernels.checked_tokens("tokens", x, self.num_embeddings)
        y = self._empty((*tokens.shape, self.embedding_dim))
        self._kernels.embedding_forward(y, tokens, self._params["weight"])
        trace = None
        if training:
            same = self._kernels.arrays.may_share_memory(tokens, self._kernels.adopt(x))
            trace = Trace(self, None, tokens=tokens.copy() if same else tokens)
        return y, state, trace

    def backward(self, dy, trace, dstate=None, num_threads=None, need_dx=True):
        """Add to the gradient. dx is None: tokens have no gradient."""
        self._check_trace(trace)
        shape = (*trace.tokens.shape, self.embedding_dim)
        dy = self._kernels.checked("dy", dy, self.dtype, shape)
        self._kernels.embedding_backward(self._grads["weight"], dy, trace.tokens, num_threads)
        return None, dstate

    def _fingerprint(self):
        return None  # the gradient does not depend on the weights

    def stepper(self, batch=1, num_threads=None):
        """Give a function of one step: tokens (batch,) or one number -> (batch, features) or (features,)."""

        def step(x, out=None):
            if not hasattr(x, "shape") or isinstance(x, np.generic):
                x = self._kernels.arrays.asarray(x)
            y = self.forward(x, training=False)[0]
            if out is None:
                return y
            check_writable("out", out)[...] = y
            return out

        return step


class Dropout(Layer):
    """Zero a share of what passes, and scale the rest up by as much (Zaremba et al. 2014, section 3.1).

    Parameters
    ----------
    p : float
        The share, in [0, 1).
    rng : int, numpy Generator or None
        Where the masks come from. It is drawn from in training only.
    """

    def __init__(self, p=0.5, rng=None):
        super().__init__()
        self.p = check_share("p", p)
        self.rng = np.random.default_rng(rng)

    def forward(self, x, state=None, training=True):
        """Give y in the shape and type of x, the state as it came, and a trace."""
        kernels = kernels_of(x)
        x = float_array(kernels, "x", x)
        if not training:
            return x.copy(), state, None
        mask = kernels.dropout_mask(self.rng, self.p, x.shape)
        trace = Trace(self, None, mask=mask, dtype=x.dtype, kernels=kernels)
        return self._masked(x, trace), state, trace

    def _fingerprint(self):
        return None  # there are no weights

    def _masked(self, x, trace):
        pool = self._pool if trace.kernels is self._kernels else trace.kernels.Pool()
        y = pool.array(x.shape, trace.dtype)
        trace.kernels.masked(y, x, trace.mask, 1 / (1 - self.p))
        return y

    def backward(self, dy, trace, dstate=None):
        """Give dx, and dstate as it came."""
        self._check_trace(trace)
        dy = trace.kernels.checked("dy", dy, trace.dtype, trace.mask.shape)
        return self._masked(dy, trace), dstate

    def stepper(self, batch=1, num_threads=None):
        """Give a function of one step: stepping is inference, which drops nothing."""

        def step(x, out=None):
            if out is None:
                return x
            out[...] = x
            return out

        return step
