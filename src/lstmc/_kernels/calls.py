"""What a recurrent call says of each layer of its stack: arrays by name, as kernels.h describes them.

The CPU's kernels and a GPU's take the same. An array that a cell does not have, or that is not wanted, is
None.
"""

from typing import Any, NamedTuple

__all__ = ["BackwardLayer", "BackwardStack", "ForwardLayer", "ForwardStack", "Rows", "Weights"]


class Rows(NamedTuple):
    """The rows of every step, as kernels.h says it of sequences that may differ in length.

    Attributes
    ----------
    steps, batch : int
        T of the longest sequence, and B, how many there are.
    starts : ndarray (T+1,) of intp, or None
        Where the rows of each step begin. None: all sequences have T steps.
    before : ndarray (N,) of intp, or None
        Which row of h, (B+N, H), each row's step began from. Backward needs it beside `starts`.
    order : ndarray (N,) of intp, or None
        Which row of y, dy and dx each row is, where their order is another: of `places` rows. Others are left
        alone.
    """

    steps: int
    batch: int
    starts: Any = None
    before: Any = None
    order: Any = None
    places: int = 0

    @property
    def count(self):
        """N, the rows of all steps."""
        return self.steps * self.batch if self.starts is None else int(self.starts[-1])


class Weights(NamedTuple):
    """The weights of one layer, or their gradients: those that it has."""

    weight_ih: Any = None
    weight_hh: Any = None
    bias: Any = None
    weight_hr: Any = None
    peephole: Any = None

    def map(self, function):
        """Return the same of what a function makes of each array that there is."""
        return Weights(*(array if array is None else function(array) for array in self))


class ForwardLayer(NamedTuple):
    """One layer, forward: lstmc_forward_layer."""

    weights: Weights
    h_n: Any
    c_n: Any
    h0: Any
    c0: Any
    h: Any = None
    c: Any = None
    gates: Any = None
    m: Any = None


class BackwardLayer(NamedTuple):
    """One layer, backward: lstmc_backward_layer."""

    weights: Weights
    h: Any
    c: Any
    gates: Any
    dh0: Any
    dc0: Any
    dh_n: Any = None
    dc_n: Any = None
    dweights: Weights = Weights()
    dgates: Any = None
    dh: Any = None
    dc: Any = None
    dx: Any = None
    m: Any = None


class ForwardStack(NamedTuple):
    """A stack of layers, forward, and what it reads and writes: lstmc_forward."""

    layers: list
    x: Any
    y: Any  # None on the CPU, if it is not wanted beside the last layer's h
    clip: float = 0.0


class BackwardStack(NamedTuple):
    """The same, backward: lstmc_backward."""

    layers: list
    dx: Any
    dy: Any
    x: Any
    clip: float = 0.0
    grad_clip: float = 0.0
