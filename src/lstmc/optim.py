"""Optimisers and clipping: each is one call over a network's flat arrays.

Each takes anything with ``params`` and ``grads``: a Sequential or a single layer. The state of an
optimiser is plain numbers and arrays, for checkpoints.
"""

import math
import operator

import numpy as np

from ._kernels import kernels_of
from ._kernels.devices import copy_into
from ._kernels.messages import kind_of
from .checks import check_count, check_norm, check_number
from .layer import check_writable, float_array

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
    "clip_grad_norm",
    "clip_grad_value",
]


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
    max_norm = check_norm("max_norm", max_norm)
    kernels, grads = _gradients(net)
    return kernels.clip(grads, max_norm, num_threads)


def clip_grad_value(net, limit, num_threads=None):
    """Bring every element of the gradients that is beyond +-limit there, in place.

    Unlike ``clip_grad_norm`` it changes the direction of the gradient (Mikolov 2012; Pascanu et al. 2013,
    section 3.2, compare the two). NaN stays.

    Parameters
    ----------
    net : Sequential or layer
    limit : float
        Positive. Infinity changes nothing.
    num_threads : int, optional

    Raises
    ------
    ValueError
        limit is not a positive number.
    """
    limit = check_norm("limit", limit)
    kernels, grads = _gradients(net)
    kernels.clip_values(grads, limit, num_threads)


def _gradients(net):
    """Return the gradients of a network as one array that may be written, and the kernels of its device."""
    check_flat(net)
    grads = net.grads
    kernels = kernels_of(grads)
    if not isinstance(grads, kernels.arrays.ndarray) or not (
        grads.dtype.char in "fd" and grads.dtype.isnative
        and grads.ndim == 1 and grads.flags.c_contiguous
    ):  # fmt: skip
        float_array(kernels, "grads", grads)  # says so if it is no array of floats
        raise ValueError("grads must be one contiguous array, of which all gradients are views")
    return kernels, check_writable("grads", grads)


def _number(name, doc, **bounds):
    """Return a property that is checked when it is set: a number within bounds."""

    def write(self, value):
        setattr(self, "_" + name, check_number(name, value, **bounds))

    return property(operator.attrgetter("_" + name), write, doc=doc)


def check_flat(net):
    """Refuse what does not have its parameters and gradients in two flat arrays."""
    if not hasattr(net, "params") or not hasattr(net, "grads"):
        raise TypeError(f"net must be a layer or a network, got {kind_of(net)}")


class Optimiser:
    """The base of SGD, Adam, AdamW and RMSprop."""

    _arrays: tuple = ()  # names of the state arrays, each as long as params
    _options: tuple = ("weight_decay",)  # names of what is given when it is made, beside the rate
    lr = _number("lr", "The learning rate.")
    weight_decay = _number("weight_decay", "The share of a parameter that decays.")

    def __init__(self, net, lr, weight_decay):
        check_flat(net)
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
        params, grads = self.net.params, self.net.grads
        kernels = kernels_of(params)
        for name in self._arrays:
            mine = getattr(self, name)
            if mine.size != params.size or kernels_of(mine) is not kernels:
                raise ValueError(
                    "the network's parameters have moved since this optimiser was made: make a new one"
                )
        self._update(kernels, params, grads, num_threads)
        self.steps += 1  # the update has not failed

    def __copy__(self):
        """Return an optimiser of the same network that goes on from here by itself."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))
        for name in self._arrays:
            setattr(copy, name, getattr(self, name).copy())
        return copy

    def __setstate__(self, state):
        vars(self).update(state)
        for name in self._arrays:
            if not getattr(
                self, name
            ).flags.writeable:  # as joblib hands large arrays to its workers
                setattr(self, name, getattr(self, name).copy())

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


def _least_eps(dtype, decay):
    """Return the least eps that counts: the gradient whose square, as it enters its mean, vanishes.

    With a smaller one, such a gradient would be divided by eps alone, and throw the weight away.
    """
    return math.sqrt(float(np.finfo(dtype).smallest_subnormal) / (1 - decay))


class _Momentum(Optimiser):
    """The base of those that may keep a velocity."""

    velocity = None

    @property
    def momentum(self):
        """The share of the velocity that stays, in [0, 1)."""
        return self._momentum

    @momentum.setter
    def momentum(self, value):
        value = check_number("momentum", value, high=1)
        if value and self.velocity is None and hasattr(self, "_momentum"):
            raise ValueError("momentum was 0 when this optimiser was made: make a new one")
        self._momentum = value


class SGD(_Momentum):
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
        self.momentum, self.nesterov = momentum, nesterov
        self._arrays = ("velocity",) if self.momentum else ()
        super().__init__(net, lr, weight_decay)

    @property
    def nesterov(self):
        """Whether the step looks ahead along the velocity."""
        return self._nesterov

    @nesterov.setter
    def nesterov(self, value):
        if value and not self.momentum:
            raise ValueError("nesterov needs momentum above 0, got 0")
        self._nesterov = bool(value)

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
    eps = _number("eps", "Added to the root in the denominator.", open_low=True)

    @property
    def betas(self):
        """The decay of the averages of the gradient and of its square, each in [0, 1)."""
        return self._betas

    @betas.setter
    def betas(self, betas):
        if not isinstance(betas, (tuple, list)):
            raise TypeError(f"betas must be two numbers, got {betas!r:.100}")
        betas = tuple(check_number(f"betas[{i}]", beta, high=1) for i, beta in enumerate(betas))
        if len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {len(betas)}")
        self._betas = betas

    def __init__(self, net, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        self.betas, self.eps = betas, eps
        super().__init__(net, lr, weight_decay)

    def _update(self, kernels, params, grads, threads):
        kernels.adam(
            params,
            self.m,
            self.v,
            grads,
            self.steps + 1,
            self.lr,
            *self.betas,
            max(self.eps, _least_eps(params.dtype, self.betas[1])),
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


class RMSprop(_Momentum):
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
    alpha = _number("alpha", "The decay of the average of the squared gradient.", high=1)
    eps = _number("eps", "Added to the root in the denominator.", open_low=True)

    def __init__(self, net, lr=1e-2, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
        self.alpha, self.eps, self.momentum = alpha, eps, momentum
        self._arrays = ("square_avg", "velocity") if self.momentum else ("square_avg",)
        super().__init__(net, lr, weight_decay)

    def _update(self, kernels, params, grads, threads):
        kernels.rmsprop(
            params,
            self.square_avg,
            self.velocity,
            grads,
            self.lr,
            self.alpha,
            max(self.eps, _least_eps(params.dtype, self.alpha)),
            self.momentum,
            self.weight_decay,
            threads,
        )
