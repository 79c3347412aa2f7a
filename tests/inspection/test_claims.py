"""What the two programs about gradients and memory claim, against NumPy alone."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from support import assert_close

import lstmc

EXAMPLES = Path(__file__).parents[2] / "examples"
EPS = np.finfo(np.float64).eps


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="example")


@pytest.fixture(scope="module")
def vanish():
    return load("vanish_and_explode")


@pytest.fixture(scope="module")
def conveyor():
    return load("conveyor_belt")


@pytest.fixture(scope="module")
def kept(conveyor):
    return conveyor["main"](None)  # its full size: 10,000 steps


# -- vanishing and exploding --------------------------------------------------------------------------


def problem(recurrent, steps=30):
    rng = np.random.default_rng(7)
    size = len(recurrent)
    inward, x, g = (rng.standard_normal(s) for s in ((size, 3), (steps, 3), size))
    return recurrent, 0.3 * inward, x, g / np.linalg.norm(g)


def by_hand(nonlinearity, recurrent, inward, x, g):
    """Norms of g (D_T R) (D_T-1 R) ..., and every D, by a loop in NumPy."""
    h, slopes = np.zeros(len(g)), []
    for x_t in x:
        h = inward @ x_t + recurrent @ h
        if nonlinearity == "tanh":
            h = np.tanh(h)
        slopes.append(1 - h**2 if nonlinearity == "tanh" else np.ones_like(h))
    product, norms = np.eye(len(g)), [np.linalg.norm(g)]
    for slope in slopes[::-1]:
        product = product @ np.diag(slope) @ recurrent
        norms.append(np.linalg.norm(g @ product))
    return np.array(norms), np.array(slopes)


@pytest.mark.parametrize("nonlinearity", ["identity", "tanh"])
@pytest.mark.parametrize("radius", [0.5, 0.9, 1.0, 1.1, 1.5])
def test_gradients_over_time_are_the_product_of_the_steps(vanish, nonlinearity, radius):
    weights = radius * vanish["random_weights"](12, np.random.default_rng(3))
    assert np.abs(np.linalg.eigvals(weights)).max() == pytest.approx(radius)
    norms, factor, slope = vanish["follow"](nonlinearity, *problem(weights))
    expected, slopes = by_hand(nonlinearity, *problem(weights))
    np.testing.assert_allclose(norms, expected, rtol=1e-6)
    assert slope == pytest.approx(np.median(np.median(slopes, axis=1)))
    k = np.arange(1, len(expected))
    assert np.log(factor) == pytest.approx(np.polyfit(k, np.log(expected[1:]), 1)[0])


@pytest.mark.parametrize("radius", [0.9, 1.0, 1.1])
def test_orthogonal_weights_keep_the_norm_and_tanh_only_takes(vanish, radius):
    square = np.random.default_rng(3).standard_normal((12, 12))
    case = problem(radius * np.linalg.qr(square)[0])
    linear, factor, _ = vanish["follow"]("identity", *case)
    np.testing.assert_allclose(linear, radius ** np.arange(31.0), rtol=1e-6)
    assert factor == pytest.approx(radius)
    tanh, _, _ = vanish["follow"]("tanh", *case)
    assert np.all(tanh[1:] < linear[1:])


def test_weights_that_are_not_normal_first_grow_what_they_shrink_in_the_end(vanish):
    # a radius of 0.5, but a spectral norm of 4: the bound of a step is the norm, not the radius
    weights = np.array([[0.5, 4.0], [0.0, 0.5]])
    for nonlinearity in ("identity", "tanh"):
        norms, _, _ = vanish["follow"](nonlinearity, *problem(weights))
        assert np.all(norms[1:] <= np.linalg.norm(weights, 2) * norms[:-1])
        assert norms[-1] < 1e-4
        assert norms.max() > 1.5


def test_the_lines_of_the_program(vanish, capsys):
    lines = vanish["main"](None, steps=30, hidden=16)
    assert [line.radius for line in lines] == [0.5, 0.9, 1.0, 1.1, 1.5]
    unit = lines[2]
    for line in lines:
        assert np.max(np.abs(line.linear / line.theory - 1)) < 1e-6
        np.testing.assert_allclose(
            line.linear, unit.linear * line.radius ** np.arange(31), rtol=1e-9
        )
        assert line.tanh[-1] < line.linear[-1]
        assert line.whole < line.weights
        assert 0 < line.slope < 1
    # in the long run it is the radius that decides, and tanh holds what explodes
    assert lines[0].linear[-1] < 1e-6
    assert lines[-1].linear[-1] > 1e3
    assert lines[-1].tanh[-1] < 10
    medians = [line.slope for line in lines]
    assert medians == sorted(medians, reverse=True)  # larger weights, larger states
    printed = capsys.readouterr().out.splitlines()
    assert float(printed[-1].split()[-1]) < 1e-6
    assert len(printed) == 3 + len(lines) + 1


# -- the conveyor belt --------------------------------------------------------------------------------


@pytest.mark.parametrize("by_steps", [False, True], ids=["sequence", "steps"])
def test_the_belt_keeps_its_cell_to_the_last_bit(conveyor, dtype, by_steps):
    rng = np.random.default_rng(5)
    belt = conveyor["shut_in"](9, dtype)
    x = rng.standard_normal((10_000, belt.input_size)).astype(dtype)
    h, c = (rng.standard_normal((1, 9)).astype(dtype) for _ in range(2))
    if by_steps:
        stepper = belt.stepper()
        stepper.state = h[:, None], c[:, None]
        y = np.array([stepper(x_t) for x_t in x])
        assert stepper.state[1].tobytes() == c.tobytes()
    else:
        y, state, trace = belt.forward(x, (h, c))
        assert state[1].tobytes() == c.tobytes()
        assert trace.layers[0].c.tobytes() == c.tobytes() * len(x)
        assert np.all(trace.layers[0].gates["i"] == 0)
        assert np.all(trace.layers[0].gates["f"] == 1)
    assert np.ptp(y[:, 0]) > 0.01  # it is not the whole network that stands still


def test_what_the_program_says_of_the_belt(kept):
    both = {"float32": True, "float64": True}
    assert (kept.saturated, kept.same_bits, kept.identity) == (both, both, both)
    assert kept.product_error < 1e-12
    assert kept.crossed == 0


def test_a_cell_by_itself_forgets_by_the_product_of_its_gates(conveyor):
    lstm, steps = conveyor["by_itself"](6), 120
    rng = np.random.default_rng(6)
    x, c = rng.standard_normal((steps, lstm.input_size)), rng.standard_normal((1, 6))
    rows = slice(6, 12)
    gates = 1 / (1 + np.exp(-(x @ lstm["weight_ih_l0"][rows].T + lstm["bias_l0"][rows])))
    product = gates.prod(0)
    assert np.all((product > 0.1) & (product < 0.9))  # not so near 0 or 1 that anything passes
    jacobian = lstmc.state_jacobian(lstm, x, state=(np.zeros_like(c), c))[6:, 6:]
    np.testing.assert_allclose(jacobian.diagonal(), product, rtol=1e-12)
    assert np.count_nonzero(jacobian) == 6
    left = conveyor["what_is_left"](lstm, x, c)
    expected = np.linalg.norm(np.cumprod(gates, axis=0) * c, axis=1) / np.linalg.norm(c)
    assert_close(left, np.append(1, expected), 1e-12)


def test_an_rnn_has_lost_its_state(conveyor, kept):
    belt, nearly, orthogonal, made = kept.left
    assert np.all(kept.left[belt] == 1)
    assert kept.lost[belt] is None
    assert kept.lost[made] < kept.lost[orthogonal] < 1000 < kept.lost[nearly] < 10_000
    for name in (orthogonal, made):
        after = kept.lost[name]
        assert kept.left[name][after] < EPS <= kept.left[name][after - 1]
        assert kept.left[name][-1] < EPS
    rnn = conveyor["orthogonal"](16)
    weights = rnn["weight_hh_l0"]
    np.testing.assert_allclose(weights @ weights.T, np.eye(16), atol=1e-14)


# -- pictures -----------------------------------------------------------------------------------------


def run_small(program, path):
    return program["main"](path, steps=40, hidden=5)


@pytest.mark.parametrize("name", ["vanish_and_explode", "conveyor_belt"])
def test_the_picture_is_a_png_wide_enough_to_read(name, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run_small(load(name), tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[12:16] == b"IHDR"
    assert int.from_bytes(data[16:20], "big") >= 600
    assert "no picture" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["vanish_and_explode", "conveyor_belt"])
def test_without_matplotlib_the_numbers_are_printed(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run_small(load(name), tmp_path / "a.png")
    printed = capsys.readouterr().out
    assert printed.endswith("no picture: pip install lstmc[plot]\n")
    assert len(printed.splitlines()) > 5
    assert not list(tmp_path.iterdir())
