"""The kernels of a GPU: that they compile for every architecture, and that they give what the C kernels give.

Without a GPU the second is true of their emulation (emulator/), which runs the same sources as plain C++.
"""

import importlib
import itertools

import cuda_compilers
import emulator
import numpy as np
import pytest
from support import assert_close, assert_same_bits

import lstmc
from lstmc._kernels import cpu

ARCHITECTURES = (75, 80, 90)
WAYS = ("steps", "graph", "persistent", "cooperative")
# float64 sums of some hundred terms; float32 the same, and exp and tanh of another library
TOLERANCE = {np.dtype(np.float64): 1e-11, np.dtype(np.float32): 1e-5}


@pytest.fixture
def kernels(cupy):
    return importlib.import_module("lstmc._kernels.cuda.kernels")


@pytest.fixture
def time(cupy):
    return importlib.import_module("lstmc._kernels.cuda.ways")


@pytest.fixture
def compiled_together():
    """What cuda_launch compiles together; it imports CuPy, so the double stands in where there is none."""
    emulator.install()
    try:
        return importlib.import_module("lstmc._kernels.cuda.launch")
    finally:
        emulator.remove()


# -- compiling --------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(cuda_compilers.why_not()), reason=cuda_compilers.why_not())
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("file", "hidden", "rows"),
    [("lstm.cu", 128, 1), ("lstm.cu", 40, 4), ("rnn.cu", 3, 2), ("flat.cu", 0, 0)],
)
def test_sources_compile(compiled_together, file, hidden, rows, architecture):
    """For every type, but the persistent way of 128 units, which is float32's alone."""
    names = []
    for group, kernels in compiled_together.GROUPS.items():
        if group.startswith("flat") == (file == "flat.cu"):
            types = ("float",) if group == "persistent" and hidden > 64 else ("float", "double")
            untyped = "no type" in group
            names += kernels if untyped else [f"{k}<{t}>" for k in kernels for t in types]
    sizes = {"HIDDEN": hidden, "ROWS": rows, "BUDGET": 184}
    defines = [f"-D{name}={value}" for name, value in sizes.items() if hidden]
    cuda_compilers.compile_all(compiled_together.source_text(file), names, defines, architecture)


def test_every_kernel_is_compiled_somewhere(compiled_together):
    sources = "".join(compiled_together.source_text(f) for f in ("lstm.cu", "rnn.cu", "flat.cu"))
    written = {line.split("(")[0].split()[-1] for line in _heads(sources)}
    assert written == set(itertools.chain(*compiled_together.GROUPS.values()))


def _heads(sources):
    """Give the text after every __global__ up to its arguments, launch bounds left out."""
    for part in sources.split("__global__")[1:]:
        part = part.split("\n{")[0]
        if "__launch_bounds__" in part:
            part = part.split(")", 1)[1]
        yield " ".join(part.split())


def test_the_gpu_has_every_function_of_the_cpu(kernels):
    assert set(cpu.__all__) <= set(kernels.__all__)
    assert all(hasattr(kernels, name) for name in kernels.__all__)


# -- a layer over time ------------------------------------------------------------------------------


def _twins(kind, cupy, inputs, hidden, layers, dtype, **more):
    """Make the same layer on the CPU and on the GPU."""
    layer = kind(inputs, hidden, layers, dtype=dtype, rng=1, **more)
    return layer, kind(inputs, hidden, layers, dtype=dtype, rng=1, **more).to("cuda")


def _draw(rng, *shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def _all_of(layer, arrays, steps, batch, inputs, hidden, layers, dtype, seed=3):
    """Run forward and backward on drawn arrays, and give everything that comes out, on the host."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return arrays.asarray(_draw(rng, *shape, dtype=dtype))

    def state():
        parts = tuple(draw(layers, batch, hidden) for _ in layer.cell.states)
        return parts[0] if len(parts) == 1 else parts

    layer.zero_grad()
    y, final, trace = layer.forward(draw(steps, batch, inputs), state())
    record = []
    dy, dstate = draw(steps, batch, hidden), state()
    dx, initial = layer.backward(dy, trace, dstate, record=record)
    again, first = layer.backward(dy, trace, dstate, consume=True)
    found = [y, final, dx, initial, again, first]
    for kept in record:
        found += [kept.dh_later, kept.dgates, kept.dx]
        found += [] if kept.dc_later is None else [kept.dc_later]
    found.append({name: layer.grad(name) for name in layer.parameters()})
    found.append(layer.forward(draw(steps, batch, inputs), state(), training=False)[:2])
    return _host(found)


def _host(value):
    if isinstance(value, dict):
        return {key: _host(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_host(part) for part in value)
    return value if isinstance(value, np.ndarray) else value.get()


def _flat(value):
    if isinstance(value, dict):
        value = tuple(value.values())
    return [a for part in value for a in _flat(part)] if isinstance(value, tuple) else [value]


def _compare(kernels, cupy, way, kind, dtype, steps, batch, inputs, hidden, layers=1, **more):
    mine, theirs = _twins(kind, cupy, inputs, hidden, layers, dtype, **more)
    sizes = (steps, batch, inputs, hidden, layers, dtype)
    expected = _all_of(mine, np, *sizes)
    with kernels.use_way(way):
        for _ in range(3 if way == "graph" else 1):  # a graph is recorded at the second call
            found = _all_of(theirs, cupy, *sizes)
    for number, (actual, wanted) in enumerate(zip(_flat(found), _flat(expected), strict=True)):
        assert_close(actual, wanted, TOLERANCE[np.dtype(dtype)], f"result {number}")
    with kernels.use_way(way):
        assert_same_bits(_all_of(theirs, cupy, *sizes), found)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [lstmc.LSTM, lstmc.RNN])
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden", "layers"), [(3, 5, 4, 7, 2), (1, 1, 1, 1, 1), (6, 9, 33, 17, 1)]
)  # fmt: skip
def test_layers_agree_with_the_cpu(
    kernels, cupy, way, kind, dtype, steps, batch, inputs, hidden, layers
):
    _compare(kernels, cupy, way, kind, dtype, steps, batch, inputs, hidden, layers)


@pytest.mark.parametrize("hidden", [31, 64, 65, 100, 128])
def test_persistent_ways_of_many_units(kernels, cupy, hidden):
    """Weights in registers alone, and partly in shared memory; one sum and two of a thread."""
    _compare(kernels, cupy, "persistent", lstmc.LSTM, np.float32, 3, 5, 2, hidden)


@pytest.mark.parametrize("batch", [1, 4, 5, 9, 17])
def test_persistent_ways_of_many_rows(kernels, cupy, batch):
    """One row a block, two and four: the emulated device has four multiprocessors."""
    _compare(kernels, cupy, "persistent", lstmc.LSTM, np.float32, 4, batch, 2, 9)


@pytest.mark.parametrize(
    ("batch", "hidden", "dtype"),
    [(1, 70, "f4"), (33, 20, "f4"), (20, 130, "f4"), (3, 5, "f4"), (33, 82, "f8"), (17, 82, "f8")],
)
def test_cooperative_ways_are_cut_in_many_manners(kernels, cupy, batch, hidden, dtype):
    """On the emulated device the last two have the values of a step in several chunks."""
    _compare(kernels, cupy, "cooperative", lstmc.LSTM, np.dtype(dtype), 3, batch, 2, hidden)


@pytest.mark.parametrize("nonlinearity", ["relu", "identity"])
@pytest.mark.parametrize("way", WAYS)
def test_other_nonlinearities(kernels, cupy, way, nonlinearity):
    _compare(kernels, cupy, way, lstmc.RNN, np.float64, 4, 3, 2, 6, nonlinearity=nonlinearity)


@pytest.mark.parametrize("order", ["descending", 5])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_leans_on_the_order_of_threads(request, kernels, cupy, way, order, monkeypatch):
    """A barrier that is missing shows when threads run in another order between two others."""
    if "emulated" not in request.node.name:
        pytest.skip("the order of a GPU's threads is its own")
    monkeypatch.setattr(emulator, "order", order)
    _compare(kernels, cupy, way, lstmc.LSTM, np.float64, 3, 6, 2, 10)


@pytest.mark.parametrize("way", WAYS)
def test_a_sequence_in_parts_is_the_whole(kernels, cupy, way, monkeypatch):
    """Inference holds the inputs' part of some steps at once."""
    monkeypatch.setattr(kernels, "INFERENCE_BYTES", 2 * 3 * 4 * 6 * 8)  # two steps
    mine, theirs = _twins(lstmc.LSTM, cupy, 5, 6, 2, np.float64)
    x = _draw(np.random.default_rng(0), 7, 3, 5, dtype=np.float64)
    with kernels.use_way(way):
        y, (h, c) = theirs(cupy.asarray(x))
    expected, (h_n, c_n) = mine(x)
    for actual, wanted in ((y, expected), (h, h_n), (c, c_n)):
        assert_close(actual.get(), wanted, 1e-11)


def test_ways_not_yet_proven_are_not_taken_by_themselves(time):
    chosen = []
    for hidden, batch in itertools.product((8, 128, 500), (1, 64)):
        weight = time.cupy.zeros((4 * hidden, hidden), np.float32)
        chosen.append(type(time._choose(time.Cell(1, 0, weight, 5, batch))).__name__.lower())
    assert not set(chosen) & time.EXPERIMENTAL
    assert set(time.WAYS) >= time.EXPERIMENTAL


def test_the_first_way_that_fits_is_taken(request, time, monkeypatch):
    monkeypatch.setattr(time, "EXPERIMENTAL", set())
    time.Graph.forget()

    def ways(hidden):
        cell = time.Cell(1, 0, time.cupy.zeros((4 * hidden, hidden), np.float32), 5, 3)
        return [type(time._choose(cell)) for _ in range(2)]

    assert ways(30) == [time.Persistent] * 2
    if "emulated" in request.node.name:  # whose multiprocessors are few and small
        assert ways(130) == [time.Cooperative] * 2
        assert ways(600) == [time.Graph] * 2


@pytest.mark.parametrize("way", ["persistent", "cooperative"])
def test_a_way_that_does_not_fit_says_so(kernels, cupy, way):
    layer = lstmc.LSTM(2, 3000, device="cuda")
    x = cupy.zeros((2, 3, 2), np.float32)
    with kernels.use_way(way), pytest.raises(ValueError, match=f"{way}.*3 rows of 3000 units"):
        layer(x)


def test_an_unknown_way_is_refused(kernels):
    with (
        pytest.raises(ValueError, match=r"one of persistent, .* got 'fast'"),
        kernels.use_way("fast"),
    ):
        pass


def test_graphs_are_kept_by_shape_and_limited(kernels, time, cupy, monkeypatch):
    monkeypatch.setattr(time.Graph, "MOST", 3)
    time.Graph.forget()
    layer = lstmc.LSTM(2, 4, device="cuda")
    with kernels.use_way("graph"):
        for _ in range(2):
            for steps in range(1, 6):
                layer(cupy.zeros((steps, 2, 2), np.float32))
    assert len(time.Graph._kept) == 3
    time.Graph.forget()
    assert not time.Graph._kept


@pytest.mark.parametrize("gates", [1, 4])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_cuts_cover_all_and_fit(time, gates, itemsize):
    """Every row and unit is some block's, and a block asks for no more than a multiprocessor has."""
    found = 0
    for hidden, batch in itertools.product((1, 5, 64, 200, 512, 768, 1100), (1, 3, 16, 64, 300)):
        device = (gates, hidden, batch, itemsize, 132, 227 << 10)
        for cut in (time._cut(*device), time._cut_back(*device)):
            if cut is None:
                continue
            (units, unit_blocks, rows, *_), row_blocks, shared = cut
            assert units * unit_blocks >= hidden > units * (unit_blocks - 1)
            assert rows * row_blocks >= batch > rows * (row_blocks - 1) - 4
            assert unit_blocks * row_blocks <= 132
            assert rows % 4 == 0
            assert shared <= 227 << 10
            found += 1
        if forward := time._cut(*device):
            (units, _, rows, outputs, chunk, parts), *_ = forward
            assert outputs % 4 == chunk % 4 == 0
            assert outputs >= units * gates
            assert 1 <= parts * (rows // 4) * (outputs // 4) <= 256
            assert 4 <= chunk <= hidden + 3
    assert found > 30


def test_a_graph_is_recorded_at_the_second_call(kernels, time, cupy):
    time.Graph.forget()
    layer, x = lstmc.LSTM(2, 4, device="cuda"), cupy.ones((3, 2, 2), np.float32)
    found = []
    with kernels.use_way("graph"):
        for _ in range(3):
            y, _, trace = layer.forward(x)
            layer.backward(y, trace)
            (graph,) = time.Graph._kept.values()
            found.append({name: made is not None for name, made in graph.graphs.items()})
    assert found == [{"forward": n > 0, "backward": n > 0} for n in range(3)]


def test_graphs_of_two_layers_do_not_mix(kernels, cupy):
    x = cupy.asarray(_draw(np.random.default_rng(0), 3, 2, 4, dtype=np.float32))
    layers = [lstmc.LSTM(4, 6, rng=seed, device="cuda") for seed in (1, 2)]
    expected = [layer(x)[0].get() for layer in layers]
    with kernels.use_way("graph"):
        for _ in range(3):
            for layer, wanted in zip(layers, expected):
                assert_close(layer(x)[0].get(), wanted, 1e-5)


def test_a_fingerprint_sees_places_and_signs(kernels, cupy):
    rng = np.random.default_rng(0)
    array = _draw(rng, 1000, dtype=np.float32)
    changed = [array.copy() for _ in range(4)]
    changed[1][[3, 700]] = changed[1][[700, 3]]
    changed[2][[5, 6]] *= -1
    changed[3][999] = np.nextafter(changed[3][999], np.float32(9))
    found = {int(kernels.fingerprint([cupy.asarray(a)])) for a in changed}
    assert len(found) == 4
    assert int(kernels.fingerprint([cupy.asarray(array)])) in found


def test_large_logits_do_not_overflow(cupy, dtype):
    logits = np.array([[1e4, 0, -1e4], [-1e5, -1e5, -1e5], [3, np.nan, 2]], dtype)
    targets = np.array([1, 0, 2])
    expected = lstmc.softmax_cross_entropy(logits[:2], targets[:2])
    found = lstmc.softmax_cross_entropy(cupy.asarray(logits[:2]), cupy.asarray(targets[:2]))
    assert_close(float(found[0]), expected[0], 1e-6)
    assert_close(found[1].get(), expected[1], 1e-6)
    _, dlogits = lstmc.softmax_cross_entropy(cupy.asarray(logits), cupy.asarray(targets))
    assert np.isnan(dlogits.get()).any(1).tolist() == [False, False, True]


@pytest.mark.parametrize("way", WAYS)
def test_states_that_begin_anywhere(kernels, cupy, way, dtype):
    """Four numbers are read at once only where they are on a boundary of 16 bytes."""
    layer, x = lstmc.LSTM(4, 8, rng=0, dtype=dtype, device="cuda"), cupy.ones((3, 2, 4), dtype)
    room = cupy.asarray(_draw(np.random.default_rng(0), 2, 40, dtype=dtype))
    h, c = (part[3 : 3 + 16].reshape(1, 2, 8) for part in room)
    expected = layer(x, (h, c))[0].get()
    with kernels.use_way(way):
        assert_close(layer(x, (h, c))[0].get(), expected, TOLERANCE[dtype])


def _philox(counter, key):
    """Philox4x32-10 as Salmon et al. (2011) write it: four words of four words and a key of two."""
    for number in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        k0, k1 = (key[0] + number * 0x9E3779B9) & MASK, (key[1] + number * 0xBB67AE85) & MASK
        counter = [(b >> 32) ^ counter[1] ^ k0, b & MASK, (a >> 32) ^ counter[3] ^ k1, a & MASK]
    return counter


MASK = 0xFFFFFFFF
KNOWN = [  # of the authors' own tests
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([MASK] * 4, [MASK] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
]


@pytest.mark.parametrize("size", [1, 7, 1026])
def test_masks_are_philox(kernels, size):
    assert all(_philox(counter, key) == words for counter, key, words in KNOWN)
    key = int(np.random.default_rng(5).integers(2**63))
    words = [_philox([i, 0, 0, 0], [key & MASK, key >> 32]) for i in range(-(-size // 4))]
    uniform = (np.array(words, np.uint32).reshape(-1)[:size] >> 8) / 2**24
    found = kernels.dropout_mask(np.random.default_rng(5), 0.3, (size,))
    assert found.get().tolist() == (uniform >= 0.3).tolist()


@pytest.mark.parametrize("rows", [1, 63, 65, 1000, 5000])
def test_sums_of_many_rows(kernels, cupy, rows, dtype):
    """They are summed in up to 64 parts, which are added."""
    a, out = (_draw(np.random.default_rng(rows), *s, dtype=dtype) for s in ((rows, 70), (70,)))
    sums = cupy.asarray(out)
    kernels.linear_backward(
        None, None, sums, cupy.asarray(a), cupy.empty((rows, 0), dtype), cupy.empty((70, 0), dtype)
    )
    assert_close(sums.get(), out + a.sum(0, dtype=np.float64), TOLERANCE[dtype])
