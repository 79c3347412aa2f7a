"""What a layer is: its flat buffers, the names in them, its calls, and its device.

A layer is an object with ``forward(x, state, training=True) -> y, state, trace`` and
``backward(dy, trace, dstate=None) -> dx, dstate``; if it has parameters, also
``parameters() -> {name: shape}`` and ``bind(params, grads)``. A network asks for nothing else.
``Layer`` provides the rest; a layer made of other layers is a ``Composite``. There is no autograd graph.

A layer that looks at time takes ``lengths`` and ``resets`` in forward: a Sequential passes them on, or
None. It says what it does with time, where that is not what most do, by attributes:

- ``num_directions``, 1 or 2: it is recurrent, forward, or forward and in reverse; its output has the features
  of the forward direction first. It takes lengths and resets, or a network refuses them.
- ``keeps_features = True``: each feature of the output is made of the same feature of the input alone: the
  two directions stay apart, as ``Last`` needs them.
- ``keeps_time = False``: its output has no axis of time, and no layer after it may need one: none that is
  recurrent, no Last, and none that says ``needs_time = True``.

What it reads and gives, so that a Sequential can refuse layers that do not fit when it is built:

- ``in_features``: the features that it reads, or "tokens"; None: any, or it does not say.
- ``out_features``: the features that it gives, "tokens", or "same", as many as it reads; None: it does not
  say.
"""

import math
import operator

import numpy as np

from ._kernels import on_device
from ._kernels.devices import copy_into, device_of, differ
from ._kernels.messages import kind_of, shape_text
from ._kernels.turns import Turns
from .files import Described, generator, take_room
from .flat import Views, flat_views
from .traces import Trace

__all__ = [
    "Layer",
    "check_dtype",
    "check_flag",
    "check_share",
    "check_size",
    "check_writable",
    "fixed",
    "float_array",
    "leading_rows",
    "write_out",
]


def check_dtype(dtype):
    """Return float32 or float64 as a NumPy dtype; refuse all else."""
    try:
        checked = None if dtype is None else np.dtype(dtype)
    except TypeError:
        checked = None
    # None comes first: to NumPy it equals float64.
    if checked is None or checked not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return checked


def check_size(name, value, least=1):
    """Return a size as an int; refuse anything but an integer that is positive or, if it may be, 0."""
    kind = "a positive integer" if least else "an integer of 0 or more"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be {kind}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {kind}, got {value}")
    take_room(name, int(value), each=True)
    return int(value)


def check_flag(name, value):
    """Return True or False; refuse anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_share(name, value):
    """Return a probability as a float; refuse anything outside [0, 1)."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r:.100}")
    return float(value)


def check_writable(name, array):
    """Return an array that is to be written; refuse a read-only one."""
    if not getattr(array.flags, "writeable", True):
        raise ValueError(f"{name} must be writable, got a read-only array")
    return array


def write_out(kernels, out, y):
    """Write y into the `out` of a caller, which must have the type and the shape of y; return `out`."""
    is_array = isinstance(out, kernels.arrays.ndarray)
    if not is_array or out.dtype != y.dtype or out.shape != y.shape:
        expected = f"out must be a writable {y.dtype.name} array {shape_text(y.shape)}"
        if not is_array:
            raise TypeError(f"{expected}, got {kind_of(out)}")
        raise ValueError(f"{expected}, got {out.dtype.name} {shape_text(out.shape)}")
    check_writable("out", out)[...] = y
    return out


def fixed(name):
    """Return a read-only property, for what is set once, under the name with an underscore."""
    words = name.replace("_", " ")
    return property(operator.attrgetter("_" + name), doc=f"The {words} it was made with.")


class Layer(Described):
    """A layer whose parameters live in one flat array and their gradients in another.

    Parameters
    ----------
    dtype : float32 or float64
    device : "cpu", "cuda" or "cuda:N"
        Where the parameters and gradients are, and every array that calls take and return: NumPy's, or CuPy's
        on the current GPU or on GPU N.

    Attributes
    ----------
    params, grads : ndarray (n,)
        Flat buffers, 64-byte aligned, of the same layout. Every named weight is a view; the padding
        between views is zero.
    dtype : numpy dtype
    device : str
    kernels : module
        The kernels of that device.
    pool : Pool
        Where large arrays come from.
    in_network : bool
        Whether the layer is part of a Sequential.
    keeps_features, keeps_time : bool
        What the layer does with features and time, for a Sequential: see the top of this file.
    in_features : int, "tokens" or None
        The features that the layer reads; None: any, or it does not say.
    out_features : int, "tokens", "same" or None
        Those that it gives; "same": as many as it reads; None: it does not say.
    turns : Turns
        Lets one thread at a time add to the gradients.

    Raises
    ------
    TypeError
        The type is another one.
    ValueError, ImportError, RuntimeError
        The device does not exist, or cannot be used here.
    """

    in_network = False
    keeps_features, keeps_time = False, True
    in_features = out_features = None
    dtype = fixed("dtype")

    def __init__(self, dtype=np.float32, device="cpu"):
        self._dtype = check_dtype(dtype)
        self.turns = Turns()
        with on_device(device) as kernels:
            self.use_kernels(kernels)
            self._params, self._grads = (flat_views({}, self._dtype, kernels) for _ in range(2))

    def use_kernels(self, kernels):
        """Compute with the kernels of another device from now on."""
        self.kernels, self.pool = kernels, kernels.Pool()

    @property
    def device(self):
        """Where the parameters and gradients are: "cpu" or "cuda:N"."""
        return device_of(self._params.flat)

    def to(self, device):
        """Move the parameters and gradients, with their values, to a device.

        Parameters
        ----------
        device : "cpu", "cuda" or "cuda:N"
            "cuda" is the current GPU.

        Returns
        -------
        Layer
            The layer itself. Existing steppers, traces and optimisers still belong to the old arrays.

        Raises
        ------
        ImportError
            CuPy is not installed.
        RuntimeError
            There is no usable GPU.
        ValueError
            There is no such device, or the layer is part of a network, which moves as a whole.
        MemoryError
            There is not enough memory. Nothing has changed then.
        """
        if self.in_network:
            raise ValueError(f"{type(self).__name__} is part of a network: move the network")
        with on_device(device) as kernels:
            if device_of(kernels.arrays.empty(0)) == self.device:
                return self
            self.check_movable(kernels)
            views = [flat_views(self.parameters(), self._dtype, kernels) for _ in range(2)]
            self.use_kernels(kernels)
            self.bind(*views)
        return self

    def check_movable(self, kernels):
        """Refuse to move to the device of these kernels, before anything has moved."""

    def parameters(self):
        """Return the shapes of the parameters by name."""
        return {}

    def bind(self, params, grads):
        """Move the parameters and gradients, with their values, into other views, those of ``buffers``.

        A layer around others, whose parameters are theirs, passes this on to them.
        """
        self.check_views(params, grads)
        for mine, views in ((self._params, params), (self._grads, grads)):
            for name in mine:
                copy_into(views[name], mine[name])
        self._params, self._grads = params, grads

    def check_views(self, params, grads):
        """Refuse what is not views of the layer's parameters, by their names, shapes and type."""
        shapes = {name: tuple(shape) for name, shape in self.parameters().items()}
        for name, views in (("params", params), ("grads", grads)):
            if not isinstance(views, Views):
                raise TypeError(
                    f"{name} must be views, as buffers() returns them, got {kind_of(views)}"
                )
            if views.flat.dtype != self._dtype or {n: v.shape for n, v in views.items()} != shapes:
                raise ValueError(
                    f"{name} must be views of the layer's own parameters, got those of others"
                )

    def buffers(self, shapes):
        """Return views into new parameters and gradients of these shapes, on the layer's device."""
        take_room(type(self).__name__, sum(map(math.prod, shapes.values())), each=True)
        return [flat_views(shapes, self._dtype, self.kernels) for _ in range(2)]

    def allocate(self, rng, initial):
        """Make the layer's parameters and gradients: the last thing a constructor does.

        Parameters
        ----------
        rng : int, numpy Generator or None
            Draws the parameters, in the order of ``parameters()``. They stay zero while a layer is made to be
            loaded.
        initial : dict of name to float or function
            What each parameter begins with: a number, uniform within +- so much; a function, what it returns
            of (rng, shape).

        Raises
        ------
        TypeError, ValueError
            rng is none, or a name is missing.
        """
        shapes, rng = self.parameters(), generator(rng)
        if set(shapes) != set(initial):
            raise ValueError(
                f"initial must have {', '.join(shapes) or 'no names'}, got {', '.join(initial) or 'none'}"
            )
        take_room(type(self).__name__, sum(map(math.prod, shapes.values())))
        with on_device(self.device):
            self.bind(*self.buffers(shapes))
            for name, view in self._params.items() if rng is not None else ():
                draw = initial[name]
                values = (
                    draw(rng, view.shape)
                    if callable(draw)
                    else rng.uniform(-draw, draw, view.shape)
                )
                copy_into(view, np.asarray(values).astype(self._dtype))

    @property
    def params(self):
        """The flat array of all parameters."""
        return self._params.flat.view()

    @property
    def grads(self):
        """The flat array of all gradients, in the layout of ``params``."""
        return self._grads.flat.view()

    @property
    def num_parameters(self):
        """The number of parameters, without padding."""
        return sum(math.prod(shape) for shape in self.parameters().values())

    # -- parameters by name, as in a dict; a layer is true even without any ----------------------

    def __getitem__(self, name):
        return self._view(self._params, name)

    def __setitem__(self, name, values):
        view = self._view(self._params, name)
        if values is None:
            raise TypeError(f"{name} must be numbers, got None")
        if np.shape(values) not in (view.shape, ()):
            raise ValueError(
                f"{name} must be {shape_text(view.shape)}, got {shape_text(np.shape(values))}"
            )
        view[...] = values

    def __contains__(self, name):
        return name in self._params

    def __iter__(self):
        return iter(self._params)

    def __len__(self):
        return len(self._params)

    def __bool__(self):
        return True

    def keys(self):
        """Return the names of the parameters."""
        return self._params.keys()

    def items(self):
        """Return pairs of a name and a writable view of that parameter."""
        return {name: self[name] for name in self}.items()

    def values(self):
        """Return writable views of the parameters."""
        return {name: self[name] for name in self}.values()

    def grad(self, name):
        """Return the writable view of a parameter's gradient."""
        return self._view(self._grads, name)

    def _view(self, views, name):
        if name not in views:
            raise KeyError(f"no parameter {name!r}: there are {', '.join(views) or 'none'}")
        return views[name].view()  # a fresh one: whoever reshapes it does not reshape the layer's

    def zero_grad(self):
        """Set all gradients to zero."""
        self._grads.flat[:] = 0

    def __call__(self, x, state=None):
        """Run without a trace for backward, and without dropout: return y and the state."""
        y, state, _ = self.forward(x, state, training=False)
        return y, state

    def release(self):
        """Return the memory that the layer keeps for its next calls to the system.

        A layer keeps the memory that its last calls used, for the next ones: no more than its last 128 large
        arrays needed, which are those of some 20 steps of training. Arrays that are alive are not touched. On
        a GPU, the free memory of CuPy's pool is returned.
        """
        self.pool.release()

    def astype(self, dtype):
        """Return a copy of the layer in another type, with the same weights, on the same device.

        Parameters
        ----------
        dtype : float32 or float64

        Raises
        ------
        TypeError
            The type is another one, or a layer within has parameters and is no Layer.
        """
        copy = self.retyped(check_dtype(dtype))
        copy.zero_grad()
        return copy

    # -- traces ------------------------------------------------------------------------------------

    def fingerprint(self):
        """Return a number that changes when the weights do, or None if backward does not read them."""
        return self.kernels.fingerprint([self._params.flat])

    def empty(self, shape):
        """Return an array for the caller, a large one from the pool, whose pages are in memory already."""
        if math.prod(shape) < 2**15:
            self.pool.tick()
            return self.kernels.arrays.empty(shape, self._dtype)
        return self.pool.array(shape, self._dtype)

    def check_trace(self, trace, dstate=None):
        """Refuse another layer's trace, changed weights, and a dstate that does not fit.

        Raises
        ------
        TypeError, ValueError
            In these cases.
        """
        if getattr(trace, "checked_for", None) is self:
            return
        self.check_form(trace, dstate)
        if differ(self.fingerprints(trace)):
            raise ValueError(
                "the weights have changed since forward(): backward must see the same weights"
            )

    def fingerprints(self, trace):
        """Return pairs of fingerprints of the weights: as forward saw them, and as they are now."""
        return [(trace.fingerprint, self.fingerprint())]

    def check_form(self, trace, dstate=None):
        """Refuse anything but a trace of this layer; the weights are not compared."""
        if not isinstance(trace, Trace):
            raise TypeError(f"trace must come from forward(), got {type(trace).__name__}")
        if trace.owner is not self:
            owner = type(trace.owner).__name__
            raise ValueError(
                f"trace must come from this layer's forward(), got one of another {owner}"
            )


def float_array(kernels, name, value):
    """Return an array of floats as kernels read it; refuse anything else."""
    value = kernels.adopt(value)
    if not isinstance(value, kernels.arrays.ndarray) or value.dtype.newbyteorder("=") not in (
        np.float32,
        np.float64,
    ):
        got = value.dtype.name if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"{name} must be a float32 or float64 array, got {got}")
    return kernels.checked(name, value, np.dtype(value.dtype.type), value.shape)


def leading_rows(kernels, x, name, last, dtype):
    """Check x (..., last) and return it as (rows, last)."""
    shape = x.shape[:-1] if getattr(x, "ndim", 0) else ("...",)
    return kernels.checked(name, x, dtype, (*shape, last)).reshape(math.prod(shape), last)
