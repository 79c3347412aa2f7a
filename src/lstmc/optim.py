"""Optimisers and what surrounds them: one call over a network's flat arrays.

Each takes anything with ``params`` and ``grads`` (a Sequential or a single layer). Schedules set an
optimiser's ``lr``; all of them give and take their state as plain numbers and arrays, for checkpoints.
"""

import math

import numpy as np

from ._kernels import copy_into, kernels_of

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
    "clip_grad_norm",
]


def check_number(name, value, low=0.0, high=math.inf, open_low=False):
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.number))
        or not (low < value if open_low else low <= value)
        or not value < high
    ):
        bounds = f"{'above' if open_low else 'at least'} {low:g}" + (
            f" and below {high:g}" if high < math.inf else ""
        )
        raise ValueError(f"{name} must be a finite number {bounds}, got {value!r}")
    return float(value)


def clip_grad_norm(net, max_norm, num_threads=None):
    """Scale all gradients so that their joint norm is at most max_norm (Pascanu et al. 2013).

    Parameters
    ----------
    net : Sequential or layer
    max_norm : float
        Positive; infinity only measures.
    num_threads : int, optional

    Returns
    -------
    norm : float
        The norm before. Not finite if a gradient is not: the gradients are then left as they are, and it
        is for the caller to look (``math.isfinite``) and not to step. Of a network on a GPU an array ()
        there.
    """
    if not isinstance(max_norm, (int, float, np.number)) or not max_norm > 0:
        raise ValueError(f"max_norm must be a positive number, got {max_norm!r}")
    return kernels_of(net.grads).clip(net.grads, float(max_norm), num_threads)


class Optimiser:
    """What optimisers share. Use SGD, Adam, AdamW or RMSprop."""

    _arrays: tuple = ()  # names of the state arrays, each as long as params

    def __init__(self, net, lr, weight_decay):
        self.net = net
        self.lr = check_number("lr", lr)
        self.weight_decay = check_number("weight_decay", weight_decay)
        self.steps = 0
        for name in self._arrays:
            setattr(self, name, np.zeros_like(net.params))

    def step(self, num_threads=None):
        """Update the parameters from the gradients, in place."""
        for name in self._arrays:
            mine = getattr(self, name)
            same_place = kernels_of(mine) is kernels_of(self.net.params)
            if mine.size != self.net.params.size or not same_place:
                raise ValueError(
                    "the network's parameters have moved since this optimiser was made: make a new one"
                )
        self.steps += 1
        self._update(self.net.params, self.net.grads, num_threads)

    def state(self):
        """Give what a checkpoint needs: (arrays by name, numbers by name)."""
        return {name: getattr(self, name) for name in self._arrays}, {
            "lr": self.lr,
            "steps": self.steps,
        }

    def load_state(self, arrays, numbers):
        """Take back what ``state()`` gave."""
        if set(arrays) != set(self._arrays):
            raise ValueError(f"arrays must be {sorted(self._arrays)}, got {sorted(arrays)}")
        dtype, shape = self.net.params.dtype, self.net.params.shape
        for name in self._arrays:
            given = kernels_of(arrays[name]).checked(name, arrays[name], dtype, shape)
            copy_into(getattr(self, name), given)
        self.lr, self.steps = float(numbers["lr"]), int(numbers["steps"])


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
        Added to the gradient, times the parameter.
    """

    def __init__(self, net, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        self.momentum = check_number("momentum", momentum, high=1)
        if nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0, got 0")
        self.nesterov = bool(nesterov)
        self._arrays = ("velocity",) if self.momentum else ()
        self.velocity = None
        super().__init__(net, lr, weight_decay)

    def _update(self, params, grads, threads):
        kernels_of(params).sgd(
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
        Decay of the averages of the gradient and of its square.
    eps : float
        Added to the root in the denominator.
    weight_decay : float
        Added to the gradient, times the parameter.
    """

    _arrays = ("m", "v")
    _decoupled = False

    def __init__(self, net, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        self.betas = tuple(
            check_number(f"betas[{i}]", beta, high=1) for i, beta in enumerate(betas)
        )
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, got {len(self.betas)}")
        self.eps = check_number("eps", eps, open_low=True)
        super().__init__(net, lr, weight_decay)

    def _update(self, params, grads, threads):
        kernels_of(params).adam(
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
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): parameters shrink by lr * weight_decay."""

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
        Added to the gradient, times the parameter.
    """

    def __init__(self, net, lr=1e-2, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
        self.alpha = check_number("alpha", alpha, high=1)
        self.eps = check_number("eps", eps, open_low=True)
        self.momentum = check_number("momentum", momentum, high=1)
        self._arrays = ("square_avg", "velocity") if self.momentum else ("square_avg",)
        self.velocity = None
        super().__init__(net, lr, weight_decay)

    def _update(self, params, grads, threads):
        kernels_of(params).rmsprop(
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
