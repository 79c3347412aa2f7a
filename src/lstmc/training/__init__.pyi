"""Training, for type checkers: what __init__.py exports, with types."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Self, TextIO, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import SGD, Adam, RMSprop, Sequential
from ..inspection import Watch

_Array = NDArray[Any]
_Path = str | PathLike[str]
_Rng = int | np.random.Generator | None
_State = Any  # h (L, B, H), or (h, c), or a tuple with one entry per layer of a Sequential
_Optimiser = SGD | Adam | RMSprop
_Loss = Callable[
    [_Array, _Array], tuple[Any, _Array]
]  # of the output and the targets: loss, gradient
_Level = Literal["char", "word", "token"]
_Unknown = Literal["error", "skip"]

class Interrupted(KeyboardInterrupt):
    checkpoint: _Path | None
    signal: int
    def __init__(
        self, message: str, checkpoint: _Path | None = None, signal: int = ...
    ) -> None: ...

def default_text() -> str: ...
def read_text(source: _Path) -> str: ...
def tokenize(text: str, level: _Level) -> list[str]: ...
def read_note(path: _Path) -> dict[str, Any]: ...
def streams(tokens: _Array, batch: int) -> NDArray[np.int64]: ...
def windows(stream: _Array, steps: int) -> Iterator[tuple[_Array, _Array]]: ...
def evaluate(
    net: Sequential,
    tokens: _Array,
    batch: int = 20,
    steps: int = 100,
    num_threads: int | None = None,
) -> float: ...

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
    def checked_state(self, numbers: Mapping[str, float]) -> dict[str, float]: ...
    def options(self) -> dict[str, Any]: ...

class ExponentialDecay(StepDecay):
    def __init__(self, optimiser: _Optimiser, factor: float) -> None: ...

class PlateauDecay(StepDecay):
    patience: int
    threshold: float
    min_lr: float
    def __init__(
        self,
        optimiser: _Optimiser,
        factor: float = 0.5,
        patience: int = 1,
        threshold: float = 0.0,
        min_lr: float = 1e-8,
    ) -> None: ...

class Vocabulary:
    tokens: list[str]
    level: str
    rule: int | None
    unknown: int | None
    def __init__(self, tokens: Iterable[str], level: _Level, rule: int = 2) -> None: ...
    @classmethod
    def from_text(cls, text: str, level: _Level = "char", min_count: int = 1) -> Vocabulary: ...
    def __len__(self) -> int: ...
    def index(self, token: str) -> int: ...
    def unseen(self, text: str) -> list[str]: ...
    @overload
    def encode(self, text: str, unknown: _Unknown = "error") -> NDArray[np.int64]: ...
    @overload
    def encode(self, text: str, unknown: Literal["count"]) -> tuple[NDArray[np.int64], int]: ...
    def options(self) -> dict[str, Any]: ...
    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Vocabulary: ...
    def decode(self, ids: Sequence[int] | _Array) -> str: ...

class TokenStream:
    tokens: NDArray[np.int64]
    batch: int
    steps: int
    count: int
    num_windows: int
    identity: list[int]
    def __init__(self, tokens: _Array, batch: int, steps: int) -> None: ...
    def check(self, name: str, net: Any) -> None: ...
    def windows(self, net: Any, first: int = 0) -> Iterator[tuple[_Array, _Array]]: ...

class Trainer:
    net: Sequential
    optimiser: _Optimiser
    schedule: StepDecay | None
    watch: Watch | None
    batch: int | None
    steps: int | None
    loss: Literal["cross_entropy"] | _Loss
    ended: Literal["epochs", "patience", "minutes"] | None
    epoch: int
    window: int
    history: list[dict[str, Any]]
    checkpoint_seconds: float
    note: dict[str, Any]
    progress: Any
    def __init__(
        self,
        net: Sequential,
        optimiser: _Optimiser,
        batch: int | None = None,
        steps: int | None = None,
        clip: float | None = 5.0,
        schedule: StepDecay | None = None,
        num_threads: int | None = None,
        watch: Watch | None = None,
        *,
        clip_value: float | None = None,
        loss: Literal["cross_entropy"] | _Loss = "cross_entropy",
    ) -> None: ...
    def fit(
        self,
        train: _Array | TokenStream,
        valid: _Array | TokenStream | None = None,
        epochs: int = 1,
        patience: int | None = None,
        checkpoint: _Path | None = None,
        metrics: _Path | None = None,
        progress: bool | TextIO | None = None,
        note: dict[str, Any] | None = None,
        *,
        minutes: float | None = None,
    ) -> list[dict[str, Any]]: ...
    def use_best(self) -> None: ...
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
        cell: str = "lstm",
        layers: int = 2,
        hidden: int = 128,
        embed: int = 128,
        dropout: float = 0.0,
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        device: str = "cpu",
        *,
        variational: bool = False,
        tied: bool = False,
    ) -> None: ...
    def step(self, token: str | int) -> _Array: ...
    def reset(self) -> None: ...
    def continuations(
        self, text: str, k: int = 5, unknown: _Unknown = "error"
    ) -> list[tuple[str, float]]: ...
    def sample(
        self,
        prompt: str = "",
        length: int = 200,
        temperature: float = 1.0,
        top_k: int | None = None,
        rng: _Rng = None,
        unknown: _Unknown = "error",
    ) -> str: ...
    def perplexity(self, text: str, unknown: _Unknown = "error") -> float: ...
    def loss(self, text: str, unknown: _Unknown = "error") -> float: ...
    def save(self, path: _Path) -> None: ...
    @classmethod
    def load(cls, path: _Path, device: str = "cpu", verify: bool = True) -> Self: ...
    def __getstate__(self) -> dict[str, Any]: ...
    def __setstate__(self, saved: dict[str, Any]) -> None: ...
