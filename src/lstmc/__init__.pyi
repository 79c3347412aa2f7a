"""The public face, for type checkers: what __init__.py exports, with types."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, Self, TextIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

__version__: str

_Array = NDArray[Any]
_Path = str | PathLike[str]
_Rng = int | np.random.Generator | None
_Device = str  # "cpu", "cuda" or "cuda:N"; on a GPU, arrays are CuPy's
_State = Any  # h (L, B, H), or (h, c), or a tuple with one entry per layer of a Sequential

def get_num_threads() -> int: ...
def set_num_threads(n: int | None) -> None: ...
def get_matmul_precision() -> Literal["float32", "tf32"]: ...
def set_matmul_precision(precision: Literal["float32", "tf32"]) -> None: ...
def show_config(file: TextIO | None = None) -> None: ...

class Layer:
    dtype: np.dtype[Any]
    def __init__(self, dtype: DTypeLike = ..., device: _Device = "cpu") -> None: ...
    @property
    def device(self) -> str: ...
    def to(self, device: _Device) -> Self: ...
    def parameters(self) -> Mapping[str, tuple[int, ...]]: ...
    def bind(self, params: Mapping[str, _Array], grads: Mapping[str, _Array]) -> None: ...
    @property
    def params(self) -> _Array: ...
    @property
    def grads(self) -> _Array: ...
    @property
    def num_parameters(self) -> int: ...
    def __getitem__(self, name: str) -> _Array: ...
    def grad(self, name: str) -> _Array: ...
    def zero_grad(self) -> None: ...
    def __call__(self, x: _Array, state: _State = None) -> tuple[_Array, _State]: ...

class Linear(Layer):
    in_features: int
    out_features: int
    bias: bool
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: _Device = "cpu",
    ) -> None: ...
    def forward(
        self,
        x: _Array,
        state: _State = None,
        training: bool = True,
        num_threads: int | None = None,
    ) -> tuple[_Array, _State, Any]: ...
    def backward(
        self,
        dy: _Array,
        trace: Any,
        dstate: _State = None,
        num_threads: int | None = None,
        need_dx: bool = True,
        need_grads: bool = True,
    ) -> tuple[_Array | None, _State]: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> Any: ...

class Embedding(Layer):
    num_embeddings: int
    embedding_dim: int
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: _Device = "cpu",
    ) -> None: ...
    def forward(
        self,
        x: _Array,
        state: _State = None,
        training: bool = True,
        num_threads: int | None = None,
    ) -> tuple[_Array, _State, Any]: ...
    def backward(
        self,
        dy: _Array,
        trace: Any,
        dstate: _State = None,
        num_threads: int | None = None,
        need_dx: bool = True,
    ) -> tuple[None, _State]: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> Any: ...

class Dropout(Layer):
    p: float
    rng: np.random.Generator
    def __init__(self, p: float = 0.5, rng: _Rng = None) -> None: ...
    def forward(
        self, x: _Array, state: _State = None, training: bool = True
    ) -> tuple[_Array, _State, Any]: ...
    def backward(self, dy: _Array, trace: Any, dstate: _State = None) -> tuple[_Array, _State]: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> Any: ...

class _Stepper:
    state: _State
    def __call__(self, x: _Array, out: _Array | None = None) -> _Array: ...
    def reset(self, mask: NDArray[np.bool_] | None = None) -> None: ...
    def refresh(self) -> None: ...

class _Recurrent(Layer):
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    def forward(
        self,
        x: _Array,
        state: _State = None,
        training: bool = True,
        num_threads: int | None = None,
    ) -> tuple[_Array, _State, Any]: ...
    def backward(
        self,
        dy: _Array | None,
        trace: Any,
        dstate: _State = None,
        num_threads: int | None = None,
        need_dx: bool = True,
        consume: bool = False,
        need_grads: bool = True,
        record: list[Any] | None = None,
    ) -> tuple[_Array | None, _State]: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> _Stepper: ...

class RNN(_Recurrent):
    nonlinearity: str
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu", "identity"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: _Device = "cpu",
    ) -> None: ...

class LSTM(_Recurrent):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: _Device = "cpu",
    ) -> None: ...

class Sequential(Layer):
    layers: tuple[Any, ...]
    def __init__(self, *layers: Any) -> None: ...
    def forward(
        self,
        x: _Array,
        state: _State = None,
        training: bool = True,
        num_threads: int | None = None,
    ) -> tuple[_Array, _State, Any]: ...
    def backward(
        self,
        dy: _Array,
        trace: Any,
        dstate: _State = None,
        num_threads: int | None = None,
        need_dx: bool = True,
        consume: bool = False,
    ) -> tuple[_Array | None, _State]: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> _Stepper: ...

def softmax_cross_entropy(
    logits: _Array,
    targets: _Array,
    ignore_index: int = -1,
    num_threads: int | None = None,
    out: _Array | None = None,
) -> tuple[float, _Array]: ...
def squared_error(
    y: _Array, target: _Array, num_threads: int | None = None
) -> tuple[float, _Array]: ...
def clip_grad_norm(net: Layer, max_norm: float, num_threads: int | None = None) -> float: ...

class _Optimiser:
    net: Layer
    lr: float
    weight_decay: float
    steps: int
    def step(self, num_threads: int | None = None) -> None: ...
    def state(self) -> tuple[dict[str, _Array], dict[str, float]]: ...
    def load_state(self, arrays: Mapping[str, _Array], numbers: Mapping[str, float]) -> None: ...

class SGD(_Optimiser):
    momentum: float
    nesterov: bool
    def __init__(
        self,
        net: Layer,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None: ...

class Adam(_Optimiser):
    betas: tuple[float, ...]
    eps: float
    def __init__(
        self,
        net: Layer,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None: ...

class AdamW(Adam):
    def __init__(
        self,
        net: Layer,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None: ...

class RMSprop(_Optimiser):
    alpha: float
    eps: float
    momentum: float
    def __init__(
        self,
        net: Layer,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None: ...

class StepDecay:
    optimiser: _Optimiser
    factor: float
    epochs: int
    def __init__(
        self, optimiser: _Optimiser, factor: float, every: int = 1, start: int = 0
    ) -> None: ...
    def epoch_ended(self, loss: float | None = None) -> None: ...
    def state(self) -> dict[str, float]: ...
    def load_state(self, numbers: Mapping[str, float]) -> None: ...

class ExponentialDecay(StepDecay):
    def __init__(self, optimiser: _Optimiser, factor: float) -> None: ...

class PlateauDecay(StepDecay):
    patience: int
    threshold: float
    def __init__(
        self,
        optimiser: _Optimiser,
        factor: float = 0.5,
        patience: int = 1,
        threshold: float = 0.0,
    ) -> None: ...

class Vocabulary:
    tokens: list[str]
    level: str
    def __init__(self, tokens: Iterable[str], level: Literal["char", "word"]) -> None: ...
    @classmethod
    def from_text(
        cls, text: str, level: Literal["char", "word"] = "char", min_count: int = 1
    ) -> Vocabulary: ...
    def __len__(self) -> int: ...
    def index(self, token: str) -> int: ...
    def encode(self, text: str) -> NDArray[np.int64]: ...
    def decode(self, ids: Sequence[int] | _Array) -> str: ...

class Trainer:
    net: Sequential
    optimiser: _Optimiser
    schedule: StepDecay | None
    watch: Watch | None
    epoch: int
    window: int
    history: list[dict[str, Any]]
    checkpoint_seconds: float
    note: dict[str, Any]
    def __init__(
        self,
        net: Sequential,
        optimiser: _Optimiser,
        batch: int,
        steps: int,
        clip: float | None = 5.0,
        schedule: StepDecay | None = None,
        num_threads: int | None = None,
        watch: Watch | None = None,
    ) -> None: ...
    def fit(
        self,
        train: _Array,
        valid: _Array | None = None,
        epochs: int = 1,
        patience: int | None = None,
        checkpoint: _Path | None = None,
        metrics: _Path | None = None,
        progress: bool | None = None,
        note: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]: ...
    def save(self, path: _Path) -> None: ...
    def load(self, path: _Path) -> None: ...

class LanguageModel:
    vocabulary: Vocabulary
    net: Sequential
    config: dict[str, Any]
    state: _State
    def __init__(
        self,
        vocabulary: Vocabulary,
        cell: Literal["lstm", "rnn"] = "lstm",
        layers: int = 2,
        hidden: int = 128,
        embed: int = 128,
        dropout: float = 0.0,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: _Device = "cpu",
    ) -> None: ...
    def step(self, token: str | int) -> _Array: ...
    def reset(self) -> None: ...
    def continuations(self, text: str, k: int = 5) -> list[tuple[str, float]]: ...
    def sample(
        self,
        prompt: str = "",
        length: int = 200,
        temperature: float = 1.0,
        top_k: int | None = None,
        rng: _Rng = None,
    ) -> str: ...
    def perplexity(self, text: str) -> float: ...
    def loss(self, text: str) -> float: ...
    def save(self, path: _Path) -> None: ...
    @classmethod
    def load(cls, path: _Path, device: _Device = "cpu") -> LanguageModel: ...

_Net = Layer | LanguageModel
_Targets = _Array | Callable[[_Array], tuple[float, _Array]]

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
class GradientFlow:
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
    def plot(self, path: _Path) -> None: ...

def gradient_flow(
    net: _Net,
    x: _Array | None = None,
    targets: _Targets | None = None,
    state: _State = None,
    *,
    trace: Any = None,
    dy: _Array | None = None,
    at: int | Sequence[int] | None = None,
    weights: bool = True,
    arrays: bool = False,
    num_threads: int | None = None,
) -> GradientFlow: ...

@dataclass
class JacobianSpectrum:
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
    def plot(self, path: _Path) -> None: ...

def state_jacobian(
    layer: _Recurrent,
    x: _Array | None = None,
    t0: int = 0,
    t1: int | None = None,
    state: _State = None,
    *,
    trace: Any = None,
    num_threads: int | None = None,
) -> _Array: ...
def input_jacobian(
    layer: _Recurrent,
    x: _Array | None = None,
    t: int | None = None,
    state: _State = None,
    *,
    trace: Any = None,
    num_threads: int | None = None,
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

@dataclass
class GateReport:
    steps: int
    batch: int
    layers: list[LayerGates]
    def to_dict(self) -> dict[str, Any]: ...
    def plot(self, path: _Path) -> None: ...
    def plot_histograms(self, path: _Path) -> None: ...

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
) -> GateReport: ...
def writers(
    model: LanguageModel, text: str | _Array, unit: int, layer: int | None = None, k: int = 5
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
class GradientReport:
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
