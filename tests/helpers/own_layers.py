"""Layers of a user's own, as a Sequential takes them. No test is here."""

import numpy as np

import lstmc


class Scale(lstmc.Layer):
    """A user's own layer with a parameter: y = factor x, by feature."""

    def __init__(self, features, dtype=np.float32):
        super().__init__(dtype)
        self.features = features
        self.allocate(np.random.default_rng(5), {"factor": 2})

    def parameters(self):
        return {"factor": (self.features,)}

    def forward(self, x, state=None, training=True):
        return x * self["factor"], state, lstmc.Trace(self, self.fingerprint(), x=x)

    def backward(self, dy, trace, dstate=None):
        self.check_trace(trace)
        self.grad("factor")[...] += (dy * trace.x).reshape(-1, self.features).sum(axis=0)
        return dy * self["factor"], dstate


class Bare:
    """A layer that inherits nothing: parameters() and bind() as Sequential asks for them."""

    def __init__(self, features, dtype):
        self.shape, self.dtype = (features,), np.dtype(dtype)
        self.shift = np.linspace(-1, 1, features).astype(dtype)
        self.gradient = np.zeros(features, dtype)

    def parameters(self):
        return {"shift": self.shape}

    def bind(self, params, grads):
        params["shift"][...] = self.shift
        self.shift, self.gradient = params["shift"], grads["shift"]

    def forward(self, x, state=None, training=True):
        return x + self.shift, state, x.shape

    def backward(self, dy, trace, dstate=None):
        self.gradient += dy.reshape(-1, dy.shape[-1]).sum(axis=0)
        return dy, dstate


class Halve:
    """A layer without parameters that counts its calls in its state."""

    def forward(self, x, state=None, training=True):
        return x / 2, (state or 0) + 1, None

    def backward(self, dy, trace, dstate=None):
        return dy / 2, dstate
