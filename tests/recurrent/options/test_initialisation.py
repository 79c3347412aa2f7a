"""Tests of how weights begin: init, forget_bias and chrono."""

import math

import numpy as np
import pytest
from cases import CELLS
from support import assert_close, assert_same_bits

import lstmc


def blocks(weight, hidden):
    return weight.astype(np.float64).reshape(-1, hidden, weight.shape[-1])


# --------------------------------------------------------------------------------------------------
# init
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_uniform_draws_parameter_by_parameter(cell, bias, dtype):
    """All within 1/sqrt(H), in the order of their names: what seeds gave before there was a choice."""
    rng = np.random.default_rng(3)
    options = {"num_layers": 2, "bidirectional": True, "bias": bias, "dtype": dtype}
    layer = CELLS[cell].make(5, 7, rng=3, **options)
    bound = 1 / math.sqrt(7)
    for name, shape in layer.parameters().items():
        assert_same_bits(layer[name], rng.uniform(-bound, bound, shape).astype(dtype), name)
    assert layer.init == "uniform"
    assert "init" not in layer.description["options"]


def test_the_bits_of_a_seed():
    """As before there was a choice, by a value of each kind."""
    assert lstmc.LSTM(3, 4, rng=0)["weight_ih_l0"][0].tolist() == pytest.approx(
        [0.13696168, -0.23021328, -0.45902649], abs=1e-8
    )


@pytest.mark.parametrize("cell", CELLS)
def test_orthogonal(cell, dtype):
    hidden = 16
    layer = CELLS[cell].make(5, hidden, num_layers=2, bidirectional=True, rng=1, dtype=dtype,
                             init="orthogonal")  # fmt: skip
    seen = []
    for name in layer.parameters():
        values = layer[name]
        if name.startswith(("bias", "peephole")):
            assert not values.any(), name
            continue
        if name.startswith("weight_hr"):
            bound = math.sqrt(6 / sum(values.shape))
            assert 0.85 * bound < np.abs(values).max() <= bound, name
            continue
        for block in blocks(values, hidden):
            if name.startswith("weight_hh"):
                assert_close(block.T @ block, np.eye(block.shape[1]), 1e-6, name)
            else:
                bound = math.sqrt(6 / (hidden + block.shape[1]))
                assert 0.85 * bound < np.abs(block).max() <= bound, name
                assert abs(block.mean()) < 0.2 * bound, name
            seen.append(block[0, 0])
    assert len(set(seen)) == len(seen) == 8 * len(CELLS[cell].gates)


def test_orthogonal_matrices_are_uniform():
    """With the signs fixed: of a 1 by 1 matrix both are as likely, and no entry has a sign of its own."""
    ones = [lstmc.RNN(1, 1, rng=i, init="orthogonal")["weight_hh_l0"].item() for i in range(400)]
    assert set(ones) == {1.0, -1.0}
    assert 160 < sum(one > 0 for one in ones) < 240
    corners = [lstmc.RNN(1, 3, rng=i, init="orthogonal")["weight_hh_l0"] for i in range(400)]
    share = np.mean([matrix > 0 for matrix in corners], axis=0)
    assert share.min() > 0.4
    assert share.max() < 0.6


def test_semi_orthogonal_where_h_has_other_features():
    from lstmc.recurrent.weights import INITIALISATIONS

    class Layer:
        hidden_size = 6

    drawn = INITIALISATIONS["orthogonal"](Layer, "weight_hh", (24, 4), np.random.default_rng(0))
    for block in blocks(drawn, 6):
        assert_close(block.T @ block, np.eye(4), 1e-12)
    drawn = INITIALISATIONS["orthogonal"](Layer, "weight_hr", (4, 6), np.random.default_rng(0))
    assert drawn.shape == (4, 6)


@pytest.mark.parametrize("nonlinearity", ["relu", "identity"])
def test_identity(nonlinearity):
    layer = lstmc.RNN(3, 5, 2, nonlinearity, rng=0, init="identity", bidirectional=True)
    for name in layer.parameters():
        if name.startswith("weight_hh"):
            assert_same_bits(layer[name], np.eye(5, dtype=np.float32))
        elif name.startswith("bias"):
            assert not layer[name].any()
        else:
            assert 0.3 < np.abs(layer[name]).max() <= 1 / math.sqrt(5)
    y, _ = layer(np.zeros((4, 1, 3), np.float32), np.full((4, 1, 5), 0.25, np.float32))
    layer = lstmc.RNN(3, 5, nonlinearity=nonlinearity, rng=0, init="identity")
    y, _ = layer(np.zeros((4, 1, 3), np.float32), np.full((1, 1, 5), 0.25, np.float32))
    assert (y == 0.25).all()


# --------------------------------------------------------------------------------------------------
# Biases that keep
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["uniform", "orthogonal"])
def test_forget_bias(init, dtype):
    options = {"num_layers": 2, "bidirectional": True, "dtype": dtype, "init": init}
    plain, raised = (lstmc.LSTM(3, 5, rng=2, forget_bias=b, **options) for b in (None, 1.5))
    for name in plain.parameters():
        expected = plain[name].copy()
        if name.startswith("bias"):
            expected[5:10] += 1.5
        assert_close(raised[name], expected, 1e-6 if dtype == np.float32 else 1e-15, name)


@pytest.mark.parametrize("init", ["uniform", "orthogonal"])
def test_chrono_of_an_lstm(init, dtype):
    hidden = 40
    options = {"num_layers": 2, "bidirectional": True, "dtype": dtype, "init": init}
    plain, spread = (lstmc.LSTM(3, hidden, rng=2, chrono=t, **options) for t in (None, 100))
    seen = set()
    for name in plain.parameters():
        if not name.startswith("bias"):
            assert_same_bits(spread[name], plain[name], name)
            continue
        i, f, g, o = np.split(spread[name], 4)
        assert_same_bits(i, -f)
        assert_same_bits(np.concatenate([g, o]), plain[name][2 * hidden :])
        assert f.min() >= 0
        assert math.log(80) < f.max() <= math.log(99)
        assert 35 < np.exp(f).mean() < 65  # u is uniform, not its logarithm
        seen.add(f[0].item())
    assert len(seen) == 4


@pytest.mark.parametrize("reset_after", [True, False])
def test_chrono_of_a_gru(reset_after):
    hidden, options = 40, {"rng": 2, "reset_after": reset_after}
    plain, spread = (lstmc.GRU(3, hidden, chrono=t, **options) for t in (None, 100.0))
    z = spread["bias_l0"][hidden : 2 * hidden].copy()
    assert z.min() >= 0
    assert math.log(80) < z.max() <= math.log(99)
    spread["bias_l0"][hidden : 2 * hidden] = plain["bias_l0"][hidden : 2 * hidden]
    assert_same_bits(spread.params, plain.params)
    # At large z the state is kept.
    keeping = lstmc.GRU(3, hidden, chrono=1e9, rng=0, reset_after=reset_after)
    h = np.ones((1, 1, hidden), np.float32)
    assert np.abs(keeping(np.zeros((1, 1, 3), np.float32), h)[1] - 1).mean() < 0.01


def test_the_shortest_chrono():
    assert not lstmc.LSTM(3, 4, rng=0, chrono=2)["bias_l0"][:8].any()


def test_coupled_gates_lower_what_lets_in():
    """Where what is kept is 1 - i, and f has no rows."""
    plain = lstmc.LSTM(3, 5, rng=0, coupled=True)["bias_l0"]
    raised = lstmc.LSTM(3, 5, rng=0, coupled=True, forget_bias=2.0)["bias_l0"]
    assert_close(raised[:5], plain[:5] - 2, 1e-7)
    spread = lstmc.LSTM(3, 5, rng=0, coupled=True, chrono=50)["bias_l0"]
    assert (spread[:5] <= 0).all()
    assert spread[:5].min() > -math.log(49)
    assert spread[:5].min() < -1
    for bias in (raised, spread):
        assert bias.shape == (15,)
        assert_same_bits(bias[5:], plain[5:])


# --------------------------------------------------------------------------------------------------
# Copies, files, refusals
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"init": "orthogonal"}, {"forget_bias": 1.0}, {"init": "orthogonal", "chrono": 30.0}],
    ids=str,
)
def test_clones_and_files(options, tmp_path):
    layer = lstmc.LSTM(3, 9, rng=4, **options)
    assert layer.description["options"] == {"input_size": 3, "hidden_size": 9, **options}
    assert_same_bits(layer.clone(rng=4).params, layer.params)
    other = layer.clone(rng=5)
    assert not np.array_equal(other.params, layer.params)
    other.save(tmp_path / "layer")
    loaded = lstmc.load(tmp_path / "layer")
    assert_same_bits(loaded.params, other.params)
    assert loaded.description == layer.description
    zero = lstmc.LSTM.from_description(layer.description, rng=4)
    assert_same_bits(zero.params, layer.params)


REFUSED = [
    (lambda: lstmc.LSTM(3, 4, init="he"), "init must be one of uniform, orthogonal, identity, got 'he'"),
    (lambda: lstmc.LSTM(3, 4, init=["uniform"]), r"init must be one of .*, got \['uniform'\]"),
    (lambda: lstmc.LSTM(3, 4, init=np.array(["uniform", "zero"])), "init must be one of .*, got array"),
    (lambda: lstmc.LSTM(3, 4, forget_bias=1e300), "forget_bias must be None or a finite number, got 1e.300"),
    (lambda: lstmc.LSTM(3, 4, chrono=10**400), "chrono must be None or a finite number of 2 or more"),
    (lambda: lstmc.LSTM(3, 4, init="identity"), 'init must not be "identity" here: only an RNN'),
    (lambda: lstmc.GRU(3, 4, init="identity"), 'init must not be "identity" here: only an RNN'),
    (lambda: lstmc.RNN(3, 4, init="identity"), 'init must not be "identity" here: only an RNN'),
    (lambda: lstmc.LSTM(3, 4, bias=False, forget_bias=1), "forget_bias must be None with bias=False"),
    (lambda: lstmc.LSTM(3, 4, bias=False, chrono=9), "chrono must be None with bias=False"),
    (lambda: lstmc.GRU(3, 4, bias=False, chrono=9), "chrono must be None with bias=False"),
    (lambda: lstmc.LSTM(3, 4, forget_bias=0, chrono=9), "forget_bias must be None with chrono"),
    (lambda: lstmc.LSTM(3, 4, forget_bias=math.nan), "forget_bias must be None or a finite number, got nan"),
    (lambda: lstmc.LSTM(3, 4, forget_bias=True), "forget_bias must be None or a finite number, got True"),
    (lambda: lstmc.LSTM(3, 4, chrono=1.5), "chrono must be None or a finite number of 2 or more, got 1.5"),
    (lambda: lstmc.GRU(3, 4, chrono="9"), "chrono must be None or a finite number of 2 or more, got '9'"),
    (lambda: lstmc.GRU(3, 4, chrono=math.inf), "chrono must be None or a finite number of 2 or more"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lstmc.RNN(3, 4, chrono=9), "RNN has no option 'chrono', which LSTM and GRU have"),
        (lambda: lstmc.GRU(3, 4, peephole=True), "GRU has no option 'peephole', which LSTM has"),
        (lambda: lstmc.LSTM(3, 4, gates=2), "LSTM has no option 'gates'$"),
    ],
)
def test_options_of_other_kinds(make, message):
    with pytest.raises(TypeError, match=message):
        make()
