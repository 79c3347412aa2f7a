"""What tests of the double of CuPy itself ask for."""

import emulator
import pytest


@pytest.fixture
def double(monkeypatch):
    """The double of CuPy, whatever is installed, its threads in ascending order."""
    monkeypatch.setattr(emulator.settings, "order", "ascending")
    yield emulator.install()
    emulator.remove()
