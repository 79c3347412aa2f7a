"""How weights lie in panels: dense for any number of sums a unit, and products find them there.

The layout is the contract between packing, product and the pointwise loops: groups of VL units, of each
group the sums of the first gate, then of the second ...; if half as many units are left for the last group,
each gate takes half a vector. Today's cells have 1 and 4 sums, which fill a panel; here are others too.
"""

import ast
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from stacks import seed_of
from support import assert_close

from lstmc._kernels.binding import core

cffi = pytest.importorskip("cffi")

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
KERNELS = ROOT / "src" / "lstmc" / "_kernels" / "c"
COMPILER = shutil.which("cc") or shutil.which("gcc")
if not (KERNELS / "gemm.h").exists() or COMPILER is None:
    pytest.skip("there is no source tree, or no compiler", allow_module_level=True)


def from_setup(name):
    """Return a constant of setup.py, which cannot be imported: it would build."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == name:
            return ast.literal_eval(statement.value)
    raise AssertionError(f"setup.py has no {name}")


@pytest.fixture(scope="module", params=core.instruction_sets())
def compiled(request, tmp_path_factory):
    """Return packing.c as a library for float32 and an instruction set of this machine, and cffi's handle."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    march = from_setup("INSTRUCTION_SETS").get(machine, {}).get(request.param, [])
    library = tmp_path_factory.mktemp("packing") / f"{request.param}.so"
    macros = ["-DLSTMC_REAL=32", f"-DLSTMC_ISA_NAME={request.param}", f"-I{KERNELS}"]
    flags = [*from_setup("FLAGS"), *march, "-fPIC", "-shared", "-Wno-unused-function"]
    subprocess.run([COMPILER, *flags, *macros, HERE / "packing.c", "-o", library], check=True)
    ffi = cffi.FFI()
    ffi.cdef("""
        int vector_lanes(void);
        int panel_vectors(void);
        ptrdiff_t panels_needed(ptrdiff_t units, int sums);
        void pack(void *, const void *, ptrdiff_t k, ptrdiff_t units, int sums, ptrdiff_t, ptrdiff_t);
        void multiply(void *, const void *, const void *, ptrdiff_t, ptrdiff_t k, ptrdiff_t units, int sums);
    """)
    return ffi, ffi.dlopen(str(library))


def aligned(shape):
    """Return an array of NaN on a 64-byte boundary."""
    memory = np.full(int(np.prod(shape)) + 16, np.nan, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + int(np.prod(shape))].reshape(shape)


def place(unit, gate, units, sums, lanes):
    """Return the vector, counted over all panels, and the lane of one sum."""
    group = unit // lanes
    width = lanes // 2 if sums > 1 and units - group * lanes <= lanes // 2 else lanes
    column = gate * width + unit % lanes
    return group * sums + column // lanes, column % lanes


@pytest.mark.parametrize("sums", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("units", [1, 3, 4, 5, 8, 9, 12, 16, 17, 24, 31, 33, 65])
def test_every_weight_has_its_place(compiled, units, sums):
    ffi, library = compiled
    lanes, vectors, k = library.vector_lanes(), library.panel_vectors(), 5
    generator = np.random.default_rng(seed_of("packing", units, sums))
    weight = generator.standard_normal((sums, units, k)).astype(np.float32)
    panels = library.panels_needed(units, sums)
    packed = aligned((panels, k, vectors, lanes))
    for p in range(panels):  # each by itself: what a member of a team packs
        library.pack(ffi.from_buffer(packed[p:]), ffi.from_buffer(weight), k, units, sums, p, p + 1)
    expected = np.zeros_like(packed)
    for gate in range(sums):
        for unit in range(units):
            vector, lane = place(unit, gate, units, sums, lanes)
            assert vector < panels * vectors
            expected[vector // vectors, :, vector % vectors, lane] = weight[gate, unit]
    np.testing.assert_array_equal(packed, expected)


@pytest.mark.parametrize("sums", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("units", [3, 9, 24, 33, 65])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_products_give_the_sums_in_their_places(compiled, rows, units, sums):
    ffi, library = compiled
    lanes, vectors, k = library.vector_lanes(), library.panel_vectors(), 6
    generator = np.random.default_rng(seed_of("sums", rows, units, sums))
    weight = generator.standard_normal((sums, units, k)).astype(np.float32)
    x = generator.standard_normal((rows, k)).astype(np.float32)
    panels = library.panels_needed(units, sums)
    packed, result = aligned((panels, k, vectors, lanes)), aligned((panels, rows, vectors, lanes))
    library.pack(ffi.from_buffer(packed), ffi.from_buffer(weight), k, units, sums, 0, panels)
    library.multiply(
        ffi.from_buffer(result), ffi.from_buffer(x), ffi.from_buffer(packed), rows, k, units, sums
    )
    expected = np.einsum("guk,rk->gur", weight, x)
    actual = np.empty_like(expected)
    for gate in range(sums):
        for unit in range(units):
            vector, lane = place(unit, gate, units, sums, lanes)
            actual[gate, unit] = result[vector // vectors, :, vector % vectors, lane]
    assert_close(actual, expected, 1e-5)  # of six terms in float32
