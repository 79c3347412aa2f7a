"""Recurrent networks on a plain CPU: fast, small, exact, and open to inspection."""

from ._kernels.binding.core import get_num_threads, set_num_threads
from ._kernels.config import __version__ as __version__, show_config
from ._kernels.devices import get_matmul_precision, set_matmul_precision
from .files import load
from .inspection import (
    GateReport,
    GradientFlow,
    GradientReport,
    JacobianSpectrum,
    LayerFlow,
    LayerGates,
    NonFinite,
    Reach,
    TensorCheck,
    Watch,
    Write,
    check_gradients,
    find_nonfinite,
    gate_statistics,
    gradient_flow,
    input_jacobian,
    jacobian_spectrum,
    lyapunov_exponents,
    state_jacobian,
    step_factors,
    writers,
)
from .layer import Layer
from .layers import Activation, Dropout, Embedding, Last, Linear
from .losses import binary_cross_entropy, huber, softmax_cross_entropy, squared_error
from .network import Composite, Sequential
from .optim import SGD, Adam, AdamW, RMSprop, clip_grad_norm, clip_grad_value
from .recurrent import GRU, LSTM, RNN
from .traces import Trace
from .training import (
    ExponentialDecay,
    LanguageModel,
    PlateauDecay,
    StepDecay,
    TokenStream,
    Trainer,
    Vocabulary,
)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "Composite",
    "Dropout",
    "Embedding",
    "ExponentialDecay",
    "GateReport",
    "GradientFlow",
    "GradientReport",
    "JacobianSpectrum",
    "LanguageModel",
    "Last",
    "Layer",
    "LayerFlow",
    "LayerGates",
    "Linear",
    "NonFinite",
    "PlateauDecay",
    "RMSprop",
    "Reach",
    "Sequential",
    "StepDecay",
    "TensorCheck",
    "TokenStream",
    "Trace",
    "Trainer",
    "Vocabulary",
    "Watch",
    "Write",
    "binary_cross_entropy",
    "check_gradients",
    "clip_grad_norm",
    "clip_grad_value",
    "find_nonfinite",
    "gate_statistics",
    "get_matmul_precision",
    "get_num_threads",
    "gradient_flow",
    "huber",
    "input_jacobian",
    "jacobian_spectrum",
    "load",
    "lyapunov_exponents",
    "set_matmul_precision",
    "set_num_threads",
    "show_config",
    "softmax_cross_entropy",
    "squared_error",
    "state_jacobian",
    "step_factors",
    "writers",
]
