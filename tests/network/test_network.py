"""Tests of Sequential: flat buffers, names, states, derivatives, layers of a user's own.

Each layer's own numbers are tested elsewhere; the judges here are central differences and the
layers run one by one.
"""

import math

import numpy as np
import pytest
from own_layers import Bare, Halve, Scale
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc

# As good as central differences are; support.py says how good.
DIFFERENCE_TOLERANCE = 1e-7


def make_network(dtype=np.float32, vocabulary=7, features=5, hidden=9, layers=2, seed=1):
    generator = np.random.default_rng(seed)
    return lstmc.Sequential(
        lstmc.Embedding(vocabulary, features, dtype=dtype, rng=generator),
        lstmc.LSTM(features, hidden, layers, dtype=dtype, rng=generator),
        lstmc.RNN(hidden, 3, dtype=dtype, rng=generator),
        lstmc.Linear(3, vocabulary, dtype=dtype, rng=generator),
    )


def draw_tokens(steps=4, batch=3, vocabulary=7):
    generator = np.random.default_rng(seed_of("tokens", steps, batch, vocabulary))
    return generator.integers(vocabulary, size=(2, steps, batch))


def draw_state(net, batch, dtype):
    """Return random states for the layers of make_network."""
    generator = np.random.default_rng(seed_of("state", batch))

    def draw(layer):
        shape = (layer.num_layers, batch, layer.hidden_size)
        return generator.standard_normal(shape).astype(dtype)

    lstm, rnn = net.layers[1:3]
    return None, (draw(lstm), draw(lstm)), draw(rnn), None


# --------------------------------------------------------------------------------------------------
# Derivatives
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", [False, True])
def test_derivatives_of_a_whole_network(isa, ignored):
    """From tokens to the loss: every parameter and every initial state."""
    net = make_network(np.float64)
    tokens, targets = draw_tokens()
    if ignored:
        targets[1, 2] = targets[3, 0] = -1
    state = draw_state(net, 3, np.float64)

    def loss_of(state):
        return lstmc.softmax_cross_entropy(net(tokens, state)[0], targets)[0]

    y, _, trace = net.forward(tokens, state)
    _, dy = lstmc.softmax_cross_entropy(y, targets)
    dx, dstate = net.backward(dy, trace)
    assert dx is None

    for name in net.parameters():
        weight = net[name]
        before = weight.copy()

        def loss(value, weight=weight):
            weight[...] = value
            return loss_of(state)

        expected = numerical_gradient(loss, before)
        weight[...] = before
        assert_close(net.grad(name), expected, DIFFERENCE_TOLERANCE, name)

    h, c = state[1]
    for name, actual, start, loss in [
        ("h0", dstate[1][0], h, lambda a: loss_of((None, (a, c), state[2], None))),
        ("c0", dstate[1][1], c, lambda a: loss_of((None, (h, a), state[2], None))),
        ("h0 of the RNN", dstate[2], state[2], lambda a: loss_of((None, state[1], a, None))),
    ]:
        assert_close(actual, numerical_gradient(loss, start), DIFFERENCE_TOLERANCE, name)


def test_derivatives_through_layers_of_a_users_own(isa):
    net = lstmc.Sequential(
        lstmc.Linear(4, 5, dtype=np.float64, rng=1),
        Scale(5, np.float64),
        lstmc.LSTM(5, 9, dtype=np.float64, rng=2),
        Halve(),
        lstmc.Sequential(Bare(9, np.float64), lstmc.Linear(9, 3, dtype=np.float64, rng=3)),
    )
    generator = np.random.default_rng(seed_of("own layers"))
    x, target = generator.standard_normal((3, 2, 4)), generator.standard_normal((3, 2, 3))
    y, _, trace = net.forward(x)
    _, dy = lstmc.squared_error(y, target)
    dx, _ = net.backward(dy, trace)
    assert {"1.factor", "4.0.shift", "4.1.weight"} < set(net.parameters())
    expected = numerical_gradient(lambda a: lstmc.squared_error(net(a)[0], target)[0], x)
    assert_close(dx, expected, DIFFERENCE_TOLERANCE, "dx")
    for name in net.parameters():
        weight = net[name]
        before = weight.copy()

        def loss(value, weight=weight):
            weight[...] = value
            return lstmc.squared_error(net(x)[0], target)[0]

        expected = numerical_gradient(loss, before)
        weight[...] = before
        assert_close(net.grad(name), expected, DIFFERENCE_TOLERANCE, name)


def test_a_gradient_through_the_final_state(isa, dtype):
    """It arrives where the layers alone put it."""
    net, twin = make_network(dtype), make_network(dtype)
    tokens, _ = draw_tokens()
    arriving = draw_state(net, 3, dtype)
    y, _, trace = net.forward(tokens)
    _, dstate = net.backward(np.zeros_like(y), trace, arriving)

    embedding, lstm, rnn, _ = twin.layers
    features, _, _ = embedding.forward(tokens)
    h, _, lstm_trace = lstm.forward(features)
    _, _, rnn_trace = rnn.forward(h)
    dh, drnn = rnn.backward(None, rnn_trace, arriving[2])
    _, dlstm = lstm.backward(dh, lstm_trace, arriving[1])
    assert_same_bits(dstate[1], dlstm)
    assert_same_bits(dstate[2], drnn)
    for name in ("1.weight_hh_l0", "1.bias_l1", "2.weight_ih_l0"):
        assert_same_bits(net.grad(name), twin.grad(name))


# --------------------------------------------------------------------------------------------------
# Flat buffers
# --------------------------------------------------------------------------------------------------


def address(array):
    return array.__array_interface__["data"][0]


def padding_of(net):
    """Return a mask over the flat arrays: true where no parameter is."""
    free = np.ones(net.params.size, bool)
    for name in net.parameters():
        start = (address(net[name]) - address(net.params)) // net.dtype.itemsize
        free[start : start + net[name].size] = False
    return free


def test_flat_buffers(dtype):
    net = make_network(dtype)
    assert net.params.size == net.grads.size
    for flat, view in ((net.params, net.__getitem__), (net.grads, net.grad)):
        assert flat.flags.c_contiguous
        assert address(flat) % 64 == 0
        end = address(flat)
        for name, shape in net.parameters().items():
            part = view(name)
            assert part.shape == shape
            assert part.dtype == dtype
            assert part.flags.writeable
            assert address(part) % 64 == 0
            assert end <= address(part) < end + 64  # in order, and no overlap
            end = address(part) + part.nbytes
        assert end <= address(flat) + flat.nbytes < end + 64
    count = sum(math.prod(shape) for shape in net.parameters().values())
    assert net.num_parameters == count == net.params.size - padding_of(net).sum()
    assert padding_of(net).any()


def test_layers_share_the_buffers_of_their_network():
    """Values move in with the layer; afterwards either name writes to the same memory."""
    layer = lstmc.LSTM(5, 9, rng=1)
    layer.grads[...] = 2
    before = {name: layer[name].copy() for name in layer.parameters()}
    net = lstmc.Sequential(lstmc.Linear(3, 5), layer)
    assert list(net.parameters())[2:] == ["1.weight_ih_l0", "1.weight_hh_l0", "1.bias_l0"]
    for name, value in before.items():
        assert_same_bits(net[f"1.{name}"], value)
        assert_same_bits(layer[name], value)
        assert (net.grad(f"1.{name}") == 2).all()
        net[f"1.{name}"][...] = 3
        assert (layer[name] == 3).all()
    assert np.may_share_memory(layer.params, net.params)
    layer.zero_grad()
    assert not net.grads.any()
    layer.params[...] = 4  # this layer's part and nothing else
    assert not (net["0.weight"] == 4).any()
    assert (net["1.bias_l0"] == 4).all()


def test_buffers_are_bound_whole_or_not_at_all(dtype):
    """What is not views of all parameters is refused, and the network stays as it is."""
    net = make_network(dtype)
    own, before = net.params, net.params.copy()
    other = make_network(np.float64 if dtype == np.float32 else np.float32)
    part = net.buffers(dict(list(net.parameters().items())[:-1]))
    for views in ((np.ones(3), "weight"), other.buffers(other.parameters()), part):
        with pytest.raises((TypeError, ValueError), match="params must be views"):
            net.bind(*views)
        assert np.may_share_memory(net.params, own)
        assert_same_bits(net.params, before)


OPTIMISERS = {
    "SGD": lambda net: lstmc.SGD(net, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda net: lstmc.Adam(net, 0.1, weight_decay=1e-3),
    "AdamW": lambda net: lstmc.AdamW(net, 0.1),
    "RMSprop": lambda net: lstmc.RMSprop(net, 0.1, momentum=0.5, weight_decay=1e-3),
}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_training_lowers_the_loss_and_leaves_the_padding_zero(isa, dtype, make):
    net = make_network(dtype)
    tokens, targets = draw_tokens()
    optimiser, losses, free = make(net), [], padding_of(net)
    for _ in range(40):
        y, _, trace = net.forward(tokens)
        loss, dy = lstmc.softmax_cross_entropy(y, targets)
        losses.append(loss)
        net.zero_grad()
        net.backward(dy, trace, consume=True)
        assert not net.grads[free].any()
        lstmc.clip_grad_norm(net, 1.0)
        optimiser.step()
        assert not net.params[free].any()
    assert losses[-1] < 0.8 * losses[0]


# --------------------------------------------------------------------------------------------------
# Calls
# --------------------------------------------------------------------------------------------------


def test_a_network_is_its_layers_one_after_another(isa, dtype):
    net = make_network(dtype)
    tokens, _ = draw_tokens()
    state = draw_state(net, 3, dtype)
    y, after, trace = net.forward(tokens, state)
    x, expected = tokens, []
    for layer, before in zip(net.layers, state, strict=True):
        x, out = layer(x, before)
        expected.append(out)
    assert_same_bits(y, x)
    assert_same_bits(after[1:3], tuple(expected[1:3]))
    assert after[0] is after[3] is None
    inferred, inferred_after = net(tokens, state)
    assert_same_bits(inferred, y)
    assert_same_bits(inferred_after[1:3], after[1:3])
    head, between = net(tokens[:1], state)
    tail, _ = net(tokens[1:], between)
    assert_same_bits(np.concatenate([head, tail]), y)
    assert len(trace.layers) == 4


@pytest.mark.parametrize("batch", [1, 3])
def test_stepper(isa, dtype, batch):
    """A loop of steps has the bits of the sequence, and ends in the same state."""
    net = make_network(dtype)
    tokens, _ = draw_tokens(batch=batch)
    state = draw_state(net, batch, dtype)
    y, after = net(tokens, state)
    stepper = net.stepper(batch)
    stepper.state = state
    assert_same_bits(np.stack([stepper(step) for step in tokens]), y)
    assert_same_bits(stepper.state[1:3], after[1:3])
    assert stepper.state[0] is stepper.state[3] is None
    stepper.state = state
    out = np.empty(y.shape[1:], dtype)
    assert stepper(tokens[0], out=out) is out
    assert_same_bits(out, y[0])
    if batch == 1:
        stepper.state = state
        assert_same_bits(stepper(int(tokens[0, 0])), y[0, 0])
    stepper.reset()
    assert not np.concatenate(
        [part.ravel() for part in (*stepper.state[1], stepper.state[2])]
    ).any()


def test_stepper_reset_of_rows_and_refresh():
    net = make_network()
    tokens, _ = draw_tokens()
    state = draw_state(net, 3, np.float32)
    old = net(tokens[:1], state)[0][0]
    stepper = net.stepper(3)
    stepper.state = state
    stepper.reset(np.array([False, True, False]))
    for part, before in zip(
        (*stepper.state[1], stepper.state[2]), (*state[1], state[2]), strict=True
    ):
        assert not part[:, 1].any()
        assert_same_bits(part[:, [0, 2]], before[:, [0, 2]])
    net.params[...] *= 0.5
    stepper.state = state
    recurrent = stepper(tokens[0])
    assert not np.array_equal(recurrent, net(tokens[:1], state)[0][0])
    stepper.refresh()
    stepper.state = state
    assert_same_bits(stepper(tokens[0]), net(tokens[:1], state)[0][0])
    assert not np.array_equal(old, net(tokens[:1], state)[0][0])


def test_stepper_of_layers_without_one():
    net = lstmc.Sequential(lstmc.Linear(4, 5, rng=1), Scale(5), Halve())
    (x,) = np.random.default_rng(seed_of("steps")).standard_normal((1, 3, 2, 4)).astype(np.float32)
    y, after = net(x)
    assert after == (None, None, 1)
    stepper = net.stepper(2)
    assert_same_bits(np.stack([stepper(x_t) for x_t in x]), y)
    assert stepper.state[2] == 3  # one a step
    out = np.empty_like(y[0])
    assert stepper(x[0], out=out) is out
    assert_same_bits(out, y[0])


def test_dropout_in_a_network():
    """Inference and steps drop nothing; training does, by the seed."""

    def make():
        return lstmc.Sequential(lstmc.Linear(4, 50, rng=1), lstmc.Dropout(0.5, rng=2))

    (x,) = np.random.default_rng(seed_of("dropout")).standard_normal((1, 3, 4)).astype(np.float32)
    net, twin = make(), make()
    first, second = (n.forward(x)[0] for n in (net, twin))
    assert_same_bits(first, second)
    assert 30 < np.count_nonzero(first) < 120  # of 150: half, to eight deviations
    assert np.count_nonzero(net(x)[0]) == 150
    assert_same_bits(net.stepper(3)(x), net(x)[0])


def test_need_dx_and_consume():
    net = lstmc.Sequential(lstmc.LSTM(4, 5, rng=1), lstmc.Linear(5, 3, rng=2))
    x = np.random.default_rng(seed_of("need_dx")).standard_normal((3, 2, 4)).astype(np.float32)
    y, _, trace = net.forward(x)
    dx, _ = net.backward(y, trace)
    grads = net.grads.copy()
    assert dx.shape == x.shape
    net.zero_grad()
    assert net.backward(y, trace, need_dx=False, consume=True)[0] is None
    assert_same_bits(net.grads, grads)
    with pytest.raises(ValueError, match="trace was consumed"):
        net.backward(y, trace)


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------


def test_a_layer_belongs_to_one_network():
    layer = lstmc.Linear(3, 3)
    with pytest.raises(ValueError, match=r"layers\[1\] \(Linear\) is part of a network already"):
        lstmc.Sequential(layer, layer)
    net = lstmc.Sequential(layer)
    with pytest.raises(ValueError, match=r"layers\[0\] \(Linear\) is part of a network already"):
        lstmc.Sequential(layer)
    lstmc.Sequential(net)
    with pytest.raises(
        ValueError, match=r"layers\[0\] \(Sequential\) is part of a network already"
    ):
        lstmc.Sequential(net)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ((), ValueError, "layers must hold at least one layer, got none"),
        ((lstmc.Linear(2, 2), "tanh"), TypeError, r"layers\[1\] must have forward\(\), got str"),
        (
            (lstmc.Linear(2, 2), lstmc.Linear(2, 2, dtype=np.float64)),
            ValueError,
            "layers must share one dtype, got float32, float64",
        ),
    ],
)
def test_layers_that_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        lstmc.Sequential(*layers)


@pytest.mark.parametrize(("state", "got"), [((None,), "1 entries"), (3, "int")])
def test_states_that_are_refused(state, got):
    net = make_network()
    tokens, _ = draw_tokens()
    message = f"state must be None or a tuple of 4 entries, one per layer, got {got}"
    with pytest.raises(ValueError, match=message):
        net.forward(tokens, state)
    y, _, trace = net.forward(tokens)
    with pytest.raises(ValueError, match="d" + message):
        net.backward(y, trace, state)
    with pytest.raises(ValueError, match="state must be a tuple of 4 entries, one per layer"):
        net.stepper(3).state = state
    assert not net.grads.any()


@pytest.mark.parametrize("name", ["1.weight_hh_l0", "3.bias"])
def test_a_refused_backward_changes_no_gradient(name):
    """Also where only an early layer, which backward reaches last, has other weights."""
    net, other = make_network(), make_network()
    tokens, _ = draw_tokens()
    y, _, trace = net.forward(tokens)
    with pytest.raises(ValueError, match="another Sequential"):
        other.backward(y, trace)
    net[name][...] *= 2
    with pytest.raises(ValueError, match="weights have changed"):
        net.backward(y, trace)
    assert not net.grads.any()
    assert not other.grads.any()


def test_names_that_are_not_there():
    with pytest.raises(KeyError, match=r"no parameter '1\.weight': there are 0\.weight"):
        make_network()["1.weight"]


def test_a_backward_that_is_refused_changes_no_gradient():
    net = lstmc.Sequential(lstmc.LSTM(5, 5, rng=1), Scale(5))
    x = np.ones((4, 3, 5), np.float32)
    y, _, trace = net.forward(x)
    with pytest.raises(ValueError, match="num_threads must be an integer from 1"):
        net.backward(y, trace, num_threads=0)
    assert not net.grads.any()
