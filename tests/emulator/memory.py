"""The memory of the emulated device: blocks of host memory, counted, aligned and guarded.

It stands for cupy.cuda.memory as far as a test can tell. It does not pool: a freed block goes back to
the host at once, and the pool only counts as CuPy's does.
"""

import ctypes
import gc
import threading
import weakref

import numpy as np

from .errors import CUDARuntimeError
from .streams import submit

ALIGNMENT = 256
GUARD = 4096  # bytes before and behind every block, that nothing may write
GUARD_BYTE = 0xA5
UNIT = 512  # CuPy counts in such

_GUARD_BYTES = bytes([GUARD_BYTE]) * GUARD
_lock = threading.RLock()
_blocks = {}  # id of the array that owns a block -> (address, size, whether guarded)


class OutOfMemoryError(MemoryError):
    """As CuPy's."""

    def __init__(self, size, total, limit=0):
        self._size, self._total, self._limit = size, total, limit
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))


class MemoryPool:
    """Counts what is in use, and what CuPy would keep for later."""

    def __init__(self):
        self._used = self._free = self._limit = 0

    def used_bytes(self):
        return self._used

    def free_bytes(self):
        return self._free

    def total_bytes(self):
        return self._used + self._free

    def n_free_blocks(self):
        return int(self._free > 0)

    def free_all_blocks(self, stream=None):
        self._free = 0

    def set_limit(self, size=None, fraction=None):
        if fraction is not None:
            raise NotImplementedError("the emulated device has no size to take a fraction of")
        self._limit = size or 0

    def get_limit(self):
        return self._limit

    def malloc(self, size):
        return MemoryPointer(Memory(size), 0)

    def _take(self, size):
        with _lock:
            if self._limit and self._used + size > self._limit:
                gc.collect()
            if self._limit and self._used + size > self._limit:
                raise OutOfMemoryError(size, self.total_bytes(), self._limit)
            self._used += size
            self._free = max(0, self._free - size)
            if self._limit:
                self._free = min(self._free, self._limit - self._used)

    def _give(self, size):
        with _lock:
            self._used -= size
            self._free += size


pool = MemoryPool()


def get_default_memory_pool():
    return pool


def _forget(key, counted):
    with _lock:
        _blocks.pop(key, None)
    if counted:
        pool._give(counted)


def _register(owner, address, size, counted):
    with _lock:
        _blocks[id(owner)] = (address, size, counted > 0)
    weakref.finalize(owner, _forget, id(owner), counted).atexit = False


def allocate(size):
    """Return a block as an array of bytes; it is freed with the last array over it."""
    if size == 0:
        owner = np.empty(1, np.uint8)
        _register(owner, owner.ctypes.data, 0, 0)
        return owner[:0]
    counted = -(-size // UNIT) * UNIT
    pool._take(counted)
    owner = np.empty(size + ALIGNMENT + 2 * GUARD, np.uint8)
    start = GUARD + -(owner.ctypes.data + GUARD) % ALIGNMENT
    owner[start - GUARD : start] = GUARD_BYTE
    owner[start + size : start + size + GUARD] = GUARD_BYTE
    _register(owner, owner.ctypes.data + start, size, counted)
    return owner[start : start + size]


class _Interface:
    """Memory of another as NumPy can take it, and what keeps it alive."""

    def __init__(self, address, shape, typestr, strides, keep):
        # NumPy asks for an address even where there is nothing.
        self.__array_interface__ = {
            "data": (address or ctypes.addressof(_nothing), False),
            "shape": tuple(shape),
            "typestr": typestr,
            "strides": strides,
            "version": 3,
        }
        self.keep = keep


_nothing = ctypes.c_longlong()


def foreign(address, shape, typestr, strides=None, keep=None):
    """Return an array over memory that is not the pool's, without a copy."""
    array = np.asarray(_Interface(address, shape, typestr, strides, keep))
    low, high = np.lib.array_utils.byte_bounds(array) if array.size else (address, address)
    _register(array, low, high - low, 0)
    return array


def owner_of(array):
    """Return the array that owns the memory of `array`."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def on_device(array):
    return id(owner_of(array)) in _blocks


def find(address, size=1):
    """Whether these bytes are of one block that is in use."""
    with _lock:
        return any(a <= address and address + size <= a + n for a, n, _ in _blocks.values())


def check_guards():
    """Raise where the bytes around a block have been written."""
    with _lock:
        blocks = list(_blocks.values())
    for address, size, guarded in blocks:
        if not guarded:
            continue
        before = ctypes.string_at(address - GUARD, GUARD)
        behind = ctypes.string_at(address + size, GUARD)
        if before == _GUARD_BYTES == behind:
            continue
        side = "before the start" if before != _GUARD_BYTES else "past the end"
        ctypes.memset(address - GUARD, GUARD_BYTE, GUARD)
        ctypes.memset(address + size, GUARD_BYTE, GUARD)
        raise RuntimeError(f"wrote {side} of a device array of {size} bytes")


class Memory:
    """A block of its own."""

    device_id = 0

    def __init__(self, size):
        self.size = size
        self._array = allocate(size)
        self.ptr = self._array.ctypes.data if size else 0


class UnownedMemory:
    """Memory of another."""

    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self.device_id = ptr, size, max(device_id, 0)
        self._array = foreign(ptr, (size,), "|u1", keep=owner)


class MemoryPointer:
    """A place in a block."""

    def __init__(self, mem, offset):
        self.mem, self._offset = mem, offset
        self.device_id = mem.device_id
        self.ptr = mem.ptr + offset

    def __add__(self, by):
        return MemoryPointer(self.mem, self._offset + by)

    def __int__(self):
        return self.ptr

    def memset(self, value, size):
        self.memset_async(value, size)

    def memset_async(self, value, size, stream=None):
        submit(lambda: fill_bytes(self.ptr, value, size), stream)

    def copy_from_device(self, src, size):
        self.copy_from_device_async(src, size)

    def copy_from_device_async(self, src, size, stream=None):
        submit(lambda: copy_bytes(self.ptr, src.ptr, size), stream)


def check_range(address, size):
    """As a real device does, at its best."""
    if size and not find(address, size):
        raise CUDARuntimeError(700)


def fill_bytes(address, value, size):
    check_range(address, size)
    ctypes.memset(address, value, size)


def copy_bytes(to, source, size):
    check_range(to, size)
    check_range(source, size)
    ctypes.memmove(to, source, size)


def alloc(size):
    return MemoryPointer(Memory(size), 0)
