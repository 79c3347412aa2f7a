"""Optimisers and clipping: each is one call over a network's flat arrays.

Each takes anything with ``params`` and ``grads``: a Sequential or a single layer. The state of an
optimiser is plain numbers and arrays, for checkpoints.
"""

import math
import sys

import numpy as np

from ._kernels import kernels_of
from ._kernels.devices import copy_into

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
    "check_count",
    "check_number",
    "check_real",
    "clip_grad_norm",
]


def check_number(name, value, low=0.0, high=math.inf, open_low=False):
    """Return a number as a float; refuse one outside [low, high), or (low, high) with `open_low`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.number))
        or not (low < value if open_low else low <= value)
        or not value < high
        or value > sys.float_info.max
    ):
        bounds = f"{'above' if open_low else 'at least'} {low:g}" + (
            f" and below {high:g}" if high < math.inf else ""
        )
        raise ValueError(f"{name} must be a finite number {bounds}, got {value!r}")
    return float(value)


def clip_grad_norm(net, max_norm, num_threads=None):
    """Scale all gradients so that their overall norm is at most max_norm (Pascanu et al. 2013).

    Parameters
    ----------
    net : Sequential or layer
    max_norm : float
        Positive. Infinity only measures.
    num_threads : int, optional

    Returns
    -------
    norm : float
        The norm before clipping. If a gradient is not finite, neither is the norm, and the gradients do not
        change: the caller is to check (``math.isfinite``) before a step. For a network on a GPU it is an
        array () there.

    Raises
    ------
    ValueError
        max_norm is not a positive number.
    """
    if not isinstance(max_norm, (int, float, np.number)) or not max_norm > 0:
        raise ValueError(f"max_norm must be a positive number, got {max_norm!r}")
    return kernels_of(net.grads).clip(net.grads, float(max_norm), num_threads)


def check_real(name, value):
    """Return a number as a float, which may be infinite; refuse NaN and all else."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    most = sys.float_info.max  # of integers: those beyond are no floats
    if not number or not (-most <= value <= most or value in (-math.inf, math.inf)):
        raise ValueError(f"{name} must be a number, got {value!r:.100}")
    return float(value)


def check_count(name, value):
    """Return an int; refuse all but integers of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name} must be an integer of 0 or more, got {value!r:.100}")
    return int(value)


class Optimiser:
    """The base of SGD, Adam, AdamW and RMSprop."""

    _arrays: tuple = ()  # names of the state arrays, each as long as params
    _options: tuple = ("weight_decay",)  # names of what is given when it is made, beside the rate

    def __init__(self, net, lr, weight_decay):
        self.net = net
        self.lr = check_number("lr", lr)
        self.weight_decay = check_number("weight_decay", weight_decay)
        self.steps = 0
        for name in self._arrays:
            setattr(self, name, np.zeros_like(net.params))

    def step(self, num_threads=None):
        """Update the parameters from the gradients, in place.

        Raises
        ------
        ValueError
            The network's parameters have moved to another network or device.
        """
        kernels = kernels_of(self.net.params)
        for name in self._arrays:
            mine = getattr(self, name)
            if mine.size != self.net.params.size or kernels_of(mine) is not kernels:
                raise ValueError(
                    "the network's parameters have moved since this optimiser was made: make a new one"
                )
        self.steps += 1
        self._update(kernels, self.net.params, self.net.grads, num_threads)

    def options(self):
        """Return what it was made with beside the network and the rate, as plain data."""
        return {name: getattr(self, name) for name in self._options}

    def __repr__(self):
        options = {"lr": self.lr, **self.options(), "steps": self.steps}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"

    def state(self):
        """Return what a checkpoint needs: (arrays by name, numbers by name)."""
        return {name: getattr(self, name) for name in self._arrays}, {
            "lr": self.lr,
            "steps": self.steps,
        }

    def load_state(self, arrays, numbers):
        """Restore what ``state()`` returned.

        Raises
        ------
        TypeError, ValueError
            The arrays are not those of this optimiser.
        """
        if set(arrays) != set(self._arrays):
            raise ValueError(f"arrays must be {sorted(self._arrays)}, got {sorted(arrays)}")
        dtype, shape = self.net.params.dtype, self.net.params.shape
        arrays = {
            name: kernels_of(array).checked(name, array, dtype, shape)
            for name, array in arrays.items()
        }
        numbers = self.checked_numbers(numbers)
        for name, array in arrays.items():
            copy_into(getattr(self, name), array)
        self.lr, self.steps = numbers["lr"], numbers["steps"]

    def checked_numbers(self, numbers):
        """Return the numbers of a state, checked.

        Raises
        ------
        ValueError
            One is missing, negative, not finite, or of another type.
        """
        if not isinstance(numbers, dict) or set(numbers) != {"lr", "steps"}:
            raise ValueError(f"numbers must be lr and steps, got {numbers!r:.100}")
        return {
            "lr": check_number("lr", numbers["lr"]),
            "steps": check_count("steps", numbers["steps"]),
        }


class SGD(Optimiser):
    """Stochastic gradient descent, with momentum as in Sutskever et al. 2013 (PyTorch's form).

    Parameters
    ----------
    net : Sequential or layer
    lr : float
    momentum : float in [0, 1)
    nesterov : bool
        Needs momentum.
    weight_decay : float
        Times the parameter, added to the gradient.

    Raises
    ------
    ValueError
        A number is out of range, or nesterov comes without momentum.
    """

    _options = ("momentum", "nesterov", "weight_decay")

    def __init__(self, net, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        self.momentum = check_number("momentum", momentum, high=1)
        if nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0, got 0")
        self.nesterov = bool(nesterov)
        self._arrays = ("velocity",) if self.momentum else ()
        self.velocity = None
        super().__init__(net, lr, weight_decay)

    def _update(self, kernels, params, grads, threads):
        kernels.sgd(
            params,
            self.velocity,
            grads,
            self.lr,
            self.momentum,
            self.nesterov,
            self.weight_decay,
            threads,
        )


class Adam(Optimiser):
    """Adam (Kingma & Ba 2015).

    Parameters
    ----------
    net : Sequential or layer
    lr : float
    betas : pair of floats in [0, 1)
        The decay of the averages of the gradient and of its square.
    eps : float
        Added to the root in the denominator.
    weight_decay : float
        Times the parameter, added to the gradient.

    Raises
    ------
    ValueError
        A number is out of range.
    """

    _arrays = ("m", "v")
    _options = ("betas", "eps", "weight_decay")
    _decoupled = False

    def __init__(self, net, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        self.betas = tuple(
            check_number(f"betas[{i}]", beta, high=1) for i, beta in enumerate(betas)
        )
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, got {len(self.betas)}")
        self.eps = check_number("eps", eps, open_low=True)
        super().__init__(net, lr, weight_decay)

    def _update(self, kernels, params, grads, threads):
        kernels.adam(
            params,
            self.m,
            self.v,
            grads,
            self.steps,
            self.lr,
            *self.betas,
            self.eps,
            self.weight_decay,
            self._decoupled,
            threads,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    Parameters
    ----------
    net, lr, betas, eps
        As for Adam.
    weight_decay : float
        In a step the parameters shrink by the share lr * weight_decay.

    Raises
    ------
    ValueError
        A number is out of range.
    """

    _decoupled = True

    def __init__(self, net, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(net, lr, betas, eps, weight_decay)


class RMSprop(Optimiser):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5; PyTorch's form).

    Parameters
    ----------
    net : Sequential or layer
    lr : float
    alpha : float in [0, 1)
        Decay of the average of the squared gradient.
    eps : float
        Added to the root in the denominator.
    momentum : float in [0, 1)
    weight_decay : float
        Times the parameter, added to the gradient.

    Raises
    ------
    ValueError
        A number is out of range.
    """

    _options = ("alpha", "eps", "momentum", "weight_decay")

    def __init__(self, net, lr=1e-2, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
        self.alpha = check_number("alpha", alpha, high=1)
        self.eps = check_number("eps", eps, open_low=True)
        self.momentum = check_number("momentum", momentum, high=1)
        self._arrays = ("square_avg", "velocity") if self.momentum else ("square_avg",)
        self.velocity = None
        super().__init__(net, lr, weight_decay)

    def _update(self, kernels, params, grads, threads):
        kernels.rmsprop(
            params,
            self.square_avg,
            self.velocity,
            grads,
            self.lr,
            self.alpha,
            self.eps,
            self.momentum,
            self.weight_decay,
            threads,
        )
