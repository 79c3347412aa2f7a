"""The double of CuPy that the tests of the GPU path run on: its streams, graphs, cuBLAS, arrays and memory.

It computes what CuPy does and refuses what CuPy refuses.
"""

import contextlib
import ctypes
import gc

import emulator
import numpy as np
import pytest
from emulator.samples import kernel

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.why_not())


@pytest.fixture(name="cupy")
def fixture_cupy(double):
    return double


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
            array = cupy.zeros(1000)
            with pytest.raises(
                cupy.cuda.memory.OutOfMemoryError, match=r"allocating 8,192 bytes \("
            ):
                cupy.zeros(1000)
            assert array.size == 1000
    finally:
        pool.set_limit(size=0)
