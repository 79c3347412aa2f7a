"""The classic long-term problems: their batches, networks of equal size, learning, and who learns."""

import math
from itertools import product

import numpy as np
import pytest
from support import NAMES, assert_close, assert_same_bits, generator, numerical_gradient

from lstmc.inspection.problems import Problem, adding, copying, temporal_order

# -- batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 3, 10, 31])
def test_adding(steps):
    x, targets = adding(generator(), steps, 300)
    assert x.shape == (steps, 300, 2)
    assert targets.shape == (300,)
    assert x.dtype == targets.dtype == np.float32
    firsts, seconds = set(), set()
    for row in range(300):
        marked = [t for t in range(steps) if x[t, row, 1] != 0]
        assert [x[t, row, 1] for t in marked] == [1, 1]
        assert marked[0] < steps // 2 <= marked[1]
        assert targets[row] == x[marked[0], row, 0] + x[marked[1], row, 0]
        firsts.add(marked[0])
        seconds.add(marked[1])
    assert firsts == set(range(steps // 2))  # every place comes up
    assert seconds == set(range(steps // 2, steps))
    assert 0 <= x[:, :, 0].min() < x[:, :, 0].max() < 1


def test_adding_needs_both_numbers():
    _, targets = adding(generator(1), 20, 50_000)
    assert np.mean((targets - 1.0) ** 2) == pytest.approx(1 / 6, rel=0.02)


@pytest.mark.parametrize("steps", [10, 37, 100])
def test_temporal_order(steps):
    x, targets = temporal_order(generator(), steps, 400)
    assert x.shape == (steps, 400, 8)
    assert x.dtype == np.float32
    assert targets.shape == (steps, 400)
    assert (targets[:-1] == -1).all()
    assert (np.sort(x, axis=2) == [0] * 7 + [1]).all()  # one-hot
    classes = {"XX": 0, "XY": 1, "YX": 2, "YY": 3}
    firsts, seconds, seen = set(), set(), set()
    for row in range(400):
        text = "".join("abcdXYEB"[k] for k in x[:, row].argmax(1))
        assert text[0] == "E"
        assert text[-1] == "B"
        places = [t for t, symbol in enumerate(text) if symbol in "XY"]
        assert len(places) == 2
        assert not set(text[1:-1]) - set("abcdXY")
        word = text[places[0]] + text[places[1]]
        assert targets[-1, row] == classes[word]
        firsts.add(places[0])
        seconds.add(places[1])
        seen.add(word)
    assert firsts == set(range(steps // 10, steps // 5 + 1))
    assert seconds == set(range(steps // 2, steps * 3 // 5 + 1))
    assert seen == set(classes)


@pytest.mark.parametrize(("delay", "symbols", "alphabet"), [(1, 1, 2), (5, 3, 4), (50, 10, 8)])
def test_copying(delay, symbols, alphabet):
    x, targets = copying(generator(), delay, 90, symbols, alphabet)
    steps = delay + 2 * symbols
    assert x.shape == (steps, 90, alphabet + 2)
    assert x.dtype == np.float32
    assert targets.shape == (steps, 90)
    words = set()
    for row in range(90):
        seen = list(x[:, row].argmax(1))
        word, rest = seen[:symbols], seen[symbols:]
        blanks = [alphabet] * (delay - 1) + [alphabet + 1] + [alphabet] * symbols
        assert rest == blanks
        assert max(word) < alphabet
        assert list(targets[:, row]) == [-1] * (symbols + delay) + word
        words.update(word)
    assert words == set(range(alphabet))
    assert (x.sum(2) == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_what_its_generator_makes(name):
    problem = Problem(name, 20, symbols=3, alphabet=4)
    make = {
        "adding": lambda rng: adding(rng, 20, 7),
        "temporal_order": lambda rng: temporal_order(rng, 20, 7),
        "copying": lambda rng: copying(rng, 20, 7, 3, 4),
    }[name]
    rng, other = generator(4), generator(4)
    first = problem.batch(rng, 7)
    assert_same_bits(first, make(other))
    assert first[0].shape == (problem.length, 7, problem.inputs)
    second = problem.batch(rng, 7)
    assert not np.array_equal(first[0], second[0])  # fresh
    assert_same_bits(second, make(other))


# -- losses and criteria ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_loss(name):
    problem = Problem(name, 10, symbols=2)
    _, targets = problem.batch(generator(), 3)
    y = generator(1).standard_normal((problem.length, 3, problem.outputs))
    loss, dy = problem.loss(y, targets)
    assert loss > 0
    expected = numerical_gradient(lambda values: problem.loss(values, targets)[0], y)
    assert_close(dy, expected, 1e-7)
    counted = 2 if name == "copying" else 1
    assert np.flatnonzero(np.abs(dy).sum((1, 2))).tolist() == [
        problem.length - counted + i for i in range(counted)
    ]


def test_the_score_of_adding():
    problem = Problem("adding", 12)
    _, targets = problem.batch(generator(), 40)
    y = generator(1).standard_normal((12, 40, 1)).astype(np.float32)
    naive = sum((float(y[-1, row, 0]) - float(targets[row])) ** 2 for row in range(40)) / 40
    assert problem.score(y, targets) == pytest.approx(naive, rel=1e-6)
    y[-1, :, 0] = targets
    assert problem.score(y, targets) == 0
    assert [problem.solved(s) for s in (0.0, 0.00999, 0.01, 0.5, math.nan)] == [
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["temporal_order", "copying"])
def test_the_score_of_classes(name):
    problem = Problem(name, 12, symbols=4)
    _, targets = problem.batch(generator(), 40)
    y = generator(1).standard_normal((problem.length, 40, problem.outputs)).astype(np.float32)
    right = counted = 0
    for t, row in product(range(problem.length), range(40)):
        if targets[t, row] != -1:
            counted += 1
            right += max(range(problem.outputs), key=lambda k: y[t, row, k]) == targets[t, row]
    assert counted == (160 if name == "copying" else 40)
    assert problem.score(y, targets) == pytest.approx(right / counted)
    y[...] = np.eye(problem.outputs, dtype=np.float32)[targets]
    assert problem.score(y, targets) == 1
    assert [problem.solved(s) for s in (1.0, 0.99, 0.9899, math.nan)] == [True, True, False, False]
