"""Looking inside: where in time gradients live, what gates do, whether backward is right."""

from .flow import GradientFlow, LayerFlow, gradient_flow
from .gates import GateReport, LayerGates, Write, gate_statistics, writers
from .gradient_check import GradientReport, TensorCheck, check_gradients
from .jacobians import (
    JacobianSpectrum,
    input_jacobian,
    jacobian_spectrum,
    lyapunov_exponents,
    state_jacobian,
    step_factors,
)
from .reach import Reach
from .watch import NonFinite, Watch, find_nonfinite

__all__ = [
    "GateReport",
    "GradientFlow",
    "GradientReport",
    "JacobianSpectrum",
    "LayerFlow",
    "LayerGates",
    "NonFinite",
    "Reach",
    "TensorCheck",
    "Watch",
    "Write",
    "check_gradients",
    "find_nonfinite",
    "gate_statistics",
    "gradient_flow",
    "input_jacobian",
    "jacobian_spectrum",
    "lyapunov_exponents",
    "state_jacobian",
    "step_factors",
    "writers",
]
