# Which kernels and how many threads.

cdef const lstmc_kernels *float32_table
cdef const lstmc_kernels *float64_table
cdef int threads_set = 0  # by set_num_threads; 0: not set
cdef int threads_default = default_threads()


def instruction_sets():
    """Return the names of the instruction sets that this build and this machine have, best first."""
    cdef char names[64]
    lstmc_instruction_sets(names)
    return names.decode().split()


def use_instruction_set(name=None):
    """Choose the kernels by name; None chooses the best. Steppers keep those they were made with."""
    global float32_table, float64_table
    if name is not None and name not in instruction_sets():
        raise ValueError(f"LSTMC_ISA must be one of {', '.join(instruction_sets())}, got {name!r}")
    encoded = (name or instruction_sets()[0]).encode()
    float32_table = lstmc_table(4, encoded)
    float64_table = lstmc_table(8, encoded)


use_instruction_set(preferred_instruction_set())


def instruction_set():
    """Return the name of the instruction set in use."""
    return float32_table.isa.decode()


def openmp_version():
    """Return OpenMP's version of the build as yyyymm, 0 without."""
    return lstmc_openmp_version()


def set_num_threads(n):
    """Set how many threads the kernels may use; None returns to the default."""
    global threads_set
    threads_set = 0 if n is None else check_threads("n", n)


def get_num_threads():
    """Return how many threads a call may use that does not say."""
    return threads_set or threads_default


cdef int threads_for(object num_threads) except -1:
    if num_threads is None:
        return threads_set or threads_default
    return check_threads("num_threads", num_threads)


cdef const lstmc_kernels *table_of(cnp.ndarray a) except NULL:
    cdef int number = PyArray_TYPE(a)
    if number == NPY_FLOAT:
        return float32_table
    if number == NPY_DOUBLE:
        return float64_table
    raise TypeError(f"kernels take float32 or float64 arrays, got {a.dtype}")
