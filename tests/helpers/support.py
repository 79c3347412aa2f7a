"""What several test files share: golden files, comparison, numerical derivatives.

Deliberately without lstmc itself: nothing here can be wrong in the same way as what it judges.
"""

from pathlib import Path

import numpy as np

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden"


def golden_of(cells):
    """Return the names of the golden files of these cells, which end in a number of layers."""
    names = sorted(path.stem for path in GOLDEN_FOLDER.glob("*_[0-9].npz"))
    return [name for name in names if name.rpartition("_")[0] in cells]


def load_golden(name):
    """Return the arrays of `golden/<name>.npz` by key; single values as str, int or float.

    `golden/make_golden.py` says what the files hold.
    """
    with np.load(GOLDEN_FOLDER / f"{name}.npz") as file:
        return {key: file[key] if file[key].ndim else file[key].item() for key in file.files}


def assert_close(actual, expected, tolerance, name="the array"):
    """Assert equal shapes, and no element further off than tolerance * largest |expected|.

    Relative to the largest element, because a sum of many terms is in error by the size of the
    terms, not of the sum: an element that happens to be near zero says nothing. If every expected
    element is zero, every actual one must be. NaN and infinity in `actual` fail; `expected` must
    have none.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (
        f"{name} must have shape {expected.shape}, got {actual.shape}"
    )
    assert np.isfinite(expected).all(), f"{name}: the expected values are not all finite"
    if expected.size == 0:
        return
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    largest = float(np.abs(expected).max())
    # Written so that NaN counts as wrong.
    wrong = ~(error <= tolerance * largest)
    if wrong.any():
        where = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        raise AssertionError(
            f"{name}: {np.count_nonzero(wrong)} of {error.size} elements are off; "
            f"the worst is at {tuple(map(int, where))}: {actual[where]!r}, "
            f"expected {expected[where]!r}; the error is {error[where]:.3g}, "
            f"more than {tolerance:.3g} of the largest expected element, {largest:.6g}"
        )


def assert_same_bits(actual, expected, name="the array"):
    """Assert equal shapes and equal bits, of arrays or of tuples or dictionaries of them."""
    if isinstance(expected, dict):
        assert set(actual) == set(expected)
        for key, value in expected.items():
            assert_same_bits(actual[key], value, key)
    elif isinstance(expected, (tuple, list)):
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same_bits(a, b, f"{name}[{i}]")
    else:
        assert actual.shape == expected.shape, (
            f"{name} must have shape {expected.shape}, got {actual.shape}"
        )
        assert actual.dtype == expected.dtype, f"{name} must be {expected.dtype}"
        assert actual.tobytes() == expected.tobytes(), (
            f"{name}: {np.count_nonzero(actual != expected)} of {actual.size} elements differ, "
            f"by {np.abs(actual - expected).max():.3g} at most"
        )


def numerical_gradient(f, array, eps=1e-5):
    """Return d f / d array by central differences, in float64.

    `f` takes an array like `array` and returns a number. It gets a changed copy; `array` itself
    is never written. The method's own error is eps² / 6 times the third derivative of f, and the
    rounding of f divided by eps: about 1e-10 each at the default, where f and its derivatives are
    of the order of 1.
    """
    array = np.asarray(array, np.float64)
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        above, below = array.copy(), array.copy()
        above[index] += eps
        below[index] -= eps
        gradient[index] = (f(above) - f(below)) / (above[index] - below[index])
    return gradient


# The problems of long memory.
NAMES = ("adding", "temporal_order", "copying")


def generator(seed=0):
    return np.random.default_rng(seed)
