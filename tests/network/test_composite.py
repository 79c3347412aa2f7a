"""Composite: layers made of others by compute and differentiate, wherever a layer may be.

The judges are central differences, and the same layers by themselves.
"""

import copy

import numpy as np
import pytest
from own_layers import COMPOSITES, Branches, Residual, draw, linear, lstm, nested, rnn
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc

TOLERANCE = 1e-7  # of central differences in float64; support.py says how good they are
STEPS, BATCH, FEATURES = 5, 3, 4


STEPPED = [name for name in COMPOSITES if name not in ("summary", "both directions")]
LENGTHS = np.array([5, 2, 0])
RESETS = np.zeros((STEPS, BATCH), bool)
RESETS[[0, 2, 3, 4], [1, 0, 0, 1]] = True
TIMES = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "resets": {"resets": RESETS},
    "both": {"lengths": LENGTHS, "resets": RESETS},
}


def leaves_of(state):
    """Yield the arrays of a state."""
    for part in state if isinstance(state, tuple) else ():
        yield from leaves_of(part)
    if isinstance(state, np.ndarray):
        yield state


def drawn_like(state):
    """Return a state of random numbers in the form of another."""
    if isinstance(state, tuple):
        return tuple(map(drawn_like, state))
    return None if state is None else draw(*state.shape, dtype=state.dtype)


def set_leaf(state, number, value):
    """Return a deep copy of a state with one of its arrays replaced."""
    state = copy.deepcopy(state)
    list(leaves_of(state))[number][...] = value
    return state


# --------------------------------------------------------------------------------------------------
# Numbers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", COMPOSITES)
def test_derivatives(name, times):
    """Of every parameter, of x and of every state, through y and the final states."""
    net, x, times = COMPOSITES[name](), draw(STEPS, BATCH, FEATURES), TIMES[times]
    state = drawn_like(net(x)[1])
    y, final, trace = net.forward(x, state, **times)
    dy, dfinal = draw(*y.shape), drawn_like(final)

    def loss(x=x, state=state):
        y, final = net(x, state, **times)
        parts = zip(leaves_of(final), leaves_of(dfinal), strict=True)
        return float((y * dy).sum() + sum((a * b).sum() for a, b in parts))

    dx, dstate = net.backward(dy, trace, dfinal)
    assert_close(dx, numerical_gradient(lambda x: loss(x=x), x), TOLERANCE, "dx")
    assert len(list(leaves_of(dstate))) == len(list(leaves_of(state))) > 0
    for i, (got, part) in enumerate(zip(leaves_of(dstate), leaves_of(state), strict=True)):
        wanted = numerical_gradient(lambda v, i=i: loss(state=set_leaf(state, i, v)), part)
        assert_close(got, wanted, TOLERANCE, f"dstate {i}")
    for parameter in net:
        before = net[parameter].copy()

        def of_weight(value, parameter=parameter):
            net[parameter] = value
            return loss()

        wanted = numerical_gradient(of_weight, before)
        net[parameter] = before
        assert_close(net.grad(parameter), wanted, TOLERANCE, parameter)


def test_y_is_what_compute_says():
    x = draw(STEPS, BATCH, FEATURES)
    first, second = lstm(4, 3), rnn(4, 2)
    wanted = np.concatenate([first(x)[0], second(x)[0]], axis=2)
    assert_same_bits(Branches(first, second)(x)[0], wanted)
    layer = lstm(4, 4, 2)
    wanted = x + layer(x)[0]
    assert_same_bits(Residual(layer)(x)[0], wanted)


def test_on_a_gpu(cupy):
    """What compute does with arrays is NumPy's or CuPy's."""
    x, dy = draw(STEPS, BATCH, FEATURES), draw(STEPS, BATCH, FEATURES)
    net, moved = COMPOSITES["residual"](), lstmc.Sequential(COMPOSITES["residual"]()).to("cuda")
    y, _, trace = net.forward(x)
    dx, _ = net.backward(dy, trace)
    got, _, trace = moved.forward(cupy.asarray(x))
    assert_close(got.get(), y, 1e-11)
    assert_close(moved.backward(cupy.asarray(dy), trace)[0].get(), dx, 1e-11)
    assert_close(moved.grads.get(), net.grads, 1e-11)
    stepper = moved.stepper(BATCH)
    for x_t, y_t in zip(cupy.asarray(x), y):
        assert_close(stepper(x_t).get(), y_t, 1e-11)


def test_tokens_have_no_gradient():
    rng = {"dtype": np.float64, "rng": 5}
    net = Branches(
        lstmc.Sequential(lstmc.Embedding(7, 3, **rng), lstm(3, 2)), lstmc.Embedding(7, 4, **rng)
    )
    tokens = np.random.default_rng(1).integers(7, size=(STEPS, BATCH))
    y, _, trace = net.forward(tokens, lengths=LENGTHS)
    assert net.backward(draw(*y.shape), trace)[0] is None
    assert lstmc.check_gradients(net, tokens, lengths=LENGTHS)
    stepper = net.stepper(BATCH)
    assert_same_bits(np.stack([stepper(t) for t in tokens]), net(tokens)[0])
    one = net.stepper()
    assert_same_bits(one(3), net(np.array([3]))[0][0])


@pytest.mark.parametrize("name", COMPOSITES)
def test_padding_reaches_nothing(name):
    """NaN beyond an end, of x and of dy."""
    results = []
    for fill in (0, np.nan):
        net, x = COMPOSITES[name](), draw(STEPS, BATCH, FEATURES)
        beyond = np.arange(STEPS)[:, None] >= LENGTHS
        x[beyond] = fill
        y, final, trace = net.forward(x, lengths=LENGTHS)
        dy = draw(*y.shape)
        if name != "summary":
            assert not y[beyond].any()
            dy[beyond] = fill
        dx, dstate = net.backward(dy, trace)
        assert not dx[beyond].any()
        results.append((y, *leaves_of(final), dx, *leaves_of(dstate), net.grads))
    assert_same_bits(*results)
    assert np.isfinite(results[0][-1]).all()


@pytest.mark.parametrize("name", STEPPED)
def test_batch_first(name):
    net, x = COMPOSITES[name](), draw(STEPS, BATCH, FEATURES)
    y, _, trace = net.forward(x, lengths=LENGTHS, resets=RESETS)
    dy = draw(*y.shape)
    dx, _ = net.backward(dy, trace)
    turned = lstmc.Sequential(COMPOSITES[name](), batch_first=True)
    times = {"lengths": LENGTHS, "resets": RESETS.T}
    got, _, trace = turned.forward(x.swapaxes(0, 1), **times)
    assert_same_bits(got.swapaxes(0, 1), y)
    assert_same_bits(turned.backward(dy.swapaxes(0, 1), trace)[0].swapaxes(0, 1), dx)
    assert_same_bits(turned.grads, net.grads)


@pytest.mark.parametrize("name", STEPPED)
def test_steps_are_the_sequence_to_the_bit(name, dtype):
    net, x = COMPOSITES[name](dtype=dtype), draw(STEPS, BATCH, FEATURES, dtype=dtype)
    state = drawn_like(net(x)[1])
    y, final = net(x, state)
    stepper = net.stepper(BATCH)
    stepper.state = state
    out = np.empty_like(y)
    for x_t, y_t in zip(x, out):
        assert stepper(x_t, out=y_t) is y_t
    assert_same_bits(out, y)
    assert_same_bits(list(leaves_of(stepper.state)), list(leaves_of(final)))
    stepper.reset(np.array([False, True, False]))
    mixed = tuple(leaves_of(net(x, state)[1]))
    for got, wanted, start in zip(
        leaves_of(stepper.state), mixed, leaves_of(net.stepper(BATCH).state)
    ):
        assert_same_bits(got[:, [0, 2]], wanted[:, [0, 2]])
        assert_same_bits(got[:, 1], start[:, 1])


def test_a_step_that_is_refused_is_taken_by_no_layer():
    net, x = nested(), draw(2, BATCH, FEATURES)
    stepper = net.stepper(BATCH)
    stepper(x[0])
    before = stepper.state
    with pytest.raises(ValueError, match="out must be a writable"):
        Residual(net).stepper(BATCH)(x[0], out=np.empty((2, 2)))
    with pytest.raises(ValueError, match="out must be a writable float64"):
        stepper(x[0], out=np.empty(x[0].shape, np.float32))
    assert_same_bits(list(leaves_of(stepper.state)), list(leaves_of(before)))
    assert_same_bits(stepper(x[1]), net(x)[0][1])


def test_what_reads_a_sequence_as_a_whole_has_no_stepper():
    one = Residual(lstmc.Sequential(lstm(4, 4), lstmc.Last()))
    with pytest.raises(
        ValueError, match=r"Residual has no stepper: layers\[0\] \(Sequential\) reads seq"
    ):
        one.stepper()
    with pytest.raises(ValueError, match=r"0\.0\.LSTM: a bidirectional layer"):
        COMPOSITES["both directions"]().stepper()


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------


def composite(compute=None, differentiate=None, layers=2):
    """Return a composite of so many Linears, by these two functions."""

    class Own(lstmc.Composite):
        def compute(self, x, call):
            return compute(x, call) if compute else call(1, call(0, x))

        def differentiate(self, dy, call):
            return differentiate(dy, call) if differentiate else call(0, call(1, dy))

    return Own(*(linear(4, 4) for _ in range(layers)))


def write_to(x, call):
    x *= 2
    return call(1, call(0, x))


WRONG = {
    "twice": (
        lambda x, call: call(1, call(0, x)) + call(0, x),
        r"layers\[0\] \(Linear\) must be called once, and was called before",
    ),
    "left out": (
        lambda x, call: call(0, x),
        r"layers\[1\] \(Linear\) must be called once, and {}\(\) has not called it",
    ),
    "no such layer": (
        lambda x, call: call(2, x),
        "a layer must be called by its number, 0 to 1, got 2",
    ),
    "written to": (write_to, "read-only"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_methods_are_refused(name):
    wrong, message = WRONG[name]
    x = draw(STEPS, BATCH, FEATURES)
    kept = x.copy()
    for run in (composite(wrong), composite(wrong).stepper(BATCH)):
        with pytest.raises(ValueError, match=message.format("compute")):
            run(x if isinstance(run, lstmc.Layer) else x[0])
    net = composite(differentiate=wrong)
    trace = net.forward(x)[2]
    with pytest.raises(ValueError, match=message.format("differentiate")):
        net.backward(x, trace)
    assert_same_bits(x, kept)
    inside = lstmc.Sequential(linear(4, 4), composite(wrong))
    with pytest.raises(ValueError, match=r"1\.Own: "):
        inside(x)


def test_a_method_that_returns_nothing_is_refused():
    x = draw(STEPS, BATCH, FEATURES)

    def nothing(x, call):
        call(0, call(1, x))

    with pytest.raises(TypeError, match=r"compute\(\) must return an array, got None"):
        composite(nothing)(x)
    net = composite(differentiate=nothing)
    trace = net.forward(x)[2]
    with pytest.raises(TypeError, match=r"differentiate\(\) must return an array, got None"):
        net.backward(x, trace)


def test_a_class_without_a_method_cannot_be_made():
    class Half(lstmc.Composite):
        def compute(self, x, call):
            return call(0, x)

    with pytest.raises(TypeError, match=r"abstract class Composite .*compute.* differentiate"):
        lstmc.Composite(linear(4, 4))
    with pytest.raises(TypeError, match=r"abstract class Half .*differentiate"):
        Half(linear(4, 4))


def test_what_is_saved_is_as_it_was():
    """The caller may write to x after forward; differentiate may not write to what is saved."""
    net, x = COMPOSITES["gate"](), draw(STEPS, BATCH, FEATURES)
    dy = draw(*x.shape)
    wanted = net.backward(dy, net.forward(x)[2])[0]
    trace = net.forward(x)[2]
    x[...] = np.nan
    assert_same_bits(net.backward(dy, trace)[0], wanted)
    assert not any(array.flags.writeable for array in trace.saved.values())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Residual(), ValueError, "at least one layer"),
        (lambda: Residual(lstmc.Linear), TypeError, "got the class Linear: call it"),
        (lambda: Branches(*[linear(4, 4)] * 2), ValueError, r"layers\[1\] \(Linear\) is part of a network"),
        (
            lambda: Residual(lstm(4, 4, batch_first=True)),
            ValueError,
            r"layers\[0\] \(LSTM\): batch_first must be False within a network",
        ),
        (
            lambda: Branches(linear(4, 4), linear(4, 4, dtype=np.float32)),
            ValueError,
            "layers must share one dtype, got float32, float64",
        ),
        (
            lambda: Branches(lstm(4, 4, bidirectional=True), lstmc.Last()),
            ValueError,
            "a Last and a bidirectional layer must be in one Sequential",
        ),
    ],
)  # fmt: skip
def test_wrong_layers_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_trace_of_another_is_refused():
    x = draw(STEPS, BATCH, FEATURES)
    net, other = composite(), composite()
    with pytest.raises(ValueError, match="this layer's forward"):
        net.backward(x, other.forward(x)[2])
    trace = net.forward(x)[2]
    net["1.bias"] += 1
    with pytest.raises(ValueError, match="weights have changed"):
        net.backward(x, trace)
    assert not net.grads.any()
    with pytest.raises(ValueError, match="state must be None or a tuple of 2 entries"):
        net(x, (None,))
