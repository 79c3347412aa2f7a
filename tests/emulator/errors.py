"""The errors that CUDA reports through CuPy, with the numbers and words of those that are emulated."""

_WORDS = {
    0: ("SUCCESS", "no error"),
    1: ("INVALID_VALUE", "invalid argument"),
    101: ("INVALID_DEVICE", "invalid device ordinal"),
    500: ("NOT_FOUND", "named symbol not found"),
    700: ("ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    720: ("COOPERATIVE_LAUNCH_TOO_LARGE", "too many blocks in cooperative launch"),
    900: (
        "STREAM_CAPTURE_UNSUPPORTED",
        "operation not permitted when stream is capturing",
    ),
    901: (
        "STREAM_CAPTURE_INVALIDATED",
        "operation failed due to a previous error during capture",
    ),
    906: (
        "STREAM_CAPTURE_IMPLICIT",
        "operation would make the legacy stream depend on a capturing blocking stream",
    ),
}


class CUDARuntimeError(RuntimeError):
    """As CuPy's: made of a number."""

    def __init__(self, status):
        self.status = status
        name, words = _WORDS.get(status, ("UNKNOWN", "unknown error"))
        name = "".join(part.capitalize() for part in name.split("_"))
        super().__init__(f"cudaError{name}: {words}")

    def __reduce__(self):
        return type(self), (self.status,)


class CUDADriverError(RuntimeError):
    """As CuPy's: made of a number."""

    def __init__(self, status):
        self.status = status
        name, words = _WORDS.get(status, ("UNKNOWN", "unknown error"))
        super().__init__(f"CUDA_ERROR_{name}: {words}")

    def __reduce__(self):
        return type(self), (self.status,)


class CUBLASError(RuntimeError):
    """As CuPy's: made of a number."""

    def __init__(self, status):
        self.status = status
        super().__init__({7: "CUBLAS_STATUS_INVALID_VALUE"}.get(status, "CUBLAS_STATUS_UNKNOWN"))

    def __reduce__(self):
        return type(self), (self.status,)
