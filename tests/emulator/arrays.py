"""Arrays of the emulated device: NumPy's, behind CuPy's refusals.

What is looked after here is that host and device never mix unseen. Operators and most methods come from
functions.py.
"""

import numbers
import operator

import numpy as np

from . import memory
from .cuda import Device
from .streams import forbid_capture, get_current_stream

functions = {}  # CuPy's functions of arrays by name: functions.py fills them in
linalg = {}  # and those of cupy.linalg


def _garbage(array):
    """Fill memory that nothing has written: NaN, or a number too large to be right."""
    if array.dtype.kind in "fc":
        array.fill(np.nan)
    elif array.dtype.kind in "iu":
        array.fill(np.iinfo(array.dtype).max // 3)
    elif array.dtype.kind == "b":
        array.fill(True)


def _new(shape, dtype, strides=None, order="C"):
    dtype = np.dtype(dtype)
    if dtype.kind not in "?bBiufc":
        raise ValueError(f"Unsupported dtype {dtype}")
    shape = (shape,) if isinstance(shape, numbers.Integral) else tuple(map(operator.index, shape))
    block = memory.allocate(dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
    return np.ndarray(shape, dtype, block, 0, strides, "F" if order == "F" else "C")


def to_device(array, order="K"):
    """Copy an array of NumPy's into a block of its own."""
    strides = np.empty_like(array, order=order, subok=False).strides
    copy = _new(array.shape, array.dtype, strides if array.size else None)
    copy[...] = array
    return copy


def _writable(array):
    """Return an array as CuPy gives it: nothing there is read-only."""
    if array.flags.writeable:
        return array
    owner = memory.owner_of(array)
    offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    flat = owner.view(np.uint8).reshape(-1)
    return np.ndarray(array.shape, array.dtype, flat, offset, array.strides)


class Flags:
    """What CuPy says of the layout; not to be set."""

    __slots__ = ("_flags", "_owndata")

    def __init__(self, flags, owndata):
        self._flags, self._owndata = flags, owndata

    c_contiguous = property(lambda self: self._flags.c_contiguous)
    f_contiguous = property(lambda self: self._flags.f_contiguous)
    owndata = property(lambda self: self._owndata)
    fnc = property(lambda self: self._flags.fnc)
    forc = property(lambda self: self._flags.forc)

    def __getitem__(self, name):
        return getattr(self, name.lower())


class _Data:
    """The address of an array, as far as a MemoryPointer is asked for it."""

    def __init__(self, array):
        inner = array._a
        empty = inner.size == 0 and array._base is None
        self.ptr = 0 if empty else inner.__array_interface__["data"][0]
        self.device_id = array._device_id
        self.mem = memory.owner_of(inner)

    def __int__(self):
        return self.ptr

    def __add__(self, by):
        other = object.__new__(_Data)
        other.ptr, other.device_id, other.mem = self.ptr + by, self.device_id, self.mem
        return other

    memset = memory.MemoryPointer.memset
    memset_async = memory.MemoryPointer.memset_async
    copy_from_device = memory.MemoryPointer.copy_from_device
    copy_from_device_async = memory.MemoryPointer.copy_from_device_async


class ndarray:
    """An array on the emulated device: not one of NumPy's, and it never turns into one by itself."""

    __slots__ = ("__weakref__", "_a", "_base", "_device_id")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        if memptr is None:
            inner = _new(shape, dtype, strides, order)
            _garbage(inner)
        else:
            like = np.empty(shape, dtype, order)
            strides = like.strides if strides is None else strides
            inner = memory.foreign(memptr.ptr, like.shape, like.dtype.str, strides, memptr)
        self._a, self._base, self._device_id = inner, None, 0

    @property
    def device(self):
        return Device(self._device_id)

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: Flags(self._a.flags, self._base is None))
    data = property(_Data)
    base = property(lambda self: self._base)
    T = property(lambda self: wrap(self._a.T, self))
    mT = property(lambda self: wrap(self._a.mT, self))
    real = property(lambda self: wrap(self._a.real, self))
    imag = property(lambda self: wrap(self._a.imag, self))

    @shape.setter
    def shape(self, shape):
        self._a.shape = shape

    # to the host

    def get(self, stream=None, order="C", out=None, blocking=True):
        forbid_capture("get()")
        if out is None:
            return np.array(self._a, order=order)
        if not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (self.shape, self.dtype):
            raise TypeError("out must be a numpy.ndarray of the same shape and type")
        out[...] = self._a
        return out

    def set(self, arr, stream=None):
        forbid_capture("set()")
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._a.flags.c_contiguous or self._a.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        self._a[...] = arr

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a "
            "NumPy array explicitly."
        )

    def item(self, *args):
        forbid_capture("item()")
        return self._a.item(*args)

    def tolist(self):
        forbid_capture("tolist()")
        return self._a.tolist()

    def tobytes(self, order="C"):
        return self.get().tobytes(order)

    def __float__(self):
        forbid_capture("float()")
        return float(self._a)

    def __int__(self):
        forbid_capture("int()")
        return int(self._a)

    def __bool__(self):
        forbid_capture("bool()")
        return bool(self._a)

    def __complex__(self):
        forbid_capture("complex()")
        return complex(self._a)

    def __repr__(self):
        return repr(self._a)

    def __str__(self):
        return str(self._a)

    def __format__(self, form):
        return format(self._a[()], form)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # on the device

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        forbid_capture("astype()")
        with np.errstate(all="ignore"):
            return wrap(self._a.astype(dtype, order, casting or "unsafe", copy=True), None)

    def copy(self, order="C"):
        forbid_capture("copy()")
        return wrap(to_device(self._a, order))

    def view(self, dtype=None):
        return wrap(self._a.view(dtype) if dtype is not None else self._a.view(), self)

    def fill(self, value):
        forbid_capture("fill()")
        self._a.fill(unwrap(value))

    def sort(self, axis=-1, *, kind=None):
        forbid_capture("sort()")
        self._a.sort(axis)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        return functions["asarray"], (self.get(),)

    def __getitem__(self, key):
        key = _unwrap_key(key)
        result = self._a[key]
        if isinstance(result, np.generic):  # one element: CuPy gives a view of no axes
            result = self._a[(*key, ...) if isinstance(key, tuple) else (key, ...)]
        if not memory.on_device(result):
            forbid_capture("indexing with an array")
        return wrap(result, self)

    def __setitem__(self, key, value):
        forbid_capture("assignment")
        with np.errstate(all="ignore"):
            self._a[_unwrap_key(key)] = unwrap(value)

    # to others

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method != "__call__" or ufunc.__name__ not in functions:
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        return functions[ufunc.__name__](*inputs, **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        table = linalg if func.__module__ == "numpy.linalg" else functions
        if func.__name__ not in table or not set(types) <= {ndarray, np.ndarray}:
            return NotImplemented
        return table[func.__name__](*args, **kwargs)

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "data": (self.data.ptr, False),
            "strides": None if self._a.flags.c_contiguous else self.strides,
            "version": 3,
            "stream": get_current_stream().ptr or 1,
        }

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return self._a.__dlpack__()

    def __dlpack_device__(self):
        return 2, self._device_id


def wrap(result, of=None):
    """Return what NumPy gave as CuPy gives it; `of` is the array that it may be a view of."""
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*(wrap(part, of) for part in result))
    if isinstance(result, list | tuple):
        return type(result)(wrap(part, of) for part in result)
    if not isinstance(result, np.ndarray):
        return result
    view = memory.on_device(result)
    array = object.__new__(ndarray)
    array._a = _writable(result) if view else to_device(result)
    array._base = (of if of._base is None else of._base) if view and of is not None else None
    array._device_id = of._device_id if of is not None else 0
    return array


def unwrap(value):
    """Return what CuPy was given as NumPy takes it, or raise where CuPy would not take it."""
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, np.ndarray):
        if value.ndim:
            raise TypeError(f"Unsupported type {type(value)}")
        return value[()]
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(unwrap(part) for part in value)
    if isinstance(value, dict):
        return {name: unwrap(part) for name, part in value.items()}
    return value


def _unwrap_key(key):
    """Indices may be NumPy's: CuPy takes them too."""
    if isinstance(key, tuple):
        return tuple(_unwrap_key(part) for part in key)
    if isinstance(key, ndarray):
        if key.ndim == 0 or key.dtype == bool:
            forbid_capture("indexing with an array")
        return key._a
    return key


def pretend_device(array, device_id):
    """Let an array of the double say that it is of another device."""
    array._device_id = device_id
    return array
