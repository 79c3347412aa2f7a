"""Tests that no kernel is called with an array that it cannot take, whatever was checked before."""

import numpy as np
import pytest
from recurrent_inputs import read_only, unaligned
from support import assert_same_bits

import lstmc
from lstmc._kernels.binding import core
from lstmc._kernels.calls import (
    ForwardLayer,
    ForwardStack,
    Rows,
)

ROWS, INPUTS, OUTPUTS = 3, 5, 4


def ones(*shape):
    return np.ones(shape, np.float32)


MASK = {"mask": np.arange(12) % 3 > 0}
# By name: the arrays of a call that fits, which of them are written, and what else it takes.
CALLS = {
    "linear_forward": (
        {
            "y": ones(ROWS, OUTPUTS),
            "x": ones(ROWS, INPUTS),
            "weight": ones(OUTPUTS, INPUTS),
            "bias": ones(OUTPUTS),
        },
        "y",
        {},
    ),
    "linear_backward": (
        {
            "dx": ones(ROWS, INPUTS),
            "dweight": ones(OUTPUTS, INPUTS),
            "dbias": ones(OUTPUTS),
            "dy": ones(ROWS, OUTPUTS),
            "x": ones(ROWS, INPUTS),
            "weight": ones(OUTPUTS, INPUTS),
        },
        "dx dweight dbias",
        {},
    ),
    "embedding_forward": (
        {"y": ones(ROWS, OUTPUTS), "tokens": np.arange(ROWS), "weight": ones(INPUTS, OUTPUTS)},
        "y",
        {},
    ),
    "embedding_backward": (
        {"dweight": ones(INPUTS, OUTPUTS), "dy": ones(ROWS, OUTPUTS), "tokens": np.arange(ROWS)},
        "dweight",
        {},
    ),
    "softmax": ({"out": ones(ROWS, OUTPUTS), "logits": ones(ROWS, OUTPUTS)}, "out", {}),
    "softmax_cross_entropy": (
        {
            "dlogits": ones(ROWS, OUTPUTS),
            "logits": ones(ROWS, OUTPUTS),
            "targets": np.arange(ROWS),
        },
        "dlogits",
        {"ignored": -1},
    ),
    "squared_error": ({name: ones(12) for name in ("dy", "y", "target")} | MASK, "dy", {}),
    "huber": ({name: ones(12) for name in ("dy", "y", "target")} | MASK, "dy", {"delta": 1.0}),
    "binary_cross_entropy": (
        {name: ones(12) for name in ("dlogits", "logits", "targets")} | MASK,
        "dlogits",
        {},
    ),
    "norm": ({"a": ones(12)}, "", {}),
    "scale": ({"a": ones(12)}, "a", {"factor": 2.0}),
    "clip_values": ({"a": ones(12)}, "a", {"limit": 0.5}),
    "activate": ({"y": ones(12), "x": ones(12)}, "y", {"function": 1, "slope": 0.0}),
    "activate_backward": (
        {name: ones(12) for name in ("dx", "dy", "y")}, "dx", {"function": 1, "slope": 0.0},
    ),
    "softmax_backward": ({name: ones(ROWS, OUTPUTS) for name in ("dx", "dy", "y")}, "dx", {}),
    "sgd": (
        {name: ones(12) for name in ("params", "velocity", "grads")},
        "params velocity",
        {"lr": 0.1, "momentum": 0.9, "nesterov": 0, "weight_decay": 0.0},
    ),
    "adam": (
        {name: ones(12) for name in ("params", "m", "v", "grads")},
        "params m v",
        {
            "step": 1, "lr": 0.1, "beta1": 0.9, "beta2": 0.9, "eps": 1e-8, "weight_decay": 0.0,
            "decoupled": 0,
        },
    ),
    "rmsprop": (
        {name: ones(12) for name in ("params", "square_avg", "velocity", "grads")},
        "params square_avg velocity",
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.9, "weight_decay": 0.0},
    ),
}  # fmt: skip
ARRAYS = [(name, array) for name, (arrays, _, _) in CALLS.items() for array in arrays]
FORMS = {
    "an element less": lambda a: a.reshape(-1)[:-1].copy(),
    "an element more": lambda a: np.append(a, a[:1]),
    "float16": lambda a: a.astype(np.float16),
    "the other float": lambda a: a.astype(np.float64),
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[::-1],
    "unaligned": unaligned,
    "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "a list": lambda a: a.tolist(),
}


def call(name, **changed):
    """Call a function with copies of arrays that fit but for `changed`; return all of them."""
    arrays, _, numbers = CALLS[name]
    arrays = {key: a.copy() for key, a in arrays.items()} | changed
    before = {key: np.array(a) for key, a in arrays.items()}
    try:
        getattr(core, name)(**arrays, **numbers)
    except (TypeError, ValueError):
        assert_same_bits({key: np.array(a) for key, a in arrays.items()}, before)
        raise


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "array"), ARRAYS)
def test_arrays_that_are_refused(name, array, form):
    """Of every function, every array, in every form that a kernel would read wrongly, or beyond."""
    call(name)
    if len(CALLS[name][0]) == 1 and form in (
        "an element less",
        "an element more",
        "the other float",
    ):
        return  # the size and the type are its own
    if array == "mask" and form in ("unaligned", "swapped"):
        return  # there is no such thing of single bytes
    with pytest.raises((TypeError, ValueError), match=r"must be|incorrect type|kernels take"):
        call(name, **{array: FORMS[form](CALLS[name][0][array])})


@pytest.mark.parametrize(("name", "array"), ARRAYS)
def test_outputs_that_are_read_only(name, array):
    change = {array: read_only(CALLS[name][0][array])}
    if array in CALLS[name][1].split():
        with pytest.raises(ValueError, match=f"{array} must be a writable contiguous.*read-only"):
            call(name, **change)
    else:
        call(name, **change)


@pytest.mark.parametrize(
    ("name", "written", "other"),
    [
        (name, written, other)
        for name, (arrays, outputs, _) in CALLS.items()
        for written in outputs.split()
        for other in arrays
        if other not in (written, "tokens", "targets")
    ],
)
def test_outputs_that_share_memory(name, written, other):
    """By one element, at either end."""
    a, b = (CALLS[name][0][key] for key in (written, other))
    start = b.nbytes
    for place in (start - b.nbytes + b.itemsize, start + a.nbytes - b.itemsize):
        memory = np.zeros(a.nbytes + 2 * b.nbytes, np.uint8)
        changed = {
            written: memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape),
            other: memory[place : place + b.nbytes].view(b.dtype).reshape(b.shape),
        }
        with pytest.raises(ValueError, match="must not share memory with"):
            call(name, **changed)


@pytest.mark.parametrize("bad", [-1, 5, 2**40, -(2**62)])
@pytest.mark.parametrize(
    "name", ["embedding_forward", "embedding_backward", "softmax_cross_entropy"]
)
def test_ids_out_of_range(name, bad):
    ids = np.arange(ROWS)
    ids[1] = bad
    key = "targets" if name.startswith("softmax") else "tokens"
    if (name, bad) == ("softmax_cross_entropy", -1):
        call(name, **{key: ids})  # that one is ignored
        return
    with pytest.raises(ValueError, match=rf"{key} must be in \[0, \d\), got {bad} at 1"):
        call(name, **{key: ids})


def test_memory_of_a_pool_holds_floats_alone():
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got object"):
        lstmc.LSTM(2, 3).pool.array((3,), object)


# --------------------------------------------------------------------------------------------------
# What a trace holds may be changed by who holds it
# --------------------------------------------------------------------------------------------------


def traced(hidden=5):
    layer = lstmc.LSTM(3, hidden, num_layers=2, rng=1)
    y, _, trace = layer.forward(np.ones((4, 2, 3), np.float32))
    return layer, y, trace


@pytest.mark.parametrize("name", ["all_h", "all_c", "all_gates"])
@pytest.mark.parametrize(
    "change",
    [lambda a: a[1:], lambda a: a.astype(np.float64), lambda a: a[:, :, ::-1], lambda a: None],
    ids=["shorter", "float64", "backwards", "None"],
)
def test_traces_that_were_tampered_with(name, change):
    layer, y, trace = traced()
    setattr(trace.layers[1], name, change(getattr(trace.layers[1], name)))
    layer.grads[...] = 1
    with pytest.raises((TypeError, ValueError), match="must be"):
        layer.backward(np.ones_like(y), trace)
    assert (layer.grads == 1).all()


def test_gradients_in_the_memory_of_those_of_the_weights():
    layer, y, trace = traced()
    dy = layer.grads[: y.size].reshape(y.shape)
    with pytest.raises(ValueError, match="dy must not share memory with the gradients"):
        layer.backward(dy, trace)
    linear = lstmc.Linear(4, 4)
    y, _, trace = linear.forward(np.ones((4, 4), np.float32))
    with pytest.raises(ValueError, match="dweight must not share memory with dy"):
        linear.backward(linear.grad("weight"), trace)


# --------------------------------------------------------------------------------------------------
# Rows gathered
# --------------------------------------------------------------------------------------------------


def gathered(to=None, source=None, index=None):
    to = ones(4, 3) if to is None else to
    before = np.array(to)
    try:
        core.gather_rows(
            to, 2 * ones(5, 3) if source is None else source,
            np.array([4, -1, 0, 2]) if index is None else index,
        )  # fmt: skip
    except (TypeError, ValueError):
        assert_same_bits(np.array(to), before)
        raise
    return to


def test_gathered_rows():
    assert gathered()[:, 0].tolist() == [2, 0, 2, 2]
    wide = ones(4, 7)
    gathered(to=wide[:, 2:5], source=2 * ones(5, 9)[:, 3:6])
    assert wide[1].tolist() == [1, 1, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": np.array([5, 0, 0, 0])}, "index must be below 5, got 5 at 0"),
        ({"index": np.array([0, 0, 0, 2**62])}, "index must be below 5, got"),
        ({"index": np.array([0, 0, 0])}, "index must be a contiguous int64 array of 4 elements"),
        ({"index": np.zeros(4, np.int32)}, "index must be"),
        ({"index": np.zeros(8, int)[::2]}, "index must be .*contiguous"),
        ({"source": ones(5, 4)}, r"apart from source and 3 wide, got \(5, 4\)"),
        ({"source": ones(5, 3).astype(float)}, "source must be"),
        ({"source": ones(3, 5).T}, "source must have contiguous rows"),
        ({"source": ones(5, 3)[::-1]}, "source must have contiguous rows"),
        ({"source": unaligned(ones(5, 3))}, "source must be an aligned"),
        ({"source": ones(5)}, "source must be"),
        ({"to": ones(3, 4).T}, "to must have contiguous rows"),
        ({"to": ones(4, 3)[::-1]}, "to must have contiguous rows"),
        ({"to": read_only(ones(4, 3))}, "to must be writable"),
        ({"to": np.zeros((4, 3), int)}, "kernels take"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_gathered(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gathered(**change)


def test_rows_are_not_gathered_within_one_memory():
    memory = ones(9, 3)
    with pytest.raises(ValueError, match="apart from source"):
        gathered(to=memory[:4], source=memory[3:8])
    wide = ones(5, 7)  # columns beside each other, one column in common
    with pytest.raises(ValueError, match="apart from source"):
        gathered(to=wide[:4, :3], source=wide[:, 2:5])


def test_an_output_is_left_out_only_where_the_states_are_saved():
    steps, batch, hidden = 4, ROWS, OUTPUTS
    layer = lstmc.LSTM(INPUTS, hidden, rng=1)
    x = np.random.default_rng(2).standard_normal((steps, batch, INPUTS), np.float32)
    zeros = [np.zeros((batch, hidden), np.float32) for _ in range(2)]

    def run(y, **saved):
        one = ForwardLayer(layer.weights()[0], *(z.copy() for z in zeros), *zeros, **saved)
        stack = ForwardStack([one], x, y)
        core.recurrent_forward(layer.handle, [stack], Rows(steps, batch), 1)
        return one

    y = ones(steps, batch, hidden)
    ends = run(y)
    states = {name: ones(steps + 1, batch, hidden) for name in "hc"}
    saved = run(None, **states, gates=ones(steps, batch, 4 * hidden))
    assert_same_bits(saved.h[1:], y)
    assert_same_bits(saved.h_n, ends.h_n)
    with pytest.raises(TypeError, match="y must be"):
        run(None)
