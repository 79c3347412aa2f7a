"""What tests of a GPU's kernels ask for, and those of the double of CuPy itself."""

import importlib

import emulator
import pytest


@pytest.fixture
def kernels(cupy):
    return importlib.import_module("lstmc._kernels.cuda.kernels")


@pytest.fixture
def ways(cupy):
    return importlib.import_module("lstmc._kernels.cuda.ways")


@pytest.fixture
def double(monkeypatch):
    """The double of CuPy, whatever is installed, its threads in ascending order."""
    monkeypatch.setattr(emulator.settings, "order", "ascending")
    yield emulator.install()
    emulator.remove()
