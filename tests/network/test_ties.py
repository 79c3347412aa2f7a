"""Tied weights: a Linear whose weight is that of a layer before it, its view and its gradient.

The judge is the same network with two weights of the same numbers, whose gradients are added here.
"""

import copy
import pickle

import numpy as np
import pytest
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc

TOKENS, FEATURES, STEPS, BATCH = 7, 4, 5, 3


def make(tied=True, bias=True, dtype=np.float64, inside=False):
    """Return a network whose output is tied to its embedding, or is not; perhaps within another."""
    rng = np.random.default_rng(seed_of("tied"))
    own = {"dtype": dtype, "rng": rng}
    layers = [lstmc.Embedding(TOKENS, FEATURES, **own), lstmc.LSTM(FEATURES, FEATURES, **own)]
    tied_to = "0" if tied else None
    net = lstmc.Sequential(*layers, lstmc.Linear(FEATURES, TOKENS, bias, tied_to=tied_to, **own))
    return lstmc.Sequential(net, lstmc.Activation("tanh")) if inside else net


def untied(net):
    """Return a network of two weights with the numbers of the tied one."""
    twin = make(tied=False, bias="2.bias" in net, dtype=net.dtype)
    for name in twin:
        twin[name] = net["0.weight" if name == "2.weight" else name]
    return twin


def draw():
    rng = np.random.default_rng(seed_of("tokens and dy"))
    return rng.integers(TOKENS, size=(STEPS, BATCH)), rng.standard_normal((STEPS, BATCH, TOKENS))


def weight_of(net):
    """Return the weight that the output of a network has, as it computes with it."""
    return net.layers[2].weights()[0]


def assert_tied(net):
    """Assert that the output has the very view of the embedding, and of its gradient."""
    weight = weight_of(net)
    assert weight.ctypes.data == net["0.weight"].ctypes.data
    assert weight.shape == net["0.weight"].shape
    tokens = draw()[0]
    net.zero_grad()
    y, _, trace = net.forward(tokens)
    net.layers[2].backward(np.ones_like(y), trace.layers[2])
    assert net.grad("0.weight").any()
    net.zero_grad()


# --------------------------------------------------------------------------------------------------
# Numbers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_one_weight_of_which_both_add_to_the_gradient(bias, dtype):
    net = make(bias=bias, dtype=dtype)
    twin = untied(net)
    assert_tied(net)
    assert twin.num_parameters - net.num_parameters == TOKENS * FEATURES
    assert "2.weight" not in net
    assert ("2.bias" in net) == bias
    tokens, dy = draw()
    grads = []
    for one in (net, twin):
        y, _, trace = one.forward(tokens)
        one.backward(dy.astype(dtype), trace)
        grads.append((y, {name: one.grad(name) for name in one}))
    (y, got), (wanted_y, wanted) = grads
    assert_same_bits(y, wanted_y)
    both = wanted.pop("0.weight") + wanted.pop("2.weight")
    assert_close(got.pop("0.weight"), both, 1e-6 if dtype == np.float32 else 1e-15)
    assert_same_bits(got, wanted)


def test_derivatives():
    net, (tokens, dy) = make(), draw()

    def loss(weight):
        net["0.weight"] = weight
        return float((net(tokens)[0] * dy).sum())

    before = net["0.weight"].copy()
    _, _, trace = net.forward(tokens)
    net.backward(dy, trace)
    assert_close(net.grad("0.weight"), numerical_gradient(loss, before), 1e-7)
    net["0.weight"] = before
    assert lstmc.check_gradients(make(inside=True), tokens)


def test_a_linear_may_be_tied_to_a_linear():
    """An encoder and a decoder of one weight, square; the bias of each is its own."""
    rng = {"dtype": np.float64, "rng": 3}
    net = lstmc.Sequential(
        lstmc.Linear(4, 4, **rng), lstmc.RNN(4, 4, **rng), lstmc.Linear(4, 4, tied_to="0", **rng)
    )
    assert list(net)[:2] == ["0.weight", "0.bias"]
    x = np.random.default_rng(2).standard_normal((STEPS, BATCH, 4))
    assert lstmc.check_gradients(net, x)
    hidden = net.layers[1](net.layers[0](x)[0])[0]
    assert_close(net(x)[0], hidden @ net["0.weight"].T + net["2.bias"], 1e-14)


def test_a_composite_may_have_tied_layers():
    class Around(lstmc.Composite):
        def compute(self, x, call):
            return call(1, call(0, x))

        def differentiate(self, dy, call):
            return call(0, call(1, dy))

    rng = {"dtype": np.float64, "rng": 3}
    net = Around(
        lstmc.Embedding(TOKENS, FEATURES, **rng), lstmc.Linear(FEATURES, TOKENS, tied_to="0", **rng)
    )
    tokens = draw()[0]
    assert lstmc.check_gradients(net, tokens)
    assert_close(net(tokens)[0], net["0.weight"][tokens] @ net["0.weight"].T + net["1.bias"], 1e-14)


@pytest.mark.parametrize("optimiser", [lstmc.SGD, lstmc.Adam])
def test_a_step_of_an_optimiser_moves_both(optimiser):
    net, (tokens, dy) = make(), draw()
    before = net["0.weight"].copy()
    net.backward(dy, net.forward(tokens)[2])
    optimiser(net, lr=0.1).step()
    assert (net["0.weight"] != before).all()
    assert_tied(net)
    assert_same_bits(net(tokens)[0], untied(net)(tokens)[0])


def test_weights_that_changed_since_forward_are_refused():
    """By the fingerprint of the output layer: the embedding's backward reads none."""
    net, (tokens, dy) = make(), draw()
    trace = net.forward(tokens)[2]
    net["0.weight"][6, 1] += 1
    with pytest.raises(ValueError, match="weights have changed since forward"):
        net.backward(dy, trace)
    with pytest.raises(ValueError, match="weights have changed since forward"):
        net.layers[2].backward(dy, trace.layers[2])
    assert not net.grads.any()


def test_steppers_and_what_they_have_packed(dtype):
    net, (tokens, _) = make(dtype=dtype), draw()
    stepper = net.stepper(BATCH)
    assert_same_bits(np.stack([stepper(t) for t in tokens]), net(tokens)[0])
    net["0.weight"] *= 2
    stepper.reset()
    assert (stepper(tokens[0]) != net(tokens[:1])[0][0]).any()  # packed before
    stepper.refresh()
    stepper.reset()
    assert_same_bits(np.stack([stepper(t) for t in tokens]), net(tokens)[0])


# --------------------------------------------------------------------------------------------------
# Copies, files, language models
# --------------------------------------------------------------------------------------------------


def through_file(net, path):
    net.save(path)
    return lstmc.load(path)


WAYS = {
    "file": through_file,
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "astype": lambda net, path: net.astype(net.dtype),
    "clone": lambda net, path: net.clone(rng=1),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_copies_are_tied(way, bias, inside, tmp_path):
    net, tokens = make(bias=bias, inside=inside), draw()[0]
    twin = WAYS[way](net, tmp_path / "net")
    assert twin.description == net.description
    assert_tied(twin.layers[0] if inside else twin)
    assert not np.shares_memory(twin.params, net.params)
    if way != "clone":
        assert_same_bits(twin.params, net.params)
        assert_same_bits(twin(tokens)[0], net(tokens)[0])
    assert lstmc.check_gradients(twin, tokens)
    net["0.0.weight" if inside else "0.weight"] = 5
    assert not np.shares_memory(net.params, twin.params)
    assert np.abs(twin["0.0.weight" if inside else "0.weight"]).max() < 5


def test_a_file_holds_the_weight_once(tmp_path):
    from lstmc.files import read_safetensors

    net = make()
    net.save(tmp_path / "net")
    arrays, metadata = read_safetensors(tmp_path / "net")
    assert set(arrays) == set(net)
    assert "2.weight" not in arrays
    assert metadata["network"]["options"]["layers"][2]["options"]["tied_to"] == "0"


def test_another_type():
    net, tokens = make(dtype=np.float32), draw()[0]
    wide = net.astype(np.float64)
    assert_tied(wide)
    assert weight_of(wide).dtype == np.float64
    assert_close(net(tokens)[0], wide(tokens)[0], 1e-5)


def test_a_network_that_joins_another_stays_tied():
    net = make()
    lstmc.Sequential(net, lstmc.Activation("tanh"))
    assert_tied(net)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_of_a_language_model_the_table_is_the_weight_of_the_output(dropout):
    vocabulary = lstmc.Vocabulary.from_text("the cat sat on the dog.")
    options = {"layers": 2, "hidden": 19, "embed": 19, "rng": 5, "dropout": dropout}
    tied, plain = (lstmc.LanguageModel(vocabulary, tied=tied, **options) for tied in (True, False))
    last = len(plain.net.layers) - 1
    assert plain.net.num_parameters - tied.net.num_parameters == plain.net["0.weight"].size
    assert f"{last}.weight" not in tied.net
    for name in plain.net:
        plain.net[name] = tied.net["0.weight" if name == f"{last}.weight" else name]
    for character in "the dog":
        assert_same_bits(tied.step(character), plain.step(character))
    for net, names in ((tied.net, ["0.weight"]), (plain.net, ["0.weight", f"{last}.weight"])):
        for name in names:  # what the stepper has packed follows
            net[name] *= 2
    assert_same_bits(tied.step("t"), plain.step("t"))


# --------------------------------------------------------------------------------------------------
# A GPU
# --------------------------------------------------------------------------------------------------


def test_on_a_gpu(cupy):
    net, (tokens, dy) = make(), draw()
    y, _, trace = net.forward(tokens)
    net.backward(dy, trace)
    moved = make().to("cuda")
    assert weight_of(moved).data.ptr == moved["0.weight"].data.ptr
    got, _, trace = moved.forward(cupy.asarray(tokens))
    moved.backward(cupy.asarray(dy), trace)
    assert_close(got.get(), y, 1e-11)
    for name in net:
        assert_close(moved.grad(name).get(), net.grad(name), 1e-11, name)
    moved["0.weight"] *= 2
    with pytest.raises(ValueError, match="weights have changed"):
        moved.backward(cupy.asarray(dy), trace)
    back = moved.to("cpu")
    assert_tied(back)


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------


def layers(*after, before=()):
    return lambda: lstmc.Sequential(
        *before, lstmc.Embedding(7, 4, rng=0), lstmc.LSTM(4, 4, rng=0), *after
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            layers(lstmc.Linear(4, 9, tied_to="0")),
            r"layers\[2\] \(Linear\) is tied to layers\[0\] \(Embedding\), whose weight is \(7, 4\): its own "
            r"must be that, \(out_features, in_features\), and is \(9, 4\)",
        ),
        (
            layers(lstmc.Linear(4, 7, tied_to="1")),
            r"layers\[2\] \(Linear\) is tied to layers\[1\] \(LSTM\), which has no weight",
        ),
        (
            layers(lstmc.Linear(4, 7, tied_to="2")),
            r"layers\[2\] \(Linear\) must be tied to a layer before it, got layers\[2\] \(Linear\)",
        ),
        (
            layers(lstmc.Linear(4, 4, tied_to="3"), lstmc.Linear(4, 4)),
            r"layers\[2\] \(Linear\) must be tied to a layer before it, got layers\[3\] \(Linear\)",
        ),
        (
            layers(lstmc.Linear(4, 7, tied_to="9")),
            r"layers\[2\] \(Linear\) is tied to layers\[9\], and there are 3 layers",
        ),
        (
            lambda: lstmc.Sequential(
                lstmc.Linear(4, 4), lstmc.Linear(4, 4, tied_to="0"), lstmc.Linear(4, 4, tied_to="1")
            ),
            r"layers\[2\] \(Linear\) is tied to layers\[1\] \(Linear\), which is tied itself",
        ),
        (
            layers(lstmc.Linear(4, 7, dtype=np.float64, tied_to="0", bias=False)),
            "layers must share one dtype, got float32, float64",
        ),
    ],
)
def test_layers_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("tied_to", [0, "first", "", "-1", "0.weight", True])
def test_what_is_no_number_of_a_layer(tied_to):
    with pytest.raises(TypeError, match='tied_to must be the number of a layer, as "0", or None'):
        lstmc.Linear(4, 7, tied_to=tied_to)


def test_by_itself_it_cannot_run():
    alone = lstmc.Linear(4, 7, tied_to="0")
    assert list(alone) == ["bias"]
    for call in (alone.stepper, lambda: alone(np.zeros((2, 4), np.float32))):
        with pytest.raises(ValueError, match='tied to layer "0" of a network runs in that network'):
            call()
    inside = copy.deepcopy(make().layers[2])
    with pytest.raises(ValueError, match="runs in that network alone"):
        inside(np.zeros((2, 4)))
