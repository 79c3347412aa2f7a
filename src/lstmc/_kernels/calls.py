"""What a recurrent call says of each layer of its stack: arrays by name, as kernels.h describes them.

The CPU's kernels and a GPU's take the same. An array that a cell does not have, or that is not wanted, is
None.
"""

from typing import Any, NamedTuple

__all__ = ["BackwardLayer", "ForwardLayer", "Weights"]


class Weights(NamedTuple):
    """The weights of one layer, or their gradients."""

    weight_ih: Any = None
    weight_hh: Any = None
    bias: Any = None


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
