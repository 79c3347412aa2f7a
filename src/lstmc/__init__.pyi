"""The public face, for type checkers: layers, losses, optimisers, and what the rooms export."""

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from os import PathLike
from types import ModuleType
from typing import Any, Literal, NoReturn, Self, TextIO

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .inspection import (
    GateReport as GateReport,
    GradientFlow as GradientFlow,
    GradientReport as GradientReport,
    JacobianSpectrum as JacobianSpectrum,
    LayerFlow as LayerFlow,
    LayerGates as LayerGates,
    NonFinite as NonFinite,
    Reach as Reach,
    TensorCheck as TensorCheck,
    Watch as Watch,
    Write as Write,
    check_gradients as check_gradients,
    find_nonfinite as find_nonfinite,
    gate_statistics as gate_statistics,
    gradient_flow as gradient_flow,
    input_jacobian as input_jacobian,
    jacobian_spectrum as jacobian_spectrum,
    lyapunov_exponents as lyapunov_exponents,
    state_jacobian as state_jacobian,
    step_factors as step_factors,
    writers as writers,
)
from .layers import (
    Activation as Activation,
    Dropout as Dropout,
    Embedding as Embedding,
    Last as Last,
    Linear as Linear,
)
from .network import Composite as Composite, Sequential as Sequential
from .recurrent import GRU as GRU, LSTM as LSTM, RNN as RNN
from .training import (
    ExponentialDecay as ExponentialDecay,
    LanguageModel as LanguageModel,
    PlateauDecay as PlateauDecay,
    StepDecay as StepDecay,
    TokenStream as TokenStream,
    Trainer as Trainer,
    Vocabulary as Vocabulary,
)

__version__: str

_Array = NDArray[Any]
_Rng = int | np.random.Generator | None
_Device = str  # "cpu", "cuda" or "cuda:N"; on a GPU, arrays are CuPy's
_Path = str | PathLike[str]
_State = Any  # h (L, B, H), or (h, c), or a tuple with one entry per layer of a Sequential

def get_num_threads() -> int: ...
def set_num_threads(n: int | None) -> None: ...
def get_matmul_precision() -> Literal["float32", "tf32"]: ...
def set_matmul_precision(precision: Literal["float32", "tf32"]) -> None: ...
def show_config(file: TextIO | None = None) -> None: ...
def load(
    path: _Path,
    layers: Mapping[str, type[Layer]] | None = None,
    dtype: DTypeLike | None = None,
    device: _Device = "cpu",
    verify: bool = True,
) -> Layer: ...

class Trace:
    owner: Layer
    fingerprint: Any
    checked_for: Layer | None
    def __init__(self, owner: Layer, fingerprint: Any, **arrays: Any) -> None: ...
    def __getattr__(self, name: str) -> Any: ...  # what was given as arrays
    def __reduce_ex__(self, protocol: Any) -> NoReturn: ...

class Layer:
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __init__(self, dtype: DTypeLike = ..., device: _Device = "cpu") -> None: ...
    @property
    def device(self) -> str: ...
    def to(self, device: _Device) -> Self: ...
    in_network: bool
    keeps_features: bool
    @property
    def in_features(self) -> int | str | None: ...  # a str is "tokens"
    @property
    def out_features(self) -> int | str | None: ...  # or "same"
    @property
    def keeps_time(self) -> bool: ...
    kernels: ModuleType
    pool: Any
    turns: Any
    def parameters(self) -> Mapping[str, tuple[int, ...]]: ...
    def bind(self, params: Mapping[str, _Array], grads: Mapping[str, _Array]) -> None: ...
    @property
    def params(self) -> _Array: ...
    @property
    def grads(self) -> _Array: ...
    @property
    def num_parameters(self) -> int: ...
    def __getitem__(self, name: str) -> _Array: ...
    def __setitem__(self, name: str, values: ArrayLike) -> None: ...
    def __contains__(self, name: object) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> Literal[True]: ...
    def keys(self) -> KeysView[str]: ...
    def items(self) -> ItemsView[str, _Array]: ...
    def values(self) -> ValuesView[_Array]: ...
    def grad(self, name: str) -> _Array: ...
    def zero_grad(self) -> None: ...
    def release(self) -> None: ...
    def __call__(self, x: _Array, state: _State = None) -> tuple[_Array, _State]: ...
    def options(self) -> dict[str, Any]: ...
    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self: ...
    @property
    def description(self) -> dict[str, Any]: ...
    @staticmethod
    def from_description(
        description: dict[str, Any],
        layers: Mapping[str, type[Layer]] | None = None,
        rng: _Rng = None,
    ) -> Layer: ...
    def clone(self, rng: _Rng = None) -> Self: ...
    def astype(self, dtype: DTypeLike) -> Self: ...
    def save(self, path: _Path) -> None: ...
    def __copy__(self) -> Self: ...
    def __getstate__(self) -> dict[str, Any]: ...
    def __setstate__(self, state: dict[str, Any]) -> None: ...
    # For those who write layers of their own:
    def use_kernels(self, kernels: ModuleType) -> None: ...
    def check_movable(self, kernels: ModuleType) -> None: ...
    def allocate(
        self,
        rng: _Rng,
        initial: Mapping[str, float | Callable[[np.random.Generator, tuple[int, ...]], ArrayLike]],
    ) -> None: ...
    def empty(self, shape: tuple[int, ...]) -> _Array: ...
    def buffers(self, shapes: Mapping[str, tuple[int, ...]]) -> list[Any]: ...
    def own_options(self) -> dict[str, Any]: ...
    def own_arrays(self) -> list[dict[str, _Array]] | None: ...
    def restore(self, arrays: list[dict[str, _Array]] | None, device: _Device) -> None: ...
    def fingerprint(self) -> Any: ...
    def fingerprints(self, trace: Any) -> list[tuple[Any, Any]]: ...
    def check_trace(self, trace: Any, dstate: _State = None) -> None: ...
    def check_form(self, trace: Any, dstate: _State = None) -> None: ...

def softmax_cross_entropy(
    logits: _Array,
    targets: _Array,
    ignore_index: int = -1,
    num_threads: int | None = None,
    out: _Array | None = None,
    *,
    lengths: NDArray[np.integer[Any]] | None = None,
    mask: NDArray[np.bool_] | None = None,
    batch_first: bool = False,
) -> tuple[float, _Array]: ...
def squared_error(
    y: _Array,
    target: _Array,
    num_threads: int | None = None,
    *,
    lengths: NDArray[np.integer[Any]] | None = None,
    mask: NDArray[np.bool_] | None = None,
    batch_first: bool = False,
) -> tuple[float, _Array]: ...
def huber(
    y: _Array,
    target: _Array,
    delta: float = 1.0,
    num_threads: int | None = None,
    *,
    lengths: NDArray[np.integer[Any]] | None = None,
    mask: NDArray[np.bool_] | None = None,
    batch_first: bool = False,
) -> tuple[float, _Array]: ...
def binary_cross_entropy(
    logits: _Array,
    targets: _Array,
    num_threads: int | None = None,
    *,
    lengths: NDArray[np.integer[Any]] | None = None,
    mask: NDArray[np.bool_] | None = None,
    batch_first: bool = False,
) -> tuple[float, _Array]: ...
def clip_grad_norm(net: Layer, max_norm: float, num_threads: int | None = None) -> float: ...
def clip_grad_value(net: Layer, limit: float, num_threads: int | None = None) -> None: ...

class _Optimiser:
    net: Layer
    lr: float
    weight_decay: float
    steps: int
    def step(self, num_threads: int | None = None) -> None: ...
    def state(self) -> tuple[dict[str, _Array], dict[str, float]]: ...
    def load_state(self, arrays: Mapping[str, _Array], numbers: Mapping[str, float]) -> None: ...
    def checked_numbers(self, numbers: Mapping[str, float]) -> dict[str, float]: ...
    def options(self) -> dict[str, Any]: ...

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
