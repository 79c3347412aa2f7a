"""What recurrent layers are given and must refuse: forms of an array, and errors by argument."""

import numpy as np
from stacks import as_type, random_problem

CASE = (5, 3, 7, 9, 2)  # T, B, I, H, L


def float32_problem(cell="lstm", case=CASE):
    return as_type(random_problem(cell, *case), np.float32)


def unaligned(a):
    """Return a copy that starts one byte off, so that no element is on a boundary of its size."""
    memory = bytearray(a.nbytes + 1)
    copy = np.frombuffer(memory, a.dtype, offset=1).reshape(a.shape)
    copy[...] = a
    assert not copy.flags.aligned
    return copy


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


X_ERRORS = {
    "a list": (lambda x: x.tolist(), TypeError, r"x must be a float32 array .*7\), got list"),
    "rank 1": (lambda x: x[0, 0], ValueError, r"x must be \(T, B, 7\) or \(T, 7\), got \(7,\)"),
    "rank 4": (lambda x: x[None], ValueError, r"x must be \(T, B, 7\).*got \(1, 5, 3, 7\)"),
    "features": (lambda x: x[..., :6], ValueError, r"x must be \(T, B, 7\), got \(5, 3, 6\)"),
    "one row": (lambda x: x[:, 0, :6], ValueError, r"x must be \(T, 7\), got \(5, 6\)"),
    "float16": (lambda x: x.astype(np.float16), TypeError, "x must be float32, got float16"),
    "float64": (lambda x: x.astype(np.float64), TypeError, "x must be float32, got float64"),
    "complex": (lambda x: x.astype(complex), TypeError, "x must be float32, got complex128"),
    "object": (lambda x: x.astype(object), TypeError, "x must be float32, got object"),
    "integers": (lambda x: x.astype(int), TypeError, "x must be float32, got int64"),
    "nothing": (lambda x: None, TypeError, "x must be a float32 array .*got NoneType"),
}


STATE_ERRORS = {
    "a wrong size": (lambda h, c: (h, c[..., :8]), ValueError, r"c must be \(2, 3, 9\), got \(2, 3, 8\)"),
    "a wrong batch": (lambda h, c: (h[:, :1], c), ValueError, r"h must be \(2, 3, 9\), got \(2, 1, 9\)"),
    "a layer less": (lambda h, c: (h[:1], c), ValueError, r"h must be \(2, 3, 9\), got \(1, 3, 9\)"),
    "a wrong rank": (lambda h, c: (h[0], c), ValueError, r"h must be \(2, 3, 9\), got \(3, 9\)"),
    "a wrong type": (lambda h, c: (h, c.astype(float)), TypeError, "c must be float32, got float64"),
    "an array": (lambda h, c: np.stack([h, c]), TypeError, r"the tuple \(h, c\), got ndarray"),
    "three": (lambda h, c: (h, c, c), TypeError, r"the tuple \(h, c\), got"),
    "None inside": (lambda h, c: (h, None), TypeError, "c must be a float32 array .*got NoneType"),
}  # fmt: skip


DY_ERRORS = {
    "a step less": (lambda dy: dy[1:], ValueError, r"dy must be \(5, 3, (\d)\), got \(4, 3, \1\)"),
    "a unit less": (
        lambda dy: dy[..., 1:],
        ValueError,
        r"dy must be \(5, 3, [94]\), got \(5, 3, [83]\)",
    ),
    "one row": (lambda dy: dy[:, 0], ValueError, r"dy must be \(5, 3, (\d)\), got \(5, \1\)"),
    "float64": (lambda dy: dy.astype(float), TypeError, "dy must be float32, got float64"),
    "a number": (lambda dy: 1.0, TypeError, r"dy must be a float32 array .*got float"),
}
