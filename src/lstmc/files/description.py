"""What a layer is, as plain data: the name of its class and its options, of networks those of its layers too.

A network is saved, loaded, copied, pickled and printed from this one description. A class describes its
layers by ``options()`` and makes them again by ``from_options()``.
"""

import contextlib
import copy
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._kernels import on_device
from .._kernels.devices import copy_into, host
from .disk import write_safetensors

__all__ = [
    "FORMAT",
    "Described",
    "built_in",
    "check_rng",
    "check_tensors",
    "describe",
    "entry",
    "generator",
    "make",
    "take_room",
]

FORMAT = 1
_BUILT_IN: dict = {}  # classes by name
# By name of such a class: its options without a default, and the defaults of the rest, as files have them.
OPTIONS: dict = {}


def built_in(*required, **defaults):
    """Let a class of lstmc be made from descriptions; a decorator.

    Parameters
    ----------
    required : str
        Options that have no default.
    defaults
        The defaults of the rest in files of this format, which leave them out. They do not change with those
        of the class.
    """

    def register(cls):
        _BUILT_IN[cls.__name__], OPTIONS[cls.__name__] = cls, (required, defaults)
        return cls

    return register


# -- from descriptions to layers ------------------------------------------------------------------


@dataclass
class _Making:
    """What holds while layers are made from a description."""

    classes: dict
    rng: Any = None  # the Generator of initial weights; None leaves them zero
    room: float = np.inf  # the elements that all parameters together may have
    tensors: float = np.inf  # how many parameters there may be
    left: float = field(init=False)
    depth: int = 0

    def __post_init__(self):
        self.left = self.room


_making: ContextVar[_Making | None] = ContextVar("making", default=None)
_describing: ContextVar[dict | None] = ContextVar("describing", default=None)  # classes by name
_retyping: ContextVar[np.dtype | None] = ContextVar("retyping", default=None)  # the type of copies
DEEPEST = 64  # levels of networks within networks


@contextlib.contextmanager
def _set(variable, value):
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


def check_rng(rng):
    """Return a Generator of an integer, of a Generator, or of None; refuse all else."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise TypeError(
            f"rng must be an integer of 0 or more, a numpy Generator or None, got {rng!r:.100}"
        ) from None


def generator(rng, of_weights=True):
    """Return the generator that a new layer draws from, or None if its weights are to stay zero.

    While a layer is made from a description, it has that of the making, unless it was given another one, and
    what is no weight it draws from one of its own.
    """
    making = _making.get()
    if making is None or not (rng is None or rng is making.rng):
        return check_rng(rng)
    if of_weights:
        return making.rng
    return np.random.default_rng(making.rng and int(making.rng.integers(2**63)))


def take_room(name, count, each=False):
    """Refuse what is larger than the tensors of the file that a layer is made for, before it is made.

    Parameters
    ----------
    name : str
    count : int
        Elements.
    each : bool
        Whether this is a size, which the parameters have room for if each of them has.
    """
    making = _making.get()
    if making is None:
        return
    if count > (making.room if each else making.left):
        raise ValueError(f"{name} is {count}, and no tensor is as large")
    if not each:
        making.left -= count


def check_tensors(name, count):
    """Refuse more parameters than the file that a layer is made for has tensors, before they are named."""
    making = _making.get()
    if making is not None and count > making.tensors:
        raise ValueError(f"{name} is {count}, and there are not as many tensors")


def make(description, layers=None, rng=None, room=np.inf, tensors=np.inf):
    """Return a new layer of a description, on the CPU.

    Parameters
    ----------
    description : dict
    layers : dict of str to class
        Of layers that lstmc does not have, by name.
    rng : numpy Generator or None
        Draws the weights; None leaves them zero.
    room, tensors : int
        The elements that all parameters together may have, and how many of them there may be.

    Raises
    ------
    ValueError
        It is not a description, a class is not known, or the parameters are larger.
    """
    layers = {} if layers is None else layers
    if not isinstance(layers, dict) or not all(isinstance(one, type) for one in layers.values()):
        raise TypeError(f"layers must be a dict of classes by name, got {layers!r:.100}")
    with _set(_making, _Making({**_BUILT_IN, **layers}, rng, room, tensors)):
        layer = _make(description)
    if describe(layer) != description:
        raise ValueError(
            f"{type(layer).__name__}: its options are given in another way than options() returns"
        )
    return layer


def _make(description):
    """Return a layer of a description, within the making of the whole."""
    if not isinstance(description, dict) or set(description) != {"layer", "options"}:
        raise ValueError(f"a layer is described by its layer and options, got {description!r:.200}")
    name, options = description["layer"], description["options"]
    if not isinstance(name, str) or not isinstance(options, dict):
        raise ValueError(
            f"a layer is described by a name and its options, got {description!r:.200}"
        )
    making = _making.get()
    classes = making.classes
    if name not in classes:
        raise ValueError(
            f"layer {name!r} is not one of {', '.join(classes)}: give its class in layers="
        )
    cls = classes[name]
    if cls is _BUILT_IN.get(name):
        required, defaults = OPTIONS[name]
        unknown = set(options) - {*required, *defaults}
        missing = set(required) - set(options)
        if unknown or missing:
            what = f"without {sorted(missing)}" if missing else f"with {sorted(unknown)}"
            raise ValueError(f"{name} is described {what}")
        full = {**defaults, **options}
    else:
        full = options
    making.depth += 1
    if making.depth > DEEPEST:
        raise ValueError(f"layers are within layers more than {DEEPEST} deep")
    try:
        return cls.from_options(full)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # whatever a constructor makes of what is in a file
        raise ValueError(f"{name}: {error}") from error
    finally:
        making.depth -= 1


# -- from layers to descriptions ------------------------------------------------------------------


def describe(layer):
    """Return the description of a layer.

    Raises
    ------
    TypeError
        Its class, or that of a layer in it, has no ``options()`` of its own.
    """
    cls = type(layer)
    if not isinstance(layer, Described):
        raise TypeError(f"{cls.__name__}: its class has no options() of its own")
    classes = _describing.get()
    if classes is not None and classes.setdefault(cls.__name__, cls) is not cls:
        raise TypeError(f"{cls.__name__}: two classes have this name")
    options = _plain(layer.own_options())
    if cls is _BUILT_IN.get(cls.__name__):
        return entry(cls.__name__, **options)
    return {"layer": cls.__name__, "options": options}


def entry(name, **options):
    """Return the description of a layer of lstmc of these options."""
    defaults = OPTIONS[name][1]
    options = {k: v for k, v in options.items() if k not in defaults or v != defaults[k]}
    return {"layer": name, "options": options}


def _plain(value):
    """Return data as JSON has them."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _levels(value):
    """Return how deep layers are within layers in a description."""
    if isinstance(value, dict):
        return ("layer" in value) + max(map(_levels, value.values()), default=0)
    return max(map(_levels, value), default=0) if isinstance(value, list) else 0


class Described:
    """What a layer can do because it describes itself: files, copies, layers like it, its repr."""

    _not_pickled: tuple = ("kernels", "pool", "_params", "_grads", "in_network")

    def options(self):
        """Return the arguments that make a layer like this one, as plain data: sizes, flags, names.

        The device and the values of the weights are not among them. A class inherits it as long as it has no
        constructor of its own, whose arguments may be others; then it has none until it defines its own. Of
        layers within it, a class returns their ``description``.

        Raises
        ------
        TypeError
            The class has none.
        """
        raise TypeError(f"{type(self).__name__}: its class has no options() of its own")

    def own_options(self):
        """Return options(); raise TypeError where a class that inherits it has a constructor of its own."""
        for cls in type(self).__mro__:
            if "options" in vars(cls):
                return self.options()
            if "__init__" in vars(cls):
                break
        return Described.options(self)

    @classmethod
    def from_options(cls, options):
        """Return a layer of what ``options()`` returned: by default, ``cls(**options)``.

        A class that takes ``rng`` gets the generator of the whole, if weights are drawn. A class around other
        layers makes them by ``from_description``.
        """
        making = _making.get()
        if making is None or making.rng is None or cls is _BUILT_IN.get(cls.__name__):
            return cls(**options)
        import inspect  # NumPy has imported it

        takes = "rng" in inspect.signature(cls).parameters
        return cls(**({"rng": making.rng} if takes else {}) | options)

    @property
    def description(self):
        """What the layer is, as plain data: equal for layers that differ in weights and device alone.

        Raises
        ------
        TypeError
            Its class, or that of a layer in it, has no ``options()`` of its own.
        """
        return describe(self)

    @staticmethod
    def from_description(description, layers=None, rng=None):
        """Return a new layer of a description, with fresh weights, on the CPU.

        Parameters
        ----------
        description : dict
        layers : dict of str to class, optional
            Classes of your own by name.
        rng : int, numpy Generator or None
            Draws the weights.

        Raises
        ------
        ValueError
            It is not a description, or a class in it is not known.
        """
        if _making.get() is not None:  # a layer within one that is being made
            return _make(description)
        return make(description, layers, check_rng(rng))

    def clone(self, rng=None):
        """Return a layer of the same description and device, with fresh weights.

        Parameters
        ----------
        rng : int, numpy Generator or None
            Draws the weights.

        Raises
        ------
        TypeError
            A class has no ``options()`` of its own.
        """
        with _set(_describing, {}) as classes:
            description = describe(self)
        return make(description, classes, check_rng(rng)).to(self.device)

    def save(self, path):
        """Save the layer, what it is and its weights, in one safetensors file.

        Parameters
        ----------
        path : str or path
            Always a whole file, the old one or the new one. ``lstmc.load`` reads it.

        Raises
        ------
        OSError
            It cannot be written. An existing file does not change.
        TypeError
            A class has no ``options()`` of its own.
        ValueError
            Networks are within networks deeper than a file may have them.
        """
        metadata = {"format": FORMAT, "kind": "network", "network": self.description}
        if _levels(metadata["network"]) > DEEPEST:
            raise ValueError(f"layers are within layers more than {DEEPEST} deep")
        write_safetensors(path, {name: host(self[name]) for name in self.parameters()}, metadata)

    # -- copies and pickles -----------------------------------------------------------------------

    def __getstate__(self):
        state = {n: v for n, v in vars(self).items() if n not in self._not_pickled}
        return {**state, "_arrays": self.own_arrays(), "_device": self.device}

    def own_arrays(self):
        """Return the parameters and the gradients by name, as NumPy arrays."""
        return [{n: host(a) for n, a in views.items()} for views in (self._params, self._grads)]

    def __setstate__(self, state):
        arrays, device = state.pop("_arrays"), state.pop("_device")
        vars(self).update(state)
        self.restore(arrays, device)

    def restore(self, arrays, device):
        """Make buffers on a device, with the values of parameters and gradients by name."""
        with on_device(device) as kernels:
            self.use_kernels(kernels)
            self._dtype = _retyping.get() or self._dtype
            self._params, self._grads = self.buffers({})
            both = self.buffers({n: a.shape for n, a in arrays[0].items()})
            for views, values in zip(both, arrays):
                for name, view in views.items():
                    copy_into(view, values[name].astype(self._dtype, copy=False))
            self.bind(*both)  # layers within this one too

    def __copy__(self):
        return copy.deepcopy(self)  # two layers never share their parameters

    def retyped(self, dtype):
        """Return a deep copy in another type."""
        with _set(_retyping, dtype):
            return copy.deepcopy(self)

    # -- what is printed --------------------------------------------------------------------------

    def __repr__(self):
        name = type(self).__name__
        where = [] if self.device == "cpu" else [f"device={self.device!r}"]
        try:
            options = describe(self)["options"]
        except TypeError:
            return f"<{name} of {self.num_parameters:,} parameters>"
        return f"{name}({', '.join([*(f'{k}={v!r}' for k, v in options.items()), *where])})"
