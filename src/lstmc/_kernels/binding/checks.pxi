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
        all = all * 31 + float32_table.fingerprint(PyArray_DATA(<cnp.ndarray>a), a.nbytes)
    return all


cdef inline void *data_of(object a) except? NULL:
    """Address of an array's data; NULL for None. The array must outlive its use."""
    return NULL if a is None else PyArray_DATA(<cnp.ndarray?>a)
