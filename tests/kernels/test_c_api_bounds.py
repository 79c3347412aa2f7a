"""Tests that no kernel writes outside its outputs and scratch, called through the C interface."""

import math

import numpy as np
import pytest
from cases import OF_ALL_OPTIONS, ONE_OF_EACH_KIND, ROWS
from stacks import layer_weights, random_problem, reference_solution, seed_of
from support import assert_close, assert_same_bits
from times import beyond

from lstmc._kernels.binding import core

GUARD = 192  # bytes on either side: three times the widest vector
PATTERN = 0xA5
LIMIT = 0.1  # of the gradients of sums


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


# T, B, I, H, L, and the lengths of sequences, the longest first; the last are shared out among threads.
BOUNDED = [
    ((3, 2, 5, 7, 2), None),
    ((4, 1, 3, 9, 1), None),
    ((3, 5, 17, 33, 1), None),
    ((4, 3, 5, 7, 2), (4, 2, 1)),
    ((5, 6, 17, 33, 1), (5, 5, 3, 3, 1, 1)),
    ((40, 20, 9, 17, 2), (*range(40, 30, -1), *[7] * 10)),
    ((4, 6, 40, 150, 1), (4, 4, 3, 3, 2, 1)),
    # saved rows a power of two apart, which are made a few at a time: not a whole number of times
    ((3, 6, 5, 128, 1), None),
    ((3, 7, 5, 128, 1), (3, 3, 3, 2, 2, 1, 1)),
    # a step with a block of terms, of some type and instruction set, after one with a row more
    ((2, 513, 3, 5, 1), (*[2] * 512, 1)),
    ((2, 1025, 3, 5, 1), (*[2] * 1024, 1)),
    pytest.param((2, 2049, 3, 5, 1), (*[2] * 2048, 1), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("sizes", "lengths"), BOUNDED, ids=lambda v: str(v and v[:8]))
@pytest.mark.parametrize(
    "cell", [*ONE_OF_EACH_KIND, "lstm_coupled_peephole", "lstm_projected", *OF_ALL_OPTIONS]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_forward_and_backward_keep_within_bounds(ffi, table, dtype, cell, sizes, lengths, threads):
    """Called directly, with guards around all outputs and scratch; and the results are right."""
    problem = random_problem(cell, *sizes) | {"grad_clip": LIMIT}
    steps, batch, inputs, hidden, layers = sizes
    if lengths:
        problem["lengths"] = np.array(lengths)
    real = ~beyond(problem)  # (T, B): what it takes of an array is packed
    rows = np.count_nonzero(real)
    cell = ROWS[cell]
    number = table.cell(cell.name.removesuffix("_projected").encode())
    gates, outputs = len(cell.gates) * hidden, cell.units("h", hidden)
    arrays = {}

    def array(name, shape, value=None, boundary=None, kind=dtype):
        arrays[name] = Guarded(ffi, shape, kind, value, boundary)
        return arrays[name].pointer

    def given(name, value):
        return array(name, value.shape, value)

    forward_layers = ffi.new("lstmc_forward_layer[]", layers)
    backward_layers = ffi.new("lstmc_backward_layer[]", layers)
    for k in range(layers):
        f, b = forward_layers[k], backward_layers[k]
        for name, weight in zip(cell.weights, layer_weights(problem, k), strict=True):
            name_in_c = {"peephole": "peepholes"}.get(name, name)
            setattr(f, name_in_c, given(f"{name}_l{k}", weight))
            setattr(b, "d" + name_in_c, array(f"d_{name}_l{k}", weight.shape, 0))
            if name != "bias":
                setattr(b, name_in_c, getattr(f, name_in_c))
        for s in cell.states:
            units = cell.units(s, hidden)
            setattr(f, f"{s}0", given(f"{s}0_{k}", problem[f"{s}0"][k]))
            setattr(b, f"d{s}_n", given(f"d{s}_n_{k}", problem[f"d{s}_n"][k]))
            setattr(f, f"{s}_n", array(f"{s}_n_{k}", (batch, units)))
            setattr(b, f"d{s}0", array(f"d{s}0_{k}", (batch, units)))
            saved = array(f"{s}_{k}", (batch + rows, units))
            setattr(f, s, saved)
            setattr(b, s, saved)
        if cell.trace_gates:
            f.gates = b.gates = array(f"gates_{k}", (rows, table.saved_of(number) * hidden))
        if "weight_hr" in cell.weights:
            f.m = b.m = array(f"m_{k}", (rows, hidden))
        b.dgates = array(f"dgates_{k}", (rows, gates))
        b.dh = array(f"dh_{k}", (rows, outputs))
        if cell.has_c:
            b.dc = array(f"dc_{k}", (rows, hidden))
        if k:
            b.dx = array(f"dx_{k}", (rows, outputs))
        f.inputs = b.inputs = outputs if k else inputs
        f.hidden = b.hidden = hidden
        f.outputs = b.outputs = outputs

    sizes_and_kind = {
        "num_layers": layers, "cell": number, "steps": steps, "batch": batch,
        "threads": threads, "clip": cell.options.get("clip", 0),
    }  # fmt: skip
    if lengths:
        counts = real.sum(1)
        starts = np.concatenate([[0], np.cumsum(counts)])
        step, row = np.nonzero(real)
        before = np.where(step == 0, row, batch + starts[step - 1] + row)
        starts = array("starts", starts.shape, starts, kind=np.intp)
        before = array("before", before.shape, before, kind=np.intp)
        sizes_and_kind["starts"] = ffi.cast("ptrdiff_t *", starts)
    forward = ffi.new("lstmc_forward *", sizes_and_kind)
    forward.layers, forward.x = forward_layers, given("x", problem["x"][real])
    forward.y = array("y", (rows, outputs))
    plan = array("forward's plan", table.forward_plan_size(layers), boundary=64, kind=np.uint8)
    size = table.plan_forward(plan, forward)
    forward.scratch = array("forward's scratch", size, boundary=64, kind=np.uint8)
    table.forward(plan, forward)
    y = arrays["y"].array.copy()

    backward = ffi.new("lstmc_backward *", sizes_and_kind)
    backward.grad_clip = LIMIT
    if lengths:
        backward.before = ffi.cast("ptrdiff_t *", before)
    backward.layers, backward.x = backward_layers, forward.x
    backward.dy, backward.dx = given("dy", problem["dy"][real]), array("dx", (rows, inputs))
    plan = array("backward's plan", table.backward_plan_size(), boundary=64, kind=np.uint8)
    needed = table.plan_backward(plan, backward)
    assert needed <= size  # one block serves both
    backward.scratch = array("backward's scratch", needed, boundary=64, kind=np.uint8)
    table.backward(plan, backward)

    for name, guarded in arrays.items():
        guarded.check(name)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12  # as in test_recurrent.py
    for name, expected in reference_solution(problem).items():
        if name[-2:] in ("_n", "h0", "c0"):
            actual = np.stack([arrays[f"{name}_{k}"].array for k in range(layers)])
        elif name in ("y", "dx"):
            actual, expected = arrays[name].array, expected[real]
        else:
            actual = arrays[name].array
        assert_close(actual, expected, tolerance, name)

    for packs in (False, True):  # once more, saving nothing; then with weights that are packed
        for k in range(layers):
            f = forward_layers[k]
            f.h = f.c = f.gates = f.m = ffi.NULL
            if packs:
                size = table.packed_size(forward_layers + k, number)
                packed = array(f"packed_l{k}", size, boundary=64, kind=np.uint8)
                assert table.pack_layer(packed, forward_layers + k, number) == 0
                f.packed = packed
        arrays["y"].array[...] = 0
        plan = array("another plan", table.forward_plan_size(layers), boundary=64, kind=np.uint8)
        size = table.plan_forward(plan, forward)
        forward.scratch = array("another scratch", size, boundary=64, kind=np.uint8)
        table.forward(plan, forward)
        for name, guarded in arrays.items():
            guarded.check(name)
        assert_same_bits(arrays["y"].array, y)


@pytest.mark.parametrize("columns", [1, 7, 16, 33])
@pytest.mark.parametrize("adds", [0, 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_gathered_rows_keep_within_bounds(ffi, table, dtype, columns, adds, threads):
    """Rows of wider arrays, whose other columns and other rows are as they were."""
    generator = np.random.default_rng(seed_of("gathered", columns))
    rows, many, more = 5, 4, 3  # of `to`, of what is read, columns beside
    for index in ([3, -1, 0, 3, -2], [-1] * rows, [2, 1, 0, 3, 3]):
        source = Guarded(
            ffi, (many, columns + more), dtype, generator.standard_normal((many, columns + more))
        )
        before = generator.standard_normal((rows, columns + 2 * more)).astype(dtype)
        to = Guarded(ffi, before.shape, dtype, before)
        at = Guarded(ffi, (rows,), np.intp, index)
        expected = before.copy()
        for i, j in enumerate(index):
            row = source.array[j, :columns] if j >= 0 else np.zeros(columns, dtype)
            expected[i, :columns] = expected[i, :columns] + row if adds else row
        table.gather_rows(to.pointer, columns + 2 * more, source.pointer, columns + more,
                          ffi.cast("ptrdiff_t *", at.pointer), adds, rows, columns, threads)  # fmt: skip
        np.testing.assert_array_equal(to.array, expected)
        for guarded in (source, to, at):
            guarded.check("an array")


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
    norm = table.norm(sums.pointer, p.pointer, n, 1)
    exact = math.sqrt(np.sum(np.square(p.array, dtype=np.float64)))
    assert_close(norm, exact, 1e-12)  # summed in double
    for power in (0.5**900, 2.0**900) if dtype == np.float64 else ():  # squares vanish, or overflow
        p.array[...] *= power
        assert table.norm(sums.pointer, p.pointer, n, 1) == norm * power
        p.array[...] /= power
    states = first.pointer, second.pointer
    table.sgd(p.pointer, first.pointer, g.pointer, 0.1, 0.9, 1, 0.1, n, 1)
    table.adam(p.pointer, *states, g.pointer, 1, 0.1, 0.9, 0.99, 1e-8, 0.1, 0, n, 1)
    table.rmsprop(p.pointer, *states, g.pointer, 0.1, 0.9, 1e-8, 0.5, 0.1, n, 1)
    table.scale(p.pointer, 0.5, n, 1)
    mask = Guarded(ffi, n, np.uint8, generator.random(n) < 0.7)
    targets = Guarded(ffi, n, dtype, generator.random(n))
    for some in (ffi.NULL, mask.pointer):
        ours = first.pointer, sums.pointer, p.pointer
        table.squared_error(*ours, g.pointer, some, n, 1)
        table.huber(*ours, g.pointer, some, 0.5, n, 1)
        table.binary_cross_entropy(*ours, targets.pointer, some, n, 1)
        for guarded in (p, g, first, sums, mask, targets):
            guarded.check("an array")
            assert np.isfinite(guarded.array).all()
    table.clip_values(p.pointer, 0.7, n, 1)
    assert np.abs(p.array).max() <= 0.7
    for function in range(7):
        table.activate(second.pointer, p.pointer, function, 0.5, n, 1)
    for function in (1, 2, 4, 5, 6):
        table.activate_backward(first.pointer, g.pointer, second.pointer, function, 0.5, n, 1)
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
    dx = Guarded(ffi, (rows, columns), dtype)
    table.softmax_backward(dx.pointer, a.pointer, out.pointer, rows, columns, 1)
    dx.check("dx of softmax")
    assert np.abs(dx.array.sum(axis=1)).max() <= 100 * sum_tolerance
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
