"""Tests of what RNN and LSTM refuse: each error names the argument, what was expected and what came."""

import numpy as np
import pytest
from recurrent_inputs import DY_ERRORS, STATE_ERRORS, X_ERRORS, float32_problem
from stacks import arriving_state, first_state, make_layer, solution
from support import assert_same_bits

import lstmc


@pytest.mark.parametrize(("change", "error", "message"), X_ERRORS.values(), ids=X_ERRORS)
def test_x_that_is_refused(cell, change, error, message):
    problem = float32_problem(cell)
    with pytest.raises(error, match=message):
        make_layer(problem).forward(change(problem["x"]))


def test_the_shape_in_a_message_is_the_shape_that_was_given():
    layer = lstmc.LSTM(7, 9, batch_first=True)
    with pytest.raises(ValueError, match=r"x must be \(B, T, 7\), got \(3, 5, 6\)"):
        layer(np.zeros((3, 5, 6), np.float32))


@pytest.mark.parametrize(("change", "error", "message"), STATE_ERRORS.values(), ids=STATE_ERRORS)
def test_states_that_are_refused(change, error, message):
    problem = float32_problem()
    layer, wrong = make_layer(problem), change(problem["h0"], problem["c0"])
    with pytest.raises(error, match="state.*" + message):
        layer.forward(problem["x"], wrong)
    _, _, trace = layer.forward(problem["x"])
    layer.grads[...] = 1
    with pytest.raises(error, match="dstate.*" + message):
        layer.backward(problem["dy"], trace, wrong)
    with pytest.raises(error, match="state.*" + message):
        layer.stepper(batch=3).state = wrong
    assert (layer.grads == 1).all()


def test_the_state_of_an_rnn_is_no_tuple():
    problem = float32_problem("rnn_tanh")
    with pytest.raises(TypeError, match=r"state must be a float32 array \(2, 3, 9\), got tuple"):
        make_layer(problem).forward(problem["x"], (problem["h0"],))


@pytest.mark.parametrize(("change", "error", "message"), DY_ERRORS.values(), ids=DY_ERRORS)
def test_dy_that_is_refused(cell, change, error, message):
    """A refused backward leaves the gradients and the trace as they were."""
    problem = float32_problem(cell)
    layer = make_layer(problem)
    _, _, trace = layer.forward(problem["x"], first_state(problem))
    layer.grads[...] = 1
    with pytest.raises(error, match=message):
        layer.backward(change(problem["dy"]), trace, consume=True)
    assert (layer.grads == 1).all()
    dx, _ = layer.backward(problem["dy"], trace, arriving_state(problem))
    assert_same_bits(dx, solution(problem)["dx"])


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2", 2**40])
def test_numbers_of_threads_that_are_refused(threads):
    problem = float32_problem()
    layer = make_layer(problem)
    message = f"num_threads must be an integer from 1 to 4096, got {threads!r}"
    with pytest.raises(ValueError, match=message):
        layer.forward(problem["x"], num_threads=threads)
    _, _, trace = layer.forward(problem["x"])
    with pytest.raises(ValueError, match=message):
        layer.backward(problem["dy"], trace, num_threads=threads)
    assert not layer.grads.any()
    with pytest.raises(ValueError, match=message):
        layer.stepper(num_threads=threads)


@pytest.mark.parametrize("make", [lstmc.LSTM, lstmc.RNN])
@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-3, ValueError), (float("nan"), TypeError), (2.0, TypeError), (True, TypeError),
     ("4", TypeError), (None, TypeError)],
)  # fmt: skip
def test_sizes_that_are_refused(make, name, value, error):
    sizes = {"input_size": 3, "hidden_size": 4, "num_layers": 1, name: value}
    with pytest.raises(error, match=f"{name} must be a positive integer, got {value!r}"):
        make(**sizes)


@pytest.mark.parametrize(
    "sizes", [(2**40, 2**40), (1, 2**40), (2**62, 3), (2**31, 2**31), (1, 2**28)]
)
@pytest.mark.parametrize("make", [lstmc.LSTM, lstmc.RNN])
def test_sizes_beyond_all_memory(make, sizes):
    with pytest.raises((MemoryError, ValueError)):
        make(*sizes)


@pytest.mark.parametrize("dtype", [np.float16, int, complex, object, "nonsense", None])
def test_types_that_are_refused(dtype):
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got"):
        lstmc.LSTM(3, 4, dtype=dtype)


def test_an_unknown_nonlinearity_is_refused():
    with pytest.raises(ValueError, match="one of tanh, relu, identity, got 'sigmoid'"):
        lstmc.RNN(3, 4, nonlinearity="sigmoid")


def test_where_the_reset_gate_is_is_an_option_with_a_default():
    before = lstmc.GRU(3, 4, reset_after=False)
    assert before.description["options"] == {
        "input_size": 3,
        "hidden_size": 4,
        "reset_after": False,
    }
    assert not before.reset_after
    assert before.parameters()["bias_l0"] == (12,)
    assert lstmc.GRU(3, 4).description == lstmc.GRU(3, 4, reset_after=True).description
    assert lstmc.GRU(3, 4).description != before.description
    with pytest.raises(AttributeError):
        before.reset_after = True


def test_an_unknown_parameter_is_refused():
    layer = lstmc.LSTM(3, 4, bias=False)
    with pytest.raises(KeyError, match="no parameter 'bias_l0': there are weight_ih_l0"):
        layer["bias_l0"]
    with pytest.raises(KeyError, match="no parameter"):
        layer.grad("weight_ih_l1")
