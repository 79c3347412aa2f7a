"""Tests that no kernel is called with rows of sequences that its arrays do not have."""

import numpy as np
import pytest
from recurrent_inputs import unaligned
from support import assert_same_bits

from lstmc._kernels.binding import core
from lstmc._kernels.calls import (
    BackwardLayer,
    BackwardStack,
    ForwardLayer,
    ForwardStack,
    Rows,
    Weights,
)


def ones(*shape):
    return np.ones(shape, np.float32)


# Three sequences of 3, 2 and 1 steps, of 2 inputs and 4 units.
STARTS = np.array([0, 3, 5, 6])
BEFORE = np.array([0, 1, 2, 3, 4, 6])


def packed_calls(forward=None, backward=None):
    """Return the number of a cell and stacks of a forward and a backward call over these sequences."""
    weights = Weights(ones(4, 2), ones(4, 4), ones(4))
    saved = {"h": ones(9, 4), "c": None, "gates": None}
    forward = {
        "h_n": ones(3, 4),
        "c_n": None,
        "h0": ones(3, 4),
        "c0": None,
        **saved,
        **(forward or {}),
    }
    backward = {
        **saved, "dh0": ones(3, 4), "dc0": None, "dh": ones(6, 4), "dgates": ones(6, 4),
        "dweights": weights.map(np.copy), **(backward or {}),
    }  # fmt: skip
    return (
        core.cell("rnn_tanh"),
        ForwardStack([ForwardLayer(weights, **forward)], ones(6, 2), ones(6, 4)),
        BackwardStack([BackwardLayer(weights, **backward)], ones(6, 2), ones(6, 4), ones(6, 2)),
    )


def run_packed(steps=3, batch=3, starts=STARTS, before=BEFORE, differentiate=True):
    """Run one of the calls; a refused one has written nothing."""
    cell, forward, backward = packed_calls()
    rows = Rows(steps, batch, starts, before)
    written = [forward.y, forward.layers[0].h, backward.dx, *backward.layers[0].dweights[:3]]
    before = [a.copy() for a in written]
    try:
        if differentiate:
            core.recurrent_backward(cell, [backward], rows)
        else:
            core.recurrent_forward(cell, [forward], rows)
    except (TypeError, ValueError):
        assert_same_bits(written, before)
        raise
    assert any(not np.array_equal(a, b) for a, b in zip(written, before, strict=True))


STARTS_ERRORS = {
    "a step less": (STARTS[:-1].copy(), "starts must be a contiguous int64 array of 4 elements"),
    "a step more": (np.array([0, 3, 5, 6, 7]), "starts must be a contiguous int64 array of 4"),
    "int32": (STARTS.astype(np.int32), "starts must be"),
    "a list": (STARTS.tolist(), "starts must be|incorrect type|kernels take"),
    "unaligned": (unaligned(STARTS), "starts must be"),
    "backwards": (STARTS[::-1], "starts must be"),
    "not from 0": (np.array([1, 3, 5, 6]), "starts must begin with 0 and the number of sequences"),
    "fewer sequences": (np.array([0, 2, 4, 6]), "starts must begin with 0 and the number"),
    "growing": (np.array([0, 3, 4, 6]), "starts must not grow by more than before.*step 2"),
    "a step of none": (
        np.array([0, 3, 6, 6]),
        "starts must not grow by more.*nor by none: see step 2",
    ),
    "shrinking": (np.array([0, 3, 2, 6]), "starts must not grow.*step 1"),
}
BEFORE_ERRORS = {
    "None": (None, "before must be|incorrect type|kernels take"),
    "a row less": (BEFORE[:-1].copy(), "before must be a contiguous int64 array of 6 elements"),
    "int32": (BEFORE.astype(np.int32), "before must be"),
    "negative": (np.array([0, 1, 2, 3, 4, -1]), "before must be rows of h, got -1 at 5"),
    "beyond h": (np.array([0, 1, 9, 3, 4, 5]), "before must be rows of h, got 9 at 2"),
    "far beyond": (np.array([2**62, 1, 2, 3, 4, 5]), "before must be rows of h, got"),
}


@pytest.mark.parametrize("differentiate", [False, True])
@pytest.mark.parametrize(("starts", "message"), STARTS_ERRORS.values(), ids=STARTS_ERRORS)
def test_starts_that_are_refused(starts, message, differentiate):
    run_packed(differentiate=differentiate)
    with pytest.raises((TypeError, ValueError), match=message):
        run_packed(starts=starts, differentiate=differentiate)


@pytest.mark.parametrize(("before", "message"), BEFORE_ERRORS.values(), ids=BEFORE_ERRORS)
def test_rows_before_that_are_refused(before, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run_packed(before=before)
    run_packed(before=before, differentiate=False)  # where they are not read


ORDER = np.array([5, 0, 3, 1, 4, 6])
ORDER_ERRORS = {
    "a row less": (ORDER[:-1].copy(), 7, "order must be a contiguous int64 array of 6 elements"),
    "int32": (ORDER.astype(np.int32), 7, "order must be"),
    "negative": (np.array([5, 0, 3, 1, 4, -1]), 7, "order must be of 7 rows, got -1 at 5"),
    "beyond y": (np.array([5, 0, 7, 1, 4, 6]), 7, "order must be of 7 rows, got 7 at 2"),
    "fewer places": (np.array([0, 1, 2, 3, 4, 4]), 5, "places must be 6 or more, got 5"),
    "more places than fit": (ORDER, 2**62, "places must be"),
    "other places": (ORDER, 8, "d?y must be a .*of 32 elements|dx must be a .*of 16 elements"),
}


def run_ordered(order, places, differentiate, starts=STARTS):
    """Run one of the calls with y, dy and dx of 7 rows, one of which is no row of a sequence."""
    cell, forward, backward = packed_calls()
    rows = Rows(3, 3, starts, BEFORE, order, places)
    y, dx = np.full((7, 4), 9, "f4"), np.full((7, 2), 9, "f4")
    if differentiate:
        backward = backward._replace(dy=np.arange(28, dtype="f4").reshape(7, 4), dx=dx)
        core.recurrent_backward(cell, [backward], rows)
        return dx
    core.recurrent_forward(cell, [forward._replace(y=y)], rows)
    return y


@pytest.mark.parametrize("differentiate", [False, True])
def test_rows_in_the_callers_order(differentiate):
    there = run_ordered(ORDER, 7, differentiate)
    cell, forward, backward = packed_calls()
    if differentiate:
        dy = np.arange(28, dtype="f4").reshape(7, 4)[ORDER]
        core.recurrent_backward(cell, [backward._replace(dy=dy)], Rows(3, 3, STARTS, BEFORE))
        assert_same_bits([there[ORDER]], [backward.dx])
    else:
        core.recurrent_forward(cell, [forward], Rows(3, 3, STARTS))
        assert_same_bits([there[ORDER]], [forward.y])
    assert (there[2] == 9).all()


@pytest.mark.parametrize("differentiate", [False, True])
@pytest.mark.parametrize(("order", "places", "message"), ORDER_ERRORS.values(), ids=ORDER_ERRORS)
def test_orders_that_are_refused(order, places, message, differentiate):
    with pytest.raises((TypeError, ValueError), match=message):
        run_ordered(order, places, differentiate)
    with pytest.raises(ValueError, match="order must be None without starts"):
        run_ordered(ORDER, 7, differentiate, starts=None)


def test_order_where_nothing_is_saved():
    cell, forward, _ = packed_calls(forward={"h": None, "c": None, "gates": None})
    with pytest.raises(ValueError, match="order must be None where nothing is saved"):
        core.recurrent_forward(cell, [forward], Rows(3, 3, STARTS, None, ORDER, 7))


@pytest.mark.parametrize(("steps", "batch"), [(-1, 3), (3, -1), (2, 3), (4, 3), (3, 2), (3, 4)])
def test_sizes_that_starts_do_not_have(steps, batch):
    for differentiate in (False, True):
        with pytest.raises(ValueError, match="must"):
            run_packed(steps, batch, differentiate=differentiate)


@pytest.mark.parametrize("name", ["h_n", "h0", "h"])
def test_arrays_of_a_packed_call(name):
    """They are measured by the rows that starts says, forward and backward."""
    size = {"h": 9}.get(name, 3)
    for wrong in (ones(size - 1, 4), ones(size + 1, 4)):
        cell, stack, _ = packed_calls(forward={name: wrong})
        with pytest.raises(ValueError, match=f"{name} must be a .*of {4 * size} elements"):
            core.recurrent_forward(cell, [stack], Rows(3, 3, STARTS))
    for name, size in (("h", 9), ("dh0", 3), ("dh", 6), ("dgates", 6)):
        cell, _, stack = packed_calls(backward={name: ones(size - 1, 4)})
        with pytest.raises(ValueError, match=f"{name} must be a .*of {4 * size} "):
            core.recurrent_backward(cell, [stack], Rows(3, 3, STARTS, BEFORE))


# --------------------------------------------------------------------------------------------------
# Peepholes and a projection
# --------------------------------------------------------------------------------------------------

# Two steps of three rows, 2 inputs, 4 units and an h of 3.
PROJECTED = {
    "weight_ih": (16, 2),
    "weight_hh": (16, 3),
    "bias": (16,),
    "weight_hr": (3, 4),
    "peephole": (12,),
}
STATES = {"h": (9, 3), "c": (9, 4), "gates": (6, 16), "m": (6, 4)}
FORWARD = STATES | {"h_n": (3, 3), "c_n": (3, 4), "h0": (3, 3), "c0": (3, 4)}
BACKWARD = STATES | {
    "dh0": (3, 3), "dc0": (3, 4), "dh_n": (3, 3), "dc_n": (3, 4), "dgates": (6, 16), "dh": (6, 3),
    "dc": (6, 4),
}  # fmt: skip


def run_projected(differentiate, dweights=None, cell="lstm_peephole", **changed):
    """Run a call with arrays of ones that fit but for `changed`, and those of `dweights`."""
    weights = Weights(*(changed.pop(name, ones(*PROJECTED[name])) for name in PROJECTED))
    dweights = Weights(
        **{name: ones(*shape) for name, shape in PROJECTED.items()} | (dweights or {})
    )
    rows, x, y = Rows(2, 3), ones(6, 2), changed.pop("y", ones(6, 3))
    shapes = BACKWARD if differentiate else FORWARD
    arrays = {name: ones(*shape) for name, shape in shapes.items()} | changed
    if differentiate:
        layer = BackwardLayer(weights, dweights=dweights, **arrays)
        core.recurrent_backward(core.cell(cell), [BackwardStack([layer], ones(6, 2), y, x)], rows)
    else:
        core.recurrent_forward(
            core.cell(cell), [ForwardStack([ForwardLayer(weights, **arrays)], x, y)], rows
        )


@pytest.mark.parametrize("differentiate", [False, True])
@pytest.mark.parametrize("more", [-1, 1], ids=["less", "more"])
def test_arrays_of_a_projected_call(differentiate, more):
    """Each of its own size: h is narrower than c. What is read of a trace may be longer than that."""
    run_projected(differentiate)
    shapes = {name: PROJECTED[name] for name in ("weight_hr", "peephole")}
    shapes |= BACKWARD if differentiate else FORWARD
    for name, (first, *others) in shapes.items():
        wrong = ones(first + more, *others)
        if differentiate and more > 0 and name in STATES:
            run_projected(differentiate, **{name: wrong})
            continue
        with pytest.raises(ValueError, match=f"{name} must be"):
            run_projected(differentiate, **{name: wrong})
        if differentiate and name in PROJECTED:
            with pytest.raises(ValueError, match=f"{name} must be"):
                run_projected(differentiate, {name: wrong})


@pytest.mark.parametrize("arriving", ["y", "dh_n", "dc_n"])
@pytest.mark.parametrize("name", PROJECTED)
def test_gradients_that_arrive_in_those_of_weights(name, arriving):
    """By one element, at either end; not where they lie side by side."""
    shape = PROJECTED[name]
    count, memory = int(np.prod(shape)), ones(200)
    arrives = {"y": (6, 3), "dh_n": (3, 3), "dc_n": (3, 4)}[arriving]
    size = int(np.prod(arrives))
    dweights = {name: memory[50 : 50 + count].reshape(shape)}

    def run(start):
        run_projected(True, dweights, **{arriving: memory[start : start + size].reshape(arrives)})

    for start in (50 - size, 50 + count):
        run(start)
    for start in (50 - size + 1, 50 + count - 1):
        with pytest.raises(
            ValueError, match="must not share memory with the gradients of the weights"
        ):
            run(start)


@pytest.mark.parametrize("differentiate", [False, True])
@pytest.mark.parametrize(("cell", "biases"), [("gru", 16), ("gru_before", 12)])
def test_cells_that_have_no_projection(cell, biases, differentiate):
    weights = {"weight_ih": ones(12, 2), "weight_hh": ones(12, 3), "bias": ones(biases)}
    sums = {"dgates": ones(6, 12)} if differentiate else {}
    with pytest.raises(ValueError, match="no such cell, or no projection of it"):
        run_projected(differentiate, weights, cell, **weights, **sums)
