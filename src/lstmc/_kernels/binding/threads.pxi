# Which kernels and how many threads.

cdef const lstmc_kernels *float32_table
cdef const lstmc_kernels *float64_table
cdef int threads_set = 0  # by set_num_threads or a fork; 0: not set
cdef object set_by = None
cdef int largest_team = lstmc_team_cores()
cdef int threads_default
cdef object default_from
cdef object refused = None  # what the environment asks for and is not there: the first call says so
try:
    threads_default, default_from = default_threads()
except ValueError as error:
    refused, threads_default, default_from = str(error), 1, "nothing else"


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


try:
    use_instruction_set(preferred_instruction_set())
except ValueError as error:
    refused = str(error)
    use_instruction_set()


def check_environment():
    """Raise ValueError if LSTMC_ISA or LSTMC_NUM_THREADS is wrong, which an import does not."""
    if refused is not None:
        raise ValueError(refused)


def instruction_set():
    """Return the name of the instruction set in use."""
    check_environment()
    return float32_table.isa.decode()


def team_kind():
    """Return whose threads the kernels use in this build: "plain threads" of their own, or "OpenMP"."""
    return lstmc_team_kind().decode()


def crowd_teams(allowed):
    """Set, for tests, whether teams may have more threads than cores; return whether they might before."""
    global largest_team
    before = bool(lstmc_team_crowd(bool(allowed)))
    largest_team = lstmc_team_cores()
    return before


def set_num_threads(n):
    """Set how many threads the kernels may use; None returns to the default."""
    global threads_set, set_by
    threads_set, set_by = (0, None) if n is None else (check_threads("n", n), "set_num_threads")


def get_num_threads():
    """Return how many threads a call may use that does not say."""
    check_environment()
    return threads_set or threads_default


def threads_from():
    """Return what decides get_num_threads(), in words."""
    return set_by if threads_set else default_from


def in_child():
    """Let a forked child begin with one thread: its parent, or its siblings, use the cores."""
    global threads_set, set_by
    threads_set, set_by = 1, "the fork that began this process"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=in_child)


cdef int threads_for(object num_threads) except -1:
    """Return how many threads a call is planned for: not more than cores, which the system is asked for anew."""
    global largest_team
    cdef int threads
    if refused is not None:
        raise ValueError(refused)
    if num_threads is None:
        threads = threads_set or threads_default
    else:
        threads = check_threads("num_threads", num_threads)
    if threads > largest_team:
        largest_team = lstmc_team_cores()
    return min(threads, largest_team)


cdef const lstmc_kernels *table_of(cnp.ndarray a) except NULL:
    cdef int number = PyArray_TYPE(a)
    if number == NPY_FLOAT:
        return float32_table
    if number == NPY_DOUBLE:
        return float64_table
    raise TypeError(f"kernels take float32 or float64 arrays, got {a.dtype}")
