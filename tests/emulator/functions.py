"""CuPy's functions of arrays: NumPy's, behind CuPy's refusals.

Names are wrapped by list, not one by one: what a function computes is what NumPy computes. What is looked
after here is that host and device never mix unseen, and that results are arrays where NumPy has scalars.
"""

import numbers

import numpy as np

from . import memory
from .arrays import functions, linalg, ndarray, pretend_device, to_device, unwrap, wrap
from .names import ABOUT, FUNCTIONS, LINALG, METHODS, UFUNCS, VIEW_METHODS, VIEWS
from .streams import forbid_capture

# NumPy returns a Python number or a bool of its own where CuPy returns an array of no axes.
_GIVE_ARRAYS = {"allclose", "array_equal", "count_nonzero"}
# NumPy has these arguments and CuPy has not.
_NOT_IN_CUPY = {"where", "initial"}


def _first_array(values):
    for value in values:
        if isinstance(value, ndarray):
            return value
        if isinstance(value, list | tuple):
            array = _first_array(value)
            if array is not None:
                return array
    return None


def _of_function(name, function, *, strict=False, at_once=True):
    """Return CuPy's twin of a function of NumPy's; a strict one takes arrays and numbers only."""

    def twin(*args, **kwargs):
        if at_once:
            forbid_capture(f"cupy.{name}()")
        if strict:
            for value in args:
                if isinstance(value, list | tuple):
                    raise TypeError(f"Unsupported type {type(value)}")
        for word in _NOT_IN_CUPY & set(kwargs):
            raise TypeError(f"{name}() got an unexpected keyword argument '{word}'")
        out = kwargs.get("out")
        if out is not None and not isinstance(out, ndarray):
            raise TypeError("return arrays must be of cupy.ndarray type")
        with np.errstate(all="ignore"):  # a device warns of nothing
            result = function(*unwrap(args), **unwrap(kwargs))
        if out is not None:
            return out
        if name in _GIVE_ARRAYS:
            result = np.asarray(result)
        of = _first_array(args)
        wrapped = wrap(result, of)
        if not at_once and isinstance(wrapped, ndarray) and not memory.on_device(result):
            forbid_capture(f"cupy.{name}(), which copies here,")
        return wrapped

    twin.__name__ = twin.__qualname__ = name
    return twin


def _of_method(name, at_once):
    function = _of_function(
        name, lambda inner, *args, **kwargs: getattr(inner, name)(*args, **kwargs), at_once=at_once
    )

    def method(self, *args, **kwargs):
        return function(self, *args, **kwargs)

    method.__name__ = method.__qualname__ = name
    return method


def _operand(value):
    return isinstance(value, ndarray | np.ndarray | np.generic | numbers.Number)


def _operators():
    """Set the operators of arrays; each is the function of that name."""
    binary = {
        "add": "add",
        "sub": "subtract",
        "mul": "multiply",
        "truediv": "true_divide",
        "floordiv": "floor_divide",
        "mod": "remainder",
        "divmod": "divmod",
        "pow": "power",
        "matmul": "matmul",
        "and": "bitwise_and",
        "or": "bitwise_or",
        "xor": "bitwise_xor",
        "lshift": "left_shift",
        "rshift": "right_shift",
    }
    compared = {
        "lt": "less",
        "le": "less_equal",
        "eq": "equal",
        "ne": "not_equal",
        "gt": "greater",
        "ge": "greater_equal",
    }
    unary = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}

    def forward(function):
        return lambda a, b: function(a, b) if _operand(b) else NotImplemented

    def backward(function):
        return lambda a, b: function(b, a) if _operand(b) else NotImplemented

    def in_place(function):
        return lambda a, b: function(a, b, out=a) if _operand(b) else NotImplemented

    for word, name in binary.items():
        setattr(ndarray, f"__{word}__", forward(functions[name]))
        setattr(ndarray, f"__r{word}__", backward(functions[name]))
        if word not in ("matmul", "divmod"):
            setattr(ndarray, f"__i{word}__", in_place(functions[name]))
    for word, name in compared.items():
        setattr(ndarray, f"__{word}__", forward(functions[name]))
    for word, name in unary.items():
        setattr(ndarray, f"__{word}__", lambda a, function=functions[name]: function(a))
    for name in METHODS:
        setattr(ndarray, name, _of_method(name, at_once=True))
    for name in VIEW_METHODS:
        setattr(ndarray, name, _of_method(name, at_once=False))


# What CuPy has and NumPy has not, or has in another way.


def _contents(obj):
    """Lists may hold arrays of the device."""
    if isinstance(obj, ndarray):
        return unwrap(obj)
    if isinstance(obj, list | tuple):
        return type(obj)(_contents(part) for part in obj)
    return obj


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if not isinstance(obj, ndarray) and hasattr(obj, "__cuda_array_interface__"):
        obj = _of_interface(obj)
    if isinstance(obj, ndarray):
        if not copy and (dtype is None or np.dtype(dtype) == obj.dtype) and obj.ndim >= ndmin:
            ordered = {"C": obj.flags.c_contiguous, "F": obj.flags.f_contiguous}
            if ordered.get(order, True):
                return obj
        forbid_capture("array()")
        return wrap(to_device(np.array(unwrap(obj), dtype, order=order, ndmin=ndmin)), None)
    forbid_capture("array()")
    return wrap(to_device(np.array(_contents(obj), dtype, order=order, ndmin=ndmin)), None)


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, copy=bool(copy), order=order or "K")


def ascontiguousarray(a, dtype=None):
    return array(a, dtype, copy=False, order="C", ndmin=1)


def asfortranarray(a, dtype=None):
    return array(a, dtype, copy=False, order="F", ndmin=1)


def copy(a, order="K"):
    return a.copy(order)


def _of_interface(obj):
    """An array over the memory of another library's."""
    interface = obj.__cuda_array_interface__
    address, _ = interface["data"]
    inner = memory.foreign(
        address, interface["shape"], interface["typestr"], interface.get("strides"), obj
    )
    return wrap(inner, None)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    if isinstance(a, ndarray):
        return a.get(stream, order, out)
    if hasattr(a, "__cuda_array_interface__"):
        return _of_interface(a).get(stream, order, out)
    return np.asarray(a, order=order)


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order=order)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    if not isinstance(prototype, ndarray):
        raise TypeError(f"Unsupported type {type(prototype)}")
    if shape is not None:
        return ndarray(shape, dtype or prototype.dtype)
    strides = np.empty_like(unwrap(prototype), dtype, order).strides
    return ndarray(prototype.shape, dtype or prototype.dtype, strides=strides)


def from_dlpack(array, *, device=None, copy=None):
    kind, device_id = array.__dlpack_device__()
    if kind != 2:
        raise TypeError(f"Unsupported array type: device type {kind} of DLPack is not CUDA's")
    if isinstance(array, ndarray):
        return array.view()

    class OnHost:
        def __dlpack__(self, **kwargs):
            return array.__dlpack__()

        def __dlpack_device__(self):
            return 1, 0

    inner = np.from_dlpack(OnHost())
    address = inner.__array_interface__["data"][0]
    result = wrap(memory.foreign(address, inner.shape, inner.dtype.str, inner.strides, inner), None)
    return pretend_device(result, device_id)


def get_array_module(*args):
    import cupy

    return cupy if any(isinstance(arg, ndarray) for arg in args) else np


for _name in LINALG:
    linalg[_name] = _of_function(f"linalg.{_name}", getattr(np.linalg, _name))
for _name in UFUNCS:
    functions[_name] = _of_function(_name, getattr(np, _name), strict=True)
for _name in FUNCTIONS:
    functions[_name] = _of_function(_name, getattr(np, _name))
for _name in VIEWS + ABOUT:
    functions[_name] = _of_function(_name, getattr(np, _name), at_once=False)
for _function in (
    array, asarray, ascontiguousarray, asfortranarray, asnumpy, copy, empty, empty_like, from_dlpack,
    get_array_module,
):  # fmt: skip
    functions[_function.__name__] = _function
_operators()
