"""Tests of optimisers over arrays that do not fit, and of options that change after they were made."""

import copy

import numpy as np
import pytest
from support import assert_same_bits

import lstmc

NAN = float("nan")


class Flat:
    """A network as optimisers see one: two flat arrays."""

    def __init__(self, size, dtype):
        rng = np.random.default_rng(size)
        self.params, self.grads = (rng.standard_normal(size).astype(dtype) for _ in range(2))


MAKERS = {
    "SGD": lambda net: lstmc.SGD(net, 0.1, momentum=0.5),
    "Adam": lstmc.Adam,
    "AdamW": lstmc.AdamW,
    "RMSprop": lambda net: lstmc.RMSprop(net, momentum=0.5),
}
ARRAYS = {
    "shorter grads": lambda net: setattr(net, "grads", net.grads[:8]),
    "longer grads": lambda net: setattr(net, "grads", np.ones(99, np.float32)),
    "float16 grads": lambda net: setattr(net, "grads", net.grads.astype(np.float16)),
    "float64 grads": lambda net: setattr(net, "grads", net.grads.astype(np.float64)),
    "strided grads": lambda net: setattr(net, "grads", np.ones((9, 2), np.float32)[:, 0]),
    "strided params": lambda net: setattr(net, "params", np.ones((9, 2), np.float32)[:, 0]),
    "read-only params": lambda net: net.params.setflags(write=False),
    "no grads": lambda net: setattr(net, "grads", None),
    "grads in params": lambda net: setattr(net, "grads", net.params),
}


@pytest.mark.parametrize("change", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_arrays_that_are_refused(make, change):
    net = Flat(9, np.float32)
    optimiser = make(net)
    params = net.params.copy()
    change(net)
    before = net.params.copy()
    with pytest.raises((TypeError, ValueError), match=r"params|grads"):
        optimiser.step()
    assert optimiser.steps == 0
    assert_same_bits(net.params, before)
    assert not any(array.any() for array in optimiser.state()[0].values())
    assert params.shape == before.shape


@pytest.mark.parametrize("threads", [0, -1, "1", 1.5])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_step_that_is_refused_is_not_counted(make, threads):
    net = Flat(9, np.float32)
    optimiser, before = make(net), net.params.copy()
    with pytest.raises(ValueError, match="num_threads must be an integer from 1"):
        optimiser.step(num_threads=threads)
    assert optimiser.steps == 0
    assert_same_bits(net.params, before)
    optimiser.step()
    again = Flat(9, np.float32)
    make(again).step()
    assert_same_bits(net.params, again.params)


@pytest.mark.parametrize(
    ("kind", "name", "good", "bad"),
    [
        (lstmc.SGD, "lr", 0.5, NAN),
        (lstmc.SGD, "weight_decay", 0.5, -1),
        (lstmc.Adam, "betas", (0.5, 0.6), (0.5, 1)),
        (lstmc.Adam, "eps", 1e-3, 0),
        (lstmc.RMSprop, "alpha", 0.5, 1),
        (lstmc.RMSprop, "eps", 1e-3, "1"),
    ],
)
def test_options_that_change(kind, name, good, bad):
    """They are checked, and have the effect of having been so from the start."""
    optimisers = [kind(Flat(9, np.float32), lr=0.1) for _ in range(2)]
    optimisers.append(kind(Flat(9, np.float32), **{"lr": 0.1, name: good}))
    with pytest.raises(ValueError, match=rf"{name}.* must be"):
        setattr(optimisers[0], name, bad)
    setattr(optimisers[0], name, good)
    for optimiser in optimisers:
        for _ in range(2):
            optimiser.step()
    first, unchanged, expected = (optimiser.net.params for optimiser in optimisers)
    assert_same_bits(first, expected)
    assert first.tobytes() != unchanged.tobytes()


@pytest.mark.parametrize("kind", [lstmc.SGD, lstmc.RMSprop])
def test_momentum_that_has_no_velocity(kind):
    optimiser = kind(Flat(9, np.float32), lr=0.1)
    with pytest.raises(ValueError, match="momentum was 0 when this optimiser was made"):
        optimiser.momentum = 0.9
    assert optimiser.momentum == 0
    optimiser = kind(Flat(9, np.float32), lr=0.1, momentum=0.9)
    optimiser.momentum = 0.5
    with pytest.raises(ValueError, match=r"momentum must be .* below 1, got 1"):
        optimiser.momentum = 1
    assert optimiser.momentum == 0.5


def test_nesterov_that_has_no_momentum():
    optimiser = lstmc.SGD(Flat(9, np.float32), 0.1)
    with pytest.raises(ValueError, match="nesterov needs momentum above 0, got 0"):
        optimiser.nesterov = True


@pytest.mark.parametrize("kind", [lstmc.Adam, lstmc.RMSprop, lambda net: lstmc.SGD(net, 0.1, 0.9)])
def test_a_copy_goes_on_by_itself(kind):
    net = lstmc.Linear(3, 2, rng=0)
    net.grads[...] = 1
    optimiser = kind(net)
    optimiser.step()
    state = {name: array.copy() for name, array in optimiser.state()[0].items()}
    twin = copy.copy(optimiser)
    twin.step()
    assert twin.net is net
    assert (optimiser.steps, twin.steps) == (1, 2)
    for name, array in state.items():
        assert_same_bits(getattr(optimiser, name), array)


def test_arrays_that_a_pickle_brings_read_only():
    """As joblib does with large ones."""
    net = lstmc.Linear(3, 2, rng=0)
    optimiser = lstmc.Adam(net)
    state = dict(vars(optimiser))
    state["m"] = state["m"].copy()
    state["m"].flags.writeable = False
    twin = object.__new__(lstmc.Adam)
    twin.__setstate__(state)
    twin.step()
    assert twin.steps == 1


@pytest.mark.parametrize("kind", [lstmc.Adam, lstmc.AdamW, lstmc.RMSprop])
@pytest.mark.parametrize(("eps", "gradient"), [(1e-38, 1e-25), (1e-38, 3e-22), (1e-45, 1e-30)])
def test_a_square_that_vanishes_throws_no_weight_away(kind, eps, gradient):
    net = lstmc.Linear(3, 2, rng=0)
    net.grads[...] = gradient
    before = net.params.copy()
    kind(net, lr=1e-3, eps=eps).step()
    assert np.abs(net.params - before).max() <= 1.1e-2  # RMSprop's first step is 10 lr
