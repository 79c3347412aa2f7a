"""Tests of Last: where each row of a sequence ends, and what may stand before and after it."""

import copy
import pickle

import numpy as np
import pytest
from own_layers import Bare, Halve, Residual, Scale
from rows import FEATURES, HIDDEN, TIMES, cut, draw_x, linear
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc

LENGTHS, RESETS, STEPS = TIMES.lengths, TIMES.resets, TIMES.steps
ROWS = len(LENGTHS)
F32 = np.dtype(np.float32)
DIFFERENCE_TOLERANCE = 1e-7


def draw(*shape, dtype=F32):
    return np.random.default_rng(seed_of("last", shape)).standard_normal(shape).astype(dtype)


def expected_ends(y, directions, lengths):
    """Return, row by row, the last real step of the forward half, the first of the reverse half."""
    half = y.shape[2] // directions
    rows = np.zeros(y.shape[1:], y.dtype)
    for b, n in enumerate(lengths):
        if n:
            rows[b, :half] = y[n - 1, b, :half]
            rows[b, half:] = y[0, b, half:]
    return rows


# --------------------------------------------------------------------------------------------------
# The numbers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("resets", [None, RESETS], ids=["", "resets"])
def test_where_rows_end(dtype, directions, lengths, resets):
    """These are also the h of the final states, each direction's own."""
    net = lstmc.Sequential(cut(FEATURES, directions, dtype, 1), lstmc.Dropout(0.0), lstmc.Last())
    below = cut(FEATURES, directions, dtype, 1)
    x = draw(STEPS, ROWS, FEATURES, dtype=dtype)
    times = {"lengths": lengths, "resets": resets}
    y, state, trace = net.forward(x, **times)
    all_y, expected_state, below_trace = below.forward(x, **times)
    counts = [STEPS] * ROWS if lengths is None else lengths
    assert_same_bits(y, expected_ends(all_y, directions, counts))
    assert_same_bits(y, np.concatenate([h[-1] for h, _ in state[0]], axis=1))
    assert_same_bits(state[0], expected_state)
    assert state[1:] == (None, None)
    assert_same_bits(net(x, **times)[0], y)

    dy = draw(*y.shape, dtype=dtype)
    dx, _ = net.backward(dy, trace)
    spread = np.zeros_like(all_y)
    half = all_y.shape[2] // directions
    for b, n in enumerate(counts):
        if n:
            spread[n - 1, b, :half] = dy[b, :half]
            spread[0, b, half:] = dy[b, half:]
    assert_same_bits(dx, below.backward(spread, below_trace)[0])
    assert_same_bits(net.grads, below.grads)


@pytest.mark.parametrize("lengths", [None, [3, 0, 4]], ids=["whole", "lengths"])
def test_by_itself(dtype, lengths):
    """All features are those of the forward direction, and an odd number is as good."""
    last, x = lstmc.Last(), draw(4, 3, 5, dtype=dtype)
    y, state, trace = last.forward(x, "state", lengths=lengths)
    assert state == "state"
    counts = [4, 4, 4] if lengths is None else lengths
    assert_same_bits(y, expected_ends(x, 1, counts))
    assert_same_bits(last(x, lengths=lengths)[0], y)
    dy = draw(3, 5, dtype=dtype)
    dx, dstate = last.backward(dy, trace, "dstate")
    assert dstate == "dstate"
    assert dx.dtype == dtype
    expected = np.zeros_like(x)
    for b, n in enumerate(counts):
        if n:
            expected[n - 1, b] = dy[b]
    assert_same_bits(dx, expected)
    for n in (4, 2, 0):
        y, _, trace = last.forward(x[:, 1], lengths=n)
        assert_same_bits(y, x[n - 1, 1] if n else np.zeros(5, dtype))
        dx, _ = last.backward(dy[0], trace)
        assert_same_bits(dx[n - 1] if n else dx[0], dy[0] if n else np.zeros(5, dtype))
        assert np.count_nonzero(dx) == 5 * (n > 0)


def test_no_steps_and_no_rows(dtype):
    net = lstmc.Sequential(lstmc.LSTM(3, 4, dtype=dtype, rng=1), lstmc.Last())
    for shape in ((0, 2, 3), (5, 0, 3)):
        y, _, trace = net.forward(np.ones(shape, dtype))
        assert_same_bits(y, np.zeros((shape[1], 4), dtype))
        assert net.backward(y, trace)[0].shape == shape
        assert not net.grads.any()


def test_derivatives_of_one_prediction_a_row():
    """From x to a loss at the end of each row, through layers of lstmc's alone."""
    net = lstmc.Sequential(
        lstmc.GRU(FEATURES, HIDDEN, 2, dtype=np.float64, rng=1),
        lstmc.Last(),
        linear(HIDDEN, 2, np.float64),
        batch_first=True,
    )
    x, target = draw(4, 3, FEATURES, dtype=np.float64), draw(4, 2, dtype=np.float64)
    y, _, trace = net.forward(x)
    dx, _ = net.backward(lstmc.squared_error(y, target)[1], trace)

    def loss(x):
        return lstmc.squared_error(net(x)[0], target)[0]

    assert_close(dx, numerical_gradient(loss, x), DIFFERENCE_TOLERANCE)
    assert lstmc.check_gradients(net, x, target)


def test_steps_see_the_last_step_so_far(dtype):
    net = lstmc.Sequential(
        lstmc.LSTM(FEATURES, HIDDEN, dtype=dtype, rng=1),
        lstmc.Dropout(),
        lstmc.Last(),
        linear(HIDDEN, 2, dtype),
    )
    x, stepper = draw(5, 2, FEATURES, dtype=dtype), net.stepper(batch=2)
    for t in range(5):
        assert_same_bits(stepper(x[t]), net(x[: t + 1])[0])
    stepper = lstmc.Sequential(
        lstmc.LSTM(FEATURES, HIDDEN, dtype=dtype, rng=1), lstmc.Last()
    ).stepper(2)
    out = np.empty((2, HIDDEN), dtype)
    assert stepper(x[0], out=out) is out
    both = lstmc.Sequential(cut(FEATURES, 2, dtype, 1), lstmc.Last())
    with pytest.raises(
        ValueError, match="Last of a bidirectional layer has no stepper: it needs the"
    ):
        both.layers[1].stepper()


# --------------------------------------------------------------------------------------------------
# What stands before and after it
# --------------------------------------------------------------------------------------------------


class Reads(Halve):
    """A recurrent layer of a user's own, of two directions."""

    num_directions = 2


class Apart(Halve):
    keeps_features = True


class Pool(Halve):
    keeps_time = False


def lstm(inputs=3):
    return lstmc.LSTM(inputs, 3, rng=1)


@pytest.mark.parametrize(
    ("make", "directions"),
    [
        (lambda: [lstm(), lstmc.Last()], 1),
        (lambda: [lstm(), lstmc.Linear(3, 3), Halve(), lstmc.Last(), lstmc.Linear(3, 1)], 1),
        (lambda: [Reads(), lstmc.Last(), lstmc.Dropout(), lstmc.Linear(3, 1), Bare(1, F32)], 2),
        (lambda: [Reads(), Apart(), lstmc.Dropout(), lstmc.Last()], 2),
        (lambda: [Reads(), Halve(), lstm(), lstmc.Last()], 1),
        (lambda: [lstm(), Reads(), lstmc.Last()], 2),
        (lambda: [lstmc.Sequential(Reads(), Apart()), lstmc.Sequential(Reads(), lstmc.Last())], 2),
        (lambda: [lstmc.Sequential(lstm(), lstmc.Sequential(Reads())), Apart(), lstmc.Last()], 2),
        (lambda: [cut(3, 2, F32, 1), lstmc.Sequential(Apart()), lstmc.Last()], 2),
    ],
)  # fmt: skip
def test_places_that_it_takes(make, directions):
    net = lstmc.Sequential(*make())
    assert not net.keeps_time
    (last,) = (one for one in all_layers(net) if isinstance(one, lstmc.Last))
    x = np.array([[[1.0, 2.0]], [[3.0, 4.0]]])
    assert last(x)[0].tolist() == [[3.0, 4.0] if directions == 1 else [3.0, 2.0]]


def test_layers_after_it_have_no_time():
    seen = []

    class Looks(Halve):
        def forward(self, x, state=None, training=True, lengths=0, resets=0):
            seen.append((x.shape, lengths, resets))
            return super().forward(x, state, training)

    net = lstmc.Sequential(Looks(), cut(FEATURES, 1, F32, 1), lstmc.Last(), Looks())
    net(draw(STEPS, ROWS, FEATURES), lengths=LENGTHS, resets=RESETS)
    (shape, lengths, resets), after = seen
    assert shape == (STEPS, ROWS, FEATURES)
    assert_same_bits(lengths, LENGTHS)
    assert_same_bits(resets, RESETS)
    assert after == ((ROWS, HIDDEN), 0, 0)


def all_layers(net):
    for layer in net.layers:
        yield from all_layers(layer) if isinstance(layer, lstmc.Sequential) else [layer]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: [lstmc.Last()],
            r"layers\[0\] \(Last\) must follow a recurrent layer, and there is none before it",
        ),
        (
            lambda: [lstmc.Linear(3, 3), lstmc.Sequential(Scale(3)), lstmc.Last(), lstmc.Linear(3, 3)],
            r"layers\[2\] \(Last\) must follow a recurrent layer, and there is none before it",
        ),
        (
            lambda: [lstm(), lstmc.Last(), lstm()],
            r"layers\[2\] \(LSTM\) must not follow layers\[1\] \(Last\), whose output has no axis of time",
        ),
        (
            lambda: [lstm(), lstmc.Last(), lstmc.Last()],
            r"layers\[2\] \(Last\) must not follow layers\[1\] \(Last\), whose output",
        ),
        (
            lambda: [lstmc.Sequential(lstm(), lstmc.Last()), lstmc.Sequential(Halve(), lstm())],
            r"layers\[1\].layers\[1\] \(LSTM\) must not follow layers\[0\].layers\[1\] \(Last\), whose",
        ),
        (
            lambda: [Pool(), Halve(), Reads()],
            r"layers\[2\] \(Reads\) must not follow layers\[0\] \(Pool\), whose output has no axis",
        ),
        (
            lambda: [Reads(), Apart(), lstmc.Linear(3, 3), Halve(), lstmc.Last()],
            r"layers\[4\] \(Last\) must not follow layers\[2\] \(Linear\), which mixes the features of",
        ),
        (
            lambda: [lstmc.Sequential(Reads(), lstmc.Sequential(Halve())), lstmc.Last()],
            r"layers\[1\] \(Last\) must not follow layers\[0\].layers\[1\].layers\[0\] \(Halve\), which",
        ),
    ],
)  # fmt: skip
def test_places_that_it_does_not_take(make, message):
    layers = make()
    with pytest.raises(ValueError, match=message):
        lstmc.Sequential(*layers)
    assert not any(getattr(layer, "in_network", False) for layer in layers)


def test_two_directions_have_an_even_number_of_features():
    net = lstmc.Sequential(Reads(), lstmc.Last())
    message = r"1\.Last: x must be \(T, B, features\) or \(T, features\) with an even number of f"
    with pytest.raises(ValueError, match=message):
        net(np.ones((4, 2, 3), np.float32))
    with pytest.raises(
        ValueError, match=r"x must be \(T, B, features\) or \(T, features\), got \(4,\)"
    ):
        lstmc.Last()(np.ones(4, np.float32))
    with pytest.raises(TypeError, match="x must be a float32 or float64 array, got int64"):
        lstmc.Last()(np.ones((4, 2), int))


def test_a_backward_that_does_not_fit():
    last, other = lstmc.Last(), lstmc.Last()
    y, _, trace = last.forward(np.ones((4, 2, 3), np.float32), lengths=[1, 2])
    with pytest.raises(ValueError, match=r"dy must be \(2, 3\), got \(3,\)"):
        last.backward(y[0], trace)
    with pytest.raises(TypeError, match="dy must be float32, got float64"):
        last.backward(y.astype(float), trace)
    with pytest.raises(ValueError, match="got one of another Last"):
        other.backward(y, trace)


# --------------------------------------------------------------------------------------------------
# Files and copies
# --------------------------------------------------------------------------------------------------


def test_files_copies_and_what_is_printed(tmp_path):
    net = lstmc.Sequential(
        lstm(), lstmc.Dropout(), lstmc.Last(), lstmc.Linear(3, 2), batch_first=True
    )
    x = draw(2, 4, 3)
    net.save(tmp_path / "net")
    others = [lstmc.load(tmp_path / "net"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    for other in others:
        assert other.description == net.description
        assert_same_bits(other(x)[0], net(x)[0])
    assert net.description["options"]["layers"][2] == {"layer": "Last", "options": {}}
    assert repr(net.layers[2]) == "Last()"
    assert net.clone().batch_first


def test_copies_know_the_directions():
    """Of what stands before it, which is not among its options."""
    net = lstmc.Sequential(cut(FEATURES, 2, F32, 1), lstmc.Last())
    x = draw_x("recurrent", F32)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.astype("float32")):
        assert_same_bits(other(x)[0], net(x)[0])


def test_a_network_that_cannot_be_made_leaves_it_as_it_was():
    class Broken:
        def parameters(self):
            return {"w": (3,)}

        def bind(self, params, grads):
            raise RuntimeError("bind")

        def forward(self, x, state=None, training=True):
            return x, state, None

        def backward(self, dy, trace, dstate=None):
            return dy, dstate

    last, x = lstmc.Last(), np.arange(24.0).reshape(3, 2, 4)
    with pytest.raises(RuntimeError, match="bind"):
        lstmc.Sequential(lstmc.LSTM(4, 2, bidirectional=True), last, Broken())
    assert (last(x)[0] == x[-1]).all()


def test_a_trainer_refuses_what_reads_the_next_token():
    net = lstmc.Sequential(
        lstmc.Embedding(5, 3), lstmc.LSTM(3, 4, bidirectional=True), lstmc.Linear(8, 5)
    )
    with pytest.raises(
        ValueError, match=r"net must read forward only, but 1\.LSTM is bidirectional"
    ):
        lstmc.Trainer(net, lstmc.Adam(net), 2, 5)


# --------------------------------------------------------------------------------------------------
# Composites
# --------------------------------------------------------------------------------------------------


def test_it_follows_a_composite_of_one_direction():
    net = lstmc.Sequential(Residual(lstm()), lstmc.Last(), lstmc.Linear(3, 2, rng=2))
    x = draw(STEPS, ROWS, 3)
    whole = net.layers[0](x, lengths=LENGTHS)[0]
    ends = whole[np.maximum(LENGTHS, 1) - 1, np.arange(ROWS)] * (LENGTHS > 0)[:, None]
    assert_same_bits(net(x, lengths=LENGTHS)[0], net.layers[2](np.ascontiguousarray(ends, F32))[0])
    assert lstmc.check_gradients(net, x, lengths=LENGTHS)


def test_a_composite_mixes_the_features_of_two_directions_unless_it_says_otherwise():
    class Aside(Residual):
        num_directions = 2

    def pair():
        return lstmc.GRU(4, 2, bidirectional=True, rng=1)

    mixes = (
        r"layers\[1\] \(Last\) must not follow layers\[0\] \(Residual\), which mixes the features"
    )
    with pytest.raises(ValueError, match=mixes):
        lstmc.Sequential(Residual(pair()), lstmc.Last())
    loose = (
        r"layers\[1\] \(Residual\) must not follow a bidirectional layer: its Last may only do so"
    )
    with pytest.raises(ValueError, match=loose):
        lstmc.Sequential(pair(), Residual(lstmc.Last()))
    net = lstmc.Sequential(Aside(pair()), lstmc.Last())
    x = draw(STEPS, ROWS, 4)
    y, whole = net(x)[0], net.layers[0](x)[0]
    assert_same_bits(y, np.concatenate([whole[-1, :, :2], whole[0, :, 2:]], axis=1))
    assert lstmc.check_gradients(net, x, lengths=LENGTHS)
