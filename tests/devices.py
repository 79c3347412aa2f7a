"""What the tests of networks on a GPU share: arrays there and back, comparison, sizes."""

import math

import numpy as np
from stacks import make_layer, seed_of, solution
from support import assert_close

import lstmc

# The order of sums and the functions differ; of the largest element.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-11}

# Of training and of what reports tell: dozens of steps, each as good as TOLERANCE.
NEAR = 1e-8

CASE = (5, 3, 7, 9, 2)  # T, B, I, H, L
CASES = [CASE, (1, 1, 1, 1, 1), (4, 1, 6, 33, 1), (3, 20, 5, 17, 2), (2, 33, 3, 70, 3)]
WAYS = ["steps", "graph", "persistent", "cooperative"]
# From where to where state goes.
DEVICES = [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")]


def to_device(cupy, value):
    """Return the value with every array of NumPy's, however deep, as one on the device."""
    if isinstance(value, np.ndarray):
        return cupy.asarray(value)
    if isinstance(value, dict):
        return {key: to_device(cupy, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_device(cupy, part) for part in value)
    return value


def to_host(cupy, value):
    """Return the value with every array of the device's as one of NumPy's; it must hold no other."""
    if isinstance(value, dict):
        return {key: to_host(cupy, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_host(cupy, part) for part in value)
    assert value is None or isinstance(value, cupy.ndarray), type(value)
    return None if value is None else value.get()


def assert_alike(actual, expected, dtype):
    """Assert that two solutions have the same keys and near numbers."""
    assert set(actual) == set(expected)
    for name, value in expected.items():
        if value is None:
            assert actual[name] is None, name
        else:
            assert actual[name].dtype == value.dtype, name
            assert_close(actual[name], value, TOLERANCE[np.dtype(dtype)], name)


def on_device(cupy, problem, **options):
    """Solve a problem on the device; return the solution as arrays of the host."""
    data = to_device(cupy, problem)
    backward = {key: options.pop(key) for key in ("need_dx", "consume") if key in options}
    layer = make_layer(data, device="cuda", **options)
    return to_host(cupy, solution(data, layer, **backward))


def is_emulated(cupy):
    return cupy.cuda.runtime.getDeviceProperties(0)["name"] == b"emulated"


def assert_reports_alike(actual, expected, where="the report", near=NEAR):
    """Assert that what to_dict() gives has the same keys, words and places, and near numbers."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected), where
        for key, value in expected.items():
            assert_reports_alike(actual[key], value, f"{where}, {key}", near)
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), where
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_reports_alike(a, b, f"{where}, {i}", near)
    elif isinstance(expected, float) and math.isfinite(expected):
        assert abs(actual - expected) <= near * max(1, abs(expected)), where
    else:
        assert actual == expected or (actual != actual and expected != expected), where


def draw(dtype, *shape):
    return np.random.default_rng(seed_of("draw", shape)).standard_normal(shape).astype(dtype)


def assert_same_weights(layer, judge, tolerance):
    for name in judge.parameters():
        a, b = (n[name] if n.device == "cpu" else n[name].get() for n in (layer, judge))
        assert_close(a, b, tolerance, name)


TEXT = "the cat sat on the mat.\nthe dog saw the cat.\n" * 4
VOCABULARY = lstmc.Vocabulary.from_text(TEXT)


def make_model(device, **options):
    return lstmc.LanguageModel(
        VOCABULARY, **{"hidden": 19, "embed": 7, "rng": 5, "device": device, **options}
    )
