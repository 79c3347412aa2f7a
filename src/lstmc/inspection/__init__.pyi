"""Inspection, for type checkers: what __init__.py exports, with types."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import Layer, Sequential

_Array = NDArray[Any]
_Path = str | PathLike[str]
_Rng = int | np.random.Generator | None
_State = Any  # h (L, B, H), or (h, c), or a tuple with one entry per layer of a Sequential
_Targets = _Array | Callable[[_Array], tuple[float, _Array]]
_Figure = Any  # of matplotlib

class _Recurrent(Protocol):  # a recurrent layer of any cell
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def cell(self) -> Any: ...

class _Model(Protocol):  # a LanguageModel, or anything else around a network
    net: Sequential

class _Reader(_Model, Protocol):
    vocabulary: Any

_Net = Layer | _Model

class _Report:
    def _repr_html_(self) -> str: ...

@dataclass
class Reach:
    norms: _Array
    rate: float
    fit: float
    @property
    def half_life(self) -> float: ...
    @property
    def kept(self) -> float: ...
    @property
    def is_steady(self) -> bool: ...
    @property
    def verdict(self) -> str: ...
    @property
    def turn(self) -> int | None: ...

@dataclass
class LayerFlow:
    name: str
    cell: str
    dh: _Array
    dh_above: _Array
    dh_later: _Array
    dc: _Array | None
    dc_through_h: _Array | None
    dc_later: _Array | None
    dx: _Array
    weights: dict[str, _Array]
    reach: Reach
    gradients: Any = None

@dataclass
class GradientFlow(_Report):
    loss: float | None
    steps: int
    batch: int
    at: list[int]
    layers: list[LayerFlow]
    @property
    def verdict(self) -> str: ...
    @property
    def asked(self) -> str: ...
    def sentence(self, layer: LayerFlow) -> str: ...
    def to_dict(self) -> dict[str, Any]: ...
    def plot(self, path: _Path | None = None) -> _Figure: ...

def gradient_flow(
    net: _Net,
    x: _Array | None = None,
    targets: _Targets | None = None,
    state: _State = None,
    *,
    lengths: ArrayLike | None = None,
    resets: NDArray[np.bool_] | None = None,
    trace: Any = None,
    dy: _Array | None = None,
    at: int | Sequence[int] | None = None,
    weights: bool = True,
    arrays: bool = False,
    num_threads: int | None = None,
) -> GradientFlow: ...

@dataclass
class JacobianSpectrum(_Report):
    t1: int
    distances: list[int]
    singular_values: _Array
    factors: list[dict[str, Any]]
    precision: float
    @property
    def largest(self) -> _Array: ...
    @property
    def rate(self) -> float: ...
    def to_dict(self) -> dict[str, Any]: ...
    def plot(self, path: _Path | None = None) -> _Figure: ...

def state_jacobian(
    layer: _Recurrent,
    x: _Array | None = None,
    t0: int = 0,
    t1: int | None = None,
    state: _State = None,
    *,
    trace: Any = None,
    num_threads: int | None = None,
    lengths: ArrayLike | None = None,
    resets: NDArray[np.bool_] | None = None,
) -> _Array: ...
def input_jacobian(
    layer: _Recurrent,
    x: _Array | None = None,
    t: int | None = None,
    state: _State = None,
    *,
    trace: Any = None,
    num_threads: int | None = None,
    lengths: ArrayLike | None = None,
    resets: NDArray[np.bool_] | None = None,
) -> _Array: ...
def jacobian_spectrum(
    layer: _Recurrent,
    x: _Array | None = None,
    t1: int | None = None,
    distances: Iterable[int] | None = None,
    state: _State = None,
    *,
    trace: Any = None,
    num_threads: int | None = None,
    lengths: ArrayLike | None = None,
    resets: NDArray[np.bool_] | None = None,
) -> JacobianSpectrum: ...
def lyapunov_exponents(
    layer: _Recurrent,
    x: _Array | None = None,
    state: _State = None,
    *,
    count: int | None = None,
    every: int = 1,
    trace: Any = None,
    num_threads: int | None = None,
    lengths: ArrayLike | None = None,
    resets: NDArray[np.bool_] | None = None,
) -> _Array: ...
def step_factors(layer: _Recurrent, trace: Any) -> list[dict[str, Any]]: ...

@dataclass
class LayerGates:
    name: str
    cell: str
    means: dict[str, _Array]
    histograms: dict[str, _Array]
    ranges: dict[str, tuple[float, float]]
    low: dict[str, float]
    high: dict[str, float]
    memory: _Array | None
    dead: list[int]
    shut: list[int]
    pegged: list[int]
    gates: dict[str, Any] = ...
    beyond: dict[str, float] = ...

@dataclass
class GateReport(_Report):
    steps: int
    batch: int
    layers: list[LayerGates]
    def to_dict(self) -> dict[str, Any]: ...
    def plot(self, path: _Path | None = None) -> _Figure: ...
    def plot_histograms(self, path: _Path | None = None) -> _Figure: ...

@dataclass
class Write:
    position: int
    token: str
    written: float
    kept: float
    contribution: float

def gate_statistics(
    net: _Net,
    x: _Array | None = None,
    state: _State = None,
    *,
    trace: Any = None,
    num_threads: int | None = None,
    lengths: ArrayLike | None = None,
    resets: NDArray[np.bool_] | None = None,
) -> GateReport: ...
def writers(
    model: _Reader, text: str | _Array, unit: int, layer: int | None = None, k: int = 5
) -> list[Write]: ...

@dataclass
class TensorCheck:
    name: str
    size: int
    checked: int
    error: float
    worst: tuple[int, ...]
    backward: float
    differences: float
    direction_error: float
    measurable: bool = True

@dataclass
class GradientReport(_Report):
    loss: float
    tolerance: float
    tensors: list[TensorCheck]
    @property
    def passed(self) -> bool: ...
    @property
    def failed(self) -> list[str]: ...
    def __bool__(self) -> bool: ...
    def to_dict(self) -> dict[str, Any]: ...

def check_gradients(
    net: _Net,
    x: _Array,
    targets: _Targets | None = None,
    state: _State = None,
    *,
    lengths: ArrayLike | None = None,
    resets: NDArray[np.bool_] | None = None,
    samples: int | None = 100,
    directions: int = 3,
    tolerance: float = 1e-6,
    step: float = 1e-5,
    rng: _Rng = 0,
) -> GradientReport: ...

@dataclass
class NonFinite:
    what: str
    layer: str = ""
    step: int | None = None
    row: int | None = None

def find_nonfinite(
    net: _Net,
    x: _Array | None = None,
    targets: _Targets | None = None,
    state: _State = None,
    *,
    lengths: ArrayLike | None = None,
    resets: NDArray[np.bool_] | None = None,
    trace: Any = None,
    dy: _Array | None = None,
) -> NonFinite | None: ...

class Watch:
    net: Layer
    every: int
    window: int
    records: list[dict[str, Any]]
    def __init__(
        self,
        net: _Net,
        every: int = 50,
        path: _Path | None = None,
        tensorboard: _Path | None = None,
        nonfinite: Literal["stop", "warn"] = "stop",
    ) -> None: ...
    def __call__(self, loss: float, dy: _Array, trace: Any) -> dict[str, Any] | None: ...
    @property
    def path(self) -> _Path | None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: Mapping[str, Any]) -> None: ...
