"""What core.pyx offers, for type checkers."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from ..calls import BackwardStack, ForwardStack, Rows, Weights

_Array = NDArray[Any]

ACTIVATIONS: dict[str, int]

def instruction_sets() -> list[str]: ...
def use_instruction_set(name: str | None = None) -> None: ...
def instruction_set() -> str: ...
def check_environment() -> None: ...
def team_kind() -> str: ...
def crowd_teams(allowed: bool) -> bool: ...
def set_num_threads(n: int | None) -> None: ...
def get_num_threads() -> int: ...
def threads_from() -> str: ...

@disjoint_base
class Pool:
    def __new__(cls) -> Self: ...
    @property
    def nbytes(self) -> int: ...
    def array(self, shape: Sequence[int], dtype: Any) -> _Array: ...
    def tick(self) -> None: ...
    def release(self) -> None: ...

@disjoint_base
class Buffer: ...

def checked(
    name: str, value: object, dtype: np.dtype[Any], shape: Sequence[int | str]
) -> _Array: ...
def checked_tokens(
    name: str,
    value: object,
    limit: int,
    shape: Sequence[int] | None = None,
    ignored: int | None = None,
) -> NDArray[np.int64]: ...
def fingerprint(arrays: list[_Array]) -> int: ...
def cell(name: str) -> int: ...
def recurrent_forward(
    cell: int, stacks: list[ForwardStack], of: Rows, num_threads: int | None = None
) -> None: ...
def recurrent_backward(
    cell: int,
    stacks: list[BackwardStack],
    of: Rows,
    num_threads: int | None = None,
    repeat: int = 1,
) -> None: ...
def gather_rows(
    to: _Array,
    source: _Array,
    index: NDArray[np.intp],
    adds: bool = False,
    num_threads: int | None = None,
) -> None: ...

@disjoint_base
class RecurrentStepper:
    dtype: np.dtype[Any]
    taken: int
    def __new__(
        cls,
        cell: int,
        weights: Callable[[], list[Weights]],
        batch: int,
        num_threads: int | None = None,
        initial: Callable[[], list[_Array]] | None = None,
        clip: float = 0,
    ) -> Self: ...
    def refresh(self) -> None: ...
    def read_state(self) -> list[_Array]: ...
    def write_state(self, parts: list[_Array]) -> None: ...
    def clear_state(self, mask: NDArray[np.bool_] | None = None) -> None: ...
    def undo(self) -> None: ...
    def __call__(self, x: _Array, out: _Array | None = None) -> _Array: ...

@disjoint_base
class LinearStepper:
    def __new__(cls, weights: Callable[[], tuple[_Array, _Array | None]]) -> Self: ...
    def refresh(self) -> None: ...
    def __call__(self, y: _Array, x: _Array, threads: int) -> None: ...

# Written by declarations.py from kernels.h.
def linear_forward(
    y: _Array, x: _Array, weight: _Array, bias: _Array | None, num_threads: int | None = None
) -> None: ...
def linear_backward(
    dx: _Array | None,
    dweight: _Array | None,
    dbias: _Array | None,
    dy: _Array,
    x: _Array,
    weight: _Array,
    num_threads: int | None = None,
) -> None: ...
def embedding_forward(y: _Array, tokens: _Array, weight: _Array) -> None: ...
def embedding_backward(
    dweight: _Array, dy: _Array, tokens: _Array, num_threads: int | None = None
) -> None: ...
def activate(
    y: _Array, x: _Array, function: int, slope: float, num_threads: int | None = None
) -> None: ...
def activate_backward(
    dx: _Array, dy: _Array, y: _Array, function: int, slope: float, num_threads: int | None = None
) -> None: ...
def softmax_backward(dx: _Array, dy: _Array, y: _Array, num_threads: int | None = None) -> None: ...
def softmax(out: _Array, logits: _Array, num_threads: int | None = None) -> None: ...
def softmax_cross_entropy(
    dlogits: _Array, logits: _Array, targets: _Array, ignored: int, num_threads: int | None = None
) -> float: ...
def squared_error(
    dy: _Array,
    y: _Array,
    target: _Array,
    mask: NDArray[np.bool_] | None,
    num_threads: int | None = None,
) -> float: ...
def huber(
    dy: _Array,
    y: _Array,
    target: _Array,
    mask: NDArray[np.bool_] | None,
    delta: float,
    num_threads: int | None = None,
) -> float: ...
def binary_cross_entropy(
    dlogits: _Array,
    logits: _Array,
    targets: _Array,
    mask: NDArray[np.bool_] | None,
    num_threads: int | None = None,
) -> float: ...
def norm(a: _Array, num_threads: int | None = None) -> float: ...
def scale(a: _Array, factor: float, num_threads: int | None = None) -> None: ...
def clip_values(a: _Array, limit: float, num_threads: int | None = None) -> None: ...
def sgd(
    params: _Array,
    velocity: _Array | None,
    grads: _Array,
    lr: float,
    momentum: float,
    nesterov: int,
    weight_decay: float,
    num_threads: int | None = None,
) -> None: ...
def adam(
    params: _Array,
    m: _Array,
    v: _Array,
    grads: _Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: int,
    num_threads: int | None = None,
) -> None: ...
def rmsprop(
    params: _Array,
    square_avg: _Array,
    velocity: _Array | None,
    grads: _Array,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    num_threads: int | None = None,
) -> None: ...
