# Checks of what comes from Python, and the arrays that kernels may read.

def checked(name, value, dtype, shape):
    """Return `value` as a contiguous native array if it has the type and the shape, else raise.

    `shape` holds numbers, which must match, and letters, which stand for any size. An array that is
    contiguous, aligned and native already is returned as it is, others as a copy.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a {dtype.name} array {shape_text(shape)}, got {kind_of(value)}")
    if value.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name} must be {dtype.name}, got {value.dtype.name}")
    matches = value.ndim == len(shape)
    if matches:
        for actual, expected in zip(value.shape, shape):
            if not isinstance(expected, str) and actual != expected:
                matches = False
    if not matches:
        raise ValueError(f"{name} must be {shape_text(shape)}, got {shape_text(value.shape)}")
    return contiguous(value, dtype)


def contiguous(value, dtype):
    """Return an array as kernels read it: contiguous, of this type, aligned; a copy only where it is not."""
    cdef cnp.ndarray array = np.asarray(value, dtype, order="C")
    return array if PyArray_ISCARRAY_RO(array) else array.copy()


def checked_tokens(name, value, limit, shape=None, ignored=None):
    """Return token ids as a contiguous int64 array; each must be in [0, limit) or be `ignored`."""
    if not isinstance(value, np.ndarray) or value.dtype.newbyteorder("=") not in (np.int64, np.int32):
        got = value.dtype.name if isinstance(value, np.ndarray) else kind_of(value)
        raise TypeError(f"{name} must be an int64 or int32 array, got {got}")
    if shape is not None and value.shape != tuple(shape):
        raise ValueError(f"{name} must be {shape_text(shape)}, got {shape_text(value.shape)}")
    cdef cnp.ndarray ids = contiguous(value, np.int64)
    cdef const int64_t *p = <const int64_t *>PyArray_DATA(ids)
    cdef Py_ssize_t i, n = ids.size
    cdef int64_t end = limit, skip = 0 if ignored is None else ignored
    for i in range(n):
        if (p[i] < 0 or p[i] >= end) and (ignored is None or p[i] != skip):
            at = ", ".join(str(j) for j in np.unravel_index(i, value.shape)) if value.ndim else "()"
            allowed = f"in [0, {limit})" + ("" if ignored is None else f" or {ignored}")
            raise ValueError(f"{name}[{at}] must be {allowed}, got {p[i]}")
    return ids


def fingerprint(list arrays):
    """Return a 64-bit number that changes when any element of any of the arrays does."""
    cdef uint64_t all = 0
    for a in arrays:
        all = all * 31 + float32_table.fingerprint(
            address_of("params", a, PyArray_TYPE(<cnp.ndarray?>a), a.size, False), a.nbytes)
    return all


# What follows is asked of every array right before a kernel runs on it, whatever was checked before: sizes come
# from the arrays that the kernel reads, and nothing may have changed since.

cdef void *address_of(str name, object array, int number, Py_ssize_t count, bint written, bint longer=False) \
        except? NULL:
    """Return where an array of `count` elements (or more, if it may be `longer`) begins.

    It must be as kernels read arrays: of the type with this number, contiguous, aligned, native; and writable if it
    is `written`. It must outlive the use of the address.
    """
    cdef cnp.ndarray a
    cdef Py_ssize_t size
    if isinstance(array, cnp.ndarray):
        a = array
        size = PyArray_SIZE(a)
        if (PyArray_TYPE(a) == number and (PyArray_ISCARRAY(a) if written else PyArray_ISCARRAY_RO(a))
                and (size == count or longer and size > count)):
            return PyArray_DATA(a)
    raise refusal(name, array, number, count, written)


cdef void *optional_address(str name, object array, int number, Py_ssize_t count, bint written) except? NULL:
    """Return the same; NULL for None."""
    return NULL if array is None else address_of(name, array, number, count, written)


cdef object refusal(str name, object array, int number, Py_ssize_t count, bint written):
    """Return the error for an array that a kernel cannot take."""
    kind = {NPY_DOUBLE: "float64", NPY_FLOAT: "float32", NPY_BOOL: "bool"}.get(number, "int64")
    expected = f"{name} must be a {'writable ' if written else ''}contiguous {kind} array of {count} elements"
    if not isinstance(array, cnp.ndarray):
        return TypeError(f"{expected}, got {kind_of(array)}")
    got = f"{array.dtype.name} {shape_text(array.shape)}"
    if PyArray_TYPE(array) != number:
        return TypeError(f"{expected}, got {got}")
    if not PyArray_ISCARRAY_RO(array):
        got += ", not contiguous" if not array.flags.c_contiguous else ", not aligned or not native"
    elif written and not array.flags.writeable:
        got += ", read-only"
    return ValueError(f"{expected}, got {got}")


cdef check_matrix(str name, object array):
    """Refuse what is not an array of two axes."""
    if not isinstance(array, cnp.ndarray):
        raise TypeError(f"{name} must be an array of 2 axes, got {kind_of(array)}")
    if (<cnp.ndarray>array).ndim != 2:
        raise ValueError(f"{name} must be an array of 2 axes, got {shape_text(array.shape)}")


cdef check_apart(Py_ssize_t size, str name, const void *a, Py_ssize_t a_count, str other, const void *b,
                 Py_ssize_t b_count):
    """Refuse arrays that share memory, of elements of `size` bytes; those that are not there (NULL) share none."""
    cdef const char *one = <const char *>a
    cdef const char *two = <const char *>b
    if one == NULL or two == NULL or one + a_count * size <= two or two + b_count * size <= one:
        return
    if a_count and b_count:
        raise ValueError(f"{name} must not share memory with {other}")


cdef Buffer copied_ids(str name, object array, Py_ssize_t count, Py_ssize_t limit, bint skips=False, int64_t skip=0):
    """Return a copy of token ids: each is in [0, limit) or, if it `skips`, is `skip`.

    The copy is what is checked and then read: another thread may write to the array meanwhile.
    """
    cdef int number = PyArray_TYPE(<cnp.ndarray?>array)
    if number != NPY_LONGLONG or sizeof(long long) != sizeof(int64_t):  # which may be int64 by another number
        number = NPY_INT64
    cdef const int64_t *ids = <const int64_t *>address_of(name, array, number, count, False)
    cdef Buffer copy = scratch_pool.take(count * sizeof(int64_t))
    cdef int64_t *to = <int64_t *>copy.data()
    cdef Py_ssize_t i
    memcpy(to, ids, count * sizeof(int64_t))
    for i in range(count):
        if (to[i] < 0 or to[i] >= limit) and not (skips and to[i] == skip):
            raise ValueError(f"{name} must be in [0, {limit}), got {to[i]} at {i}")
    return copy
