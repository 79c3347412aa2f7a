"""Tests of Dropout, judged by statistics, and of masks that all steps have in common."""

import copy

import numpy as np
import pytest
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc
from lstmc._kernels import cpu
from lstmc.layers.dropout import draw_mask

TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}


def draw(dtype, *shapes):
    generator = np.random.default_rng(seed_of(shapes))
    return [generator.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9])
def test_dropout(dtype, p):
    n = 200_000
    layer = lstmc.Dropout(p, rng=seed_of("dropout", p))
    (dy,) = draw(dtype, (n,))
    y, _, trace = layer.forward(np.full(n, 2, dtype))
    kept = y != 0
    assert y.dtype == dtype
    # Four standard deviations of a mean of n coin tosses.
    assert abs(kept.mean() - (1 - p)) <= 4 * np.sqrt(p * (1 - p) / n)
    assert_close(y[kept], np.full(kept.sum(), 2 / (1 - p)), TOLERANCE[dtype])
    dx, _ = layer.backward(dy, trace)
    assert_close(dx, np.where(kept, dy / (1 - p), 0), TOLERANCE[dtype])
    neighbours = np.mean(kept[1:] & kept[:-1])
    assert abs(neighbours - (1 - p) ** 2) <= 8 * np.sqrt(p * (1 - p) / n)  # which overlap


def test_dropout_drops_in_training_alone():
    layer = lstmc.Dropout(0.5, rng=1)
    (x,) = draw(np.float32, (4, 3, 5))
    before = layer.rng.bit_generator.state
    for y in (layer(x)[0], layer.forward(x, training=False)[0], layer.stepper()(x)):
        assert_same_bits(y, x)
    assert layer.rng.bit_generator.state == before


def test_seeds_of_dropout():
    (x,) = draw(np.float32, (50,))
    first, second, other = (lstmc.Dropout(rng=seed).forward(x)[0] for seed in (1, 1, 2))
    assert_same_bits(first, second)
    assert first.tobytes() != other.tobytes()
    generator = np.random.default_rng(1)
    assert_same_bits(lstmc.Dropout(rng=generator).forward(x)[0], first)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan"), "0.5", None])
def test_shares_that_are_refused(p):
    with pytest.raises(ValueError, match=r"p must be a number in \[0, 1\), got"):
        lstmc.Dropout(p)


def test_what_dropout_refuses():
    layer = lstmc.Dropout()
    with pytest.raises(TypeError, match="x must be a float32 or float64 array, got int64"):
        layer.forward(np.arange(3))
    _, _, trace = layer.forward(np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"dy must be \(3,\), got \(2,\)"):
        layer.backward(np.ones(2, np.float32), trace)
    with pytest.raises(TypeError, match="dy must be float32, got float64"):
        layer.backward(np.ones(3), trace)


def test_a_share_of_dropout_that_changes():
    """It is checked, takes effect, and a trace keeps the one that forward used."""
    layer, x = lstmc.Dropout(0.5, rng=1), np.ones(1000, np.float32)
    y, _, trace = layer.forward(x)
    for p in (1, -0.1, "0.5", None, np.nan):
        with pytest.raises(ValueError, match=r"p must be a number in \[0, 1\), got"):
            layer.p = p
    layer.p = 0.9
    assert_same_bits(layer.backward(x, trace)[0], y)
    assert set(np.unique(layer.forward(x)[0])) == {0, np.float32(10)}
    layer.rng = 7
    assert_same_bits(layer.forward(x)[0], lstmc.Dropout(0.9, rng=7).forward(x)[0])


# --------------------------------------------------------------------------------------------------
# The same at all steps
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 30, 41), (7, 1230), (3, 5, 2, 41)], ids=str)
def test_all_steps_have_one_mask(dtype, shape):
    layer = lstmc.Dropout(0.3, rng=seed_of("variational", shape), variational=True)
    x, dy = draw(dtype, shape, shape)
    y, state, trace = layer.forward(x, "the state")
    passed = y != 0
    assert (passed == passed[0]).all()
    n = passed[0].size
    assert abs(passed[0].mean() - 0.7) <= 4 * np.sqrt(0.3 * 0.7 / n)
    assert_close(y, np.where(passed[0], x / 0.7, 0), TOLERANCE[dtype])
    dx, _ = layer.backward(dy, trace)
    assert y.dtype == dx.dtype == dtype
    assert_close(dx, np.where(passed[0], dy / 0.7, 0), TOLERANCE[dtype])
    assert state == "the state"
    again = layer.forward(x)[0] != 0
    assert (again == again[0]).all()
    assert (again != passed).any(), "every call draws anew"


def test_rows_have_masks_of_their_own():
    layer = lstmc.Dropout(0.5, rng=1, variational=True)
    passed = layer.forward(np.ones((3, 4, 60), np.float32))[0][0] != 0
    assert len({row.tobytes() for row in passed}) == 4


def test_derivatives_of_one_mask():
    """Of a copy with the same generator: it draws the same mask."""
    layer = lstmc.Dropout(0.4, rng=3, variational=True)
    x, dy = draw(np.float64, (3, 2, 5), (3, 2, 5))
    twin = copy.deepcopy(layer)
    _, _, trace = layer.forward(x)
    dx, _ = layer.backward(dy, trace)
    expected = numerical_gradient(lambda a: np.sum(dy * copy.deepcopy(twin).forward(a)[0]), x)
    assert_close(dx, expected, 1e-7)


def test_one_mask_is_dropped_in_training_alone():
    layer = lstmc.Dropout(0.5, rng=1, variational=True)
    (x,) = draw(np.float32, (4, 3, 5))
    before = layer.rng.bit_generator.state
    for y in (layer(x)[0], layer.forward(x, training=False)[0], layer.forward(x, drop=False)[0]):
        assert_same_bits(y, x)
    assert_same_bits(layer.stepper()(x[0]), x[0])
    assert layer.rng.bit_generator.state == before


def test_masks_by_themselves():
    """In the order of rows and steps, from the generator alone; as the kernels of masks take them."""
    rng = np.random.default_rng(5)
    each, one = (draw_mask(cpu, np.random.default_rng(5), 0.4, (3, 2, 7), v) for v in (False, True))
    assert_same_bits(each, rng.random((3, 2, 7), np.float32) >= 0.4)
    assert one.shape == (3, 2, 7)
    assert_same_bits(np.array(one[1]), each[0])
    assert (one == one[0]).all()
    x = np.full((3, 2, 7), 3, np.float32)
    y = np.empty_like(x)
    cpu.masked(y, x, one, 2)
    assert_same_bits(y, np.where(one, 6, 0).astype(np.float32))


def test_what_one_mask_for_all_steps_refuses():
    layer = lstmc.Dropout(variational=True)
    with pytest.raises(
        ValueError, match=r"x must be \(T, ..., features\) with variational=True, got \(3,\)"
    ):
        layer.forward(np.ones(3, np.float32))
    for wrong in (1, None, "yes"):
        with pytest.raises(TypeError, match="variational must be True or False, got"):
            lstmc.Dropout(variational=wrong)
    lstm = lstmc.LSTM(3, 4)
    message = r"layers\[2\] \(Dropout\) must not follow layers\[1\] \(Last\), whose output"
    with pytest.raises(ValueError, match=message):
        lstmc.Sequential(lstm, lstmc.Last(), layer)
    lstmc.Sequential(lstm, lstmc.Last(), lstmc.Dropout())


def test_one_mask_is_described(tmp_path):
    layer = lstmc.Dropout(0.25, rng=1, variational=True)
    assert layer.description["options"] == {"p": 0.25, "variational": True}
    assert lstmc.Dropout(0.25).description["options"] == {"p": 0.25}
    layer.save(tmp_path / "dropout.safetensors")
    for one in (layer.clone(), copy.deepcopy(layer), lstmc.load(tmp_path / "dropout.safetensors")):
        assert one.variational
        assert one.p == 0.25


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_mask_in_a_network(batch_first):
    """Time is the first axis within a network, however the network has it; unbatched, and of tokens too."""
    net = lstmc.Sequential(
        lstmc.Embedding(5, 40, rng=1),
        lstmc.Dropout(0.5, rng=2, variational=True),
        batch_first=batch_first,
    )
    net["0.weight"][...] = 1
    for shape in ((6, 3), (6,)):
        y, _, _ = net.forward(np.ones(shape, np.int64))
        passed = y != 0
        steps = passed.swapaxes(0, 1) if batch_first and len(shape) == 2 else passed
        assert (steps == steps[0]).all()
        if len(shape) == 2:
            assert (steps[:, 0] != steps[:, 1]).any()
