"""Gates stay gates however large their preactivation: finite, within [0, 1] or [-1, 1], in order."""

import numpy as np
import pytest

from lstmc import LSTM

# Beside the edge where exp overflows and the one where its power of two does, in both types.
EDGES = {"float32": (88.37626, 88.72283), "float64": (709.43613930310391, 709.78271289338397)}


@pytest.mark.parametrize("name", ["i", "f", "g", "o"])
def test_gates_saturate_without_nan(isa, dtype, name):
    low, high = EDGES[dtype.name]
    x = np.concatenate(
        [np.linspace(0, 2 * high, 50_001), np.linspace(low * 0.999, high * 1.001, 50_001)]
    )
    x = np.sort(np.concatenate([-x, x, [-np.inf, np.inf]])).astype(dtype)
    lstm = LSTM(1, 1, dtype=dtype, rng=0)
    lstm.params[:] = 0
    lstm["weight_ih_l0"][:] = 1
    _, _, trace = lstm.forward(x[None, :, None])
    gate = trace.layers[0].gates[name].ravel()
    assert np.isfinite(gate).all()
    assert (gate[0], gate[-1]) == ((-1, 1) if name == "g" else (0, 1))
    # An error of some 3 units in the last place may turn neighbours round by as much.
    assert (np.diff(gate) >= -8 * np.finfo(dtype).eps * np.abs(gate[1:])).all()
