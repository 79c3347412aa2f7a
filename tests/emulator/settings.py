"""What a test may set: where compiled kernels are cached, the order of threads, the device."""

cache_folder = None  # of compiled kernels; None is a folder among the temporary ones
order = (
    "ascending"  # of threads between barriers: "ascending", "descending" or the seed of a shuffle
)
properties = {
    "name": b"emulated",
    "multiProcessorCount": 4,
    "sharedMemPerBlock": 48 * 1024,
    "sharedMemPerBlockOptin": 96 * 1024,
    "sharedMemPerMultiprocessor": 100 * 1024,
    "regsPerBlock": 65536,
    "maxThreadsPerBlock": 1024,
    "warpSize": 32,
    "major": 9,
    "minor": 0,
    "l2CacheSize": 4 << 20,
    "totalGlobalMem": 8 << 30,
    "cooperativeLaunch": 1,
}


def order_of_threads():
    """Return the order as shim.h takes it: a number and a seed."""
    if order in ("ascending", "descending"):
        return ("ascending", "descending").index(order), 0
    return 2, int(order)
