"""Embedding: a row of features for each token."""

import numpy as np

from .._kernels.turns import in_turn
from ..files import built_in
from ..layer import Layer, check_size, fixed, write_out
from ..traces import Trace

__all__ = ["Embedding"]


def _normal(rng, shape):
    rng.random(shape)  # as earlier versions did: a seed gives the weights that it gave
    return rng.standard_normal(shape)


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

    in_features = "tokens"
    num_embeddings = fixed("num_embeddings")
    embedding_dim = out_features = fixed("embedding_dim")

    def __init__(self, num_embeddings, embedding_dim, dtype=np.float32, rng=None, device="cpu"):
        super().__init__(dtype, device)
        self._num_embeddings = check_size("num_embeddings", num_embeddings)
        self._embedding_dim = check_size("embedding_dim", embedding_dim)
        self.allocate(rng, {"weight": _normal})

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
