"""What every test file may ask for: an instruction set, an element type.

Deliberately without helpers to import: those are in support.py and stacks.py.
"""

import numpy as np
import pytest

from lstmc._kernels import _core


@pytest.fixture(params=_core.instruction_sets())
def isa(request):
    """Run the test on each instruction set of this build that this machine has."""
    _core.use_instruction_set(request.param)
    yield request.param
    _core.use_instruction_set(None)


@pytest.fixture(params=[np.float32, np.float64], ids=["f32", "f64"])
def dtype(request):
    return np.dtype(request.param)
