"""What every test file may ask for: an instruction set, an element type, CuPy.

Deliberately without helpers to import: those are in support.py and stacks.py.
"""

import emulator
import numpy as np
import pytest

from lstmc._kernels import _core, kernels_for


@pytest.fixture(params=_core.instruction_sets())
def isa(request):
    """Run the test on each instruction set of this build that this machine has."""
    _core.use_instruction_set(request.param)
    yield request.param
    _core.use_instruction_set(None)


@pytest.fixture(params=[np.float32, np.float64], ids=["f32", "f64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(scope="module", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request):
    """CuPy, with a GPU; and its double, whose kernels run on the CPU. Device "cuda" is what is given here."""
    if request.param == "gpu":
        try:
            yield kernels_for("cuda").arrays
        except (ImportError, RuntimeError) as error:
            pytest.skip(str(error))
        return
    if not emulator.available():
        pytest.skip(emulator.why_not())
    if hasattr(request.config, "cache"):
        emulator.cache_folder = request.config.cache.mkdir("emulated-kernels")
    try:
        yield emulator.install()
    finally:
        emulator.remove()
