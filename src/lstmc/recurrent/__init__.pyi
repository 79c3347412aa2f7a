"""Recurrent layers, for type checkers."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import Layer

_Array = NDArray[Any]
_Rng = int | np.random.Generator | None
_State = Any  # h (L*D, B, H), or (h, c)
_Init = Literal["uniform", "orthogonal", "identity"]

class _Stepper:
    state: _State
    def undo(self) -> None: ...
    def __call__(self, x: _Array, out: _Array | None = None) -> _Array: ...
    def reset(self, mask: NDArray[np.bool_] | None = None) -> None: ...
    def refresh(self) -> None: ...

class Recurrent(Layer):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: str = "cpu",
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        variational: bool = False,
        learn_initial_state: bool = False,
        init: _Init = "uniform",
        grad_clip: float | None = None,
    ) -> None: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def bias(self) -> bool: ...
    @property
    def batch_first(self) -> bool: ...
    @property
    def bidirectional(self) -> bool: ...
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def num_directions(self) -> Literal[1, 2]: ...
    @property
    def dropout(self) -> float: ...
    @property
    def variational(self) -> bool: ...
    @property
    def learn_initial_state(self) -> bool: ...
    @property
    def init(self) -> str: ...
    @property
    def grad_clip(self) -> float | None: ...
    @property
    def proj_size(self) -> int: ...
    @property
    def clip(self) -> float | None: ...
    @property
    def limits(self) -> tuple[float, float]: ...
    @property
    def forget_bias(self) -> float | None: ...
    @property
    def chrono(self) -> float | None: ...
    rng: Any  # a Generator, or None; set to an int, a Generator or None
    def __call__(
        self,
        x: _Array,
        state: _State = None,
        lengths: ArrayLike | None = None,
        resets: NDArray[np.bool_] | None = None,
    ) -> tuple[_Array, _State]: ...
    def forward(
        self,
        x: _Array,
        state: _State = None,
        training: bool = True,
        num_threads: int | None = None,
        lengths: ArrayLike | None = None,
        resets: NDArray[np.bool_] | None = None,
        drop: bool = True,
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
        limit: bool = True,
    ) -> tuple[_Array | None, _State]: ...
    def stepper(self, batch: int = 1, num_threads: int | None = None) -> _Stepper: ...
    # For those who look inside:
    handle: Any
    @property
    def cell(self) -> Any: ...
    def weights(self) -> list[Any]: ...
    def both_weights(self) -> list[list[Any]]: ...
    def named(self, kind: str, number: int) -> str: ...
    def part_name(self, number: int) -> str: ...
    def features(self, number: int) -> int: ...
    @property
    def features_of_h(self) -> int: ...
    @property
    def state_sizes(self) -> tuple[int, ...]: ...
    def initial_state(self) -> list[_Array] | None: ...
    def enter_state(
        self, name: str, state: _State, batch: int, unbatched: bool
    ) -> list[_Array]: ...

class RNN(Recurrent):
    @property
    def nonlinearity(self) -> str: ...
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
        device: str = "cpu",
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        variational: bool = False,
        learn_initial_state: bool = False,
        init: _Init = "uniform",
        grad_clip: float | None = None,
    ) -> None: ...

class GRU(Recurrent):
    @property
    def reset_after(self) -> bool: ...
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: str = "cpu",
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        variational: bool = False,
        learn_initial_state: bool = False,
        init: _Init = "uniform",
        grad_clip: float | None = None,
        reset_after: bool = True,
        forget_bias: float | None = None,
        chrono: float | None = None,
    ) -> None: ...

class LSTM(Recurrent):
    @property
    def peephole(self) -> bool: ...
    @property
    def coupled(self) -> bool: ...
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: str = "cpu",
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        variational: bool = False,
        learn_initial_state: bool = False,
        init: _Init = "uniform",
        grad_clip: float | None = None,
        peephole: bool = False,
        coupled: bool = False,
        proj_size: int = 0,
        clip: float | None = None,
        forget_bias: float | None = None,
        chrono: float | None = None,
    ) -> None: ...

KINDS: dict[str, type[Recurrent]]

def carry_back(
    layer: Recurrent,
    trace: Any,
    carried: list[_Array],
    t0: int,
    t1: Any,
    repeat: int,
    dx: _Array | None = None,
    num_threads: int | None = None,
    direction: int = 0,
) -> list[_Array]: ...
