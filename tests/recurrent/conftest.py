"""What the tests of recurrent layers ask for by name."""

import pytest
from cases import CELLS


@pytest.fixture(params=CELLS)
def cell(request):
    """Run the test with every cell of the table."""
    return request.param
