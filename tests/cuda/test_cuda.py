"""The kernels of a GPU: that they compile for every architecture, and that they give what the C kernels give.

Without a GPU the second is true of their emulation (emulator/), which runs the same sources as plain C++.
"""

import importlib
import itertools
import re
from functools import partial
from pathlib import Path

import cuda_compilers
import emulator
import numpy as np
import pytest
from support import assert_close, assert_same_bits

import lstmc
import lstmc.cells
from lstmc import cli
from lstmc._kernels import cpu
from lstmc._kernels.cuda import cells

ARCHITECTURES = (75, *(pytest.param(one, marks=pytest.mark.slow) for one in (80, 90)))
RNN = ("rnn_tanh", "rnn_relu", "rnn_identity")
WAYS = ("steps", "graph", "persistent", "cooperative")
# float64 sums of some hundred terms; float32 the same, and exp and tanh of another library
TOLERANCE = {np.dtype(np.float64): 1e-11, np.dtype(np.float32): 1e-5}


@pytest.fixture
def launching():
    """What is compiled together; the module imports CuPy, so the double stands in where there is none."""
    emulator.install()
    try:
        return importlib.import_module("lstmc._kernels.cuda.launch")
    finally:
        emulator.remove()


# -- compiling --------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(cuda_compilers.why_not()), reason=cuda_compilers.why_not())
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("cell", "hidden", "rows"),
    [("lstm", 40, 4), ("rnn_tanh", 3, 2),
     *(pytest.param(*case, marks=pytest.mark.slow)
       for case in (("lstm", 128, 1), ("rnn_relu", 3, 2), ("rnn_identity", 3, 2)))],
)  # fmt: skip
def test_cells_compile(launching, cell, hidden, rows, architecture):
    """For every type, but the persistent way of 128 units, which is float32's alone."""
    names = []
    for group in ("steps", "persistent", "cooperative"):
        types = ("float",) if group == "persistent" and hidden > 64 else ("float", "double")
        names += [f"{kernel}<{t}>" for kernel in launching.GROUPS[group] for t in types]
    record = cells.CELLS[cell]
    defines = (*record.defines, ("HIDDEN", hidden), ("ROWS", rows), ("BUDGET", 184))
    options = [f"-D{name}={value}" for name, value in defines]
    cuda_compilers.compile_all(launching.source_text(record.file), names, options, architecture)


@pytest.mark.skipif(bool(cuda_compilers.why_not()), reason=cuda_compilers.why_not())
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_flat_kernels_compile(launching, architecture):
    typed, untyped = launching.GROUPS["flat"], launching.GROUPS["flat of no type"]
    names = [*untyped, *(f"{kernel}<{t}>" for kernel in typed for t in ("float", "double"))]
    cuda_compilers.compile_all(launching.source_text("flat.cu"), names, (), architecture)


def test_every_kernel_is_compiled_somewhere(launching):
    files = {"flat.cu", *(record.file for record in cells.CELLS.values())}
    sources = "".join(launching.source_text(file) for file in sorted(files))
    written = {line.split("(")[0].split()[-1] for line in _heads(sources)}
    assert written == set(itertools.chain(*launching.GROUPS.values()))


def _heads(sources):
    """Yield the text after every __global__ up to its arguments, launch bounds left out."""
    for part in sources.split("__global__")[1:]:
        part = part.split("\n{")[0]
        if "__launch_bounds__" in part:
            part = part.split(")", 1)[1]
        yield " ".join(part.split())


def test_the_gpu_has_every_function_of_the_cpu(kernels):
    assert set(cpu.__all__) == set(kernels.__all__)
    assert all(hasattr(kernels, name) for name in kernels.__all__)


# -- cells ------------------------------------------------------------------------------------------


def test_cells_are_what_their_sources_and_the_list_of_lstmc_say():
    for name, record in cells.CELLS.items():
        ours = lstmc.cells.CELLS[name]
        assert (record.name, record.gates, record.has_c) == (name, len(ours.gates), ours.has_c)
        source = Path(cells.__file__).with_name(record.file).read_text(encoding="utf-8")
        for define, value in (("GATES", record.gates), ("HAS_C", record.has_c),
                              ("SAVES_GATES", bool(ours.saved))):  # fmt: skip
            assert re.findall(rf"#define CELL_{define} (\d+)", source) == [str(int(value))]


def test_a_cell_that_a_gpu_does_not_have_is_refused_by_name(kernels):
    assert kernels.cell("lstm").file == "lstm.cu"
    with pytest.raises(ValueError, match="a GPU has no cell 'gru' yet: there are lstm, rnn_tanh, "):
        kernels.cell("gru")


def test_a_gru_with_its_reset_gate_before_is_refused_on_a_gpu(kernels):
    with pytest.raises(ValueError, match="a GPU has no cell 'gru_before' yet: there are lstm, "):
        lstmc.GRU(3, 5, device="cuda", reset_after=False)
    with pytest.raises(ValueError, match="a GPU has no cell 'gru_before' yet: there are lstm, "):
        lstmc.GRU(3, 5, reset_after=False).to("cuda")


def test_a_gru_is_refused_on_a_gpu(kernels, capsys, tmp_path):
    refused = partial(
        pytest.raises, ValueError, match="a GPU has no cell 'gru' yet: there are lstm, "
    )
    with refused():
        lstmc.GRU(3, 5, device="cuda")
    gru = lstmc.GRU(3, 5, rng=0)
    net = lstmc.Sequential(lstmc.LSTM(2, 3, rng=0), lstmc.GRU(3, 5, rng=0))
    before = net.params.copy()
    for layer in (gru, net):
        with refused():
            layer.to("cuda")
    assert gru.device == net.device == net.layers[0].device == net.layers[1].device == "cpu"
    assert_same_bits(net.params, before)
    out = tmp_path / "run"
    assert cli.main(["train", "--cell", "gru", "--device", "cuda", "--out", str(out)]) == 1
    assert "lstmc: error: 1.GRU: a GPU has no cell 'gru' yet" in capsys.readouterr().err
    assert not out.exists()


def test_a_network_with_a_cell_that_a_gpu_does_not_have_stays_where_it_is(kernels, monkeypatch):
    net = lstmc.Sequential(lstmc.LSTM(3, 5, rng=0), lstmc.RNN(5, 4, rng=1))
    expected, _ = net(np.ones((2, 1, 3), np.float32))
    here = importlib.import_module("lstmc._kernels.cuda.cells")  # the emulated one, if it is
    monkeypatch.delitem(here.CELLS, "rnn_tanh")
    with pytest.raises(ValueError, match="a GPU has no cell 'rnn_tanh'"):
        net.to("cuda")
    assert net.device == net.layers[0].device == "cpu"
    assert_same_bits(net(np.ones((2, 1, 3), np.float32))[0], expected)


def test_a_type_that_no_kernel_has_is_refused(kernels, cupy):
    with pytest.raises(TypeError, match="kernel scale must be of float32 or float64, got float16"):
        kernels.scale(cupy.zeros(3, np.float16), 2.0)


@pytest.mark.parametrize("activation", ["SWISH", "3", None])
def test_an_unknown_activation_is_refused(emulated, activation):
    launching = importlib.import_module("lstmc._kernels.cuda.launch")
    defines = () if activation is None else (f"-DACTIVATION={activation}",)
    module = emulated.RawModule(
        code=launching.source_text("rnn.cu"),
        options=defines,
        name_expressions=("step_rows<float>",),
    )
    with pytest.raises(
        emulated.cuda.compiler.CompileException, match=r"an unknown activation|SWISH|ACTIVATION"
    ):
        module.compile()


# -- a layer over time ------------------------------------------------------------------------------


def _twins(kind, cupy, inputs, hidden, layers, dtype, **more):
    """Return the same layer on the CPU and on the GPU."""
    layer = kind(inputs, hidden, layers, dtype=dtype, rng=1, **more)
    return layer, kind(inputs, hidden, layers, dtype=dtype, rng=1, **more).to("cuda")


def _draw(rng, *shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def _all_of(layer, arrays, steps, batch, inputs, hidden, layers, dtype, seed=3):
    """Run forward and backward on drawn arrays; return everything that comes out, on the host."""
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
    results = [y, final, dx, initial, again, first]
    for entry in record:
        results += [entry.dh_later, entry.dgates, entry.dx]
        results += [] if entry.dc_later is None else [entry.dc_later]
    results.append({name: layer.grad(name) for name in layer.parameters()})
    results.append(layer.forward(draw(steps, batch, inputs), state(), training=False)[:2])
    return _host(results)


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


def _compare(ways, cupy, way, kind, dtype, steps, batch, inputs, hidden, layers=1, **more):
    mine, theirs = _twins(kind, cupy, inputs, hidden, layers, dtype, **more)
    sizes = (steps, batch, inputs, hidden, layers, dtype)
    expected = _all_of(mine, np, *sizes)
    with ways.use_way(way):
        for _ in range(3 if way == "graph" else 1):  # a graph is recorded at the second call
            results = _all_of(theirs, cupy, *sizes)
    for number, pair in enumerate(zip(_flat(results), _flat(expected), strict=True)):
        assert_close(*pair, TOLERANCE[np.dtype(dtype)], f"result {number}")
    with ways.use_way(way):
        assert_same_bits(_all_of(theirs, cupy, *sizes), results)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [lstmc.LSTM, lstmc.RNN])
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden", "layers"), [(3, 5, 4, 7, 2), (1, 1, 1, 1, 1), (6, 9, 33, 17, 1)]
)  # fmt: skip
def test_layers_agree_with_the_cpu(
    ways, cupy, way, kind, dtype, steps, batch, inputs, hidden, layers
):
    _compare(ways, cupy, way, kind, dtype, steps, batch, inputs, hidden, layers)


@pytest.mark.parametrize(
    "hidden", [31, 65, 128, *(pytest.param(size, marks=pytest.mark.slow) for size in (64, 100))]
)
def test_persistent_ways_of_many_units(ways, cupy, hidden):
    """Weights in registers alone, and partly in shared memory; one sum and two of a thread."""
    _compare(ways, cupy, "persistent", lstmc.LSTM, np.float32, 3, 5, 2, hidden)


@pytest.mark.parametrize(
    "batch", [1, 5, 9, *(pytest.param(size, marks=pytest.mark.slow) for size in (4, 17))]
)
def test_persistent_ways_of_many_rows(ways, cupy, batch):
    """One row a block, two and four: the emulated device has four multiprocessors."""
    _compare(ways, cupy, "persistent", lstmc.LSTM, np.float32, 4, batch, 2, 9)


@pytest.mark.parametrize(
    ("batch", "hidden", "dtype"),
    [(1, 70, "f4"), (33, 20, "f4"), (20, 130, "f4"), (3, 5, "f4"), (33, 82, "f8"), (17, 82, "f8")],
)
def test_cooperative_ways_are_cut_in_many_manners(ways, cupy, batch, hidden, dtype):
    """On the emulated device the last two have the values of a step in several chunks."""
    _compare(ways, cupy, "cooperative", lstmc.LSTM, np.dtype(dtype), 3, batch, 2, hidden)


@pytest.mark.parametrize("nonlinearity", ["relu", "identity"])
@pytest.mark.parametrize("way", WAYS)
def test_other_nonlinearities(ways, cupy, way, nonlinearity):
    _compare(ways, cupy, way, lstmc.RNN, np.float64, 4, 3, 2, 6, nonlinearity=nonlinearity)


@pytest.mark.parametrize("order", ["descending", 5])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_leans_on_the_order_of_threads(request, ways, cupy, way, order, monkeypatch):
    """A barrier that is missing shows when threads run in another order between two others."""
    if "emulated" not in request.node.name:
        pytest.skip("the order of a GPU's threads is its own")
    monkeypatch.setattr(emulator.settings, "order", order)
    _compare(ways, cupy, way, lstmc.LSTM, np.float64, 3, 6, 2, 10)


@pytest.mark.parametrize("way", WAYS)
def test_a_sequence_in_parts_is_the_whole(kernels, ways, cupy, way, monkeypatch):
    """Inference holds the inputs' part of some steps at once."""
    monkeypatch.setattr(kernels, "INFERENCE_BYTES", 2 * 3 * 4 * 6 * 8)  # two steps
    mine, theirs = _twins(lstmc.LSTM, cupy, 5, 6, 2, np.float64)
    x = _draw(np.random.default_rng(0), 7, 3, 5, dtype=np.float64)
    with ways.use_way(way):
        y, (h, c) = theirs(cupy.asarray(x))
    expected, (h_n, c_n) = mine(x)
    for actual, judge in ((y, expected), (h, h_n), (c, c_n)):
        assert_close(actual.get(), judge, 1e-11)


def test_a_fingerprint_sees_places_and_signs(kernels, cupy):
    rng = np.random.default_rng(0)
    array = _draw(rng, 1000, dtype=np.float32)
    changed = [array.copy() for _ in range(4)]
    changed[1][[3, 700]] = changed[1][[700, 3]]
    changed[2][[5, 6]] *= -1
    changed[3][999] = np.nextafter(changed[3][999], np.float32(9))
    prints = {int(kernels.fingerprint([cupy.asarray(a)])) for a in changed}
    assert len(prints) == 4
    assert int(kernels.fingerprint([cupy.asarray(array)])) in prints


def test_large_logits_do_not_overflow(cupy, dtype):
    logits = np.array([[1e4, 0, -1e4], [-1e5, -1e5, -1e5], [3, np.nan, 2]], dtype)
    targets = np.array([1, 0, 2])
    expected = lstmc.softmax_cross_entropy(logits[:2], targets[:2])
    loss, dlogits = lstmc.softmax_cross_entropy(cupy.asarray(logits[:2]), cupy.asarray(targets[:2]))
    assert_close(float(loss), expected[0], 1e-6)
    assert_close(dlogits.get(), expected[1], 1e-6)
    _, dlogits = lstmc.softmax_cross_entropy(cupy.asarray(logits), cupy.asarray(targets))
    assert np.isnan(dlogits.get()).any(1).tolist() == [False, False, True]


@pytest.mark.parametrize("way", WAYS)
def test_states_that_begin_anywhere(ways, cupy, way, dtype):
    """Four numbers are read at once only where they are on a boundary of 16 bytes."""
    layer, x = lstmc.LSTM(4, 8, rng=0, dtype=dtype, device="cuda"), cupy.ones((3, 2, 4), dtype)
    room = cupy.asarray(_draw(np.random.default_rng(0), 2, 40, dtype=dtype))
    h, c = (part[3 : 3 + 16].reshape(1, 2, 8) for part in room)
    expected = layer(x, (h, c))[0].get()
    with ways.use_way(way):
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
    mask = kernels.dropout_mask(np.random.default_rng(5), 0.3, (size,))
    assert mask.get().tolist() == (uniform >= 0.3).tolist()


@pytest.mark.parametrize("rows", [1, 63, 65, 1000, 5000])
def test_sums_of_many_rows(kernels, cupy, rows, dtype):
    """They are summed in up to 64 parts, which are added."""
    a, out = (_draw(np.random.default_rng(rows), *s, dtype=dtype) for s in ((rows, 70), (70,)))
    sums = cupy.asarray(out)
    kernels.linear_backward(
        None, None, sums, cupy.asarray(a), cupy.empty((rows, 0), dtype), cupy.empty((70, 0), dtype)
    )
    assert_close(sums.get(), out + a.sum(0, dtype=np.float64), TOLERANCE[dtype])
