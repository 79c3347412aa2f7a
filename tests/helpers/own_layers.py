"""Layers of a user's own, as networks take them, and composites. No test is here."""

import numpy as np
from stacks import seed_of

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


# -- composites, of four features -----------------------------------------------------------------


class Residual(lstmc.Composite):
    """y = x + layer(x)."""

    def compute(self, x, call):
        return x + call(0, x)

    def differentiate(self, dy, call):
        return dy + call(0, dy)


class Branches(lstmc.Composite):
    """Two layers of the same x, their features one after another; it goes back in the order of forward."""

    def compute(self, x, call):
        first = call(0, x)
        call.save(width=first.shape[-1])
        return np.concatenate([first, call(1, x)], axis=-1)

    def differentiate(self, dy, call):
        width = call.saved["width"]
        first, second = call(0, dy[..., :width]), call(1, dy[..., width:])
        return None if first is None else first + second


class Gate(lstmc.Composite):
    """y = gate(x) * layer(x) + (1 - gate(x)) * x, a highway (Srivastava et al. 2015)."""

    def compute(self, x, call):
        gate, value = call(0, x), call(1, x)
        call.save(x=x, gate=gate, value=value)
        return gate * value + (1 - gate) * x

    def differentiate(self, dy, call):
        x, gate, value = (call.saved[name] for name in ("x", "gate", "value"))
        return call(1, dy * gate) + call(0, dy * (value - x)) + dy * (1 - gate)


class Summary(lstmc.Composite):
    """The ends of two stacks, side by side: y has no axis of time."""

    keeps_time = False

    def compute(self, x, call):
        return np.concatenate([call(0, x), call(1, x)], axis=-1)

    def differentiate(self, dy, call):
        return call(0, dy[..., :3]) + call(1, dy[..., 3:])


class Block(Residual):
    """With a constructor of its own: an option besides layers, and rng."""

    def __init__(self, size, hidden, rng=None, dtype="float32"):
        rng, own = np.random.default_rng(rng), {"dtype": dtype}
        self.sizes = size, hidden
        recurrent = lstmc.GRU(size, hidden, rng=rng, **own)
        super().__init__(lstmc.Sequential(recurrent, lstmc.Linear(hidden, size, rng=rng, **own)))

    def options(self):
        return dict(zip(("size", "hidden"), self.sizes)) | {"dtype": self.dtype.name}


COMPOSITE_CLASSES = {one.__name__: one for one in (Residual, Branches, Gate, Summary, Block)}


def rnn(*sizes, dtype=np.float64, **options):
    return lstmc.RNN(*sizes, dtype=dtype, rng=seed_of("rnn", *sizes), **options)


def lstm(*sizes, dtype=np.float64, **options):
    return lstmc.LSTM(*sizes, dtype=dtype, rng=seed_of("lstm", *sizes), **options)


def linear(*sizes, dtype=np.float64):
    return lstmc.Linear(*sizes, dtype=dtype, rng=seed_of("linear", *sizes))


def nested(dtype=np.float64):
    """Return composites in a Sequential in a composite, beside others."""
    inner = Branches(lstm(4, 2, dtype=dtype), Residual(rnn(4, 4, dtype=dtype)))
    return lstmc.Sequential(
        linear(4, 4, dtype=dtype),
        Residual(lstmc.Sequential(inner, linear(6, 4, dtype=dtype))),
        Block(4, 3, rng=3, dtype=dtype),
    )


COMPOSITES = {
    "residual": lambda dtype=np.float64: Residual(lstm(4, 4, 2, dtype=dtype)),
    "branches": lambda dtype=np.float64: Branches(lstm(4, 3, dtype=dtype), rnn(4, 2, dtype=dtype)),
    "gate": lambda dtype=np.float64: Gate(
        lstmc.Sequential(linear(4, 4, dtype=dtype), lstmc.Activation("sigmoid")),
        rnn(4, 4, learn_initial_state=True, dtype=dtype),
    ),
    "nested": nested,
    "summary": lambda dtype=np.float64: Summary(
        lstmc.Sequential(lstm(4, 3, dtype=dtype), lstmc.Last()),
        lstmc.Sequential(rnn(4, 2, dtype=dtype), lstmc.Last()),
    ),
    "both directions": lambda dtype=np.float64: Residual(
        lstmc.Sequential(lstm(4, 3, bidirectional=True, dtype=dtype), linear(6, 4, dtype=dtype))
    ),
}


def draw(*shape, dtype=np.float64):
    return np.random.default_rng(seed_of("draw", *shape)).standard_normal(shape).astype(dtype)
