"""How weights lie in panels: dense for any number of sums a unit, and products find them there.

The layout is the contract between packing, product and the pointwise loops: groups of VL units, of each
group the sums of the first gate, then of the second ...; if half as many units are left for the last group,
each gate takes half a vector. Today's cells have 1 and 4 sums, which fill a panel; here are others too.
"""

import compiled
import numpy as np
import pytest
from stacks import seed_of
from support import assert_close

from lstmc._kernels.binding import core

cffi = pytest.importorskip("cffi")

if not compiled.POSSIBLE:
    pytest.skip("there is no source tree, or no compiler", allow_module_level=True)


@pytest.fixture(scope="module", params=core.instruction_sets())
def library(request, tmp_path_factory):
    """Return cffi's handle, and packing.c as a library for float32 and an instruction set of this machine."""
    folder = tmp_path_factory.mktemp("packing")
    path = compiled.compile_library(folder, [compiled.HERE / "packing.c"], request.param)
    ffi = cffi.FFI()
    ffi.cdef("""
        int vector_lanes(void);
        int panel_vectors(void);
        ptrdiff_t panels_needed(ptrdiff_t units, int sums);
        void pack(void *, const void *, ptrdiff_t k, ptrdiff_t units, int sums, ptrdiff_t, ptrdiff_t);
        void multiply(void *, const void *, const void *, ptrdiff_t, ptrdiff_t k, ptrdiff_t units, int sums);
    """)
    return ffi, ffi.dlopen(path)


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
def test_every_weight_has_its_place(library, units, sums):
    ffi, library = library
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
def test_products_give_the_sums_in_their_places(library, rows, units, sums):
    ffi, library = library
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
