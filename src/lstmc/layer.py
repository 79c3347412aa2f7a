"""What a layer is: flat buffers, names, calls, traces, and where it all lies.

A layer is an object with ``forward(x, state, training=True) -> y, state, trace`` and
``backward(dy, trace, dstate=None) -> dx, dstate``; if it has parameters, also
``parameters() -> {name: shape}`` and ``bind(params, grads)``. Nothing else is asked of one that takes
part in a Sequential. ``Layer`` gives the rest. There is no autograd graph.
"""

import math

import numpy as np

from ._kernels import copy_into, cpu, device_name, differ, on_device
from .traces import Trace

__all__ = [
    "Layer",
    "Views",
    "check_dtype",
    "check_share",
    "check_size",
    "check_writable",
    "flat_views",
    "float_array",
    "leading_rows",
]

ALIGNMENT = 64  # bytes: where every view of a flat buffer starts


class Views(dict):
    """Views into one flat array by name; ``flat`` is the part of the array that they span."""

    flat: np.ndarray


def flat_views(shapes, dtype, kernels=cpu):
    """Make a flat array of zeros, on a 64-byte boundary, and the views into it.

    Parameters
    ----------
    shapes : dict of name to shape
    dtype : numpy dtype
    kernels : module
        Those that the array is for.

    Returns
    -------
    Views
        In the order given; each starts on a 64-byte boundary, and the padding between is zero.
    """
    step = ALIGNMENT // dtype.itemsize
    starts, end = {}, 0
    for name, shape in shapes.items():
        starts[name] = end
        end += -(-math.prod(shape) // step) * step
    flat = kernels.Pool().array((end,), dtype)
    flat[:] = 0
    views = Views(
        {n: flat[a : a + math.prod(shapes[n])].reshape(shapes[n]) for n, a in starts.items()}
    )
    views.flat = flat
    return views


def check_dtype(dtype):
    """Give float32 or float64 as a NumPy dtype; refuse others."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    # None is looked for first: NumPy takes it to be equal to float64.
    if found is None or found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return found


def check_size(name, value):
    """Give a size as an int; refuse what is not a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a positive integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}")
    return int(value)


def check_share(name, value):
    """Give a probability as a float in [0, 1)."""
    if not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")
    return float(value)


def check_writable(name, array):
    """Refuse an array that is to be written and can not be."""
    if not getattr(array.flags, "writeable", True):
        raise ValueError(f"{name} must be writable, got a read-only array")
    return array


class Layer:
    """A layer whose parameters live in one flat array and their gradients in another.

    Parameters
    ----------
    dtype : float32 or float64
    device : "cpu", "cuda" or "cuda:N"
        Where parameters and gradients are, and everything that calls take and give: NumPy arrays, or those of
        CuPy on the current GPU or on GPU N.

    Attributes
    ----------
    params, grads : ndarray (n,)
        Flat buffers, 64-byte aligned, of equal layout. Every named weight is a view; the padding
        between views is zero.
    dtype : numpy dtype
    device : str
    """

    _in_sequential = False

    def __init__(self, dtype=np.float32, device="cpu"):
        self.dtype = check_dtype(dtype)
        with on_device(device) as kernels:
            self._use(kernels)
            self._params, self._grads = (flat_views({}, self.dtype, kernels) for _ in range(2))

    def _use(self, kernels):
        """Compute with these kernels from now on."""
        self._kernels, self._pool = kernels, kernels.Pool()

    @property
    def device(self):
        """Where parameters and gradients are: "cpu" or "cuda:N"."""
        return device_name(self._params.flat)

    def to(self, device):
        """Move parameters and gradients to a device, their values with them.

        Parameters
        ----------
        device : "cpu", "cuda" or "cuda:N"
            "cuda" is the current GPU.

        Returns
        -------
        The layer itself. Steppers, traces and optimisers made before are of the arrays before.

        Raises
        ------
        ImportError
            CuPy is not installed.
        RuntimeError
            There is no usable GPU.
        ValueError
            The device is none of these; the layer is part of a network, which moves as a whole.
        MemoryError
            There is no room; nothing has changed then.
        """
        if self._in_sequential:
            raise ValueError(f"{type(self).__name__} is part of a network: move the network")
        with on_device(device) as kernels:
            if device_name(kernels.arrays.empty(0)) == self.device:
                return self
            self._check_movable()
            views = [flat_views(self.parameters(), self.dtype, kernels) for _ in range(2)]
            self._use(kernels)
            self.bind(*views)
        return self

    def _check_movable(self):
        """Refuse to move before anything is moved."""

    def parameters(self):
        """Tell the parameters: a dict of name to shape."""
        return {}

    def bind(self, params, grads):
        """Move the parameters and gradients into these views, their values with them."""
        for mine, views in ((self._params, params), (self._grads, grads)):
            for name in mine:
                copy_into(views[name], mine[name])
        self._params, self._grads = params, grads

    def _allocate(self, rng, bounds):
        """Make buffers of the layer's own, each parameter uniform within +-bounds[name]."""
        with on_device(self.device) as kernels:
            shapes = self.parameters()
            self.bind(*(flat_views(shapes, self.dtype, kernels) for _ in range(2)))
            for name, view in self._params.items():
                self._fill(name, rng.uniform(-bounds[name], bounds[name], view.shape))

    def _fill(self, name, values):
        copy_into(self._params[name], values.astype(self.dtype))

    @property
    def params(self):
        """The flat array of all parameters."""
        return self._params.flat

    @property
    def grads(self):
        """The flat array of all gradients, laid out as ``params``."""
        return self._grads.flat

    @property
    def num_parameters(self):
        """How many parameters there are, padding left out."""
        return sum(math.prod(shape) for shape in self.parameters().values())

    def __getitem__(self, name):
        return self._view(self._params, name)

    def grad(self, name):
        """Give the writable view of a parameter's gradient."""
        return self._view(self._grads, name)

    def _view(self, views, name):
        if name not in views:
            raise KeyError(f"no parameter {name!r}: there are {', '.join(views) or 'none'}")
        return views[name]

    def zero_grad(self):
        """Set all gradients to zero."""
        self._grads.flat[:] = 0

    def __call__(self, x, state=None):
        """Run without keeping anything for backward; never drops."""
        y, state, _ = self.forward(x, state, training=False)
        return y, state

    def _fingerprint(self):
        return self._kernels.fingerprint([self._params.flat])

    def _empty(self, shape):
        """Give an array for the caller. A large one is the pool's: its pages need not be made again."""
        if math.prod(shape) < 2**15:
            return self._kernels.arrays.empty(shape, self.dtype)
        return self._pool.array(shape, self.dtype)

    def _check_trace(self, trace, dstate=None):
        """Refuse a trace of another layer, or one whose weights are no longer the layer's."""
        if getattr(trace, "_checked_for", None) is self:
            return
        self._check_form(trace, dstate)
        if differ(self._then_and_now(trace)):
            raise ValueError(
                "the weights have changed since forward(): backward must see the same weights"
            )

    def _then_and_now(self, trace):
        """Give pairs of fingerprints of weights: when forward saw them, and as they are."""
        return [(trace._weights, self._fingerprint())]

    def _check_form(self, trace, dstate=None):
        """Refuse what is no trace of this layer."""
        if not isinstance(trace, Trace):
            raise TypeError(f"trace must come from forward(), got {type(trace).__name__}")
        if trace._owner is not self:
            owner = type(trace._owner).__name__
            raise ValueError(
                f"trace must come from this layer's forward(), got one of another {owner}"
            )


def float_array(kernels, name, value):
    """Give an array of floats as kernels read it; refuse anything else."""
    value = kernels.adopt(value)
    if not isinstance(value, kernels.arrays.ndarray) or value.dtype.newbyteorder("=") not in (
        np.float32,
        np.float64,
    ):
        got = value.dtype.name if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"{name} must be a float32 or float64 array, got {got}")
    return kernels.checked(name, value, check_dtype(value.dtype.newbyteorder("=")), value.shape)


def leading_rows(kernels, x, name, last, dtype):
    """Check x (..., last) and give it as (rows, last)."""
    shape = x.shape[:-1] if getattr(x, "ndim", 0) else ("...",)
    return kernels.checked(name, x, dtype, (*shape, last)).reshape(math.prod(shape), last)
