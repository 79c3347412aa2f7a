"""The C interface through cffi, from the declarations that kernels.h itself has."""

import re
from pathlib import Path

import pytest

from lstmc._kernels.binding import core

HEADER = Path(__file__).parents[2] / "src" / "lstmc" / "_kernels" / "c" / "kernels.h"


@pytest.fixture(scope="module")
def ffi():
    cffi = pytest.importorskip("cffi")
    if not HEADER.exists():
        pytest.skip(f"{HEADER} is not there: no source tree")
    declarations = re.search(
        r"/\* cffi begin \*/(.*)/\* cffi end \*/", HEADER.read_text(), re.DOTALL
    )
    builder = cffi.FFI()
    builder.cdef(re.sub(r"/\*.*?\*/", "", declarations[1], flags=re.DOTALL))
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
