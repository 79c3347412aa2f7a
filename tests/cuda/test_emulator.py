"""Tests of the double of CuPy that the tests of the GPU path run on: that it computes what CUDA does, and
that it refuses what CuPy refuses and sees the mistakes that it is there to see.

That its names are CuPy's is asked of CuPy itself, where that is installed; no device is needed.
"""

import contextlib
import ctypes
import gc
import importlib.util
import json
import subprocess
import sys

import emulator
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.why_not())

ORDERS = ["ascending", "descending", 0, 1]

SOURCE = r"""
#ifndef LSTMC_EMULATED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

template <typename T, bool with_barrier>
__global__ void turn(T *out) {
    DYNAMIC_SHARED(T, all);
    all[threadIdx.x] = (T)threadIdx.x;
    if (with_barrier) __syncthreads();
    out[threadIdx.x] = all[(threadIdx.x + 1) % blockDim.x];
}

template <typename T>
__global__ void twice(T *x, long long n) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n) x[i] *= 2;
}

extern "C" __global__ void shift_all(float *x, float *y, unsigned *arrived, int steps, bool sleeps) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x, goal = 0;
    for (int step = 0; step < steps; step++) {
        y[(i + 1) % n] = x[i];
        __syncthreads();
        goal += gridDim.x;
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1);
            while (__ldcg(arrived) < goal) {
                if (sleeps) __nanosleep(20);
            }
        }
        __syncthreads();
        float *other = x;
        x = y;
        y = other;
    }
}

template <typename T>
__global__ void shuffles(T *out) {
    T sum = (T)threadIdx.x;
    for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    T *row = out + 4 * threadIdx.x;
    row[0] = sum;
    row[1] = __shfl_sync(0xffffffffu, (T)threadIdx.x, 3);
    row[2] = __shfl_down_sync(0xffffffffu, (T)threadIdx.x, 1);
    row[3] = __shfl_up_sync(0xffffffffu, (T)threadIdx.x, 2, 8);
}

extern "C" __global__ void fails(float *x, int how) {
    DYNAMIC_SHARED(float, all);
    if (how == 0) {
        if (threadIdx.x < 5) return;
        __syncthreads();
    }
    if (how == 1) all[threadIdx.x + 1] = 1;
    if (how == 2) x[threadIdx.x + 1] = 1;
    if (how == 3) x[(int)threadIdx.x - 1] = 1;
    if (how == 4) __trap();
    if (how == 5 && threadIdx.x) __shfl_sync(1u, x[0], 0);
    if (how == 6) *(float2 *)(x + 1) = make_float2(1, 2);
    if (how == 7) *(float *)(size_t)(how - 7) = 1;
    if (how == 8) {
        float few[4] = {};
        for (int i = 0; i < how; i++) few[i] = x[i];
        x[0] = few[1];
    }
    if (how == 9) x[0] = (int)threadIdx.x / (how - 9);
}

extern "C" __global__ void kinds(float *x, int i, double d, bool b) {}

struct pair { float *x; int n; };
extern "C" __global__ void of_struct(pair p) { for (int i = 0; i < p.n; i++) p.x[i] = i; }
"""
NAMES = [f"turn<{t}, {b}>" for t in ("float", "double") for b in ("true", "false")]
NAMES += [f"{name}<{t}>" for name in ("twice", "shuffles") for t in ("float", "double")]


@pytest.fixture(name="cupy")
def fixture_cupy(monkeypatch):
    monkeypatch.setattr(emulator, "order", "ascending")
    yield emulator.install()
    emulator.remove()


def kernel(cupy, name, cooperative=False):
    module = cupy.RawModule(
        code=SOURCE,
        options=("--std=c++17",),
        name_expressions=NAMES,
        enable_cooperative_groups=cooperative,
    )
    return module.get_function(name)


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
    monkeypatch.setattr(emulator, "order", order)
    out = cupy.empty(64, np.dtype(dtype if dtype == "double" else "float32"))
    kernel(cupy, f"turn<{dtype}, true>")((1,), (64,), (out,), shared_mem=out.nbytes)
    np.testing.assert_array_equal(out.get(), np.roll(np.arange(64), -1))


def test_a_missing_barrier_shows(cupy, monkeypatch):
    right = []
    for order in ORDERS:
        monkeypatch.setattr(emulator, "order", order)
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
    monkeypatch.setattr(emulator, "order", order)
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
    wanted = np.stack([np.full(32, 496), np.full(32, 3), np.minimum(lane + 1, 31), up], 1)
    np.testing.assert_array_equal(out.get(), wanted)


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


# ---- streams and cuBLAS


def test_a_capture_records_and_does_not_run(cupy):
    x = cupy.ones(8)
    twice = kernel(cupy, "twice<double>")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert stream.is_capturing()
        twice((1,), (8,), (x, x.size))
        twice((1,), (8,), (x[:4], 4))
        for action in (lambda: x + 1, lambda: x.sum(), x.get, lambda: x.fill(0), x.copy):
            with pytest.raises(RuntimeError, match="during capture"):
                action()
        with pytest.raises(RuntimeError, match="StreamCaptureUnsupported"):
            stream.synchronize()
        assert cupy.empty_like(x).reshape(2, 4).T.shape == (4, 2)
        graph = stream.end_capture()
    assert x.tolist() == [1] * 8
    graph.launch(stream)
    graph.launch()
    assert x.tolist() == [16] * 4 + [4] * 4
    x = action = None
    gc.collect()
    with pytest.raises(RuntimeError, match="no memory of an array"):
        graph.launch()


def test_the_null_stream_does_not_capture(cupy):
    with pytest.raises(RuntimeError):
        cupy.cuda.Stream.null.begin_capture()
    stream = cupy.cuda.Stream()
    stream.begin_capture()
    with pytest.raises(RuntimeError, match="legacy stream"):
        kernel(cupy, "twice<double>")((1,), (8,), (cupy.empty(8), 8))
    stream.end_capture()


def gemm(cupy, dtype, a, b, c, transa, transb, alpha=1.0, beta=0.0):
    """Add to c (m, n) the product of a (m, k) and b (k, n), all stored by columns."""
    m, n = c.shape
    k = a.shape[0 if transa else 1]
    real = {np.float32: ctypes.c_float, np.float64: ctypes.c_double}[dtype]
    factors = real(alpha), real(beta)
    getattr(cupy.cuda.cublas, "sgemm" if dtype == np.float32 else "dgemm")(
        *(cupy.cuda.device.get_cublas_handle(), transa, transb, m, n, k),
        *(ctypes.addressof(factors[0]), a.data.ptr, a.shape[0], b.data.ptr, b.shape[0]),
        *(ctypes.addressof(factors[1]), c.data.ptr, c.shape[0]),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transa", [0, 1])
@pytest.mark.parametrize("transb", [0, 1])
def test_gemm(cupy, dtype, transa, transb):
    rng = np.random.default_rng(transa + 2 * transb)
    a, b, c = (
        np.asfortranarray(rng.normal(size=s).astype(dtype)) for s in ((3, 5), (5, 4), (3, 4))
    )
    on_device = [
        cupy.array(x.T if t else x, order="F") for x, t in ((a, transa), (b, transb), (c, 0))
    ]
    gemm(cupy, dtype, *on_device, transa, transb, alpha=2, beta=0.5)
    np.testing.assert_allclose(on_device[2].get(), 2 * a @ b + c / 2, rtol=1e-5)
    on_device[2].fill(np.nan)
    gemm(cupy, dtype, *on_device, transa, transb)
    np.testing.assert_allclose(on_device[2].get(), a @ b, rtol=1e-5, atol=1e-6)


def test_gemm_keeps_to_its_mode_and_to_memory(cupy):
    cublas, handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()
    one, c = cupy.full((1, 1), 1 + 2**-12, np.float32), cupy.zeros((1, 1), np.float32)
    gemm(cupy, np.float32, one, one, c, 0, 0)
    assert float(c[0, 0]) != 1
    cublas.setMathMode(handle, cublas.CUBLAS_TF32_TENSOR_OP_MATH)
    try:
        gemm(cupy, np.float32, one, one, c, 0, 0)
    finally:
        cublas.setMathMode(handle, cublas.CUBLAS_DEFAULT_MATH)
    assert float(c[0, 0]) == 1
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="illegal memory"):
        gemm(cupy, np.float64, one, one, c, 0, 0)


def test_gemm_refuses_a_stream_that_captures(cupy):
    """As CuPy's binding of cuBLAS does."""
    a, c = cupy.full((2, 2), 3.0), cupy.zeros((2, 2))
    with cupy.cuda.Stream() as stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="cuBLAS API during stream capture"):
            gemm(cupy, np.float64, a, a, c, 0, 0, alpha=1)
        stream.end_capture()


def test_the_library_itself_is_recorded(cupy):
    """It reads its factors when it is called, and its stream is the one that the handle was given."""
    library = ctypes.CDLL("libcublas.so.13")
    library.cublasDgemm_v2.argtypes = [None] * 14
    library.cublasSetStream_v2.argtypes = [None] * 2
    handle, factors = cupy.cuda.device.get_cublas_handle(), np.ones(2)
    a, c, one = cupy.full((2, 2), 3.0), cupy.zeros((2, 2)), factors.ctypes.data
    call = (handle, 0, 0, 2, 2, 2, one, a.data.ptr, 2, a.data.ptr, 2, one, c.data.ptr, 2)
    with cupy.cuda.Stream() as stream:
        stream.begin_capture()
        with pytest.raises(AssertionError, match="another stream"):
            library.cublasDgemm_v2(*call)
        library.cublasSetStream_v2(handle, stream.ptr)
        library.cublasDgemm_v2(*call)
        factors[:] = 5
        graph = stream.end_capture()
        assert not c.any()
        graph.launch()
    assert (c == 18).all()


# ---- arrays


def test_host_and_device_do_not_mix(cupy):
    a, host = cupy.arange(3.0), np.arange(3.0)
    for action in (
        lambda: a + host,
        lambda: host + a,
        lambda: np.add(host, a),
        lambda: cupy.maximum(a, host),
        lambda: cupy.concatenate([a, host]),
        lambda: np.asarray(a),
        lambda: np.array([a, a]),
        lambda: a.__setitem__(slice(None), host),
        lambda: host.__setitem__(slice(None), a),
        lambda: a.__iadd__(host),
        lambda: np.add(a, 1, out=host),
        lambda: a.set([1.0, 2.0, 3.0]),
        lambda: cupy.sqrt([1.0]),
        lambda: hash(a),
    ):
        with pytest.raises(TypeError):
            action()
    assert isinstance(a * np.float64(2) + np.array(1.0) - 1, cupy.ndarray)
    assert not isinstance(a, np.ndarray)


def test_numpy_hands_over_to_the_double(cupy):
    a = cupy.array([[1.0, 4.0], [9.0, np.inf]])
    for result in (np.sqrt(a), np.isfinite(a), np.zeros_like(a), np.count_nonzero(a), np.tanh(a),
                   np.concatenate([a, a]), a.sum(), a[0, 0], a.max(), cupy.quantile(a[0], 0.5),
                   np.float64(2) * a, 2 - a, a @ a, abs(a), a == a, a.mean(0),
                   *cupy.linalg.qr(a[:1])):  # fmt: skip
        assert isinstance(result, cupy.ndarray)
    assert a.sum().shape == a[0, 0].shape == np.count_nonzero(a).shape == ()
    assert float(a[1, 0]) == 9
    assert a.get().dtype == np.float64
    assert (cupy.ones(3, np.float32) * 2.0).dtype == np.float32
    np.testing.assert_array_equal(cupy.asnumpy(cupy.einsum("ij->ji", a)), a.get().T)


def test_views_share_memory(cupy):
    a = cupy.zeros((3, 4))
    a[1][2:] = 5
    a.T[0, 2] += 7
    element = a[2, 3]
    a[2, 3] = 8
    b = a.reshape(-1)
    assert float(element) == 8
    assert a.get().tolist() == [[0, 0, 0, 0], [0, 0, 5, 5], [7, 0, 0, 8]]
    assert b.base is a
    assert cupy.shares_memory(a, b)
    assert not b.flags.owndata
    assert b.flags.c_contiguous
    assert a.data.ptr % 256 == 0
    assert a[1].data.ptr == a.data.ptr + 32
    assert cupy.asarray(a) is a
    assert cupy.broadcast_to(a[0], (2, 4)).shape == (2, 4)


def test_memory_of_others_is_taken_without_a_copy(cupy):
    a = cupy.arange(6.0).reshape(2, 3)

    class Other:
        __cuda_array_interface__ = a.T.__cuda_array_interface__

    b = cupy.asarray(Other())
    b[2, 1] = -1
    assert float(a[1, 2]) == -1
    assert cupy.from_dlpack(a).data.ptr == a.data.ptr
    with pytest.raises(TypeError):
        cupy.from_dlpack(np.arange(3.0))
    assert emulator.pretend_device(b, 1).device.id == 1


def test_memory_that_nothing_wrote_is_no_number(cupy):
    assert np.isnan(cupy.empty(3, np.float32)).all()
    assert (cupy.empty(3, np.int64) > 2**40).all()


def test_memory_is_counted_and_limited(cupy):
    pool = cupy.get_default_memory_pool()
    gc.collect()
    before = pool.used_bytes()
    a = cupy.zeros(1000)
    view = a[10:]
    assert pool.used_bytes() - before == 8192
    del a
    assert pool.used_bytes() - before == 8192
    del view
    assert pool.used_bytes() == before
    pool.free_all_blocks()
    assert pool.total_bytes() == before
    pool.set_limit(size=before + 10_000)
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(pool.set_limit, size=0)
            kept = cupy.zeros(1000)
            with pytest.raises(
                cupy.cuda.memory.OutOfMemoryError, match=r"allocating 8,192 bytes \("
            ):
                cupy.zeros(1000)
            assert kept.size == 1000
    finally:
        pool.set_limit(size=0)


# ---- the real one

ASK = """
import inspect, json, sys
import cupy
import cupy.cuda.compiler
wanted = json.load(sys.stdin)
missing = []
for path in wanted:
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

    wanted = []
    for path, module in sys.modules.items():
        if path.split(".")[0] == "cupy" and module is not None:
            wanted += names(path, module)
    for path in ("ndarray", "RawModule", "RawKernel", "cuda.Stream", "cuda.Event", "cuda.Graph",
                 "cuda.Device", "cuda.MemoryPool", "cuda.MemoryPointer"):  # fmt: skip
        value = cupy
        for part in path.split("."):
            value = getattr(value, part)
        wanted += names(f"cupy.{path}", value)
        if path == "ndarray":
            wanted += [f"cupy.ndarray.{name}" for name in vars(value) if "__" in name]
    wanted.remove("cupy.ndarray.__weakref__")
    assert len(wanted) > 300
    command = [sys.executable, "-W", "ignore", "-c", ASK]
    done = subprocess.run(
        command, input=json.dumps(wanted), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
