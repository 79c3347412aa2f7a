"""The machine: what it is, and how fast it multiplies matrices and reads memory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """A level of memory: bytes that all threads together read there (None: no end), bytes a second."""

    name: str
    size: int | None
    bandwidth: float


@dataclass(frozen=True)
class Machine:
    """Rates that threads reach together."""

    threads: int
    blas: dict[str, float]  # flop/s by type
    kernel: dict[str, float]
    levels: tuple[Level, ...]
    activation: float  # seconds for one tanh or sigmoid
    isa: str

    def bandwidth(self, nbytes):
        """Return the bandwidth of the fastest level that holds this many bytes."""
        return next(lv.bandwidth for lv in self.levels if lv.size is None or nbytes <= lv.size)
