"""Tests of who wrote to a cell: the judges are loops over the gates of a trace, and the model itself."""

import math

import numpy as np
import pytest
from support import assert_same_bits

import lstmc

TOLERANCE = 1e-12  # of products of some tens of numbers, in float64 on both sides
FEATURES, HIDDEN = 2, 5
TEXT = "abacabadabacafegabba"


def make_model(cell="lstm", layers=2, level="char", dtype=np.float32, dropout=0.0):
    tokens = list("abcdefg") if level == "char" else ["<unk>", "a", "cat", "sat", " ", "."]
    vocabulary = lstmc.Vocabulary(tokens, level)
    model = lstmc.LanguageModel(vocabulary, cell, layers, HIDDEN, FEATURES, dropout, dtype, rng=2)
    model.net.params[...] *= 3
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("layer", [None, 0, 1])
def test_contributions_add_up_to_the_cell(dtype, layer, dropout):
    """Of all tokens, to the c that the model's own stepping ends with."""
    model = make_model(dtype=dtype, dropout=dropout)
    for token in TEXT:
        model.step(token)
    cells = np.concatenate([state[1][:, 0] for state in model.state if state is not None])
    assert cells.shape == (2, HIDDEN)
    # c is of the network's type: rounded once a step.
    tolerance = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}[dtype]
    for unit in range(HIDDEN):
        actual = lstmc.writers(model, TEXT, unit, layer, k=100)
        assert sorted(write.position for write in actual) == list(range(len(TEXT)))
        total = math.fsum(write.contribution for write in actual)
        assert abs(total - cells[1 if layer is None else layer, unit]) <= tolerance * 3


@pytest.mark.parametrize("k", [1, 4])
def test_the_largest_contributions_come_first(k):
    """With what was written and what is left of it, by a loop over the steps after."""
    model = make_model(layers=1, dtype=np.float64)
    ids = model.vocabulary.encode(TEXT)
    embedding, lstm, _ = model.net.layers
    _, _, trace = lstm.forward(embedding(ids)[0])
    gates = trace.layers[0].gates
    everything = []
    for t, token in enumerate(TEXT):
        written, share = gates["i"][t, 3] * gates["g"][t, 3], 1.0
        for later in range(t + 1, len(TEXT)):
            share *= gates["f"][later, 3]
        everything.append((t, token, written, share))
    everything.sort(key=lambda write: -abs(write[2] * write[3]))
    actual = lstmc.writers(model, TEXT, 3, k=k)
    assert len(actual) == k
    for write, (t, token, written, share) in zip(actual, everything, strict=False):
        assert (write.position, write.token) == (t, token)
        assert abs(write.written - written) <= TOLERANCE
        assert abs(write.kept - share) <= TOLERANCE
        assert abs(write.contribution - written * share) <= TOLERANCE
        assert type(write.position) is int


def test_writers_by_default_and_by_word():
    assert len(lstmc.writers(make_model(), TEXT, 0)) == 5
    actual = lstmc.writers(make_model(level="word"), "a cat sat .", 0, k=20)
    assert {write.token for write in actual} <= {"a", "cat", "sat", ".", "<unk>", " "}
    positions = {write.token: write.position for write in actual}
    assert positions["a"] < positions["cat"] < positions["sat"] < positions["."]


def test_writers_of_token_ids():
    """An array of ids is the text that it decodes to."""
    model = make_model()
    ids = np.asarray(model.vocabulary.encode(TEXT))
    assert lstmc.writers(model, ids, 2) == lstmc.writers(model, TEXT, 2)


def test_the_models_own_memory_is_left_alone():
    model = make_model()
    model.step("a")
    before = [part.copy() for state in model.state if state for part in state]
    lstmc.writers(model, TEXT, 0)
    assert_same_bits([part for state in model.state if state for part in state], before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unit": HIDDEN}, ValueError, r"unit must be an integer in \[0, 5\), got 5"),
        ({"unit": -1}, ValueError, "unit must be an integer .* got -1"),
        ({"unit": True}, ValueError, "unit must be an integer .* got True"),
        ({"unit": 1.0}, ValueError, "unit must be an integer .* got 1.0"),
        ({"layer": 2}, ValueError, r"layer must be an integer in \[0, 2\), got 2"),
        ({"layer": -1}, ValueError, "layer must be an integer .* got -1"),
        ({"text": ""}, ValueError, "text must have at least 1 token, got 0"),
        ({"text": 5}, TypeError, "text must be a str"),
        ({"text": "axb"}, ValueError, "character 'x' at position 1 was not in the training text"),
        ({"text": np.array([0, 7])}, ValueError, r"text\[1\] must be in \[0, 7\), got 7"),
        ({"text": np.array([[0, 1]])}, ValueError, "text must be"),
        ({"text": np.array([0.0])}, TypeError, "text must be an int64 or int32 array"),
        ({"text": np.zeros(0, np.int64)}, ValueError, "text must have at least 1 token, got 0"),
        ({"k": 0}, ValueError, "k must be a positive integer, got 0"),
        ({"k": 1.5}, TypeError, "k must be a positive integer"),
        ({"model": make_model("rnn")}, ValueError, "model must have a cell state to write to"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_errors_of_writers(options, error, message):
    with pytest.raises(error, match=message):
        lstmc.writers(**{"model": make_model(), "text": TEXT, "unit": 0, **options})
