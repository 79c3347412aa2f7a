"""Losses, optimisers and dropout on a GPU: the parts of learning.

The judge is the CPU, which other files judge; test_device_training.py has the whole.
"""

import itertools
import math

import numpy as np
import pytest
from devices import DEVICES, TOLERANCE, assert_same_weights, draw, to_device
from support import assert_close, assert_same_bits
from test_optim import CASES, IDS

import lstmc


def assert_number(cupy, actual, expected, tolerance):
    """Assert that a loss or a norm is an array () on the device, and near a number of the CPU's."""
    assert isinstance(actual, cupy.ndarray)
    assert actual.shape == ()
    assert abs(float(actual) - expected) <= tolerance * max(1, abs(expected))


# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["new", "given", "logits"])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(5, 3, 17), (2, 300), (4, 1), (70, 5), (0, 4), (6,)], ids=str)
def test_softmax_cross_entropy(cupy, dtype, shape, kind, out):
    logits = 3 * draw(dtype, *shape)
    targets = np.random.default_rng(1).integers(shape[-1], size=shape[:-1]).astype(kind)
    if targets.size > 2:
        targets.reshape(-1)[1] = -1
    expected, gradient = lstmc.softmax_cross_entropy(logits, targets)
    x = cupy.asarray(logits)
    into = {"new": None, "given": cupy.full_like(x, np.nan), "logits": x}[out]
    loss, dlogits = lstmc.softmax_cross_entropy(x, cupy.asarray(targets), out=into)
    assert_number(cupy, loss, expected, TOLERANCE[dtype])
    assert dlogits.dtype == dtype
    assert dlogits.shape == shape
    # Rows share the weight 1; where a probability is near 1, what is left of it is rounded as it is.
    error = np.abs(dlogits.get() - gradient)
    assert (error <= TOLERANCE[dtype] / max(1, np.count_nonzero(targets != -1))).all()
    if out == "new":
        assert_same_bits(x.get(), logits)
    else:
        assert dlogits is into


@pytest.mark.parametrize("ignored", [-1, -100, 2])
def test_ignored_targets(cupy, dtype, ignored):
    """They count neither in the mean nor in the gradient, whatever their logits."""
    logits, targets = draw(dtype, 6, 5), np.array([0, ignored, 4, 1, ignored, 3])
    logits[[1, 4]] = np.nan
    expected, gradient = lstmc.softmax_cross_entropy(logits, targets, ignored)
    loss, dlogits = lstmc.softmax_cross_entropy(*to_device(cupy, (logits, targets)), ignored)
    assert_number(cupy, loss, expected, TOLERANCE[dtype])
    assert_close(dlogits.get(), gradient, TOLERANCE[dtype])
    assert not dlogits[1].any()
    nothing, none = lstmc.softmax_cross_entropy(
        *to_device(cupy, (logits, np.full(6, ignored))), ignored
    )
    assert float(nothing) == 0
    assert not none.any()


@pytest.mark.parametrize("place", [(0, 0), (1, 2)])
@pytest.mark.parametrize("value", [4, -2, 2**40])
def test_targets_out_of_range(cupy, place, value):
    """The first is named with its position, as on the CPU."""
    logits, targets = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), np.int64)
    targets[place] = targets[1, 2] = value
    with pytest.raises(ValueError, match=r"targets\[.*\] must be in \[0, 4\) or -1") as expected:
        lstmc.softmax_cross_entropy(logits, targets)
    with pytest.raises(ValueError) as raised:
        lstmc.softmax_cross_entropy(*to_device(cupy, (logits, targets)))
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize("shape", [(5, 3, 7), (9001,), (0, 3), ()], ids=str)
def test_squared_error(cupy, dtype, shape):
    y, target = draw(dtype, 2, *shape)[:2] if shape else draw(dtype, 2)
    y, target = np.asarray(y), np.asarray(target)
    expected, gradient = lstmc.squared_error(y, target)
    loss, dy = lstmc.squared_error(*to_device(cupy, (y, target)))
    assert_number(cupy, loss, expected, TOLERANCE[dtype])
    assert_close(dy.get(), gradient, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a[0], ValueError, r"target must be \(2, 3\), got \(3,\)"),
        (lambda a: a.astype(float), TypeError, "target must be float32, got float64"),
        (lambda a: None, TypeError, "target must be a float32 array.*got NoneType"),
    ],
)
def test_what_squared_error_refuses(cupy, change, error, message):
    y = cupy.ones((2, 3), np.float32)
    with pytest.raises(error, match=message):
        lstmc.squared_error(y, change(y))


@pytest.mark.parametrize("name", ["huber", "binary_cross_entropy"])
def test_losses_that_a_gpu_does_not_have(cupy, name):
    y = cupy.ones((2, 3), np.float32)
    has = "there are softmax_cross_entropy, squared_error"
    with pytest.raises(ValueError, match=f"a GPU has no loss '{name}' yet: {has}"):
        getattr(lstmc, name)(y, y)


@pytest.mark.parametrize(
    "options", [{"lengths": np.array([1, 2, 0])}, {"mask": np.ones((2, 3), bool)}]
)
def test_lengths_and_masks_are_refused(cupy, options):
    """Whether they are on the GPU or not; and nothing is written."""
    y, ids = cupy.ones((2, 3, 4), np.float32), cupy.zeros((2, 3), np.int64)
    out = cupy.full_like(y, 7)
    ((name, value),) = options.items()
    calls = [
        (lstmc.softmax_cross_entropy, (y, ids), {"out": out}),
        (lstmc.squared_error, (y, y), {}),
        (lstmc.huber, (y, y), {}),
    ]
    for (loss, arguments, more), there in itertools.product(calls, (False, True)):
        more = more | {name: cupy.asarray(value) if there else value}
        with pytest.raises(ValueError, match=f"{name} must be None on a GPU"):
            loss(*arguments, **more)
    assert bool((out == 7).all())


# --------------------------------------------------------------------------------------------------
# Optimisers
# --------------------------------------------------------------------------------------------------


def twins(dtype, **options):
    """Return the same layer on the device and on the CPU."""
    return tuple(
        lstmc.Linear(7, 33, dtype=dtype, rng=1, device=d, **options) for d in ("cuda", "cpu")
    )


def give_gradients(cupy, step, *layers):
    for layer in layers:
        for name, shape in layer.parameters().items():
            drawn = np.random.default_rng([step, len(name)]).standard_normal(shape)
            drawn = drawn.astype(layer.dtype)
            layer.grad(name)[...] = drawn if layer.device == "cpu" else cupy.asarray(drawn)


@pytest.mark.parametrize(("make", "judge", "options"), CASES, ids=IDS)
def test_optimisers(cupy, dtype, make, judge, options):
    layer, twin = twins(dtype)
    one, other = make(layer, **options), make(twin, **options)
    for step in range(4):
        give_gradients(cupy, step, layer, twin)
        grads = layer.grads.get()
        one.step()
        other.step()
        assert_same_bits(layer.grads.get(), grads)
        assert_same_weights(layer, twin, TOLERANCE[dtype])
    assert one.steps == other.steps == 4
    arrays, numbers = one.state()
    assert numbers == other.state()[1]
    for name, value in other.state()[0].items():
        array = arrays[name] if isinstance(arrays[name], np.ndarray) else arrays[name].get()
        assert_close(array, value, TOLERANCE[dtype], name)
    for name in layer.parameters():
        layer[name][...] = 0
    assert not layer.params.any(), "the padding"


@pytest.mark.parametrize(("source", "target"), DEVICES)
@pytest.mark.parametrize(("make", "judge", "options"), CASES[3:], ids=IDS[3:])
def test_the_state_of_an_optimiser_goes_across(cupy, dtype, make, judge, options, source, target):
    """One that takes the state of another, wherever that is, goes on as that one does."""
    first, second = (
        lstmc.Linear(7, 33, dtype=dtype, rng=1, device=device) for device in (source, target)
    )
    one = make(first, **options)
    give_gradients(cupy, 0, first)
    one.step()
    one.lr /= 2
    arrays, numbers = one.state()
    for name in first.parameters():
        value = first[name] if source == "cpu" else first[name].get()
        second[name][...] = value if target == "cpu" else cupy.asarray(value)
    other = make(second, **options)
    other.load_state(arrays, dict(numbers))
    assert (other.lr, other.steps) == (one.lr, 1)
    for step in (1, 2):
        give_gradients(cupy, step, first, second)
        one.step()
        other.step()
    assert_same_weights(second, first, TOLERANCE[dtype])


@pytest.mark.parametrize(("source", "target"), [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize(("make", "judge", "options"), CASES[2:], ids=IDS[2:])
def test_an_optimiser_of_before_a_move_does_not_step(cupy, make, judge, options, source, target):
    net = lstmc.Sequential(lstmc.Linear(7, 33, rng=1, device=source))
    optimiser = make(net, **options)
    net.to(target)
    net.grads[...] = 1
    before = net.params.copy()
    with pytest.raises(ValueError, match="make a new one"):
        optimiser.step()
    assert optimiser.steps == 0
    assert bool((net.params == before).all())
    make(net, **options).step()
    assert not bool((net.params == before).all())


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (130, 90)], ids=str)
def test_clipping(cupy, dtype, size):
    layer, twin = (lstmc.Linear(*size, dtype=dtype, device=d) for d in ("cuda", "cpu"))
    give_gradients(cupy, 0, layer, twin)
    before = layer.grads.get()
    norm = lstmc.clip_grad_norm(twin, math.inf)
    for most in (math.inf, norm * 1.001):
        assert_number(cupy, lstmc.clip_grad_norm(layer, most), norm, TOLERANCE[dtype])
        assert_same_bits(layer.grads.get(), before)
    lstmc.clip_grad_norm(twin, norm / 3)
    assert_number(cupy, lstmc.clip_grad_norm(layer, norm / 3), norm, TOLERANCE[dtype])
    for name in twin.parameters():
        assert_close(layer.grad(name).get(), twin.grad(name), TOLERANCE[dtype], name)
    assert_number(cupy, lstmc.clip_grad_norm(layer, math.inf), norm / 3, TOLERANCE[dtype])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_clipping_what_is_not_finite(cupy, dtype, value):
    """The norm says so and the gradients stay."""
    layer, _ = twins(dtype)
    give_gradients(cupy, 0, layer)
    layer.grad("weight")[4, 2] = value
    before = layer.grads.get()
    assert not math.isfinite(lstmc.clip_grad_norm(layer, 0.5))
    assert_same_bits(layer.grads.get(), before)


@pytest.mark.parametrize("size", [(1, 1), (7, 33)], ids=str)
def test_clipping_by_value(cupy, dtype, size):
    layer, twin = (lstmc.Linear(*size, dtype=dtype, device=d) for d in ("cuda", "cpu"))
    give_gradients(cupy, 0, layer, twin)
    for one in (layer, twin):
        one.grad("weight")[0, 0] = np.nan
        lstmc.clip_grad_value(one, 0.3)
    for name in twin.parameters():
        assert_same_bits(layer.grad(name).get(), twin.grad(name))


def test_clipping_large_numbers(cupy):
    """Their squares overflow float32."""
    layer = lstmc.Linear(2, 3, device="cuda")
    for name in layer.parameters():
        layer.grad(name)[...] = 1e30
    assert_close(float(lstmc.clip_grad_norm(layer, 1.0)), 3e30, 1e-6)
    assert_close(layer.grad("weight").get(), np.full((3, 2), 1 / 3), 1e-5)


# --------------------------------------------------------------------------------------------------
# Dropout
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9])
def test_dropout(cupy, dtype, p):
    layer, n = lstmc.Dropout(p, rng=1), 9 * 1009
    x, arriving = cupy.full((9, 1009), 2, dtype), draw(dtype, 9, 1009)
    y, state, trace = layer.forward(x, "the state")
    dx, dstate = layer.backward(cupy.asarray(arriving), trace, "its gradient")
    assert (state, dstate) == ("the state", "its gradient")
    y, dx, passed = y.get(), dx.get(), y.get() != 0
    assert y.dtype == dx.dtype == dtype
    # Four standard deviations of a mean of n coin tosses; neighbours overlap.
    assert abs(passed.mean() - (1 - p)) <= 4 * np.sqrt(p * (1 - p) / n)
    for neighbours in (passed[1:] & passed[:-1], passed[:, 1:] & passed[:, :-1]):
        assert abs(neighbours.mean() - (1 - p) ** 2) <= 8 * np.sqrt(p * (1 - p) / n)
    assert_close(y[passed], np.full(passed.sum(), 2 / (1 - p)), TOLERANCE[dtype])
    assert_close(dx, np.where(passed, arriving / (1 - p), 0), TOLERANCE[dtype])
    assert (x == 2).all()


@pytest.mark.parametrize("shape", [(9, 5, 33), (9, 130)], ids=str)
def test_dropout_with_one_mask_for_all_steps(cupy, dtype, shape):
    layer, arriving = lstmc.Dropout(0.4, rng=1, variational=True), draw(dtype, *shape)
    y, _, trace = layer.forward(cupy.full(shape, 3, dtype))
    dx, _ = layer.backward(cupy.asarray(arriving), trace)
    passed = y.get() != 0
    assert (passed == passed[0]).all()
    assert abs(passed[0].mean() - 0.6) <= 4 * np.sqrt(0.24 / passed[0].size)
    assert_close(y.get(), np.where(passed, 5, 0), TOLERANCE[dtype])
    assert_close(dx.get(), np.where(passed, arriving / 0.6, 0), TOLERANCE[dtype])


def test_masks_of_dropout(cupy, dtype):
    """By the seed; another one in every call; none in inference."""
    x = cupy.asarray(1 + np.abs(draw(dtype, 50, 7)))
    first, second = (lstmc.Dropout(0.4, rng=seed) for seed in (1, 1))
    masks = []
    for _ in range(3):
        y, again = first.forward(x)[0].get(), second.forward(x)[0].get()
        assert_same_bits(y, again)
        masks.append((y != 0).tobytes())
    masks.append((lstmc.Dropout(0.4, rng=2).forward(x)[0] != 0).tobytes())
    assert len(set(masks)) == 4
    before = first.rng.bit_generator.state
    for y in (first(x)[0], first.forward(x, training=False)[0], first.stepper(50)(x)):
        assert_same_bits(y.get(), x.get())
    assert first.rng.bit_generator.state == before


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)], ids=str)
def test_dropout_of_little(cupy, dtype, shape):
    layer = lstmc.Dropout(0.5, rng=1)
    y, _, trace = layer.forward(cupy.ones(shape, dtype))
    assert y.shape == shape
    assert layer.backward(cupy.ones(shape, dtype), trace)[0].shape == shape


def test_dropout_of_what_is_not_a_number(cupy, dtype):
    x = cupy.ones((40, 9), dtype)
    passed = lstmc.Dropout(0.5, rng=3).forward(x)[0].get() != 0
    x[...] = np.nan
    y = lstmc.Dropout(0.5, rng=3).forward(x)[0].get()
    assert np.isnan(y[passed]).all()
    cpu = lstmc.Dropout(0.5, rng=3).forward(x.get())[0]
    assert np.isnan(y).all() == np.isnan(cpu).all()
