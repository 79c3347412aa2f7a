"""The double of CuPy that the tests of the GPU path run on: that its kernels compute what CUDA does, that it
refuses launches that CuPy refuses, and sees the mistakes that it is there to see.

test_emulator_arrays.py has its arrays and streams. That its names are CuPy's is asked of CuPy itself, where
that is installed; no device is needed.
"""

import importlib.util
import json
import subprocess
import sys

import emulator
import numpy as np
import pytest
from emulator.samples import kernel

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.why_not())

ORDERS = ["ascending", "descending", 0, 1]


@pytest.fixture(name="cupy")
def fixture_cupy(double):
    return double


def test_install_and_remove():
    before = {name for name in sys.modules if name.split(".")[0] == "cupy"}
    fake = emulator.install()
    assert sys.modules["cupy"] is fake is emulator.install()
    from cupy.cuda import cublas, runtime

    assert fake.cuda.runtime is runtime
    assert cublas.CUBLAS_OP_T == 1
    emulator.remove()
    assert {name for name in sys.modules if name.split(".")[0] == "cupy"} == before


# ---- kernels


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float", "double"])
def test_a_barrier_makes_the_order_of_no_effect(cupy, monkeypatch, order, dtype):
    monkeypatch.setattr(emulator.settings, "order", order)
    out = cupy.empty(64, np.dtype(dtype if dtype == "double" else "float32"))
    kernel(cupy, f"turn<{dtype}, true>")((1,), (64,), (out,), shared_mem=out.nbytes)
    np.testing.assert_array_equal(out.get(), np.roll(np.arange(64), -1))


def test_a_missing_barrier_shows(cupy, monkeypatch):
    right = []
    for order in ORDERS:
        monkeypatch.setattr(emulator.settings, "order", order)
        out = cupy.empty(64, np.float32)
        kernel(cupy, "turn<float, false>")((1,), (64,), (out,), shared_mem=out.nbytes)
        right.append(np.array_equal(out.get(), np.roll(np.arange(64), -1)))
    assert not all(right)


def test_many_blocks(cupy):
    x = cupy.ones(100_000)
    kernel(cupy, "twice<double>")((391,), (256,), (x, x.size))
    assert (x == 2).all()


@pytest.mark.parametrize("sleeps", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_blocks_of_a_cooperative_launch_wait_for_each_other(cupy, monkeypatch, order, sleeps):
    monkeypatch.setattr(emulator.settings, "order", order)
    x = cupy.arange(4 * 96, dtype=np.float32)
    y, arrived = cupy.empty_like(x), cupy.zeros(1, np.uint32)
    shift = kernel(cupy, "shift_all", cooperative=True)
    shift((4,), (96,), (x, y, arrived, np.int32(6), sleeps))
    np.testing.assert_array_equal(x.get(), np.roll(np.arange(4 * 96), 6))


def test_a_wait_that_cannot_end_is_reported(cupy):
    x, arrived = cupy.zeros(64, np.float32), cupy.zeros(1, np.uint32)
    shift = kernel(cupy, "shift_all")
    with pytest.raises(RuntimeError, match=r"shift_all: deadlock.*1 spin.*not launched cooperat"):
        shift((2,), (32,), (x, x.copy(), arrived, np.int32(1), True))
    # And what was left in the middle harms no later launch.
    arrived.fill(0)
    shift((1,), (32,), (x, x.copy(), arrived, np.int32(1), True))


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_shuffles(cupy, dtype):
    out = cupy.empty((32, 4), np.dtype(dtype if dtype == "double" else "float32"))
    kernel(cupy, f"shuffles<{dtype}>")((1,), (32,), (out,))
    lane = np.arange(32)
    up = np.where(lane % 8 < 2, lane, lane - 2)
    expected = np.stack([np.full(32, 496), np.full(32, 3), np.minimum(lane + 1, 31), up], 1)
    np.testing.assert_array_equal(out.get(), expected)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (0, "not reached by all threads"),
        (1, "past the end of shared memory"),
        (2, "past the end of a device array of 128 bytes"),
        (3, "before the start of a device array"),
        (4, "__trap"),
        (5, "not in the mask"),
        (6, r"not aligned at kernel.cu:\d+"),
        (7, "null pointer"),
        (8, "index is outside"),
        (9, "division by zero"),
    ],
)
def test_mistakes_of_a_kernel_are_reported(cupy, how, message):
    x = cupy.zeros(32, np.float32)
    with pytest.raises(RuntimeError, match=f"kernel fails.*{message}"):
        kernel(cupy, "fails")((1,), (32,), (x, np.int32(how)), shared_mem=128)


def test_source_that_does_not_compile(cupy):
    module = cupy.RawModule(code='extern "C" __global__ void f() { __shared__ float x[3]; }')
    with pytest.raises(cupy.cuda.compiler.CompileException, match="DYNAMIC_SHARED"):
        module.get_function("f")


# ---- launches


def good_arguments(cupy):
    return [cupy.zeros(3, np.float32), np.int32(1), 2.0, True]


@pytest.mark.parametrize(
    ("position", "wrong"),
    [(0, np.int32(0)), (0, 1.0), (1, 1), (1, np.float32(1)), (2, np.float32(1)), (2, np.int64(1)),
     (3, 1), (3, np.uint8(1)), (1, None), (0, "x")],
)  # fmt: skip
def test_widths_and_kinds_of_arguments(cupy, position, wrong):
    kinds = kernel(cupy, "kinds")
    arguments = good_arguments(cupy)
    kinds((1,), (1,), tuple(arguments))
    arguments[position] = wrong
    with pytest.raises(TypeError, match=f"kinds: argument {position} is"):
        kinds((1,), (1,), tuple(arguments))


def test_arrays_as_arguments(cupy):
    kinds = kernel(cupy, "kinds")
    _, *others = good_arguments(cupy)
    for wrong in (cupy.zeros(3), cupy.zeros(3, np.int32), np.zeros(3, np.float32)):
        with pytest.raises(TypeError, match="kinds: argument 0"):
            kinds((1,), (1,), (wrong, *others))
    with pytest.raises(TypeError, match="argument 1 is an array"):
        kinds((1,), (1,), (cupy.zeros(3, np.float32), cupy.zeros(1, np.int32), *others[1:]))
    with pytest.raises(TypeError, match="3 arguments, but the kernel takes 4"):
        kinds((1,), (1,), tuple(others))
    kinds((1,), (1,), (np.uint64(0), *others))
    with pytest.raises(RuntimeError, match="no memory of an array"):
        kinds((1,), (1,), (np.uint64(64), *others))


def test_a_struct_by_value(cupy):
    x = cupy.zeros(4, np.float32)
    pair = np.zeros((), np.dtype([("x", np.uint64), ("n", np.int32)], align=True))
    pair["x"], pair["n"] = x.data.ptr, 4
    kernel(cupy, "of_struct")((1,), (1,), (pair,))
    assert x.tolist() == [0, 1, 2, 3]


def test_what_a_launch_may_ask_for(cupy):
    error = cupy.cuda.driver.CUDADriverError
    x = cupy.zeros(8, np.float32)
    fails, arguments = kernel(cupy, "fails"), (x, np.int32(99))
    for grid, block, shared in [((1,), (1025,), 0), ((0,), (1,), 0), ((1, 65536), (1,), 0),
                                ((1,), (1,), 48 * 1024 + 1)]:  # fmt: skip
        with pytest.raises(error, match="INVALID_VALUE"):
            fails(grid, block, arguments, shared_mem=shared)
    with pytest.raises(TypeError):
        fails([1], (1,), arguments)
    fails.max_dynamic_shared_size_bytes = 64 * 1024
    fails((1,), (1,), arguments, shared_mem=64 * 1024)
    with pytest.raises(error):
        fails.max_dynamic_shared_size_bytes = 97 * 1024
    blocks = cupy.cuda.runtime.getDeviceProperties(0)["multiProcessorCount"]
    together = kernel(cupy, "fails", cooperative=True)
    together((blocks,), (8,), arguments)
    with pytest.raises(error, match="CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE: too many blocks"):
        together((blocks + 1,), (8,), arguments)
    with pytest.raises(error, match="NOT_FOUND"):
        kernel(cupy, "twice<int>")


# ---- the real one

ASK = """
import inspect, json, sys
import cupy
import cupy.cuda.compiler
paths = json.load(sys.stdin)
missing = []
for path in paths:
    value = cupy
    try:
        for part in path.split(".")[1:]:
            value = getattr(value, part)
    except ImportError:
        continue  # a library that is not installed here
    except AttributeError:
        missing.append(path)
missing += [w for w in ("name_expressions", "enable_cooperative_groups", "path", "options", "backend",
                        "translate_cucomplex", "jitify") if w not in cupy.RawModule.__doc__]
print(json.dumps(missing))
"""


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_every_name_is_one_of_cupys(cupy):
    def names(path, value):
        return [f"{path}.{name}" for name in vars(value) if not name.startswith("_")]

    paths = []
    for path, module in sys.modules.items():
        if path.split(".")[0] == "cupy" and module is not None:
            paths += names(path, module)
    for path in ("ndarray", "RawModule", "RawKernel", "cuda.Stream", "cuda.Event", "cuda.Graph",
                 "cuda.Device", "cuda.MemoryPool", "cuda.MemoryPointer"):  # fmt: skip
        value = cupy
        for part in path.split("."):
            value = getattr(value, part)
        paths += names(f"cupy.{path}", value)
        if path == "ndarray":
            paths += [f"cupy.ndarray.{name}" for name in vars(value) if "__" in name]
    paths.remove("cupy.ndarray.__weakref__")
    assert len(paths) > 300
    command = [sys.executable, "-W", "ignore", "-c", ASK]
    done = subprocess.run(
        command, input=json.dumps(paths), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
