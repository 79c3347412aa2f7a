"""Networks that are saved, loaded, copied, pickled and described: the same layers, options and bits."""

import copy
import inspect
import json
import pickle
import tracemalloc

import numpy as np
import pytest
from support import assert_same_bits

import lstmc
from lstmc.files import description, read_safetensors, write_safetensors


class Scale(lstmc.Layer):
    """A layer of one's own: y = scale x."""

    def __init__(self, size, power=1, dtype=np.float32, rng=None, device="cpu"):
        super().__init__(dtype, device)
        self.size, self.power = size, power
        self.bind(*self.buffers(self.parameters()))
        self["scale"] = 2

    def options(self):
        return {"size": self.size, "power": self.power, "dtype": self.dtype.name}

    def parameters(self):
        return {"scale": (self.size,)}

    def forward(self, x, state=None, training=True):
        return x * self["scale"], state, None

    def backward(self, dy, trace, dstate=None):
        return dy * self["scale"], dstate


class Around(lstmc.Sequential):
    """A composite of one's own."""

    def __init__(self, *layers, name="around"):
        super().__init__(*layers)
        self.name = name

    def options(self):
        return {**super().options(), "name": self.name}

    @classmethod
    def from_options(cls, options):
        layers = [cls.from_description(one) for one in options["layers"]]
        return cls(*layers, name=options["name"])


OWN = {"Scale": Scale, "Around": Around}


def recurrent(dtype="float32"):
    return lstmc.Sequential(
        lstmc.Embedding(7, 5, dtype=dtype, rng=0),
        lstmc.Dropout(0.2, rng=1),
        lstmc.Sequential(
            lstmc.LSTM(5, 4, 2, dtype=dtype, rng=2),
            lstmc.RNN(4, 3, nonlinearity="relu", bias=False, dtype=dtype, rng=3),
        ),
        lstmc.Linear(3, 7, dtype=dtype, rng=4),
    )


def own():
    return lstmc.Sequential(Scale(3, power=2), Around(lstmc.LSTM(3, 4, rng=1), name="x"))


LAYERS = {
    "network": recurrent,
    "float64": lambda: recurrent("float64"),
    "own": own,
    "lstm": lambda: lstmc.LSTM(3, 5, 2, batch_first=True, rng=0),
    "rnn": lambda: lstmc.RNN(3, 5, nonlinearity="identity", rng=0),
    "linear": lambda: lstmc.Linear(3, 5, bias=False, rng=0),
    "embedding": lambda: lstmc.Embedding(3, 5, rng=0),
    "dropout": lambda: lstmc.Dropout(rng=0),
    "variational dropout": lambda: lstmc.Dropout(0.2, rng=0, variational=True),
    "activation": lambda: lstmc.Activation("elu", alpha=0.5),
    "last": lambda: lstmc.Sequential(lstmc.GRU(3, 5, reset_after=False), lstmc.Last()),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]()


def assert_same(one, other):
    assert one.description == other.description
    assert list(one) == list(other)
    for name in one:
        assert_same_bits(one[name], other[name])
        assert not np.shares_memory(one[name], other[name])


# -- files -----------------------------------------------------------------------------------------


def test_saved_and_loaded(layer, tmp_path):
    layer.save(tmp_path / "net")
    loaded = lstmc.load(tmp_path / "net", layers=OWN)
    assert type(loaded) is type(layer)
    assert_same(loaded, layer)
    _, metadata = read_safetensors(tmp_path / "net")
    assert metadata == {"format": 1, "kind": "network", "network": layer.description}


def test_loaded_in_another_type(tmp_path):
    net = recurrent()
    net.save(tmp_path / "net")
    loaded = lstmc.load(tmp_path / "net", dtype="float64")
    assert loaded.dtype == np.float64
    for name in net:
        assert_same_bits(loaded[name], net[name].astype(np.float64))


def test_the_network_of_a_language_model_and_of_a_checkpoint(tmp_path):
    model = lstmc.LanguageModel(lstmc.Vocabulary("abc", "char"), hidden=4, embed=3, rng=0)
    model.save(tmp_path / "model")
    assert_same(lstmc.load(tmp_path / "model"), model.net)
    trainer = lstmc.Trainer(model.net, lstmc.Adam(model.net), 2, 5)
    trainer.fit(np.arange(60) % 3)
    trainer.save(tmp_path / "checkpoint")
    assert_same(lstmc.load(tmp_path / "checkpoint"), model.net)


def test_halves_become_the_type_of_the_layers(tmp_path):
    from safetensors.numpy import save

    layer = lstmc.Linear(2, 3, rng=0)
    arrays = {name: array.astype(np.float16) for name, array in layer.items()}
    metadata = {"format": 1, "kind": "network", "network": layer.description}
    (tmp_path / "half").write_bytes(save(arrays, {"lstmc": json.dumps(metadata)}))
    loaded = lstmc.load(tmp_path / "half")
    for name in layer:
        assert_same_bits(loaded[name], arrays[name].astype(np.float32))


def spoil(path, change):
    arrays, metadata = read_safetensors(path)
    change(arrays, metadata)
    write_safetensors(path, arrays, metadata)


def nested(levels):
    network = {"layer": "Dropout", "options": {}}
    for _ in range(levels):
        network = {"layer": "Sequential", "options": {"layers": [network]}}
    return network


def test_early_files_have_rows_first_at_each_layer(tmp_path):
    """All recurrent layers of a network had the option then; it is the network's now."""
    net = lstmc.Sequential(
        lstmc.Linear(2, 3, rng=0),
        lstmc.Sequential(lstmc.RNN(3, 4, rng=0), lstmc.GRU(4, 3, rng=0)),
        lstmc.LSTM(3, 2, rng=0),
        batch_first=True,
    )
    x = np.random.default_rng(1).standard_normal((3, 5, 2)).astype(np.float32)
    net.save(tmp_path / "net")

    def earlier(which):
        def change(arrays, metadata):
            del metadata["network"]["options"]["batch_first"]
            _, inner, lstm = metadata["network"]["options"]["layers"]
            for i, layer in enumerate([*inner["options"]["layers"], lstm]):
                layer["options"].update({"batch_first": True} if i in which else {})

        return change

    spoil(tmp_path / "net", earlier({0, 1, 2}))
    assert_same(lstmc.load(tmp_path / "net"), net)
    assert_same_bits(lstmc.load(tmp_path / "net")(x)[0], net(x)[0])
    net.save(tmp_path / "net")
    spoil(tmp_path / "net", earlier({2}))
    with pytest.raises(ValueError, match=r"layers\[2\] \(LSTM\): batch_first must be False within"):
        lstmc.load(tmp_path / "net")


def in_network(**changes):
    return lambda a, m: m["network"]["options"]["layers"][0]["options"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, m: m.update(format=2), "it is of format 2, and this lstmc reads 1"),
        (lambda a, m: m.update(kind="poem"), "it must be a network or a .*, and is 'poem'"),
        (lambda a, m: m.pop("network"), "a layer is described by its layer and options, got None"),
        (lambda a, m: m["network"].update(layer="GRU9"), "'GRU9' is not one of .*: give its class"),
        (lambda a, m: m["network"].update(layer=["LSTM"]), "a layer is described by a name"),
        (lambda a, m: m["network"].update(more=1), "a layer is described by its layer and options"),
        (lambda a, m: m["network"]["options"].update(layers=3), "Sequential: "),
        (lambda a, m: m["network"]["options"].update(layers=[]), "at least one layer"),
        (lambda a, m: m.update(network=nested(100)), "within layers more than 64 deep"),
        (
            lambda a, m: m["network"]["options"]["layers"][0].update(options=[]),
            "a name and its options",
        ),
        (in_network(wings=2), r"Embedding is described with \['wings'\]"),
        (in_network(rng=2), r"Embedding is described with \['rng'\]"),
        (in_network(dtype="float32"), r"in another way than options\(\) returns"),
        (in_network(embedding_dim=5.0), "embedding_dim must be a positive integer, got 5.0"),
        (in_network(embedding_dim=10**9), "embedding_dim is 1000000000, and no tensor is as large"),
        (in_network(num_embeddings=8), r"'0.weight' must be \(8, 5\), got \(7, 5\)"),
        (lambda a, m: a.pop("3.bias"), "tensor '3.bias' is missing"),
        (lambda a, m: a.update(more=a["3.bias"]), "tensor 'more' is not one of the network's"),
        (lambda a, m: a.update({"3.bias": np.zeros(7)}), "'3.bias' must be float32, got float64"),
    ],
)
def test_another_description_is_refused(tmp_path, change, message):
    recurrent().save(tmp_path / "net")
    spoil(tmp_path / "net", change)
    with pytest.raises(ValueError, match=message) as caught:
        lstmc.load(tmp_path / "net")
    assert str(caught.value).startswith(str(tmp_path / "net"))


@pytest.mark.parametrize("count", [1, 1000])
def test_a_small_file_costs_little_memory(tmp_path, count):
    """Sizes that no data stand for are refused before anything of such sizes is made."""
    arrays = {f"{i}.weight_hh_l0": np.zeros((0, 10_000), np.float32) for i in range(count)}
    one = {"layer": "LSTM", "options": {"input_size": 10_000, "hidden_size": 10_000}}
    network = {"layer": "Sequential", "options": {"layers": [one] * count}}
    write_safetensors(
        tmp_path / "net", arrays, {"format": 1, "kind": "network", "network": network}
    )
    size = (tmp_path / "net").stat().st_size
    tracemalloc.start()
    with pytest.raises(ValueError, match="is 10000, and no tensor is as large"):
        lstmc.load(tmp_path / "net")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6 + 20 * size


def test_many_layers_together_are_not_larger_than_the_file(tmp_path):
    one = {"layer": "LSTM", "options": {"input_size": 64, "hidden_size": 64}}
    network = {"layer": "Sequential", "options": {"layers": [one] * 1000}}
    arrays = {"0.bias_l0": np.zeros(256, np.float32)}
    write_safetensors(
        tmp_path / "net", arrays, {"format": 1, "kind": "network", "network": network}
    )
    with pytest.raises(ValueError, match="LSTM is 33024, and no tensor is as large"):
        lstmc.load(tmp_path / "net")


def test_a_layer_of_ones_own_must_be_named(tmp_path):
    own().save(tmp_path / "net")
    with pytest.raises(
        ValueError, match=r"layer 'Scale' is not one of .*: give its class in layers="
    ):
        lstmc.load(tmp_path / "net")


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_are_whole_and_their_own(layer, make):
    layer.grads[...] = 3
    other = make(layer)
    assert_same(other, layer)
    for name in layer:
        assert_same_bits(other.grad(name), layer.grad(name))
    other.params[...] = 0
    assert not layer.num_parameters or layer.params.any()


def test_a_copy_computes_the_same_with_the_same_dropout():
    net = recurrent()
    tokens = np.arange(10).reshape(5, 2) % 7
    net.forward(tokens)
    other = pickle.loads(pickle.dumps(net))
    for _ in range(2):
        assert_same_bits(other.forward(tokens)[0], net.forward(tokens)[0])
    assert np.shares_memory(other.params, other.layers[2].layers[0]["weight_hh_l1"])
    with pytest.raises(ValueError, match="part of a network"):
        other.layers[0].to("cpu:0")


def test_a_layer_copied_out_of_a_network_is_free():
    layer = copy.deepcopy(recurrent().layers[2])
    assert not layer.in_network
    assert layer.layers[0].in_network
    lstmc.Sequential(layer)


@pytest.mark.parametrize("make", [lstmc.SGD, lstmc.Adam, lstmc.AdamW, lstmc.RMSprop])
def test_a_network_and_its_optimiser_stay_linked(make):
    net = recurrent()
    optimiser = make(net, 0.01)
    trainer = lstmc.Trainer(net, optimiser, 2, 5, schedule=lstmc.ExponentialDecay(optimiser, 0.9))
    tokens = np.arange(60) % 7
    trainer.fit(tokens)
    for other in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        assert other.optimiser.net is other.net is not net
        assert other.schedule.optimiser is other.optimiser
        again = copy.deepcopy(trainer)
        again.fit(tokens, epochs=2)
        other.fit(tokens, epochs=2)
        assert_same_bits(other.net.params, again.net.params)


def test_a_model_keeps_its_state():
    model = lstmc.LanguageModel(lstmc.Vocabulary("abc", "char"), hidden=4, embed=3, rng=0)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert_same_bits(other.step("a"), copy.deepcopy(model).step("a"))
    model.step("a")
    other = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
    assert_same_bits(other.step("b"), model.step("b"))


def test_traces_and_steppers_say_that_they_cannot(layer):
    net = recurrent()
    _, _, trace = net.forward(np.zeros((3, 2), int))
    steppers = [net.stepper(), net.layers[3].stepper(), net.layers[2].layers[0].stepper()]
    for thing in (trace, trace.layers[2].layers[0], *steppers):
        for make in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                make(thing)


def test_a_clone_has_fresh_weights(layer):
    one, other = layer.clone(rng=5), layer.clone(rng=5)
    assert_same(one, other)
    assert one.description == layer.description
    if any(name.endswith(("weight", "l0")) for name in layer):
        assert not np.array_equal(one.params, layer.params)


def test_a_clone_is_drawn_as_a_new_one_would_be():
    assert_same(lstmc.LSTM(3, 5).clone(rng=7), lstmc.LSTM(3, 5, rng=7))


# -- descriptions ----------------------------------------------------------------------------------


def test_a_description_is_plain_and_makes_the_layer_again(layer):
    data = json.loads(json.dumps(layer.description))
    assert data == layer.description
    other = lstmc.Layer.from_description(data, OWN, rng=0)
    assert other.description == layer.description


def test_defaults_are_left_out():
    layer = lstmc.LSTM(3, 5, bias=True, dtype="float32", rng=2)
    assert layer.description == {"layer": "LSTM", "options": {"input_size": 3, "hidden_size": 5}}


def test_the_options_of_the_format_are_those_of_the_classes():
    """The first format was laid down with the defaults of its time; a change of them wants a new format."""
    names = "RNN GRU LSTM Linear Embedding Activation Dropout Last Sequential"
    assert set(description.OPTIONS) == set(names.split())
    for name, (required, defaults) in description.OPTIONS.items():
        if name == "Sequential":
            assert (required, defaults) == (("layers",), {"batch_first": False})
            continue
        parameters = dict(inspect.signature(getattr(lstmc, name)).parameters)
        for other in ("rng", "device"):
            parameters.pop(other, None)
        assert set(parameters) == {*required, *defaults}
        layer = getattr(lstmc, name)(*("tanh" if one == "function" else 3 for one in required))
        assert {k: v for k, v in layer.options().items() if k in defaults} == defaults


def test_layers_without_options_of_their_own_say_so():
    """Where a constructor of its own may take others."""
    constructor = {"__init__": lambda self: lstmc.LSTM.__init__(self, 2, 3)}
    layer = type("Derived", (lstmc.LSTM,), constructor)()
    for call in (layer.clone, lambda: layer.description, lambda: layer.save("never")):
        with pytest.raises(TypeError, match="Derived: its class has no options"):
            call()
    assert repr(layer) == "<Derived of 72 parameters>"


# -- names, truth and what is printed --------------------------------------------------------------


def test_parameters_are_a_mapping(layer):
    assert layer
    assert list(layer) == list(layer.keys()) == list(layer.parameters())
    assert len(layer) == len(layer.parameters())
    for (name, view), other in zip(layer.items(), layer.values(), strict=True):
        assert name in layer
        assert view is not None
        assert np.shares_memory(view, other)
        layer[name] = 1.5
        assert (layer[name] == 1.5).all()
        layer[name] = np.full(view.shape, 2)
        with pytest.raises(ValueError, match=rf"{name} must be \(.*\), got \(1, 1, 1, 1\)"):
            layer[name] = np.ones((1, 1, 1, 1))
        assert (layer[name] == 2).all()
    assert "none" not in layer
    with pytest.raises(KeyError, match="no parameter 'none'"):
        layer["none"] = 1


def test_a_number_points_to_the_layers():
    with pytest.raises(KeyError, match=r"its layers are in layers: layers\[0\]"):
        recurrent()[0]


def test_a_layer_is_printed_as_it_is_made():
    assert repr(lstmc.LSTM(3, 5, 2)) == "LSTM(input_size=3, hidden_size=5, num_layers=2)"
    names = {name: getattr(lstmc, name) for name in description.OPTIONS}
    net = recurrent()
    assert eval(repr(net), names).description == net.description
    assert repr(lstmc.Sequential(lstmc.Linear(2, 3))) == (
        "Sequential(\n  Linear(in_features=2, out_features=3),\n)"
    )


def test_what_trains_is_printed():
    net = lstmc.Linear(2, 3)
    assert repr(lstmc.SGD(net, 0.5)) == (
        "SGD(lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.0, steps=0)"
    )
    net = recurrent()
    optimiser = lstmc.Adam(net)
    schedule = lstmc.StepDecay(optimiser, 0.5, 2)
    assert repr(schedule) == "StepDecay(factor=0.5, every=2, start=0, epochs=0)"
    assert repr(lstmc.Trainer(net, optimiser, 2, 5, schedule=schedule)).startswith(
        "<Trainer of 388 "
    )
    model = lstmc.LanguageModel(lstmc.Vocabulary("abc", "char"), hidden=4, embed=3)
    assert repr(model) == (
        "LanguageModel(<Vocabulary of 3 characters>, cell='lstm', layers=2, hidden=4, embed=3, "
        "dropout=0.0, dtype='float32', variational=False, tied=False)"
    )
    _, _, trace = net.forward(np.zeros((3, 2), int))
    assert repr(trace) == "<trace of Sequential>"
    assert repr(trace.layers[2].layers[0].layers[1]) == "<trace of one lstm layer: T 3, B 2, H 4>"
    assert repr(net.layers[3].stepper()) == "<stepper of Linear(in_features=3, out_features=7)>"
