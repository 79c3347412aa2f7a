"""What stands for cupy.cuda of the emulated device: the runtime, the driver, the device and cuBLAS."""

import ctypes

import numpy as np

from . import memory, settings
from .errors import CUBLASError, CUDADriverError, CUDARuntimeError
from .streams import Stream, any_captures, get_current_stream, submit

# ---- the runtime


def get_device_count():
    return 1


def set_device(device):
    if device != 0:
        raise CUDARuntimeError(101)


def get_device_properties(device):
    set_device(device)
    return dict(settings.properties)


def device_synchronize():
    if any_captures():
        raise CUDARuntimeError(900)


def memset_async(ptr, value, size, stream):
    submit(lambda: memory.fill_bytes(ptr, value, size), _stream_of(stream))


def memcpy_async(dst, src, size, kind, stream):
    if kind != 3:
        raise NotImplementedError("only device to device is emulated")
    submit(lambda: memory.copy_bytes(dst, src, size), _stream_of(stream))


def _stream_of(ptr):
    """The stream of a number: the current one, or one that does not capture."""
    current = get_current_stream()
    return current if current.ptr == ptr else Stream.null


RUNTIME = {
    "CUDARuntimeError": CUDARuntimeError,
    "getDeviceCount": get_device_count,
    "getDevice": lambda: 0,
    "setDevice": set_device,
    "getDeviceProperties": get_device_properties,
    "deviceSynchronize": device_synchronize,
    "memsetAsync": memset_async,
    "memcpyAsync": memcpy_async,
    "memcpyDeviceToDevice": 3,
    "memGetInfo": lambda: Device().mem_info,
    "runtimeGetVersion": lambda: 13000,
    "driverGetVersion": lambda: 13000,
    "streamCaptureModeGlobal": 0,
    "streamCaptureModeThreadLocal": 1,
    "streamCaptureModeRelaxed": 2,
    "is_hip": False,
}


class Device:
    """The one device."""

    _memory = 8 << 30

    def __init__(self, device=None):
        self.id = 0 if device is None else int(device)

    @property
    def compute_capability(self):
        return "{major}{minor}".format(**settings.properties)

    @property
    def attributes(self):
        properties = settings.properties
        return {
            "MultiProcessorCount": properties["multiProcessorCount"],
            "MaxSharedMemoryPerBlockOptin": properties["sharedMemPerBlockOptin"],
            "MaxSharedMemoryPerMultiprocessor": properties["sharedMemPerMultiprocessor"],
            "MaxThreadsPerBlock": 1024,
            "WarpSize": 32,
            "CooperativeLaunch": 1,
            "L2CacheSize": properties["l2CacheSize"],
        }

    @property
    def mem_info(self):
        used = memory.pool.total_bytes()
        return self._memory - used, self._memory

    @property
    def cublas_handle(self):
        return get_cublas_handle()

    def use(self):
        set_device(self.id)

    def synchronize(self):
        device_synchronize()

    def __enter__(self):
        self.use()
        return self

    def __exit__(self, *error):
        pass

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return hash(self.id)

    def __int__(self):
        return self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


# ---- the driver


def occupancy(func, blockSize, dynamicSMemSize):
    """One block per multiprocessor, where it fits at all."""
    fits = dynamicSMemSize <= settings.properties["sharedMemPerBlockOptin"] and blockSize <= 1024
    return int(fits)


DRIVER = {
    "CUDADriverError": CUDADriverError,
    "occupancyMaxActiveBlocksPerMultiprocessor": occupancy,
    "get_build_version": lambda: 13000,
}


# ---- cuBLAS: column-major, by addresses

_handle = {"math": 0, "pointers": 0, "stream": 0}


def get_cublas_handle():
    return 0xB1A5


def _check_handle(handle):
    if handle != get_cublas_handle():
        raise CUBLASError(1)


def _setter(key):
    def set_mode(handle, mode):
        _check_handle(handle)
        _handle[key] = int(mode)

    return set_mode


def _getter(key):
    def get_mode(handle):
        _check_handle(handle)
        return _handle[key]

    return get_mode


def _matrix(address, rows, columns, ld, dtype):
    """A column-major matrix in memory of the device."""
    count = (columns - 1) * ld + rows
    memory.check_range(address, count * dtype.itemsize)
    data = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    flat = np.frombuffer(data, dtype)
    strides = (dtype.itemsize, ld * dtype.itemsize)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), strides)


def _to_tf32(array):
    """Keep 10 bits of the mantissa, rounded to the nearest."""
    bits = np.array(array, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _factor(address, dtype):
    return dtype.type(np.ctypeslib.as_ctypes_type(dtype).from_address(address).value)


def _product(dtype, math, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    out = _matrix(c, m, n, ldc, dtype)
    result = np.zeros((m, n), dtype)
    if k and alpha:
        left = _matrix(a, *((k, m) if transa else (m, k)), lda, dtype)
        right = _matrix(b, *((n, k) if transb else (k, n)), ldb, dtype)
        if dtype == np.float32 and math == CUBLAS["CUBLAS_TF32_TENSOR_OP_MATH"]:
            left, right = _to_tf32(left), _to_tf32(right)
        with np.errstate(all="ignore"):
            result = alpha * ((left.T if transa else left) @ (right.T if transb else right))
    with np.errstate(all="ignore"):
        out[...] = result + beta * out if beta else result


def _gemm(dtype):
    dtype = np.dtype(dtype)

    def run(handle, transa, transb, m, n, k, alpha, A, lda, strideA, B, ldb, strideB, beta, C, ldc,
            strideC, batchCount):  # fmt: skip
        _check_handle(handle)
        small = min(m, n, k, batchCount) < 0
        rows = lda < max(1, k if transa else m) or ldb < max(1, n if transb else k)
        if small or rows or ldc < max(1, m) or not {transa, transb} <= {0, 1, 2}:
            raise CUBLASError(7)
        if m == 0 or n == 0:
            return
        host, math = _handle["pointers"] == 0, _handle["math"]
        factors = [_factor(alpha, dtype), _factor(beta, dtype)] if host else None

        def action():
            one, other = factors or (_factor(alpha, dtype), _factor(beta, dtype))
            for i in range(batchCount):
                a, b, c = (p + i * s * dtype.itemsize for p, s in
                           ((A, strideA), (B, strideB), (C, strideC)))  # fmt: skip
                _product(dtype, math, transa, transb, m, n, k, one, a, lda, b, ldb, other, c, ldc)

        submit(action)

    def one(handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        _refuse_capture()
        run(handle, transa, transb, m, n, k, alpha, A, lda, 0, B, ldb, 0, beta, C, ldc, 0, 1)

    def batched(*args):
        _refuse_capture()
        run(*args)

    def bare(handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        """The function of the library: its stream is that of the handle."""
        assert _handle["stream"] == get_current_stream().ptr, "the handle is of another stream"
        run(handle, transa, transb, m, n, k, alpha, A, lda, 0, B, ldb, 0, beta, C, ldc, 0, 1)
        return 0

    return {"one": one, "batched": batched, "bare": bare}


def _refuse_capture():
    if get_current_stream().is_capturing():
        raise NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported"
        )
    _handle["stream"] = get_current_stream().ptr


CUBLAS = {
    "CUBLAS_OP_N": 0,
    "CUBLAS_OP_T": 1,
    "CUBLAS_OP_C": 2,
    "CUBLAS_DEFAULT_MATH": 0,
    "CUBLAS_PEDANTIC_MATH": 2,
    "CUBLAS_TF32_TENSOR_OP_MATH": 3,
    "CUBLAS_POINTER_MODE_HOST": 0,
    "CUBLAS_POINTER_MODE_DEVICE": 1,
    "setMathMode": _setter("math"),
    "getMathMode": _getter("math"),
    "setPointerMode": _setter("pointers"),
    "getPointerMode": _getter("pointers"),
    "sgemm": _gemm(np.float32)["one"],
    "dgemm": _gemm(np.float64)["one"],
    "sgemmStridedBatched": _gemm(np.float32)["batched"],
    "dgemmStridedBatched": _gemm(np.float64)["batched"],
    "CUBLASError": CUBLASError,
}


class Library:
    """What ctypes gives of libcublas: functions that return a status, whose stream is the handle's."""

    def __init__(self):
        for name, function in (
            ("cublasSgemm_v2", _gemm(np.float32)["bare"]),
            ("cublasDgemm_v2", _gemm(np.float64)["bare"]),
            ("cublasSetStream_v2", self._set_stream),
            ("cublasGetStream_v2", self._get_stream),
            ("cublasSetWorkspace_v2", self._set_workspace),
        ):
            setattr(self, name, _Function(name, function))

    def _set_stream(self, handle, stream):
        _check_handle(handle)
        _handle["stream"] = getattr(stream, "value", stream) or 0
        return 0

    def _get_stream(self, handle, stream):
        _check_handle(handle)
        stream._obj.value = _handle["stream"]
        return 0

    def _set_workspace(self, handle, address, size):
        _check_handle(handle)
        return 0 if address % 256 == 0 and size else 7


class _Function:
    """A function of a ctypes library, with its types and its check of the status."""

    def __init__(self, name, function):
        self.__name__, self._function = name, function
        self.argtypes = self.restype = self.errcheck = None

    def __call__(self, *args):
        assert len(args) == len(self.argtypes)
        status = self._function(*args)
        return self.errcheck(status, self, args) if self.errcheck else status
