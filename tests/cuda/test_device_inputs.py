"""What layers on a GPU take and what they refuse: forms of arrays, places, shapes, stale weights."""

import emulator
import numpy as np
import pytest
from devices import (
    CASE,
    TOLERANCE,
    to_device,
    to_host,
)
from recurrent_inputs import DY_ERRORS, STATE_ERRORS, X_ERRORS
from stacks import (
    arriving_state,
    as_type,
    first_state,
    make_layer,
    random_problem,
    seed_of,
    solution,
    states_of,
)
from support import assert_close, assert_same_bits

import lstmc

# --------------------------------------------------------------------------------------------------
# Forms of the same array
# --------------------------------------------------------------------------------------------------


class Interface:
    """An array of another library's, as __cuda_array_interface__ tells it."""

    def __init__(self, array):
        self._array = array

    @property
    def __cuda_array_interface__(self):
        return self._array.__cuda_array_interface__


class Capsule:
    """An array of another library's, as DLPack hands it over."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def every_other(a):
    wide = a.repeat(2).reshape(*a.shape, 2)
    wide[..., 1] = 7
    return wide[..., 0]


FORMS = {
    "every other element": every_other,
    "axes turned": lambda a: a.T.copy().T,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "__cuda_array_interface__": Interface,
    "__cuda_array_interface__ with strides": lambda a: Interface(every_other(a)),
    "DLPack": Capsule,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_forms_of_the_same_array(cupy, dtype, cell, form):
    problem = as_type(random_problem(cell, *CASE), dtype)
    data = to_device(cupy, problem)
    layer = make_layer(data, device="cuda")
    expected = to_host(cupy, solution(data, layer))
    changed = dict(data)
    for name in [key for key in data if key in ("x", "dy") or (key[0] in "hc" and "0" in key)]:
        changed[name] = form(data[name])
    for state in states_of(cell):
        changed[f"d{state}_n"] = form(data[f"d{state}_n"])
    assert_same_bits(to_host(cupy, solution(changed, layer)), expected)
    for name in ("x", "dy", "h0"):
        assert_same_bits(data[name].get(), problem[name])
    stepper = layer.stepper(3)
    first = stepper(data["x"][0])
    stepper.reset()
    assert_same_bits(stepper(form(data["x"][0])).get(), first.get())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_tokens_and_targets(cupy, form):
    generator = np.random.default_rng(seed_of("tokens"))
    tokens = cupy.asarray(generator.integers(6, size=(4, 3)))
    layer = lstmc.Embedding(6, 6, rng=1, device="cuda")
    y = layer(tokens)[0]
    assert_same_bits(layer(form(tokens))[0].get(), y.get())
    loss, dy = lstmc.softmax_cross_entropy(y, tokens)
    again, gradient = lstmc.softmax_cross_entropy(form(y), form(tokens))
    assert float(loss) == float(again)
    assert_same_bits(gradient.get(), dy.get())


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------


class Setting:
    """A stack, a table, a map and what goes in, on one device; `wrong` is the same of the other."""

    def __init__(self, right, wrong, device):
        self.right, self.wrong = right, wrong
        self.layer = make_layer(right, device=device)
        self.table = lstmc.Embedding(6, 3, rng=1, device=device)
        self.map = lstmc.Linear(7, 9, rng=1, device=device)

    def trace(self, layer, name):
        return layer.forward(self.right[name])[2]


# What the argument is called, and a call where it alone is of the wrong kind.
MIXED = {
    "x": lambda s: s.layer.forward(s.wrong["x"]),
    "x of __call__": lambda s: s.layer(s.wrong["x"]),
    "state": lambda s: s.layer.forward(s.right["x"], first_state(s.wrong)),
    "dy": lambda s: s.layer.backward(s.wrong["dy"], s.trace(s.layer, "x")),
    "dstate": lambda s: s.layer.backward(
        s.right["dy"], s.trace(s.layer, "x"), arriving_state(s.wrong)
    ),
    "x of a stepper": lambda s: s.layer.stepper(3)(s.wrong["x"][0]),
    "out of a stepper": lambda s: s.layer.stepper(3)(s.right["x"][0], out=s.wrong["dy"][0]),
    "state of a stepper": lambda s: setattr(s.layer.stepper(3), "state", first_state(s.wrong)),
    "tokens": lambda s: s.table.forward(s.wrong["tokens"]),
    "tokens of a stepper": lambda s: s.table.stepper(3)(s.wrong["tokens"]),
    "x of linear": lambda s: s.map.forward(s.wrong["x"]),
    "dy of linear": lambda s: s.map.backward(s.wrong["dy"], s.trace(s.map, "x")),
    "dy of embedding": lambda s: s.table.backward(s.wrong["rows"], s.trace(s.table, "tokens")),
    "targets": lambda s: lstmc.softmax_cross_entropy(s.right["rows"], s.wrong["tokens"]),
    "logits": lambda s: lstmc.softmax_cross_entropy(s.wrong["rows"], s.right["tokens"]),
    "out of a loss": lambda s: lstmc.softmax_cross_entropy(
        s.right["rows"], s.right["tokens"], out=s.wrong["rows"]
    ),
    "target": lambda s: lstmc.squared_error(s.right["x"], s.wrong["x"]),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("what", MIXED)
def test_arrays_of_host_and_device_do_not_mix(cupy, device, what):
    """No copy is made unasked: the argument is named."""
    problem = as_type(random_problem("lstm", *CASE), np.float32)
    problem["tokens"] = np.array([2, 0, 1])
    problem["rows"] = np.ones((3, 3), np.float32)
    both = problem, to_device(cupy, problem)
    setting = Setting(*(both if device == "cpu" else both[::-1]), device)
    # A loss has no device of its own: it goes by the logits, and either may be the one that is named.
    name = "(logits|targets)" if what == "logits" else what.split()[0]
    reason = "NumPy" if device == "cuda" and what != "logits" else ""
    # On the CPU, whatever is no good for out is a ValueError.
    errors = ValueError if (device, what) == ("cpu", "out of a stepper") else TypeError
    with pytest.raises(errors, match=rf"^{name}\b.*{reason}"):
        MIXED[what](setting)
    for layer in (setting.layer, setting.map, setting.table):
        assert not layer.grads.any()


def usable(errors):
    """Return the errors but those of a type that CuPy has not."""
    return {name: error for name, error in errors.items() if name != "object"}


@pytest.mark.parametrize(
    ("change", "error", "message"), usable(X_ERRORS).values(), ids=usable(X_ERRORS)
)
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_x_that_is_refused(cupy, cell, change, error, message):
    data = to_device(cupy, as_type(random_problem(cell, *CASE), np.float32))
    message = message.replace(", got", ".*, got")  # it may say where the array is to be
    with pytest.raises(error, match=message):
        make_layer(data, device="cuda").forward(change(data["x"]))


@pytest.mark.parametrize(("change", "error", "message"), STATE_ERRORS.values(), ids=STATE_ERRORS)
def test_states_that_are_refused(cupy, change, error, message):
    data = to_device(cupy, as_type(random_problem("lstm", *CASE), np.float32))
    layer, wrong = make_layer(data, device="cuda"), change(data["h0"], data["c0"])
    with pytest.raises(error, match="state.*" + message):
        layer.forward(data["x"], wrong)
    _, _, trace = layer.forward(data["x"])
    with pytest.raises(error, match="dstate.*" + message):
        layer.backward(data["dy"], trace, wrong)
    with pytest.raises(error, match="state.*" + message):
        layer.stepper(batch=3).state = wrong
    assert not layer.grads.any()


@pytest.mark.parametrize(("change", "error", "message"), DY_ERRORS.values(), ids=DY_ERRORS)
def test_dy_that_is_refused(cupy, change, error, message):
    """The trace stays good, and the gradients as they were."""
    data = to_device(cupy, as_type(random_problem("lstm", *CASE), np.float32))
    layer = make_layer(data, device="cuda")
    _, _, trace = layer.forward(data["x"])
    with pytest.raises(error, match=message):
        layer.backward(change(data["dy"]), trace, consume=True)
    assert not layer.grads.any()
    layer.backward(data["dy"], trace, consume=True)
    assert layer.grads.any()
    with pytest.raises(ValueError, match="trace was consumed"):
        layer.backward(data["dy"], trace)


@pytest.mark.parametrize("tokens", [[[0, 1], [2, 6]], [0, -1], [2**40], 7], ids=str)
def test_tokens_out_of_range(cupy, tokens):
    """The first is named with its position, as on the CPU."""
    tokens = np.array(tokens, np.int64)
    with pytest.raises(ValueError, match=r"tokens\[.*\] must be in \[0, 6\), got") as expected:
        lstmc.Embedding(6, 3)(tokens)
    layer = lstmc.Embedding(6, 3, device="cuda")
    with pytest.raises(ValueError) as raised:
        layer(cupy.asarray(tokens))
    assert str(raised.value) == str(expected.value)
    assert layer(cupy.asarray([[5, 0]]))[0].shape == (1, 2, 3)  # one error does not spoil the next


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("kind", ["weight_ih", "weight_hh", "bias"])
def test_backward_after_the_weights_changed(cupy, dtype, kind, place):
    """The smallest change of the first or the last number is seen; undone, the trace is good."""
    data = to_device(cupy, as_type(random_problem("lstm", 3, 2, 5, 9, 2), dtype))
    layer = make_layer(data, device="cuda")
    _, _, trace = layer.forward(data["x"])
    layer.grads[...] = 1
    weight = layer[f"{kind}_l1"].reshape(-1)
    before = weight.get()
    weight[place] = np.nextafter(before[place], dtype.type(99))
    with pytest.raises(ValueError, match=r"weights have changed since forward\(\)"):
        layer.backward(data["dy"], trace)
    assert (layer.grads == 1).all()
    weight.set(before)
    layer.backward(data["dy"], trace)
    assert (layer.grads != 1).any()


def test_a_trace_of_before_a_move_is_refused(cupy):
    data = to_device(cupy, as_type(random_problem("lstm", *CASE), np.float32))
    layer = make_layer(data, device="cuda")
    _, _, trace = layer.forward(data["x"])
    layer.to("cpu")
    with pytest.raises((TypeError, ValueError), match=r"trace|weights have changed"):
        layer.backward(data["dy"].get(), trace)
    assert not layer.grads.any()


FOREIGN = {
    "x": lambda layer, a, far: layer.forward(far["x"]),
    "state": lambda layer, a, far: layer.forward(a["x"], first_state(far)),
    "dy": lambda layer, a, far: layer.backward(far["dy"], layer.forward(a["x"])[2]),
    "stepper": lambda layer, a, far: layer.stepper(3)(far["x"][0]),
    "targets": lambda layer, a, far: lstmc.squared_error(a["x"], far["x"]),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_an_array_of_another_device(emulated, what):
    problem = as_type(random_problem("lstm", *CASE), np.float32)
    data, far = (to_device(emulated, problem) for _ in range(2))
    for array in far.values():
        if isinstance(array, emulated.ndarray):
            emulator.pretend_device(array, 1)
    layer = make_layer(data, device="cuda")
    with pytest.raises((TypeError, ValueError), match=r"device.*\b0\b.*\b1\b"):
        FOREIGN[what](layer, data, far)
    assert not layer.grads.any()


# --------------------------------------------------------------------------------------------------
# Time
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda x: x, *FORMS.values()], ids=["as it is", *FORMS])
@pytest.mark.parametrize("unbatched", [False, True])
def test_a_network_with_rows_first(cupy, dtype, form, unbatched):
    """Arrays of other libraries are turned too."""

    def make(turned, device):
        return lstmc.Sequential(
            lstmc.LSTM(4, 5, dtype=dtype, rng=1, device=device),
            lstmc.Linear(5, 3, dtype=dtype, rng=2, device=device),
            batch_first=turned,
        )

    rng = np.random.default_rng(seed_of("rows first"))
    x, dy = (rng.standard_normal((2, 6, n)).astype(dtype) for n in (4, 3))
    x, dy = (x[0], dy[0]) if unbatched else (x, dy)
    net, twin = make(True, "cuda"), make(True, "cpu")
    y, _, trace = net.forward(form(cupy.asarray(x)))
    dx, _ = net.backward(form(cupy.asarray(dy)), trace)
    expected, _, twin_trace = twin.forward(x)
    expected_dx, _ = twin.backward(dy, twin_trace)
    assert_close(to_host(cupy, y), expected, TOLERANCE[dtype], "y")
    assert_close(to_host(cupy, dx), expected_dx, TOLERANCE[dtype], "dx")
    assert_close(to_host(cupy, net.grads), twin.grads, TOLERANCE[dtype], "the gradients")


@pytest.mark.parametrize("option", [{"lengths": [1, 4]}, {"resets": np.ones((4, 2), bool)}])
def test_lengths_and_resets_are_refused(cupy, option):
    net = lstmc.Sequential(lstmc.Dropout(), lstmc.Linear(3, 3, rng=1, device="cuda"))
    (name,) = option
    with pytest.raises(
        ValueError, match=f"{name} must be None on a GPU, which does not have them yet"
    ):
        net(cupy.ones((4, 2, 3), np.float32), **option)


@pytest.mark.parametrize(
    ("name", "make"), [("Last", lstmc.Last), ("Activation", lambda: lstmc.Activation("tanh"))]
)
def test_layers_that_are_refused(cupy, name, make):
    """Where they are made, moved and called; nothing has moved then."""
    message = f"a GPU does not have the layer {name} yet"
    lstm, last = lstmc.LSTM(3, 4, device="cuda"), make()
    with pytest.raises(ValueError, match=message):
        lstmc.Sequential(lstm, last)
    assert not lstm.in_network
    assert not last.in_network
    net = lstmc.Sequential(lstmc.LSTM(3, 4), lstmc.Sequential(lstmc.RNN(4, 2), last))
    with pytest.raises(ValueError, match=f"^1.1.{name}: {message}"):
        net.to("cuda")
    assert net.device == "cpu"
    net(np.ones((4, 2, 3), np.float32))
    with pytest.raises(ValueError, match=message):
        last(cupy.ones((4, 2, 3), np.float32))


def test_lengths_and_resets_are_refused_by_name(cupy):
    layer = lstmc.LSTM(7, 9, device="cuda", rng=1)
    x, before = cupy.ones((5, 3, 7), np.float32), layer.params.get()
    for name, value in (("lengths", [5, 2, 0]), ("resets", np.zeros((5, 3), bool))):
        for call in (layer, layer.forward):
            with pytest.raises(ValueError, match=f"{name} must be None on a GPU"):
                call(x, **{name: value})
    assert_same_bits(layer.params.get(), before)
    layer(x)


def test_both_directions_are_refused_by_name(cupy):
    with pytest.raises(ValueError, match="bidirectional must be False on a GPU"):
        lstmc.LSTM(7, 9, bidirectional=True, device="cuda")
    layer, x = lstmc.LSTM(7, 9, bidirectional=True, rng=1), np.ones((5, 3, 7), np.float32)
    for wrap in (lambda one: one, lambda one: lstmc.Sequential(lstmc.LSTM(7, 7, rng=1), one)):
        net = wrap(layer)
        expected = net(x)[0]
        with pytest.raises(ValueError, match="bidirectional must be False on a GPU"):
            net.to("cuda")
        assert net.device == layer.device == "cpu"
        assert_same_bits(net(x)[0], expected)
