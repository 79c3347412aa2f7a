"""Layers of your own: one with a parameter, and one made of other layers, with an LSTM inside.

A network of both learns to follow a line through noise. Its derivatives are checked, the LSTM inside is
inspected, and the network is saved, loaded and stepped like any other.

Run it with: ``python examples/own_layer.py``
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import lstmc
from lstmc.network import BackwardCalls, ForwardCalls

Array = np.ndarray[Any, Any]


class Scale(lstmc.Layer):
    """y = scale * x, by feature."""

    in_features: int  # what it reads and gives, so that a network refuses layers that do not fit
    out_features = "same"

    def __init__(self, size: int, dtype: str = "float32", rng: Any = None) -> None:
        super().__init__(dtype)
        self.size = self.in_features = size
        self.allocate(rng, {"scale": lambda rng, shape: np.ones(shape)})

    def options(self) -> dict[str, Any]:
        """Return the arguments that make it again, in copies and from files."""
        return {"size": self.size, "dtype": self.dtype.name}

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters by name."""
        return {"scale": (self.size,)}

    def forward(self, x: Array, state: Any = None, training: bool = True) -> tuple[Array, Any, Any]:
        """Return y, the state and what backward needs."""
        y = x * self["scale"]
        return y, state, lstmc.Trace(self, self.fingerprint(), x=x.copy()) if training else None

    def backward(self, dy: Array, trace: Any, dstate: Any = None) -> tuple[Array, Any]:
        """Add to the gradient; return dx and the gradient of the state."""
        self.check_trace(trace)
        self.grad("scale")[...] += (dy * trace.x).reshape(-1, self.size).sum(0)
        return dy * self["scale"], dstate


class Residual(lstmc.Composite):
    """y = x + layer(x) (He et al. 2016)."""

    def compute(self, x: Array, call: ForwardCalls) -> Array:
        """Return y: call(0, x) runs layer 0."""
        return x + call(0, x)

    def differentiate(self, dy: Array, call: BackwardCalls) -> Array:
        """Return dx: call(0, dy) differentiates layer 0."""
        return dy + call(0, dy)


def make_network() -> lstmc.Sequential:
    """Return a network of both kinds of layers."""
    rng = np.random.default_rng(0)
    block = lstmc.Sequential(lstmc.LSTM(8, 16, rng=rng), lstmc.Linear(16, 8, rng=rng))
    return lstmc.Sequential(
        lstmc.Linear(2, 8, rng=rng), Scale(8), Residual(block), lstmc.Linear(8, 1, rng=rng)
    )


def draw(rng: np.random.Generator, steps: int = 40, batch: int = 16) -> tuple[Array, Array]:
    """Return two noisy readings of lines that wander, and the lines."""
    line = rng.standard_normal((steps, batch, 1)).cumsum(0) / 4
    readings = line + rng.standard_normal((steps, batch, 2))
    return readings.astype(np.float32), line.astype(np.float32)


def main(updates: int = 300) -> float:
    """Train, check, inspect, save, load and step; return the loss on lines that are new."""
    net, rng = make_network(), np.random.default_rng(1)
    adam = lstmc.Adam(net, lr=3e-3)
    for _ in range(updates):
        x, line = draw(rng)
        y, _, trace = net.forward(x)
        loss, dy = lstmc.squared_error(y, line)
        net.zero_grad()
        net.backward(dy, trace)
        adam.step()
    x, line = draw(np.random.default_rng(2))
    y, _ = net(x)
    loss, _ = lstmc.squared_error(y, line)
    plain, _ = lstmc.squared_error(x.mean(2, keepdims=True), line)
    print(f"squared error {loss:.3f}; of the mean of the readings {plain:.3f}")

    print(lstmc.check_gradients(net, x[:6, :2], line[:6, :2]))  # against numerical derivatives
    print(lstmc.gradient_flow(net, x, line))  # the LSTM inside is layer 0

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        net.save(path)
        loaded = lstmc.load(path, layers={"Scale": Scale, "Residual": Residual})
    assert isinstance(loaded, lstmc.Sequential)
    stepper = loaded.stepper(batch=x.shape[1])
    print("stepped, the same bits:", np.array_equal([stepper(x_t) for x_t in x], y))
    return float(loss)


if __name__ == "__main__":
    main()
