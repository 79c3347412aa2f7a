"""A machine whose rates are round numbers."""

import pytest


@pytest.fixture(scope="session")
def abacus():
    from benchmarks import machine  # where there is a source tree

    return machine.Machine(
        threads=1,
        blas={"float32": 2e11, "float64": 1e11},
        kernel={"float32": 1e11, "float64": 5e10},
        levels=(
            machine.Level("L1", 1000, 1e12),
            machine.Level("L2", 100_000, 1e11),
            machine.Level("memory", None, 1e10),
        ),
        activation=1e-9,
        isa="v3",
    )
