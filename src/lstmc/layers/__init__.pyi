"""The layers that are not recurrent, for type checkers."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import Layer

_Array = NDArray[Any]
_Rng = int | np.random.Generator | None
_State = Any

class Linear(Layer):
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def bias(self) -> bool: ...
    @property
    def tied_to(self) -> str | None: ...
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: str = "cpu",
        *,
        tied_to: str | None = None,
    ) -> None: ...
    def tie(self, weight: _Array, gradient: _Array) -> None: ...
    def weights(self) -> tuple[_Array, _Array | None]: ...
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
    @property
    def num_embeddings(self) -> int: ...
    @property
    def embedding_dim(self) -> int: ...
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: str = "cpu",
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
    ) -> tuple[None, _State]: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> Any: ...

class Activation(Layer):
    @property
    def function(self) -> str: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def negative_slope(self) -> float | None: ...
    def __init__(
        self,
        function: Literal["tanh", "relu", "sigmoid", "softmax", "elu", "leaky_relu"],
        alpha: float | None = None,
        negative_slope: float | None = None,
    ) -> None: ...
    def forward(
        self,
        x: _Array,
        state: _State = None,
        training: bool = True,
        num_threads: int | None = None,
    ) -> tuple[_Array, _State, Any]: ...
    def backward(
        self, dy: _Array, trace: Any, dstate: _State = None, num_threads: int | None = None
    ) -> tuple[_Array, _State]: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> Any: ...

class Dropout(Layer):
    p: float
    rng: np.random.Generator
    @property
    def variational(self) -> bool: ...
    @property
    def needs_time(self) -> bool: ...
    def __init__(self, p: float = 0.5, rng: _Rng = None, variational: bool = False) -> None: ...
    def forward(
        self, x: _Array, state: _State = None, training: bool = True, drop: bool = True
    ) -> tuple[_Array, _State, Any]: ...
    def backward(self, dy: _Array, trace: Any, dstate: _State = None) -> tuple[_Array, _State]: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> Any: ...

class Last(Layer):
    def __init__(self) -> None: ...
    def __call__(
        self, x: _Array, state: _State = None, lengths: ArrayLike | None = None
    ) -> tuple[_Array, _State]: ...
    def forward(
        self,
        x: _Array,
        state: _State = None,
        training: bool = True,
        lengths: ArrayLike | None = None,
    ) -> tuple[_Array, _State, Any]: ...
    def backward(self, dy: _Array, trace: Any, dstate: _State = None) -> tuple[_Array, _State]: ...
    def follow(self, directions: int) -> None: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> Any: ...
