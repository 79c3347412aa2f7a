"""What every test file may ask for: an instruction set, an element type, CuPy.

Deliberately without helpers to import: those are in helpers.
"""

import gc
import signal

import emulator
import numpy as np
import pytest
from devices import is_emulated

import lstmc
from lstmc._kernels import kernels_for
from lstmc._kernels.binding import core

# In a shell's background Ctrl-C is ignored, and would be by all children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # likewise under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# What is tested with so many threads is to have so many, on a machine with one core too.
core.crowd_teams(True)


def pytest_collection_modifyitems(items):
    """Of tests of rows in time, run those of the best instruction set first: the others are long ones.

    They differ in where rows lie and not in arithmetic, which other tests try on all.
    """
    best = core.instruction_sets()[0]
    for item in items:
        in_time = item.path.name.startswith("test_time") or "in_time" in item.name
        case = getattr(item, "callspec", None)
        if in_time and case and case.params.get("isa", best) != best:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.long)


def pytest_collection_finish():
    """Leave the thousands of tests themselves out of what every garbage collection looks through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=core.instruction_sets())
def isa(request):
    """Run the test on each instruction set of this build that this machine has."""
    core.use_instruction_set(request.param)
    yield request.param
    core.use_instruction_set(None)


@pytest.fixture(params=[np.float32, np.float64], ids=["f32", "f64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(scope="module", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request):
    """CuPy, with a GPU; and its double, whose kernels run on the CPU. Device "cuda" is what this returns."""
    if request.param == "gpu":
        try:
            yield kernels_for("cuda").arrays
        except (ImportError, RuntimeError) as error:
            pytest.skip(str(error))
        return
    if not emulator.available():
        pytest.skip(emulator.why_not())
    if hasattr(request.config, "cache"):
        emulator.settings.cache_folder = request.config.cache.mkdir("emulated-kernels")
    try:
        yield emulator.install()
    finally:
        emulator.remove()


@pytest.fixture
def emulated(cupy):
    """For what a real device cannot be brought to do."""
    if not is_emulated(cupy):
        pytest.skip("only of the double")
    return cupy


@pytest.fixture
def pool(emulated):
    """The memory of the device, whose limit is lifted afterwards."""
    gc.collect()
    yield emulated.get_default_memory_pool()
    emulated.get_default_memory_pool().set_limit(size=0)


@pytest.fixture
def precision():
    """Put back how matrices are multiplied."""
    before = lstmc.get_matmul_precision()
    yield
    lstmc.set_matmul_precision(before)
