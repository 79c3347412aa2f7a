"""The C interface through cffi, from the declarations that kernels.h itself has."""

import compiled
import pytest

from lstmc._kernels.binding import core


@pytest.fixture(scope="module")
def ffi():
    cffi = pytest.importorskip("cffi")
    if not compiled.HEADER.exists():
        pytest.skip("there is no source tree")
    builder = cffi.FFI()
    builder.cdef(compiled.declarations())
    return builder


@pytest.fixture
def table(ffi, isa, dtype):
    """Return the table of functions for a type and an instruction set."""
    library = ffi.dlopen(core.__file__)
    functions = library.lstmc_table(dtype.itemsize, isa.encode())
    assert ffi.string(functions.isa).decode() == isa
    assert functions.real_size == dtype.itemsize
    yield functions  # the library must outlive it
    assert library is not None
