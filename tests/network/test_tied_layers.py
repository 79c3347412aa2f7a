"""Tests of tied layers: how their numbers are written, and whose turn it is to add to their gradients."""

import copy
import pickle
import threading

import numpy as np
import pytest

import lstmc


@pytest.mark.parametrize(
    "number", ["00", "01", "\u0660", "-1", "+1", " 0", "0 ", "", "1" * 5000, 0]
)
def test_numbers_of_tied_layers_that_are_refused(number):
    with pytest.raises(TypeError, match="tied_to must be the number of a layer"):
        lstmc.Linear(4, 7, tied_to=number)


def test_a_number_of_no_layer():
    with pytest.raises(ValueError, match=r"layers\[1\] \(Linear\) is tied to layers\[10\]"):
        lstmc.Sequential(lstmc.Embedding(7, 4), lstmc.Linear(4, 7, tied_to="10"))


@pytest.mark.parametrize(
    "make", [lambda net: net, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_one_of_two_tied_layers_at_a_time_adds_to_their_gradient(make):
    """Called by themselves, not by the network, which lets one thread at a time go back through all."""
    net = lstmc.Sequential(lstmc.Embedding(7, 4, rng=1), lstmc.Linear(4, 7, tied_to="0", rng=2))
    net = make(net)
    embedding, linear = net.layers
    y, _, trace = linear.forward(np.ones((3, 4), np.float32))
    thread = threading.Thread(target=linear.backward, args=(y, trace), daemon=True)
    with embedding.turns.lock:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not net.grads.any()
    thread.join(60)
    assert not thread.is_alive()
    assert net.grad("0.weight").any()
