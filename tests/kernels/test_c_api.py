"""Tests of the C interface through cffi, from the declarations that kernels.h itself has.

They reach what Python does not: the accuracy of exp, expm1, tanh and sigmoid. The judges are NumPy's double
precision, and for double the wider long double.
"""

import runpy

import compiled
import numpy as np
import pytest
from stacks import seed_of

from lstmc._kernels.binding import core
from lstmc.cells import CELLS as RECORDS

if not compiled.HEADER.exists():
    pytest.skip("there is no source tree", allow_module_level=True)


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
    assert table.cell(b"lst") == table.cell(b"") == table.cell(b"LSTM") == unknown
    x = np.zeros(3, dtype)
    for number in (-1, len(RECORDS), 99):
        counts = (table.gates_of, table.biases_of, table.saved_of, table.states_of)
        assert {count(number) for count in counts} == {unknown}
        layer = ffi.new("lstmc_forward_layer[1]", [{"inputs": 2, "hidden": 3}])
        assert table.packed_size(layer, number) == unknown
        assert table.pack_layer(ffi.NULL, layer, number) == unknown
        sizes = {"num_layers": 1, "cell": number, "steps": 2, "batch": 1, "threads": 1}
        forward, backward = ffi.new("lstmc_forward *", sizes), ffi.new("lstmc_backward *", sizes)
        below = ffi.new("lstmc_backward_layer[1]")  # cffi frees what no name holds
        forward.layers, backward.layers = layer, below
        plan = ffi.new("char[]", max(table.forward_plan_size(1), table.backward_plan_size()))
        assert table.plan_forward(plan, forward) == table.plan_backward(plan, backward) == unknown
    out, a = ffi.from_buffer(x), ffi.from_buffer(np.ones(3, dtype))
    for number in (-1, 7, 99):
        assert table.activate(out, a, number, 1, 3, 1) == unknown
    for number in (-1, FUNCTIONS["exp"], FUNCTIONS["log1p"], 7, 99):
        assert table.activate_backward(out, a, a, number, 1, 3, 1) == unknown
    assert (x == 0).all()
    library = ffi.dlopen(core.__file__)
    assert library.lstmc_table(2, ffi.NULL) == library.lstmc_table(16, ffi.NULL) == ffi.NULL


@pytest.mark.parametrize("name", RECORDS)
def test_records_say_the_same_in_both_languages(table, name):
    cell = RECORDS[name]
    number = table.cell(name.encode())
    assert number >= 0
    assert table.gates_of(number) == len(cell.gates)
    assert table.biases_of(number) == cell.biases
    assert table.saved_of(number) == len(cell.saved)
    assert table.states_of(number) == len(cell.states)


@pytest.mark.parametrize("name", RECORDS)
def test_projections_that_are_refused(ffi, table, name):
    """Of a cell of two phases, and of one that has another use for h than its product with R."""
    number = table.cell(name.encode())
    weight = ffi.cast("void *", np.ones(6).ctypes.data)  # not read by a plan
    sizes = {"inputs": 2, "hidden": 3, "outputs": 2, "weight_hr": weight}
    stack = {"num_layers": 1, "cell": number, "steps": 2, "batch": 1, "threads": 1}
    plan = ffi.new("char[]", max(table.forward_plan_size(1), table.backward_plan_size()))
    layers = ffi.new("lstmc_forward_layer[1]", [sizes]), ffi.new("lstmc_backward_layer[1]", [sizes])
    forward, backward = ffi.new("lstmc_forward *", stack), ffi.new("lstmc_backward *", stack)
    forward.layers, backward.layers = layers
    planned = table.plan_forward(plan, forward), table.plan_backward(plan, backward)
    if RECORDS[name].kind == "gru":
        assert planned == (-1, -1)
    else:
        assert min(planned) > 0


def test_the_binding_refuses_an_unknown_cell():
    with pytest.raises(ValueError, match="the kernels have no cell 'none such'"):
        core.cell("none such")


def test_bindings_and_stub_follow_the_header():
    program = compiled.KERNELS.parent / "binding" / "declarations.py"
    if not program.exists():
        pytest.skip("the source tree is not whole")
    written = runpy.run_path(str(program))
    assert written["STUB"].read_text() == written["whole_stub"](), "run declarations.py"


# --------------------------------------------------------------------------------------------------
# exp, tanh, sigmoid, log1p and expm1
# --------------------------------------------------------------------------------------------------

# By number; that of ELU, whose slope is 1 here, is expm1 of what is not above 0.
FUNCTIONS = {"exp": 0, "tanh": 1, "sigmoid": 2, "log1p": 3, "expm1": 5}

# Bounds of the errors in units in the last place: the table in vmath.h.
BOUNDS = {"exp": 1.1, "tanh": 2.6, "sigmoid": 2.5, "log1p": 1.4, "expm1": 1.3}


def as_kernel(ffi, table, function, x):
    """Return what a table's activate() makes of an array."""
    y = np.empty_like(x)
    out, a = ffi.from_buffer(y), ffi.from_buffer(x)
    table.activate(out, a, FUNCTIONS[function], 1, x.size, 1)
    return y


def exactly(function, x):
    """Return the function in a wider type, which errs by 1e-3 units of the type of x at most."""
    x = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    if function == "exp":
        return np.exp(x)
    if function == "tanh":
        return np.tanh(x)
    if function in ("log1p", "expm1"):
        return getattr(np, function)(x)
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
    x = x.astype(dtype)
    within = {"log1p": (x >= 0) & (x <= 1), "expm1": x <= 0}
    return x[within.get(function, slice(None))]


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
AT_THE_ENDS = {"exp": (np.inf, 0), "tanh": (1, -1), "sigmoid": (1, 0), "expm1": (None, -1)}

# And, to 1e-18 of it, what they are of numbers below 2**-30.
NEAR_ZERO = {"exp": lambda x: 1 + x, "tanh": lambda x: x, "sigmoid": lambda x: 0.5 + x / 4,
             "log1p": lambda x: x - x * x / 2, "expm1": lambda x: x + x * x / 2}  # fmt: skip

# The floats that each is asked for, by their bits: all, the positive ones, those from 0 to 1; the negative
# ones, by those of their size.
ALL_FLOATS = {"exp": 2**32, "tanh": 2**31, "sigmoid": 2**32, "log1p": 0x3F800001, "expm1": 2**31}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("function", FUNCTIONS)
def test_accuracy_over_all_floats(ffi, function):
    """All 2^32 of them, but NaN, on all instruction sets: what vmath.h says of f32 is so.

    Of tanh the positive half: that it is odd is tested by itself. Of log1p and expm1 all that they take.
    """
    library = ffi.dlopen(core.__file__)
    tables = {isa: library.lstmc_table(4, isa.encode()) for isa in core.instruction_sets()}
    largest = dict.fromkeys(tables, 0.0)
    step = 2**18  # floats at once, which stay in cache and differ by a few per cent at most
    for start in range(0, ALL_FLOATS[function], step):
        end = min(start + step, ALL_FLOATS[function])
        x = np.arange(start, end, dtype=np.uint64).astype(np.uint32).view(np.float32)
        x = x[~np.isnan(x)] * np.float32(-1 if function == "expm1" else 1)
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
    assert (as_kernel(ffi, table, "expm1", -x) == -1).all()
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
    for function in FUNCTIONS:
        x = arguments(dtype, function)[:33]
        y = as_kernel(ffi, table, function, x)
        alone = [as_kernel(ffi, table, function, x[i : i + 1])[0] for i in range(33)]
        np.testing.assert_array_equal(y, alone)
