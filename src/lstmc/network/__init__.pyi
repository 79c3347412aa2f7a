"""Networks, for type checkers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import Layer

_Array = NDArray[Any]
_State = Any  # a tuple with one entry per layer
_Resets = NDArray[np.bool_] | None

class _Stepper(Protocol):
    state: _State
    def undo(self) -> None: ...
    def __call__(self, x: _Array, out: _Array | None = None) -> _Array: ...
    def reset(self, mask: NDArray[np.bool_] | None = None) -> None: ...
    def refresh(self) -> None: ...

class ForwardCalls:
    lengths: NDArray[np.int64] | int | None
    resets: _Resets
    def __call__(self, i: int, x: _Array, timed: bool = True) -> _Array: ...
    def save(self, **values: Any) -> None: ...

class BackwardCalls:
    saved: dict[str, Any]
    def __call__(self, i: int, dy: _Array) -> _Array: ...  # None of a layer that reads tokens

class Composite(Layer, ABC):
    @property
    def layers(self) -> tuple[Any, ...]: ...
    @property
    def batch_first(self) -> bool: ...
    def __init__(self, *layers: Any) -> None: ...
    @abstractmethod
    def compute(self, x: _Array, call: ForwardCalls) -> _Array: ...
    @abstractmethod
    def differentiate(self, dy: _Array, call: BackwardCalls) -> _Array | None: ...
    @property
    def num_directions(self) -> int: ...
    @property
    def says_directions(self) -> bool: ...
    @property
    def has_loose_last(self) -> bool: ...
    def __call__(
        self,
        x: _Array,
        state: _State = None,
        lengths: ArrayLike | None = None,
        resets: _Resets = None,
    ) -> tuple[_Array, _State]: ...
    def forward(
        self,
        x: _Array,
        state: _State = None,
        training: bool = True,
        num_threads: int | None = None,
        lengths: ArrayLike | None = None,
        resets: _Resets = None,
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
    def walk(
        self,
        x: _Array,
        state: _State,
        call: Callable[..., tuple[_Array, _State, Any]],
        lengths: ArrayLike | None = None,
        resets: _Resets = None,
    ) -> tuple[_Array, tuple[Any, ...], Any]: ...
    def walk_back(
        self,
        dy: _Array,
        trace: Any,
        dstate: _State,
        call: Callable[[Any, _Array, Any, _State], tuple[_Array, _State]],
    ) -> tuple[_Array | None, tuple[Any, ...]]: ...
    def chain(self, steppers: list[Any]) -> tuple[list[Any], Any]: ...

class Sequential(Composite):
    @property
    def in_a_row(self) -> bool: ...
    def compute(self, x: _Array, call: ForwardCalls) -> _Array: ...
    def differentiate(self, dy: _Array, call: BackwardCalls) -> _Array | None: ...
    def __init__(self, *layers: Any, batch_first: bool = False) -> None: ...

class Place:
    layer: Any
    index: int
    keeps_time: bool
    def __init__(self, layer: Any, index: int = 0) -> None: ...
    def forward(
        self,
        x: _Array,
        state: _State,
        training: bool = True,
        num_threads: int | None = None,
        drop: bool = True,
        lengths: ArrayLike | None = None,
        resets: _Resets = None,
    ) -> tuple[_Array, _State, Any]: ...
    def backward(
        self,
        dy: _Array,
        trace: Any,
        dstate: _State = None,
        num_threads: int | None = None,
        need_dx: bool = True,
        consume: bool = False,
        need_grads: bool = True,
        record: list[Any] | None = None,
        limit: bool = True,
    ) -> tuple[_Array | None, _State]: ...
    def check_movable(self, kernels: Any) -> None: ...
    def backward_takes(self, option: str) -> bool: ...

def layout_of(
    x: _Array, batch_first: bool, lengths: ArrayLike | None = None, resets: _Resets = None
) -> Any: ...
