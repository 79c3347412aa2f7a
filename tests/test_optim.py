"""Tests of optimisers and schedules, judged by the reference over several steps."""

import math

import numpy as np
import pytest
from stacks import seed_of
from support import assert_close, assert_same_bits

import lstmc
from lstmc import reference

# Five steps of a dozen roundings each: 1e-16 in float64, 6e-8 in float32.
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}

SIZES = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65]


class Flat:
    """A network as optimisers see one: two flat arrays."""

    def __init__(self, size, dtype):
        generator = np.random.default_rng(seed_of("optimiser", size))
        self.generator = generator
        self.params = generator.standard_normal(size).astype(dtype)
        self.grads = np.zeros(size, dtype)
        self.draw()

    def draw(self):
        self.grads[...] = self.generator.standard_normal(self.grads.size)


def reference_sgd(p, g, states, step, **options):
    velocity = states.get("velocity", np.zeros_like(p))
    p, velocity = reference.sgd(p, g, velocity, **options)
    return p, {"velocity": velocity} if options.get("momentum") else {}


def reference_rmsprop(p, g, states, step, **options):
    p, average, velocity = reference.rmsprop(
        p, g, states["square_avg"], momentum_buffer=states.get("velocity"), **options
    )
    return p, {"square_avg": average} | ({} if velocity is None else {"velocity": velocity})


def reference_adam(p, g, states, step, lr, betas=(0.9, 0.999), **options):
    p, m, v = reference.adam(p, g, states["m"], states["v"], step, lr, *betas, **options)
    return p, {"m": m, "v": v}


def reference_adamw(p, g, states, step, weight_decay=1e-2, **options):
    return reference_adam(p, g, states, step, weight_decay=weight_decay, decoupled=True, **options)


CASES = [
    (lstmc.SGD, reference_sgd, {"lr": 0.3}),
    (lstmc.SGD, reference_sgd, {"lr": 0.3, "weight_decay": 0.1}),
    (lstmc.SGD, reference_sgd, {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.1}),
    (lstmc.SGD, reference_sgd, {"lr": 0.3, "momentum": 0.7, "nesterov": True}),
    (lstmc.Adam, reference_adam, {"lr": 0.1}),
    (
        lstmc.Adam,
        reference_adam,
        {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.1, "weight_decay": 0.2},
    ),
    (lstmc.AdamW, reference_adamw, {"lr": 0.1}),
    (lstmc.AdamW, reference_adamw, {"lr": 0.1, "weight_decay": 0.3, "eps": 1e-3}),
    (lstmc.RMSprop, reference_rmsprop, {"lr": 0.1}),
    (lstmc.RMSprop, reference_rmsprop, {"lr": 0.1, "alpha": 0.7, "eps": 0.1, "weight_decay": 0.2}),
    (lstmc.RMSprop, reference_rmsprop, {"lr": 0.1, "momentum": 0.8}),
]
IDS = [f"{make.__name__}-{i}" for i, (make, _, _) in enumerate(CASES)]


@pytest.mark.parametrize(("make", "judge", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("size", SIZES)
def test_steps(isa, dtype, make, judge, options, size):
    net = Flat(size, dtype)
    optimiser = make(net, **options)
    params, states = net.params.astype(np.float64), {}
    for name in optimiser.state()[0]:
        states[name] = np.zeros(size)
    for step in range(1, 6):
        net.draw()
        gradient = net.grads.copy()
        optimiser.step()
        params, states = judge(params, gradient.astype(np.float64), states, step, **options)
        assert_same_bits(net.grads, gradient)
    assert optimiser.steps == 5
    assert_close(net.params, params, TOLERANCE[dtype], "params")
    actual = optimiser.state()[0]
    assert set(actual) == set(states)
    for name, value in states.items():
        assert_close(actual[name], value, TOLERANCE[dtype], name)


@pytest.mark.parametrize(("make", "judge", "options"), CASES, ids=IDS)
def test_threads_do_not_change_a_bit(isa, dtype, make, judge, options):
    """Large enough that a second thread is used; flat.h has the threshold."""
    results = []
    for threads in (1, 2, 3):
        net = Flat(70_001, dtype)
        optimiser = make(net, **options)
        for _ in range(2):
            optimiser.step(num_threads=threads)
        results.append((net.params, *optimiser.state()[0].values()))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.parametrize(("make", "judge", "options"), CASES, ids=IDS)
def test_state_round_trip(dtype, make, judge, options):
    """An optimiser that takes the state of another goes on as that one does."""
    net, twin = Flat(33, dtype), Flat(33, dtype)
    optimiser = make(net, **options)
    optimiser.step()
    optimiser.lr /= 2
    arrays, numbers = optimiser.state()
    arrays = {name: array.copy() for name, array in arrays.items()}
    twin.params[...] = net.params
    restored = make(twin, **options)
    restored.load_state(arrays, dict(numbers))
    for one in (optimiser, restored):
        one.net.grads[...] = 0.25
        one.step()
    assert restored.lr == optimiser.lr
    assert_same_bits(twin.params, net.params)
    assert_same_bits(restored.state()[0], optimiser.state()[0])


def test_states_that_are_refused():
    optimiser = lstmc.Adam(Flat(9, np.float32))
    arrays, numbers = optimiser.state()
    with pytest.raises(ValueError, match=r"arrays must be \['m', 'v'\], got \['m'\]"):
        optimiser.load_state({"m": arrays["m"]}, numbers)
    with pytest.raises(ValueError, match=r"v must be \(9,\), got \(8,\)"):
        optimiser.load_state({**arrays, "v": np.zeros(8, np.float32)}, numbers)
    with pytest.raises(TypeError, match="m must be float32, got float64"):
        optimiser.load_state({**arrays, "m": np.zeros(9)}, numbers)


NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lstmc.SGD, {"lr": -1}, "lr must be a finite number at least 0, got -1"),
        (lstmc.SGD, {"lr": NAN}, "lr must be a finite number at least 0, got nan"),
        (lstmc.SGD, {"lr": math.inf}, "lr must be a finite number at least 0, got inf"),
        (lstmc.SGD, {"lr": "1"}, "lr must be a finite number at least 0, got '1'"),
        (lstmc.SGD, {"lr": True}, "lr must be a finite number at least 0, got True"),
        (lstmc.SGD, {"lr": 1, "momentum": 1}, "momentum must be .* and below 1, got 1"),
        (lstmc.SGD, {"lr": 1, "nesterov": True}, "nesterov needs momentum above 0, got 0"),
        (lstmc.SGD, {"lr": 1, "weight_decay": -1}, "weight_decay must be .*got -1"),
        (lstmc.Adam, {"betas": (0.9, 1.0)}, r"betas\[1\] must be .* below 1, got 1.0"),
        (lstmc.Adam, {"betas": (0.9,)}, "betas must be two numbers, got 1"),
        (lstmc.Adam, {"eps": 0}, "eps must be a finite number above 0, got 0"),
        (lstmc.RMSprop, {"alpha": NAN}, "alpha must be .*got nan"),
    ],
)
def test_options_that_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(Flat(3, np.float32), **options)


# --------------------------------------------------------------------------------------------------
# Numbers at the edges
# --------------------------------------------------------------------------------------------------

ADAPTIVE = [
    (lstmc.Adam, reference_adam),
    (lstmc.AdamW, reference_adamw),
    (lstmc.RMSprop, reference_rmsprop),
]


@pytest.mark.parametrize(("make", "judge"), ADAPTIVE, ids=lambda value: value.__name__)
@pytest.mark.parametrize(
    "edge", ["squares overflow", "shares of squares are denormal", "large eps"]
)
def test_gradients_whose_squares_are_at_the_edge(isa, dtype, make, judge, edge):
    """Judged with all of it scaled to where nothing is near an edge."""
    scale, eps = {
        "squares overflow": {np.float32: (1e19, 1e-8), np.float64: (1e154, 1e-8)},
        "shares of squares are denormal": {
            np.float32: (1e-18, 1e-20),
            np.float64: (1e-153, 1e-155),
        },
        "large eps": {np.float32: (1e-18, 1e-8), np.float64: (1e-153, 1e-8)},
    }[edge][dtype.type]
    net = Flat(17, dtype)
    optimiser = make(net, lr=0.1, eps=eps)
    params = net.params.astype(np.float64)
    states = {name: np.zeros(17) for name in optimiser.state()[0]}
    for step in range(1, 6):
        net.draw()
        drawn = net.grads.astype(np.float64)
        net.grads[...] *= dtype.type(scale)
        optimiser.step()
        params, states = judge(params, drawn, states, step, lr=0.1, eps=eps / scale)
    # Denormal squares have fewer digits: 1e-39 is rounded to 1e-45, and some gradients are smaller.
    assert_close(net.params, params, 1e-3 if "denormal" in edge else TOLERANCE[dtype], "params")


@pytest.mark.parametrize(("make", "judge"), ADAPTIVE, ids=lambda value: value.__name__)
@pytest.mark.parametrize("share", [1e-6, 0.9])
def test_the_largest_gradients_move_a_weight_on_and_on(isa, dtype, make, judge, share):
    """None of these steps is larger than the first would be, nor is a weight frozen or not a number."""
    net = Flat(9, dtype)
    signs = np.sign(net.grads)
    optimiser = make(net, lr=0.1)
    for _ in range(60):
        before = net.params.copy()
        net.grads[...] = share * np.finfo(dtype).max * signs
        optimiser.step()
        moved = (before - net.params) * signs
        assert ((moved > 0.01) & (moved < 1.01)).all()
    for _ in range(5):  # what follows it does not explode
        before = net.params.copy()
        net.draw()
        optimiser.step()
        assert (np.abs(before - net.params) < 1.01).all()


@pytest.mark.parametrize(("make", "judge"), ADAPTIVE, ids=lambda value: value.__name__)
@pytest.mark.parametrize("eps", [1e-38, 1e-300, 5e-324])
def test_no_gradient_moves_nothing(isa, dtype, make, judge, eps):
    """However small eps is."""
    net = Flat(9, dtype)
    net.grads[...] = 0
    before = net.params.copy()
    optimiser = make(net, lr=0.1, eps=eps, weight_decay=0)
    for _ in range(3):
        optimiser.step()
    assert_same_bits(net.params, before)


@pytest.mark.parametrize(("make", "judge"), ADAPTIVE, ids=lambda value: value.__name__)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_seen(isa, dtype, make, judge, value):
    """In the weight that has one, and in no other."""
    net = Flat(9, dtype)
    net.grads[3] = value
    make(net, lr=0.1).step()
    assert not np.isfinite(net.params[3])
    assert np.isfinite(np.delete(net.params, 3)).all()


def test_parameters_of_another_size_are_refused():
    net = Flat(9, np.float32)
    optimiser = lstmc.Adam(net)
    net.params, net.grads = net.params[:8], net.grads[:8]
    with pytest.raises(ValueError, match="make a new one"):
        optimiser.step()
    assert optimiser.steps == 0


# --------------------------------------------------------------------------------------------------
# Schedules
# --------------------------------------------------------------------------------------------------

# What lr, which starts at 1, is after each of the epochs that end with these losses.
SCHEDULES = [
    (lambda o: lstmc.ExponentialDecay(o, 0.5), [None] * 3, [0.5, 0.25, 0.125]),
    (lambda o: lstmc.StepDecay(o, 0.5, every=2), [None] * 5, [1, 0.5, 0.5, 0.25, 0.25]),
    (lambda o: lstmc.StepDecay(o, 0.5, start=3), [None] * 5, [1, 1, 0.5, 0.25, 0.125]),
    (lambda o: lstmc.PlateauDecay(o, 0.5), [3.0, 2.0, 2.0, 1.5, 1.6], [1, 1, 0.5, 0.5, 0.25]),
    (
        lambda o: lstmc.PlateauDecay(o, 0.5, patience=2),
        [3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0],
        [1, 1, 1, 1, 0.5, 0.5, 0.25],
    ),
    (
        lambda o: lstmc.PlateauDecay(o, 0.5, threshold=0.5),
        [3.0, 2.75, 2.25, float("nan")],
        [1, 0.5, 0.5, 0.25],
    ),
]


SCHEDULES += [
    (
        lambda o: lstmc.PlateauDecay(o, 0.5, min_lr=0.3),
        [1.0] * 5,
        [1, 0.5, 0.3, 0.3, 0.3],
    ),
    (lambda o: lstmc.PlateauDecay(o, 0.5, min_lr=2.0), [1.0] * 3, [1, 1, 1]),
    (lambda o: lstmc.PlateauDecay(o, 1e-5), [1.0] * 4, [1, 1e-5, 1e-8, 1e-8]),
    (lambda o: lstmc.PlateauDecay(o, 1e-5, min_lr=0), [1.0] * 3, [1, 1e-5, 1e-5 * 1e-5]),
]


@pytest.mark.parametrize(("make", "losses", "rates"), SCHEDULES)
@pytest.mark.parametrize("interrupted", [False, True])
def test_schedules(make, losses, rates, interrupted):
    """Also when everything is saved and made anew after every epoch."""
    optimiser = lstmc.SGD(Flat(3, np.float32), lr=1.0)
    schedule = make(optimiser)
    for loss, rate in zip(losses, rates, strict=True):
        schedule.epoch_ended(loss)
        assert optimiser.lr == rate
        if interrupted:
            arrays, numbers = optimiser.state()
            optimiser = lstmc.SGD(Flat(3, np.float32), lr=99.0)
            optimiser.load_state(arrays, numbers)
            kept, schedule = schedule.state(), make(optimiser)
            schedule.load_state(kept)


def test_a_plateau_needs_a_loss():
    with pytest.raises(ValueError, match="loss must be the validation loss"):
        lstmc.PlateauDecay(lstmc.SGD(Flat(3, np.float32), lr=1.0)).epoch_ended()


@pytest.mark.parametrize("value", [-1, NAN, math.inf, "0"])
def test_lowest_rates_that_are_refused(value):
    with pytest.raises(ValueError, match="min_lr must be a finite number"):
        lstmc.PlateauDecay(lstmc.SGD(Flat(3, np.float32), lr=1.0), min_lr=value)


@pytest.mark.parametrize("options", [{"factor": 0}, {"factor": NAN}, {"factor": 0.5, "every": 0}])
def test_schedules_that_are_refused(options):
    with pytest.raises(ValueError, match=r"must be a (finite number|positive integer)"):
        lstmc.StepDecay(lstmc.SGD(Flat(3, np.float32), lr=1.0), **options)
