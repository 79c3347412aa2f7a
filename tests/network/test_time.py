"""Tests of a network's time: rows first, rows of unequal length, and resets.

The judge is the same network over each row alone, cut to its length or at its resets: what a network
does with a whole sequence is judged elsewhere.
"""

from itertools import pairwise

import numpy as np
import pytest
from own_layers import Halve
from rows import FEATURES, HIDDEN, NETWORKS, TIMES, cut, draw_x, linear
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc
from lstmc.passes import run, run_back

LENGTHS, RESETS, STEPS = TIMES.lengths, TIMES.resets, TIMES.steps
ROWS = len(LENGTHS)
# Sums over rows and steps in another order: some tens of terms of one size.
SUM_TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}
# As good as central differences are; support.py says how good.
DIFFERENCE_TOLERANCE = 1e-7

networks = pytest.mark.parametrize("name", NETWORKS)
forms = pytest.mark.parametrize("turned", [False, True], ids=["time first", "batch first"])


def turn(array, turned):
    """Return an array (T, B, ...) as the caller has it."""
    return np.ascontiguousarray(array.swapaxes(0, 1)) if turned else array


def spoilt(array):
    """Return a copy of an array (T, B, ...) with what nothing should look at beyond the ends."""
    out = array.copy()
    out[TIMES.beyond] = 10**9 if array.dtype.kind == "i" else np.nan
    return out


def draw_dy(y):
    return np.random.default_rng(seed_of("dy", y.shape)).standard_normal(y.shape).astype(y.dtype)


def alone(net, x, b, dy):
    """Run row b alone, cut to its length, forward and backward: return y, dx and the final state."""
    part = np.ascontiguousarray(x[: LENGTHS[b], b : b + 1])
    y, state, trace = net.forward(part)
    dy = dy[b : b + 1] if y.ndim == 2 else dy[: LENGTHS[b], b : b + 1]
    dx, _ = net.backward(np.ascontiguousarray(dy), trace)
    return y, dx, state


def leaves(state):
    """Yield the arrays of a state."""
    if isinstance(state, tuple):
        for part in state:
            yield from leaves(part)
    elif state is not None:
        yield state


# --------------------------------------------------------------------------------------------------
# The numbers
# --------------------------------------------------------------------------------------------------


@networks
@forms
def test_rows_of_unequal_length(isa, dtype, name, turned):
    """A row has the bits that it has alone; padding reaches nothing; beyond an end all is zero."""
    net, twin = NETWORKS[name](dtype, turned), NETWORKS[name](dtype, False)
    x = draw_x(name, dtype)
    padded = turn(spoilt(x), turned)
    before = padded.tobytes()
    y, state, trace = net.forward(padded, lengths=LENGTHS)
    assert_same_bits(net(padded, lengths=list(LENGTHS))[0], y)
    at_all_steps = name not in ("last", "nested last")
    dy = draw_dy(turn(y, turned) if at_all_steps else y)
    arriving = turn(spoilt(dy), turned) if at_all_steps else dy
    dx, _ = net.backward(arriving, trace)
    assert padded.tobytes() == before
    y = turn(y, turned) if at_all_steps else y
    dx = dx if dx is None else turn(dx, turned)
    for b in range(ROWS):
        row_y, row_dx, row_state = alone(twin, x, b, dy)
        if at_all_steps:
            assert_same_bits(y[: LENGTHS[b], b : b + 1], row_y)
            assert not y[LENGTHS[b] :, b].any()
        else:
            assert_close(y[b : b + 1], row_y, SUM_TOLERANCE[dtype], "y")
        if dx is not None:
            assert_close(dx[: LENGTHS[b], b : b + 1], row_dx, SUM_TOLERANCE[dtype], "dx")
            assert not dx[LENGTHS[b] :, b].any()
        for whole, one in zip(leaves(state), leaves(row_state), strict=True):
            assert_same_bits(whole[:, b : b + 1], one)
    for key in net:
        assert_close(net.grad(key), twin.grad(key), SUM_TOLERANCE[dtype], key)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "last" not in name])
@forms
def test_resets(dtype, name, turned):
    """What lies between two resets has the bits that it has alone."""
    net, twin = NETWORKS[name](dtype, turned), NETWORKS[name](dtype, False)
    x = draw_x(name, dtype)
    y, _ = net(turn(x, turned), lengths=LENGTHS, resets=turn(RESETS, turned))
    y = turn(y, turned)
    assert RESETS[:, LENGTHS > 3].any()
    for b in range(ROWS):
        n = LENGTHS[b]
        cuts = [0, *(t for t in range(1, n) if RESETS[t, b]), n]
        for a, e in pairwise(cuts):
            part, _ = twin(np.ascontiguousarray(x[a:e, b : b + 1]))
            assert_same_bits(y[a:e, b : b + 1], part)


@networks
def test_rows_first_are_the_same_network(isa, dtype, name):
    """The axes are turned, and nothing else; an unbatched sequence is not."""
    net, twin = NETWORKS[name](dtype, True), NETWORKS[name](dtype, False)
    x = draw_x(name, dtype)
    at_all_steps = name not in ("last", "nested last")
    expected, state, expected_trace = twin.forward(x)
    y, after, trace = net.forward(turn(x, True))
    assert y.flags.c_contiguous
    assert_same_bits(turn(y, at_all_steps), expected)
    assert_same_bits(list(leaves(after)), list(leaves(state)))
    dy = draw_dy(expected)
    expected_dx, _ = twin.backward(dy, expected_trace)
    dx, _ = net.backward(turn(dy, at_all_steps), trace)
    if expected_dx is None:
        assert dx is None
    else:
        assert dx.flags.c_contiguous
        assert_same_bits(turn(dx, True), expected_dx)
    assert_same_bits(net.grads, twin.grads)
    one = np.ascontiguousarray(x[:, 1])
    assert_same_bits(net(one)[0], twin(one)[0])


@networks
@forms
def test_an_unbatched_sequence(dtype, name, turned):
    """Its length is a number, its resets are (T,)."""
    net, twin = NETWORKS[name](dtype, turned), NETWORKS[name](dtype, False)
    x, b = draw_x(name, dtype), 0
    one, n = spoilt(x)[:, b], LENGTHS[b]
    y, _, trace = net.forward(one, lengths=n, resets=RESETS[:, b])
    expected, _, expected_trace = twin.forward(
        np.ascontiguousarray(x[:, b : b + 1]), lengths=[n], resets=RESETS[:, b : b + 1]
    )
    row = 0 if y.ndim == 1 else (slice(None), 0)
    assert_close(y, expected[row], SUM_TOLERANCE[dtype], "y")
    dy = draw_dy(expected)
    dx, _ = net.backward(np.ascontiguousarray(dy[row]), trace)
    expected_dx, _ = twin.backward(dy, expected_trace)
    if dx is not None:
        assert_close(dx, expected_dx[:, 0], SUM_TOLERANCE[dtype], "dx")
    assert_close(net.grads, twin.grads, SUM_TOLERANCE[dtype], "the gradients")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two directions", "nested last"])
def test_derivatives(name):
    """Of x, its padding included, of every parameter and of the initial states."""
    net, x = NETWORKS[name](np.dtype(np.float64), True), turn(draw_x(name, np.float64), True)
    rng = np.random.default_rng(seed_of("derivatives"))
    lengths, resets = np.array([3, 0, 4]), rng.random((3, 4)) < 0.3
    resets[:, 0] = False
    x = np.ascontiguousarray(x[:3, :4])
    first = net(x)[1]

    def drawn(state):
        if isinstance(state, tuple):
            return tuple(drawn(part) for part in state)
        return None if state is None else rng.standard_normal(state.shape)

    state, arriving = drawn(first), drawn(first)
    times = {"lengths": lengths, "resets": resets}
    dy = draw_dy(net(x)[0])

    def loss():
        y, after = net(x, state, **times)
        parts = zip(leaves(after), leaves(arriving), strict=True)
        return (y * dy).sum() + sum((a * b).sum() for a, b in parts)

    _, _, trace = net.forward(x, state, **times)
    dx, dstate = net.backward(dy, trace, arriving)
    of_states = zip(leaves(state), leaves(dstate), strict=True)
    arrays = [(x, dx), *of_states, *((net[key], net.grad(key)) for key in net)]
    for value, actual in arrays:
        before = value.copy()

        def moved(other, value=value):
            value[...] = other
            return loss()

        expected = numerical_gradient(moved, before)
        value[...] = before
        assert_close(actual, expected, DIFFERENCE_TOLERANCE)


def test_padding_has_no_gradient_where_a_layer_reads_it():
    """A layer of a user's own that looks one step ahead sees zeros there, whatever x holds."""

    class Ahead(Halve):
        def forward(self, x, state=None, training=True):
            return x + np.concatenate([x[1:], np.zeros_like(x[:1])]), state, None

        def backward(self, dy, trace, dstate=None):
            return dy + np.concatenate([np.zeros_like(dy[:1]), dy[:-1]]), dstate

    net = lstmc.Sequential(Ahead())
    x = np.random.default_rng(seed_of("ahead")).standard_normal((STEPS, ROWS, 2))
    y, _, trace = net.forward(spoilt(x), lengths=LENGTHS)
    dy = draw_dy(y)
    expected = numerical_gradient(lambda x: (net(x, lengths=LENGTHS)[0] * dy).sum(), x)
    dx, _ = net.backward(spoilt(dy), trace)
    assert_close(dx, expected, DIFFERENCE_TOLERANCE)
    assert not dx[TIMES.beyond].any()


def test_whole_rows_are_not_copied():
    """Where no row is shorter than T, layers see the caller's x, and no lengths."""
    seen = []

    class Looks(Halve):
        def forward(self, x, state=None, training=True, lengths=None):
            seen.append((x, lengths))
            return super().forward(x, state, training)

    net = lstmc.Sequential(Looks())
    x = np.ones((4, 3, 2), np.float32)
    net(x, lengths=[4, 4, 4])
    assert seen[0][0] is x
    assert seen[0][1] is None
    net(x, lengths=[4, 3, 4])
    assert_same_bits(seen[1][1], np.array([4, 3, 4]))


@networks
def test_inspection_walks_alike(dtype, name):
    """passes.run and run_back see the network that forward and backward see."""
    net, x = NETWORKS[name](dtype, True), turn(spoilt(draw_x(name, dtype)), True)
    times = {"lengths": LENGTHS, "resets": turn(RESETS, True)}
    expected, _ = net(x, **times)
    y, _, trace = run(net, x, **times)
    assert_same_bits(y, expected)
    dy = draw_dy(y)
    net.backward(dy, trace)
    grads = net.grads.copy()
    assert grads.any()
    assert run_back(net, dy, trace) == []  # no layer of lstmc's own within Cut is looked at
    assert_same_bits(net.grads, grads)


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------

X = np.ones((7, 3, FEATURES), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": [3, 2, 9]}, ValueError, r"lengths must be integers in \[0, 7\], got 9 at row 2"),
        ({"lengths": [3, -1, 9]}, ValueError, r"lengths must be integers in \[0, 7\], got -1 at row 1"),
        ({"lengths": [2.0, 1, 0]}, TypeError, r"lengths must be integers, got \[2.0, 1, 0\]"),
        ({"lengths": np.ones(3, bool)}, TypeError, "lengths must be integers, got bool"),
        ({"lengths": np.ones(3, "f4")}, TypeError, "lengths must be integers, got float32"),
        ({"lengths": "abc"}, TypeError, "lengths must be integers, got 'abc'"),
        ({"lengths": [7] * 7}, ValueError, r"lengths must be \(3,\), got \(7,\)"),
        ({"lengths": 3}, ValueError, r"lengths must be \(3,\), got \(\)"),
        ({"lengths": np.uint64([1, 2**64 - 1, 0])}, ValueError, "got 18446744073709551615 at row 1"),
        ({"resets": np.ones((3, 7), bool)}, ValueError, r"resets must be .* \(7, 3\), got \(3, 7\)"),
        ({"resets": np.ones((7, 3), int)}, TypeError, r"resets must be a bool array \(7, 3\), got int64"),
        ({"resets": [[True] * 3] * 7}, TypeError, r"resets must be a bool array \(7, 3\), got list"),
        ({"x": X[:, 0], "lengths": [3]}, ValueError, r"lengths must be one integer, got \(1,\)"),
        ({"x": X[:, 0], "lengths": 8}, ValueError, r"lengths must be integers in \[0, 7\], got 8$"),
        ({"x": X[:, 0], "lengths": 1.0}, TypeError, "lengths must be integers, got 1.0"),
        ({"x": X[:, 0], "resets": np.ones((7, 1), bool)}, ValueError, r"resets must be a bool array \(7,\)"),
        ({"x": X[0, 0], "lengths": [3]}, ValueError, r"lengths need an x with an axis of time, got \(3,\)"),
        ({"x": [1.0], "resets": [3]}, ValueError, "resets need an x with an axis of time, got list"),
    ],
)  # fmt: skip
def test_times_that_are_refused(options, error, message):
    net = NETWORKS["recurrent"](np.dtype(np.float32), False)
    with pytest.raises(error, match=message):
        net(options.pop("x", X), **options)


def test_resets_are_in_the_layout_of_x():
    net = NETWORKS["recurrent"](np.dtype(np.float32), True)
    with pytest.raises(ValueError, match=r"resets must be a bool array \(7, 3\), got \(3, 7\)"):
        net(X, resets=np.ones((3, 7), bool))
    with pytest.raises(ValueError, match=r"integers in \[0, 3\], got 4 at row 6"):
        net(X, lengths=[3, 3, 3, 3, 3, 3, 4])


def test_errors_name_the_place():
    inner = lstmc.Sequential(cut(FEATURES, 1, np.dtype(np.float32), 1))
    net = lstmc.Sequential(linear(FEATURES, FEATURES, np.float32), inner, batch_first=True)
    with pytest.raises(ValueError, match=r"^0\.Linear: x must be \(7, 3, 3\), got \(7, 3, 2\)"):
        net(turn(X[:, :, :2], True), lengths=[1, 2, 3])
    y, _, trace = net.forward(turn(X, True), lengths=[1, 2, 3])
    for dy in (turn(y, True), y[:, :, 1:], y[0]):
        with pytest.raises(ValueError, match=r"^dy must be \(3, 7, 5\), got"):
            net.backward(dy, trace)
        assert not net.grads.any()


@pytest.mark.parametrize("option", [{"lengths": [1, 2, 3]}, {"resets": np.ones((7, 3), bool)}])
def test_a_recurrent_layer_that_takes_none(option):
    """It would run on into the padding, or over a reset."""

    class Old(Halve):
        num_directions = 1

    (name,) = option
    message = f"^1.Old: {name} must be None: this recurrent layer does not take them"
    net = lstmc.Sequential(Halve(), Old())
    net(X)
    with pytest.raises(ValueError, match=message):
        net(X, **option)
    with pytest.raises(ValueError, match=message):
        run(net, X, **option)
    with pytest.raises(ValueError, match=f"{name} must be None"):
        run(Old(), X, **option)
    lstmc.Sequential(Halve())(X, **option)


@pytest.mark.parametrize("kind", ["LSTM", "RNN", "GRU"])
def test_a_layer_that_is_batch_first_itself_is_refused(kind):
    layer = getattr(lstmc, kind)(3, 4, batch_first=True)
    message = (
        rf"layers\[1\] \({kind}\): batch_first must be False within a network: give it to the net"
    )
    with pytest.raises(ValueError, match=message):
        lstmc.Sequential(lstmc.Linear(3, 3), layer, batch_first=True)
    assert not layer.in_network
    inner = lstmc.Sequential(lstmc.Linear(3, 3), batch_first=True)
    with pytest.raises(ValueError, match=r"layers\[0\] \(Sequential\): batch_first must be False"):
        lstmc.Sequential(inner)


@pytest.mark.parametrize("turned", [False, True])
def test_an_output_without_time_is_not_turned_by_chance(turned):
    """(B, F) is not (T, B, ...) and must not be taken for it."""

    class Mean(Halve):
        def forward(self, x, state=None, training=True):
            return x.mean(0), state, None

    class Pool(Mean):
        keeps_time = False

    x = np.random.default_rng(3).standard_normal((4, 2, 3))
    options = {} if turned else {"lengths": [4, 3]}
    message = r"y must begin with the axes \(4, 2\) of time and rows, got \(2, 3\): a layer whose"
    with pytest.raises(ValueError, match=message):
        lstmc.Sequential(Mean(), batch_first=turned)(turn(x, turned), **options)
    y, _ = lstmc.Sequential(Pool(), Halve(), batch_first=turned)(turn(x, turned))
    assert_same_bits(y, x.mean(0) / 2)
    with pytest.raises(ValueError, match="Pool has no stepper: it reads sequences as a whole"):
        lstmc.Sequential(Pool()).stepper()


def test_steps_have_no_rows_first():
    """A step is (B, I) for either layout, and a loop of them has the bits of the sequence."""
    dtype = np.dtype(np.float32)
    net = lstmc.Sequential(
        lstmc.LSTM(FEATURES, HIDDEN, rng=1), linear(HIDDEN, 4, dtype), batch_first=True
    )
    stepper = net.stepper(batch=3)
    y = np.stack([stepper(x_t) for x_t in X], axis=1)
    assert_same_bits(y, net(turn(X, True))[0])
