"""What is timed: the table of workloads.

Nothing is run here. A floor is the ratio (peer's time / lstmc's) that is asked for; RESULTS.md has the
measurements.
"""

from dataclasses import dataclass, replace

SHAPE = (
    *("kind", "inputs", "hidden", "steps", "batch", "layers"),
    *("cell", "dtype", "vocabulary", "dropout"),
    *("bidirectional", "shortest", "resets"),
)


@dataclass(frozen=True)
class Workload:
    """One unit of work, and what is asked of lstmc for it.

    kind: "step" (one step, the state carried on), "forward" (inference over a sequence), "train"
    (forward and backward, every gradient including dx) or "model" (a training step of a language
    model: embedding, layers, softmax, clipping, SGD).

    shortest: if not 0, rows have lengths, drawn evenly from this to `steps`. resets: the share of the
    steps before which a row is reset.
    """

    kind: str
    inputs: int
    hidden: int
    steps: int = 1
    batch: int = 1
    layers: int = 1
    cell: str = "lstm"
    dtype: str = "float32"
    vocabulary: int = 0
    dropout: float = 0.0
    bidirectional: bool = False
    shortest: int = 0
    resets: float = 0.0
    floor: float | None = None  # the best of `against` takes at least this many times as long
    against: tuple[str, ...] = ()  # none named: every peer
    of_limit: float | None = None  # at least this fraction of the limit
    of_equal: float | None = None  # at least this fraction of the speed at as many equal rows
    speed_up: float = 1.8  # of two threads over one, where one takes more than 2 ms

    def __post_init__(self):
        if not (self.is_plain or self.kind in ("forward", "train")):
            raise ValueError(f'bidirectional, shortest and resets are not for a "{self.kind}"')
        if self.shortest > self.steps:
            raise ValueError(f"shortest must be at most {self.steps} steps, got {self.shortest}")

    @property
    def name(self):
        sizes = [f"B{self.batch}"]
        if self.kind != "step":
            lengths = f"{self.shortest}..{self.steps}" if self.shortest else self.steps
            sizes.append(f"T{lengths}")
        if self.inputs != self.hidden:
            sizes.append(f"I{self.inputs}")
        sizes.append(f"H{self.hidden}")
        if self.layers > 1:
            sizes.append(f"L{self.layers}")
        if self.vocabulary:
            sizes.append(f"V{self.vocabulary}")
        if self.bidirectional:
            sizes.append("bidirectional")
        if self.resets:
            sizes.append(f"resets {self.resets:.0%}")
        words = [self.kind, self.cell, *sizes, self.dtype]
        usual = (Workload.cell, Workload.dtype)  # the defaults go without saying
        return " ".join(word for word in words if word not in usual)

    @property
    def directions(self):
        """D."""
        return 1 + self.bidirectional

    @property
    def is_plain(self):
        """Whether it has one direction and its rows are whole: T steps, no resets."""
        return not (self.bidirectional or self.shortest or self.resets)

    @property
    def shape(self):
        """Everything but what is asked of lstmc."""
        return tuple(getattr(self, name) for name in SHAPE)


TORCH, BETTER = ("torch",), ("torch", "onnxruntime")
STEP = ("onnxruntime run",)  # fed by run(), which the floors of a step were set against


def train(inputs, hidden, steps, batch, layers, floor, **more):
    return Workload(
        "train", inputs, hidden, steps, batch, layers, floor=floor, against=TORCH, **more
    )


TABLE = (
    Workload("step", 1, 16, floor=28, against=STEP),
    Workload("step", 1, 40),
    Workload("step", 64, 64, floor=9, against=STEP),
    Workload("step", 128, 128, floor=3.5, against=STEP),
    Workload("step", 256, 256, floor=1.6, against=STEP),
    Workload("step", 512, 512, floor=1.4, against=STEP),
    Workload("step", 1024, 1024, floor=1, against=STEP, of_limit=1 / 1.15),
    Workload("step", 64, 64, batch=64, floor=2.5, against=("torch LSTMCell", "onnxruntime")),
    Workload("forward", 128, 128, 100, floor=1.1, against=BETTER),
    Workload("forward", 40, 40, 1000, floor=1.6, against=BETTER),
    Workload("forward", 1, 40, 2048, floor=2, against=BETTER),
    Workload("forward", 256, 256, 100, 32, floor=1.03, against=BETTER, of_limit=0.92),
    train(200, 200, 20, 20, 2, 1.3),
    train(650, 650, 35, 20, 2, 1.12),
    train(1500, 1500, 35, 20, 2, 1.4, speed_up=1.4),
    train(128, 128, 50, 50, 2, 1.15),
    train(256, 256, 100, 64, 1, 1.18),
    train(512, 512, 50, 32, 1, 1.0, of_limit=0.93),
    train(1, 40, 2048, 16, 1, 3.5),
    train(64, 64, 100, 1, 1, 2),
    train(1024, 1024, 50, 128, 1, 1.08),
    Workload("step", 64, 64, cell="gru", floor=10, against=TORCH),
    Workload("step", 256, 256, cell="gru", floor=2, against=TORCH),
    Workload("forward", 40, 40, 1000, cell="gru", floor=10, against=TORCH),
    Workload("forward", 256, 256, 100, 32, cell="gru", floor=1.3, against=TORCH),
    train(200, 200, 20, 20, 2, 1.3, cell="gru"),
    train(256, 256, 100, 64, 1, 1.3, cell="gru"),
    train(64, 64, 100, 1, 1, 10, cell="gru"),
    train(256, 256, 35, 20, 2, 1.2, cell="rnn"),
    train(40, 40, 1000, 1, 1, 2, cell="rnn"),
    train(200, 200, 20, 20, 2, 1.2, dtype="float64"),
    train(128, 128, 100, 32, 2, 1.4, bidirectional=True, speed_up=1.7),
    Workload(
        *("train", 256, 256, 200, 64),
        shortest=1,
        floor=10,
        against=("torch", "torch, sorted"),
        of_equal=1 / 1.1,
        speed_up=1.6,
    ),
    train(128, 128, 128, 64, 1, 3, resets=0.02, of_equal=1.0),
    Workload("model", 200, 200, 20, 20, 2, vocabulary=10000, floor=1.4, against=TORCH),
    Workload(
        "model", 650, 650, 35, 20, 2, vocabulary=10000, dropout=0.5, floor=1.15, against=TORCH
    ),
)

DEFAULTS = {
    "step": Workload("step", 128, 128),
    "streams": Workload("step", 64, 64, batch=64),
    "forward": Workload("forward", 128, 128, 100),
    "train": Workload("train", 128, 128, 50, 50),
    "model": Workload("model", 200, 200, 20, 20, 2, vocabulary=10000),
}


def select(kind, sizes):
    """Return the workloads of a kind: those of the table, or, with sizes, the one that has them."""
    default = DEFAULTS[kind]
    if not sizes:
        streams = kind == "streams"
        return [w for w in TABLE if w.kind == default.kind and (w.batch > 1) >= streams]
    if "hidden" in sizes:
        sizes = {"inputs": sizes["hidden"], **sizes}
    workload = replace(default, **sizes)
    return [next((w for w in TABLE if w.shape == workload.shape), workload)]
