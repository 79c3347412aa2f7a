"""Tests of the C interface through cffi, from the declarations that kernels.h itself has.

They reach what Python does not: the accuracy of exp, tanh and sigmoid, and whether a kernel writes
outside its outputs. The judges are NumPy's double precision, and for double the wider long double.
"""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND
from stacks import layer_weights, random_problem, reference_solution, seed_of
from support import assert_close

from lstmc._kernels.binding import core
from lstmc.cells import CELLS as RECORDS

cffi = pytest.importorskip("cffi")

HEADER = Path(__file__).parents[2] / "src" / "lstmc" / "_kernels" / "c" / "kernels.h"
if not HEADER.exists():
    pytest.skip(f"{HEADER} is not there: no source tree", allow_module_level=True)


@pytest.fixture(scope="module")
def ffi():
    found = re.search(r"/\* cffi begin \*/(.*)/\* cffi end \*/", HEADER.read_text(), re.DOTALL)
    builder = cffi.FFI()
    builder.cdef(re.sub(r"/\*.*?\*/", "", found[1], flags=re.DOTALL))
    return builder


@pytest.fixture
def table(ffi, isa, dtype):
    """Give the table of functions for a type and an instruction set."""
    library = ffi.dlopen(core.__file__)
    found = library.lstmc_table(dtype.itemsize, isa.encode())
    assert ffi.string(found.isa).decode() == isa
    assert found.real_size == dtype.itemsize
    yield found  # the library must outlive it
    assert library is not None


def test_tables(ffi):
    library = ffi.dlopen(core.__file__)
    names = ffi.new("char[64]")
    library.lstmc_instruction_sets(names)
    assert ffi.string(names).decode().split() == core.instruction_sets()
    best = library.lstmc_table(4, ffi.NULL)
    assert ffi.string(best.isa).decode() == core.instruction_sets()[0]
    assert library.lstmc_table(4, b"none such") == ffi.NULL
    for function in (name for name, _ in ffi.typeof("lstmc_kernels").fields):
        assert getattr(best, function), function


def test_what_is_unknown_is_refused(ffi, table, dtype):
    """A cell, a function or a type that there is not is an error, never the last of those there are."""
    unknown = -1
    assert table.cell(b"gru") == table.cell(b"") == table.cell(b"LSTM") == unknown
    x = np.zeros(3, dtype)
    for number in (-1, 4, 99):
        assert table.gates_of(number) == table.states_of(number) == unknown
        layer = ffi.new("lstmc_forward_layer[1]", [{"inputs": 2, "hidden": 3}])
        assert table.packed_size(layer, number) == unknown
        assert table.pack_layer(ffi.NULL, layer, number) == unknown
        sizes = {"num_layers": 1, "cell": number, "steps": 2, "batch": 1, "threads": 1}
        forward, backward = ffi.new("lstmc_forward *", sizes), ffi.new("lstmc_backward *", sizes)
        forward.layers, backward.layers = layer, ffi.new("lstmc_backward_layer[1]")
        plan = ffi.new("char[]", max(table.forward_plan_size(1), table.backward_plan_size()))
        assert table.plan_forward(plan, forward) == table.plan_backward(plan, backward) == unknown
        out = ffi.from_buffer(x)
        assert table.map(out, out, number, x.size) == unknown
    assert (x == 0).all()
    library = ffi.dlopen(core.__file__)
    assert library.lstmc_table(2, ffi.NULL) == library.lstmc_table(16, ffi.NULL) == ffi.NULL


@pytest.mark.parametrize("name", RECORDS)
def test_records_say_the_same_in_both_languages(table, name):
    cell = RECORDS[name]
    number = table.cell(name.encode())
    assert number >= 0
    assert table.gates_of(number) == len(cell.gates)
    assert table.states_of(number) == len(cell.states)


def test_the_binding_refuses_an_unknown_cell():
    with pytest.raises(ValueError, match="the kernels have no cell 'gru'"):
        core.cell("gru")


def test_bindings_and_stub_follow_the_header():
    written = runpy.run_path(str(HEADER.parents[1] / "binding" / "declarations.py"))
    assert written["STUB"].read_text() == written["whole_stub"](), "run declarations.py"


# --------------------------------------------------------------------------------------------------
# exp, tanh and sigmoid
# --------------------------------------------------------------------------------------------------

FUNCTIONS = {"exp": 0, "tanh": 1, "sigmoid": 2}

# Bounds of the errors in units in the last place: the table in vmath.h.
BOUNDS = {"exp": 1.1, "tanh": 2.6, "sigmoid": 2.5}


def as_kernel(ffi, table, function, x):
    """Return what a table's map() makes of an array."""
    y = np.empty_like(x)
    out, a = ffi.from_buffer(y), ffi.from_buffer(x)
    table.map(out, a, FUNCTIONS[function], x.size)
    return y


def exactly(function, x):
    """Return the function in a wider type, which errs by 1e-3 units of the type of x at most."""
    x = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    if function == "exp":
        return np.exp(x)
    if function == "tanh":
        return np.tanh(x)
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, decay) / (1 + decay)


def units_of(expected, dtype):
    """Return the units in the last place, and where a result may be flushed to zero.

    At that edge, a right result just above the smallest normal number may come out just below it.
    """
    limits, size = np.finfo(dtype), np.abs(expected)
    unit = np.spacing(np.maximum(size, limits.tiny).astype(dtype))
    return unit, size < limits.tiny * (1 + 4 * limits.eps)


def errors(y, expected, units):
    """Return the errors of y in units in the last place of the right result."""
    unit, may_be_zero = units
    error = np.abs(y.astype(expected.dtype) - expected) / unit
    error[(y == 0) & may_be_zero] = 0
    return error


# Up to here exp is finite: half a power of two below the largest number, as vmath.h says.
HIGHEST = {np.dtype(np.float32): 88.37626, np.dtype(np.float64): 709.43614}


def arguments(dtype, function):
    """Return numbers of all magnitudes and signs, and dense ones where the function bends."""
    generator = np.random.default_rng(seed_of("arguments", dtype.name, function))
    highest, smallest = HIGHEST[dtype], -37 if dtype == np.float32 else -307
    magnitudes = 10 ** generator.uniform(smallest, np.log10(highest), 200_000)
    dense = np.concatenate([generator.uniform(0, end, 200_000) for end in (1, 10, highest)])
    x = np.concatenate([magnitudes, -magnitudes, dense, -dense, [0.0, -0.0, 1.0, -1.0]])
    return x.astype(dtype)


needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant <= 52, reason="long double is no wider than double here"
)


@needs_long_double
@pytest.mark.parametrize("function", FUNCTIONS)
def test_accuracy(ffi, table, dtype, function):
    x = arguments(dtype, function)
    if function == "exp":  # below, results are denormal or flushed
        x = x[x > np.log(np.finfo(dtype).tiny) + 1]
    expected = exactly(function, x)
    error = errors(as_kernel(ffi, table, function, x), expected, units_of(expected, dtype))
    worst = np.argmax(np.where(np.isnan(error), np.inf, error))
    print(f"{function} {dtype}: {float(error[worst]):.3f} units at {x[worst]!r}")
    assert error[worst] <= BOUNDS[function]


# What the functions are from 128 on, and from -128 down.
AT_THE_ENDS = {"exp": (np.inf, 0), "tanh": (1, -1), "sigmoid": (1, 0)}
# And, to 1e-18 of it, what they are of numbers below 2**-30.
NEAR_ZERO = {"exp": lambda x: 1 + x, "tanh": lambda x: x, "sigmoid": lambda x: 0.5 + x / 4}


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_accuracy_over_all_floats(ffi, function):
    """All 2^32 of them, but NaN, on all instruction sets: what vmath.h says of f32 is so.

    Of tanh the positive half: that it is odd is tested by itself.
    """
    library = ffi.dlopen(core.__file__)
    tables = {isa: library.lstmc_table(4, isa.encode()) for isa in core.instruction_sets()}
    largest = dict.fromkeys(tables, 0.0)
    step = 2**18  # floats at once, which stay in cache and differ by a few per cent at most
    for start in range(0, 2**31 if function == "tanh" else 2**32, step):
        x = np.arange(start, start + step, dtype=np.uint64).astype(np.uint32).view(np.float32)
        x = x[~np.isnan(x)]
        if not x.size:
            continue
        if np.abs(x).min() >= 128:
            end = AT_THE_ENDS[function][int(x[0] < 0)]
            for table in tables.values():
                assert (as_kernel(ffi, table, function, x) == end).all()
            continue
        if function == "exp":
            x = x[x <= np.float32(HIGHEST[x.dtype])]
        with np.errstate(over="ignore", under="ignore"):
            if np.abs(x).max(initial=0) < 2**-30:
                expected = NEAR_ZERO[function](x.astype(np.float64))
            else:
                expected = exactly(function, x)
            units = units_of(expected, x.dtype)
            for isa, table in tables.items():
                error = errors(as_kernel(ffi, table, function, x), expected, units).max(initial=0)
                assert not np.isnan(error)
                largest[isa] = max(largest[isa], float(error))
    print(f"{function}: " + ", ".join(f"{isa} {error:.3f}" for isa, error in largest.items()))
    assert max(largest.values()) <= BOUNDS[function]


def test_tanh_is_odd_to_the_bit(ffi, table, dtype):
    x = arguments(dtype, "tanh")
    x = np.concatenate([x, np.array([np.inf], dtype)])
    y, mirrored = as_kernel(ffi, table, "tanh", x), as_kernel(ffi, table, "tanh", -x)
    assert (-y).tobytes() == mirrored.tobytes()
    assert np.signbit(as_kernel(ffi, table, "tanh", np.array([-0.0], dtype))[0])


def test_saturation_is_exact(ffi, table, dtype):
    x = np.array([20, 50, 100, 1e3, 1e30, np.finfo(dtype).max, np.inf], dtype)
    assert (as_kernel(ffi, table, "tanh", x) == 1).all()
    assert (as_kernel(ffi, table, "tanh", -x) == -1).all()
    x = np.array([40, 100, 1e3, 1e30, np.finfo(dtype).max, np.inf], dtype)
    assert (as_kernel(ffi, table, "sigmoid", x) == 1).all()
    x = np.array([800, 1e3, 1e30, np.finfo(dtype).max, np.inf], dtype)
    assert (as_kernel(ffi, table, "sigmoid", -x) == 0).all()
    assert (as_kernel(ffi, table, "exp", -x) == 0).all()
    assert np.isposinf(as_kernel(ffi, table, "exp", x)).all()
    edge = np.array([HIGHEST[dtype] * (1 - 1e-6), HIGHEST[dtype] * (1 + 1e-6)], dtype)
    assert np.isposinf(as_kernel(ffi, table, "exp", edge)).tolist() == [False, True]
    zero = np.zeros(1, dtype)
    assert as_kernel(ffi, table, "exp", zero) == 1
    assert as_kernel(ffi, table, "sigmoid", zero) == 0.5


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_stays_nan(ffi, table, dtype, function):
    """In whatever lane, and in no other."""
    for place in range(33):
        x = np.ones(33, dtype)
        x[place] = -np.nan if place % 2 else np.nan
        y = as_kernel(ffi, table, function, x)
        assert np.flatnonzero(np.isnan(y)).tolist() == [place]


def test_values_do_not_depend_on_the_place(ffi, table, dtype):
    """A number has one result, in whole vectors and in the rest of one."""
    x = arguments(dtype, "tanh")[:33]
    for function in FUNCTIONS:
        y = as_kernel(ffi, table, function, x)
        alone = [as_kernel(ffi, table, function, x[i : i + 1])[0] for i in range(33)]
        np.testing.assert_array_equal(y, alone)


# --------------------------------------------------------------------------------------------------
# Nothing is written out of bounds
# --------------------------------------------------------------------------------------------------

GUARD = 192  # bytes on either side: three times the widest vector
PATTERN = 0xA5


class Guarded:
    """An array between two guards, whose address is that of its elements alone."""

    def __init__(self, ffi, shape, dtype, value=None, boundary=None):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.memory = np.full(size + 2 * GUARD + 64, PATTERN, np.uint8)
        start = GUARD
        if boundary:
            start += -(self.memory.ctypes.data + GUARD) % boundary
        else:  # on a boundary of its elements and of nothing wider
            start += -(self.memory.ctypes.data + GUARD) % 64 + np.dtype(dtype).itemsize
            start -= 64 if start + size + GUARD > self.memory.size else 0
        self.inside = slice(start, start + size)
        self.array = self.memory[self.inside].view(dtype).reshape(shape)
        if value is not None:
            self.array[...] = value
        self.pointer = ffi.cast("void *", self.array.ctypes.data)

    def check(self, name):
        outside = self.memory.copy()
        outside[self.inside] = PATTERN
        assert (outside == PATTERN).all(), f"{name}: bytes beside it were written"


@pytest.mark.parametrize("sizes", [(3, 2, 5, 7, 2), (4, 1, 3, 9, 1), (3, 5, 17, 33, 1)], ids=str)
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
@pytest.mark.parametrize("threads", [1, 2])
def test_forward_and_backward_keep_within_bounds(ffi, table, dtype, cell, sizes, threads):
    """Called directly, with guards around all outputs and scratch; and the results are right."""
    problem = random_problem(cell, *sizes)
    steps, batch, inputs, hidden, layers = sizes
    cell = CELLS[cell]
    gates = len(cell.gates) * hidden
    kept = {}

    def array(name, shape, value=None, boundary=None, kind=dtype):
        kept[name] = Guarded(ffi, shape, kind, value, boundary)
        return kept[name].pointer

    def given(name, value):
        return array(name, value.shape, value)

    forward_layers = ffi.new("lstmc_forward_layer[]", layers)
    backward_layers = ffi.new("lstmc_backward_layer[]", layers)
    for k in range(layers):
        f, b = forward_layers[k], backward_layers[k]
        weights = zip(("weight_ih", "weight_hh", "bias"), layer_weights(problem, k), strict=True)
        for name, weight in weights:
            setattr(f, name, given(f"{name}_l{k}", weight))
            setattr(b, "d" + name, array(f"d_{name}_l{k}", weight.shape, 0))
        b.weight_ih, b.weight_hh = f.weight_ih, f.weight_hh
        for s in cell.states:
            setattr(f, f"{s}0", given(f"{s}0_{k}", problem[f"{s}0"][k]))
            setattr(b, f"d{s}_n", given(f"d{s}_n_{k}", problem[f"d{s}_n"][k]))
            setattr(f, f"{s}_n", array(f"{s}_n_{k}", (batch, hidden)))
            setattr(b, f"d{s}0", array(f"d{s}0_{k}", (batch, hidden)))
            saved = array(f"{s}_{k}", (steps + 1, batch, hidden))
            setattr(f, s, saved)
            setattr(b, s, saved)
        if cell.trace_gates:
            f.gates = b.gates = array(f"gates_{k}", (steps, batch, gates))
        b.dgates = array(f"dgates_{k}", (steps, batch, gates))
        b.dh = array(f"dh_{k}", (steps, batch, hidden))
        if cell.has_c:
            b.dc = array(f"dc_{k}", (steps, batch, hidden))
        if k:
            b.dx = array(f"dx_{k}", (steps, batch, hidden))
        f.inputs = b.inputs = hidden if k else inputs
        f.hidden = b.hidden = hidden

    sizes_and_kind = {
        "num_layers": layers, "cell": table.cell(cell.name.encode()), "steps": steps, "batch": batch,
        "threads": threads,
    }  # fmt: skip
    forward = ffi.new("lstmc_forward *", sizes_and_kind)
    forward.layers, forward.x = forward_layers, given("x", problem["x"])
    forward.y = array("y", (steps, batch, hidden))
    plan = array("forward's plan", table.forward_plan_size(layers), boundary=64, kind=np.uint8)
    size = table.plan_forward(plan, forward)
    forward.scratch = array("forward's scratch", size, boundary=64, kind=np.uint8)
    table.forward(plan, forward)

    backward = ffi.new("lstmc_backward *", sizes_and_kind)
    backward.layers, backward.x = backward_layers, forward.x
    backward.dy, backward.dx = given("dy", problem["dy"]), array("dx", (steps, batch, inputs))
    plan = array("backward's plan", table.backward_plan_size(), boundary=64, kind=np.uint8)
    needed = table.plan_backward(plan, backward)
    backward.scratch = array("backward's scratch", needed, boundary=64, kind=np.uint8)
    table.backward(plan, backward)

    for name, guarded in kept.items():
        guarded.check(name)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12  # as in test_recurrent.py
    for name, expected in reference_solution(problem).items():
        if name[-2:] in ("_n", "h0", "c0"):
            actual = np.stack([kept[f"{name}_{k}"].array for k in range(layers)])
        else:
            actual = kept[name].array
        assert_close(actual, expected, tolerance, name)


@pytest.mark.parametrize("sizes", [(1, 3, 1), (2, 5, 7), (7, 9, 17), (13, 33, 65)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_linear_keeps_within_bounds(ffi, table, dtype, sizes, threads):
    rows, inputs, outputs = sizes
    generator = np.random.default_rng(seed_of("linear", sizes))

    def draw(*shape):
        return Guarded(ffi, shape, dtype, generator.standard_normal(shape))

    x, weight, bias = draw(rows, inputs), draw(outputs, inputs), draw(outputs)
    dy, dweight, dbias = draw(rows, outputs), draw(outputs, inputs), draw(outputs)
    y, dx = (Guarded(ffi, shape, dtype) for shape in ((rows, outputs), (rows, inputs)))
    shape = (rows, inputs, outputs, threads)
    scratch = Guarded(ffi, table.linear_forward_scratch(*shape), np.uint8, boundary=64)
    packed = Guarded(ffi, table.packed_linear_size(inputs, outputs), np.uint8, boundary=64)
    table.pack_linear(packed.pointer, weight.pointer, inputs, outputs)
    for panels in (ffi.NULL, packed.pointer):
        y.array[...] = 0
        table.linear_forward(
            y.pointer, x.pointer, weight.pointer, bias.pointer, panels, *shape, scratch.pointer
        )
        tolerance = 1e-5 if dtype == np.float32 else 1e-12  # of a few dozen terms
        assert_close(y.array, x.array @ weight.array.T + bias.array, tolerance)
    scratch.check("forward's scratch")
    before = dweight.array.copy()
    scratch = Guarded(ffi, table.linear_backward_scratch(*shape), np.uint8, boundary=64)
    table.linear_backward(
        dx.pointer, dweight.pointer, dbias.pointer, dy.pointer, x.pointer, weight.pointer, *shape,
        scratch.pointer,
    )  # fmt: skip
    assert_close(dweight.array, before + dy.array.T @ x.array, tolerance)
    for guarded in (x, weight, bias, dy, dweight, dbias, y, dx, packed, scratch):
        guarded.check("an array")


@pytest.mark.parametrize("n", [1, 7, 17, 65, 4095, 4096, 4097, 12_289])
def test_flat_functions_keep_within_bounds(ffi, table, dtype, n):
    generator = np.random.default_rng(seed_of("flat", n))

    def draw():
        return Guarded(ffi, n, dtype, np.abs(generator.standard_normal(n)) + 0.1)

    p, g, first, second = (draw() for _ in range(4))
    sums = Guarded(ffi, n // 4096 + 1, np.float64)
    total = table.sum_of_squares(sums.pointer, p.pointer, n, 1)
    assert_close(total, np.sum(np.square(p.array, dtype=np.float64)), 1e-12)  # summed in double
    states = first.pointer, second.pointer
    table.sgd(p.pointer, first.pointer, g.pointer, 0.1, 0.9, 1, 0.1, n, 1)
    table.adam(p.pointer, *states, g.pointer, 1, 0.1, 0.9, 0.99, 1e-8, 0.1, 0, n, 1)
    table.rmsprop(p.pointer, *states, g.pointer, 0.1, 0.9, 1e-8, 0.5, 0.1, n, 1)
    table.scale(p.pointer, 0.5, n, 1)
    table.squared_error(first.pointer, sums.pointer, p.pointer, g.pointer, n, 1)
    table.map(second.pointer, p.pointer, 1, n)
    for guarded in (p, g, first, second, sums):
        guarded.check("an array")
        assert np.isfinite(guarded.array).all()


@pytest.mark.parametrize("columns", [1, 7, 17, 65])
def test_losses_and_embeddings_keep_within_bounds(ffi, table, dtype, columns):
    rows = 3
    generator = np.random.default_rng(seed_of("losses", columns))
    a, out = (Guarded(ffi, (rows, columns), dtype, generator.standard_normal((rows, columns)))
              for _ in range(2))  # fmt: skip
    losses = Guarded(ffi, rows, np.float64)
    ids = np.array([0, columns - 1, 0])
    tokens = ffi.cast("int64_t *", ids.ctypes.data)
    table.softmax(out.pointer, a.pointer, rows, columns, 1)
    sum_tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert_close(out.array.sum(axis=1), np.ones(rows), sum_tolerance)
    losses_pointer = ffi.cast("double *", losses.pointer)
    inputs = a.pointer, tokens, -1, rows, columns, 1
    table.softmax_cross_entropy(out.pointer, losses_pointer, *inputs)
    weight = Guarded(ffi, (columns, columns), dtype, 1)
    table.embedding_forward(out.pointer, tokens, weight.pointer, rows, columns)
    assert (out.array == 1).all()
    table.embedding_backward(weight.pointer, a.pointer, tokens, rows, columns, 1)
    for guarded in (a, out, losses, weight):
        guarded.check("an array")


@pytest.mark.parametrize("size", [0, 1, 3, 4, 64, 255, 256, 257, 530])
def test_fingerprint(ffi, table, size):
    """It reads all bytes and none beyond, sees a change of any single one, and is one for all tables."""
    data = np.random.default_rng(seed_of("fingerprint", size)).integers(256, size=size + 1)
    data = data.astype(np.uint8)
    pointer = ffi.cast("void *", data.ctypes.data)
    before = table.fingerprint(pointer, size)
    data[size] ^= 1
    assert table.fingerprint(pointer, size) == before
    seen = {before}
    for i in range(size):
        data[i] ^= 1
        seen.add(table.fingerprint(pointer, size))
        data[i] ^= 1
    assert len(seen) == size + 1


@pytest.mark.parametrize("count", [17, 32, 33, 4096])
def test_fingerprint_of_many_changes(dtype, count):
    """Changes alike in many words do not undo each other."""
    a = np.random.default_rng(seed_of("fingerprints", count)).standard_normal(count).astype(dtype)
    changed = [a, -a, 2 * a, a / 2, a[::-1].copy(), np.roll(a, 16), np.sort(a), np.abs(a) + 3]
    assert len({core.fingerprint([each]) for each in changed}) == len(changed)
