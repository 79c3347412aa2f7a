"""What a recurrent layer is made of: its options, its parameters by name, and how these begin."""

import numpy as np

from .._kernels import cpu
from .._kernels.calls import Weights
from ..cells import Cell
from ..checks import check_limit
from ..files import check_rng, check_tensors, generator
from ..layer import Layer, check_flag, check_share, check_size, fixed
from .weights import begin_keeping, beginning, check_beginning

__all__ = ["Options"]

OPTIONS = (
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "bidirectional",
    "dropout",
    "variational",
    "learn_initial_state",
    "init",
    "grad_clip",
)  # of all cells


# What a GPU's kernels do not have, and what an option is without it.
NOT_ON_GPU = {
    "bidirectional": False,
    "dropout": 0.0,
    "learn_initial_state": False,
    "grad_clip": None,
    "peephole": False,
    "coupled": False,
    "proj_size": 0,
    "clip": None,
}


class Options(Layer):
    """The options and parameters of a stack of recurrent layers: see ``Recurrent``."""

    _not_pickled = (*Layer._not_pickled, "handle", "_stacks", "_stacked", "_whole")
    cell: Cell = fixed("cell")
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional = map(fixed, OPTIONS[:6])
    dropout, variational, learn_initial_state, init, grad_clip = map(fixed, OPTIONS[6:])
    proj_size, clip = map(fixed, ("proj_size", "clip"))
    _proj_size, _clip = 0, None  # unless the cell is an LSTM
    # Set once, as every call reads them: P, the features of h, and so of the output of each direction, which
    # is H without a projection; the features of each part of a state; and clip and grad_clip, 0 for none.
    features_of_h, state_sizes, limits = map(fixed, ("features_of_h", "state_sizes", "limits"))
    num_directions = fixed("num_directions")  # D: 2 of a bidirectional layer, else 1
    in_features = fixed("input_size")
    forget_bias = chrono = None  # unless a cell has gates that keep a state

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False,
                 dtype=np.float32, rng=None, device="cpu", *, bidirectional=False, dropout=0.0,
                 variational=False, learn_initial_state=False, init="uniform",
                 grad_clip=None):  # fmt: skip
        self._bidirectional = check_flag("bidirectional", bidirectional)
        self._num_directions = 1 + self._bidirectional
        self._dropout = check_share("dropout", dropout)
        self._learn_initial_state = check_flag("learn_initial_state", learn_initial_state)
        self._grad_clip = check_limit("grad_clip", grad_clip)
        super().__init__(dtype, device)
        self._input_size = check_size("input_size", input_size)
        self._hidden_size = check_size("hidden_size", hidden_size)
        self._num_layers = check_size("num_layers", num_layers)
        check_tensors("num_layers", self._num_layers)
        self._bias = check_flag("bias", bias)
        self._batch_first = check_flag("batch_first", batch_first)
        self._variational = check_flag("variational", variational)
        if self._proj_size >= self._hidden_size:
            raise ValueError(
                f"proj_size must be below hidden_size={self._hidden_size}, got {self._proj_size}"
            )
        if self._dropout and self._num_layers == 1:
            raise ValueError(
                "dropout must be 0 with num_layers=1: it is between the layers of a stack"
            )
        if self._variational and not self._dropout:
            raise ValueError("variational must be False with dropout=0: there is nothing to drop")
        self._init = init
        self._features_of_h = self._proj_size or self._hidden_size
        self._state_sizes = (self._features_of_h, self._hidden_size)[: len(self._cell.states)]
        self._limits = self._clip or 0.0, self._grad_clip or 0.0
        check_beginning(self)
        rng = generator(rng)
        self.allocate(rng, {name: beginning(self, name) for name in self.parameters()})
        if rng is not None:
            begin_keeping(self, rng)
        self._rng = generator(rng, of_weights=False) if self._dropout else None

    @property
    def rng(self):
        """What draws masks, None without dropout; an int or None, when set, makes a new generator."""
        return self._rng

    @rng.setter
    def rng(self, rng):
        if not self._dropout:
            raise ValueError("rng draws what is dropped, and this layer has no dropout")
        self._rng = check_rng(rng)

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {name: getattr(self, name) for name in OPTIONS} | {"dtype": self._dtype.name}

    def use_kernels(self, kernels):
        """Compute with the kernels of another device from now on."""
        self.check_movable(kernels)
        self.handle = kernels.cell(self._cell.name)
        super().use_kernels(kernels)
        self._stacks = self._whole = None  # made when they are first needed

    def check_movable(self, kernels):
        """Refuse to move to a device that does not have the cell, or an option."""
        for name, none in NOT_ON_GPU.items() if kernels is not cpu else ():
            if getattr(self, name, none) != none:
                raise ValueError(f"{name} must be {none} on a GPU, which does not have it yet")
        kernels.cell(self._cell.name)

    def parameters(self):
        """Return the shapes of the parameters by PyTorch's names, with one bias per gate.

        For each layer l: weight_ih_l (G*H, I or D*P), weight_hh_l (G*H, P), bias_l (S*H,), of an LSTM with
        these weight_hr_l (P, H) and peephole_l (3*H,), and where they are learned initial_h_l (P,) and
        initial_c_l (H,); where the layer is bidirectional, then those of the reverse direction, which end in
        _reverse.
        """
        rows, shapes = len(self._cell.gates) * self._hidden_size, {}
        for number in range(self._num_layers * self.num_directions):
            shapes[self.named("weight_ih", number)] = (rows, self.features(number))
            shapes[self.named("weight_hh", number)] = (rows, self.features_of_h)
            if self._bias:
                shapes[self.named("bias", number)] = (self._cell.biases * self._hidden_size,)
            if self._proj_size:
                shapes[self.named("weight_hr", number)] = (self._proj_size, self._hidden_size)
            if self._cell.peepholes:
                size = len(self._cell.peepholes) * self._hidden_size
                shapes[self.named("peephole", number)] = (size,)
            if self._learn_initial_state:
                for part, size in zip(self._cell.states, self.state_sizes):
                    shapes[self.named(f"initial_{part}", number)] = (size,)
        return shapes

    @property
    def out_features(self):
        """The features of y: D*P."""
        return self._num_directions * self._features_of_h

    def named(self, kind, number):
        """Return the name of a weight of the stack's direction number l * D + d: "weight_ih_l0_reverse"."""
        layer, direction = divmod(number, self.num_directions)
        return f"{kind}_l{layer}{'_reverse' * direction}"

    def part_name(self, number):
        """Return the name of the stack's direction number l * D + d, as weights end in it: "l0_reverse"."""
        return self.named("", number)[1:]

    def features(self, number):
        """Return the features that the stack's direction number l * D + d reads."""
        first = number < self.num_directions
        return self._input_size if first else self.num_directions * self.features_of_h

    def weights(self):
        """Return the Weights of each layer and direction, as kernels take them: views, not copies."""
        return [one.map(lambda w: w.view()) for one in self.both_weights()[0]]

    def both_weights(self):
        """Return the Weights of each layer and direction, and those of the gradients: its own views."""
        if self._stacks is None or self._stacked is not self._params:
            # Without biases, kernels add zeros, and leave their gradient where nobody looks.
            size = 0 if self._bias else self._cell.biases * self._hidden_size
            self._stacks = [
                [
                    Weights(
                        views[self.named("weight_ih", number)],
                        views[self.named("weight_hh", number)],
                        views[self.named("bias", number)] if self._bias else no_bias,
                        views.get(self.named("weight_hr", number)),
                        views.get(self.named("peephole", number)),
                    )
                    for number in range(self._num_layers * self.num_directions)
                ]
                for views in (self._params, self._grads)
                for no_bias in (self.kernels.arrays.zeros(size, self._dtype),)
            ]
            self._stacked = self._params  # whose views these are
        return self._stacks

    def initial_state(self):
        """Return the parts (L*D, .) of what sequences begin with without a state; None for zeros."""
        if not self._learn_initial_state:
            return None
        numbers = range(self._num_layers * self.num_directions)
        return [
            np.stack([self._params[self.named(f"initial_{part}", number)] for number in numbers])
            for part in self._cell.states
        ]
