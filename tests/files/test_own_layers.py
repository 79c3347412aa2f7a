"""Layers of a user's own in copies, files, checkpoints and checks: they are as whole there as lstmc's."""

import copy
import pickle

import numpy as np
import pytest
from support import assert_same_bits

import lstmc


class Scale(lstmc.Layer):
    """y = scale x. Its options have no type."""

    def __init__(self, size, rng=None):
        super().__init__()
        self.size = size
        self.bind(*self.buffers(self.parameters()))
        self["scale"] = np.random.default_rng(rng).standard_normal(size)

    def options(self):
        return {"size": self.size}

    def parameters(self):
        return {"scale": (self.size,)}

    def forward(self, x, state=None, training=True):
        return x * self["scale"], state, x if training else None

    def backward(self, dy, trace, dstate=None):
        self.grad("scale")[...] += (dy * trace).sum((0, 1))
        return dy * self["scale"], dstate


class Around(lstmc.Layer):
    """y = x + inner(x): a layer around another, whose parameters are its own."""

    def __init__(self, inner):
        super().__init__(inner.dtype)
        self.inner = inner
        self.bind(*self.buffers(self.parameters()))

    def options(self):
        return {"inner": self.inner.description}

    @classmethod
    def from_options(cls, options):
        return cls(cls.from_description(options["inner"]))

    def parameters(self):
        return self.inner.parameters()

    def bind(self, params, grads):
        super().bind(params, grads)
        self.inner.bind(params, grads)

    def forward(self, x, state=None, training=True):
        y, state, trace = self.inner.forward(x, state, training)
        return x + y, state, trace

    def backward(self, dy, trace, dstate=None):
        dx, dstate = self.inner.backward(dy, trace, dstate)
        return dx + dy, dstate


class Noisy(lstmc.Layer):
    """y = x + noise in training, from a generator under a name of its own."""

    def __init__(self, seed=3):
        super().__init__()
        self.seed, self.source = seed, np.random.default_rng(seed)

    def options(self):
        return {"seed": self.seed}

    def forward(self, x, state=None, training=True):
        noise = self.source.standard_normal(x.shape).astype(x.dtype) if training else 0
        return x + noise, state, None

    def backward(self, dy, trace, dstate=None):
        return dy, dstate


class Reservoir(lstmc.Layer):
    """A recurrent layer that is fixed by a seed and not learned."""

    def __init__(self, size, seed):
        super().__init__()
        self.size, self.seed = size, seed
        self.fixed = lstmc.RNN(size, size, rng=seed)

    def options(self):
        return {"size": self.size, "seed": self.seed}

    def forward(self, x, state=None, training=True):
        return self.fixed(x, state)[0], None, None

    def backward(self, dy, trace, dstate=None):
        return np.zeros_like(dy), dstate


class Residual(lstmc.Sequential):
    """y = x + layers(x); its backward forgets the first way."""

    def forward(self, x, state=None, training=True, num_threads=None):
        y, state, trace = super().forward(x, state, training, num_threads)
        return x + y, state, trace

    def options(self):
        return super().options()


LAYERS = {one.__name__: one for one in (Scale, Around, Noisy, Reservoir, Residual)}
X = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)


def make_net():
    return lstmc.Sequential(
        Scale(3, rng=1), Around(lstmc.LSTM(3, 3, rng=2)), Reservoir(3, 7), Residual(lstmc.Linear(3, 3, rng=4))
    )  # fmt: skip


def through_pickle(net, path):
    return pickle.loads(pickle.dumps(net))


def through_file(net, path):
    net.save(path)
    return lstmc.load(path, layers=LAYERS)


WAYS = {
    "copy": lambda net, path: copy.copy(net),
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "pickle": through_pickle,
    "file": through_file,
    "astype": lambda net, path: net.astype(net.dtype),
}


@pytest.mark.parametrize("way", WAYS)
def test_copies_compute_the_same(way, tmp_path):
    net = make_net()
    twin = WAYS[way](net, tmp_path / "net")
    assert_same_bits(twin(X)[0], net(X)[0])
    assert [type(layer) for layer in twin.layers] == [type(layer) for layer in net.layers]
    assert not np.shares_memory(twin.params, net.params)


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_around_another_shares_its_parameters_in_a_copy_too(way, tmp_path):
    around = WAYS[way](Around(lstmc.LSTM(3, 3, rng=2)), tmp_path / "net")
    for name in around:
        assert np.shares_memory(around[name], around.inner[name])
        assert np.shares_memory(around.grad(name), around.inner.grad(name))
    y, _, trace = around.forward(X)
    around.backward(np.ones_like(y), trace)
    assert around.grads.any()


def test_astype_is_of_all_within():
    net = make_net()
    wide = net.astype(np.float64)
    assert {wide.dtype, wide.layers[1].inner.dtype, wide.layers[3].layers[0].dtype} == {
        np.dtype(float)
    }
    for name in net:
        assert_same_bits(wide[name], net[name].astype(np.float64))
    y = wide(X.astype(np.float64))[0]
    assert y.dtype == np.float64
    assert np.abs(y - net(X)[0]).max() < 1e-6
    assert not wide.grads.any()


def test_a_clone_draws_the_weights_of_ones_own_layers_too():
    net = make_net()
    first, again, other = (net.clone(rng=seed) for seed in (5, 5, 6))
    assert_same_bits(first.params, again.params)
    assert (first["0.scale"] != other["0.scale"]).all()
    assert_same_bits(first.layers[2].fixed.params, net.layers[2].fixed.params)  # by its own seed


def test_a_wrong_backward_of_ones_own_network_is_found():
    """A Sequential with a forward of its own is not what its layers are one after another."""
    for net in (
        Residual(lstmc.Linear(3, 3, rng=4)),
        lstmc.Sequential(Residual(lstmc.LSTM(3, 3, rng=4))),
    ):
        report = lstmc.check_gradients(net, X)
        assert report.failed == ["x"]


def test_ones_own_layers_are_trained_in_a_network():
    """Whatever they return as a trace."""
    net = lstmc.Sequential(
        Scale(3, rng=1), Around(lstmc.LSTM(3, 3, rng=2)), lstmc.Linear(3, 3, rng=4)
    )
    assert lstmc.check_gradients(net, X)
    x = X.copy()
    y, _, trace = net.forward(x)
    net.backward(np.ones_like(y), trace)
    assert all(net.grad(name).any() for name in net)
    assert x.flags.writeable


def make_trainer():
    net = lstmc.Sequential(lstmc.Embedding(5, 3, rng=1), Noisy(), lstmc.Linear(3, 5, rng=2))
    return lstmc.Trainer(net, lstmc.Adam(net), 2, 3)


def test_a_checkpoint_holds_the_generators_of_ones_own_layers(tmp_path):
    ids = np.arange(40) % 5
    trainer = make_trainer()
    trainer.fit(ids, epochs=1)
    trainer.save(tmp_path / "checkpoint")
    trainer.fit(ids, epochs=2)
    resumed = make_trainer()
    resumed.load(tmp_path / "checkpoint")
    resumed.fit(ids, epochs=2)
    assert_same_bits(resumed.net.params, trainer.net.params)


def test_a_file_cannot_make_ones_own_layers_large(tmp_path):
    from lstmc.files import write_safetensors

    network = {"layer": "Scale", "options": {"size": 10**9}}
    write_safetensors(tmp_path / "net", {}, {"format": 1, "kind": "network", "network": network})
    with pytest.raises(ValueError, match="Scale is 1000000000, and no tensor is as large"):
        lstmc.load(tmp_path / "net", layers=LAYERS)


def test_a_class_may_have_the_name_of_one_of_lstmc():
    class Linear(lstmc.Linear):
        def options(self):
            return super().options()

    net = lstmc.Sequential(Linear(3, 2, rng=0))
    assert type(net.clone(rng=1).layers[0]) is Linear


def test_what_no_file_may_hold_is_not_saved(tmp_path):
    net = lstmc.Linear(1, 1)
    for _ in range(63):
        net = lstmc.Sequential(net)
    net.save(tmp_path / "net")
    assert_same_bits(lstmc.load(tmp_path / "net").params, net.params)
    with pytest.raises(ValueError, match="within layers more than 64 deep"):
        lstmc.Sequential(net).save(tmp_path / "deeper")
    assert not (tmp_path / "deeper").exists()


@pytest.mark.parametrize("rng", ["a", 1.5, -1])
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: lstmc.LSTM(2, 3, rng=rng),
        lambda rng: lstmc.Dropout(0.5, rng=rng),
        lambda rng: lstmc.Linear(2, 3).clone(rng=rng),
        lambda rng: lstmc.LanguageModel(lstmc.Vocabulary("ab", "char"), rng=rng),
        lambda rng: lstmc.check_gradients(lstmc.Linear(3, 2), X, rng=rng),
    ],
)
def test_generators_that_are_none(draw, rng):
    with pytest.raises(TypeError, match="rng must be an integer of 0 or more, a numpy Generator"):
        draw(rng)
