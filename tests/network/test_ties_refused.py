"""Tests of the numbers that name tied layers: there is one way of writing each."""

import pytest

import lstmc


@pytest.mark.parametrize("number", ["00", "01", "\u0660", "-1", "+1", " 0", "0 ", "", "1" * 5000, 0])
def test_numbers_of_tied_layers_that_are_refused(number):
    with pytest.raises(TypeError, match="tied_to must be the number of a layer"):
        lstmc.Linear(4, 7, tied_to=number)


def test_a_number_of_no_layer():
    with pytest.raises(ValueError, match=r"layers\[1\] \(Linear\) is tied to layers\[10\]"):
        lstmc.Sequential(lstmc.Embedding(7, 4), lstmc.Linear(4, 7, tied_to="10"))
