"""The recurrent layers, each by the name of its cell: see ``stack.Recurrent`` for what they do."""

import functools
import inspect  # which NumPy has imported

from ..cells import CELLS, lstm_cell
from ..checks import check_limit
from ..files import built_in
from ..layer import check_flag, check_size, fixed
from .stack import Recurrent
from .weights import check_optional

__all__ = ["GRU", "KINDS", "LSTM", "RNN"]

OWNERS: dict = {}  # of each option that not all have: the names of the classes that do
NONLINEARITIES = ("tanh", "relu", "identity")  # of an RNN


def recurrent(**own):
    """Make a class the layer of a kind of cell; a decorator.

    Its ``__init__`` names the parameters that it alone has and takes the rest as *args and **options; its
    docstring describes them. Those of all kinds, which ``Recurrent`` takes and describes, are added to both.

    Parameters
    ----------
    own
        The defaults in files of what it alone has: see ``built_in``.
    """

    def complete(cls):
        cls.__init__ = _with_known_options(cls, _whole_signature(cls))
        for name in own:
            OWNERS.setdefault(name, []).append(cls.__name__)
        if cls.__doc__:  # not with python -OO
            cls.__doc__ = _whole_docstring(cls)
        return built_in(
            "input_size", "hidden_size", num_layers=1, bias=True, batch_first=False, dtype="float32",
            bidirectional=False, dropout=0.0, variational=False, learn_initial_state=False, init="uniform",
            grad_clip=None, **own,
        )(cls)  # fmt: skip

    return complete


def _with_known_options(cls, signature):
    """Return the __init__ of a class, of this signature: of other options it says who has them."""
    whole = cls.__init__

    @functools.wraps(whole)
    def __init__(self, *args, **options):
        for name in options:
            if name not in signature.parameters:
                owners = OWNERS.get(name, [])
                have = f", which {' and '.join(owners)} ha{'s' if len(owners) == 1 else 've'}"
                raise TypeError(f"{cls.__name__} has no option {name!r}{have if owners else ''}")
        try:
            signature.bind(self, *args, **options)
        except TypeError as error:  # which says what is missing, or too much
            raise TypeError(f"{cls.__name__}: {error}") from None
        whole(self, *args, **options)

    __init__.__signature__ = signature
    return __init__


def _whole_signature(cls):
    """Return the signature of a class's __init__ with the parameters that all kinds have."""
    own, common = (inspect.signature(one.__init__).parameters for one in (cls, Recurrent))
    by_place = {n: p for n, p in own.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    by_name = {n: p for n, p in own.items() if p.kind is p.KEYWORD_ONLY}
    # A parameter that both have stays where its class has it.
    parameters = (by_place | {n: p for n, p in common.items() if n not in own} | by_name).values()
    return inspect.Signature(sorted(parameters, key=lambda p: p.kind))


def _whole_docstring(cls):
    """Return the docstring of a class with the parameters and errors that all kinds have."""
    heading = "Parameters\n----------\n"
    own, common = (inspect.cleandoc(one.__doc__) for one in (cls, Recurrent))
    title, _, own = own.partition(heading)
    common, _, errors = common.partition(heading)[2].partition("\n\nRaises\n")
    return f"{title}{heading}{common}\n{own}\n\nRaises\n{errors}\n"


@recurrent(nonlinearity="tanh")
class RNN(Recurrent):
    """The simple recurrent network (Elman 1990): h = nonlinearity(W x + R h_before + b).

    Parameters
    ----------
    nonlinearity : "tanh", "relu" or "identity"
    """

    nonlinearity = fixed("nonlinearity")

    def __init__(
        self, input_size, hidden_size, num_layers=1, nonlinearity="tanh", *args, **options
    ):
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(
                f"nonlinearity must be one of {', '.join(NONLINEARITIES)}, got {nonlinearity!r}"
            )
        self._nonlinearity, self._cell = nonlinearity, CELLS[f"rnn_{nonlinearity}"]
        super().__init__(input_size, hidden_size, num_layers, *args, **options)

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        return {**super().options(), "nonlinearity": self._nonlinearity}


@recurrent(peephole=False, coupled=False, proj_size=0, clip=None, forget_bias=None, chrono=None)
class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i, f, o = sigmoid(W x + R h_before + b) and g = tanh(...), by gate; c = f c_before + i g; h = o tanh(c).

    Parameters
    ----------
    peephole : bool
        Whether i and f see c_before and o sees c, each unit's gates its own c by a weight: peephole_l0 (3*H,)
        of i, f and o (Gers & Schmidhuber 2000).
    coupled : bool
        Whether f is 1 - i: there are three sums, of i, g and o (Greff et al. 2017).
    proj_size : int
        P, fewer than H: h is then W_hr (o tanh(c)) of P units, by weight_hr_l0 (P, H), so that R and the
        layer above have fewer weights (Sak et al. 2014; PyTorch's proj_size). 0: there is no projection.
    clip : float, optional
        The limit of what goes into the activation of each gate, biases and peepholes included, on either side
        (ONNX's clip). The gradient beyond it is zero.
    forget_bias : float, optional
        Added to the drawn biases of the forget gates. At 0 they are half shut, and what c holds is gone after
        some steps, with the gradient; 1 is usual (Gers et al. 2000; Jozefowicz et al. 2015), and 5 keeps for
        150 steps.
    chrono : float, optional
        T, 2 or more, the steps over which something is to be remembered. The biases of the forget gates
        become log u, u uniform in [1, T - 1], those of the input gates -log u, so that units keep for 1 to T
        steps (Tallec & Ollivier 2018).
    """

    peephole, coupled = map(fixed, ("peephole", "coupled"))
    forget_bias, chrono = map(fixed, ("forget_bias", "chrono"))

    def __init__(self, *args, peephole=False, coupled=False, proj_size=0, clip=None,
                 forget_bias=None, chrono=None, **options):  # fmt: skip
        self._peephole = check_flag("peephole", peephole)
        self._coupled = check_flag("coupled", coupled)
        self._clip = check_limit("clip", clip)
        self._proj_size = check_size("proj_size", proj_size, least=0)
        self._forget_bias = check_optional("forget_bias", forget_bias)
        self._chrono = check_optional("chrono", chrono, least=2)
        self._cell = lstm_cell(coupled, peephole, clip is not None)
        super().__init__(*args, **options)

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        names = ("peephole", "coupled", "proj_size", "clip", "forget_bias", "chrono")
        return super().options() | {name: getattr(self, name) for name in names}


@recurrent(reset_after=True, forget_bias=None, chrono=None)
class GRU(Recurrent):
    """The gated recurrent unit (Cho et al. 2014), its reset gate after the product with R or before it.

    r, z = sigmoid(W x + R h_before + b), by gate; h = (1 - z) n + z h_before. After the product, as in
    PyTorch and cuDNN, n = tanh(W x + b_n + r (R h_before + b_R)). Before it, as first published and in ONNX
    by default (linear_before_reset=0), n = tanh(W x + R (r h_before) + b_n).

    The biases are those of r, z and n and, after the product, n's recurrent one.

    Parameters
    ----------
    reset_after : bool
        Whether the reset gate comes after the product with R.
    forget_bias : float, optional
        Added to the drawn biases of z, which keeps h: see ``LSTM``.
    chrono : float, optional
        T, 2 or more, the steps over which something is to be remembered. The biases of z, which keeps, become
        log u, u uniform in [1, T - 1], so that units keep for 1 to T steps (Tallec & Ollivier 2018).
    """

    reset_after, forget_bias, chrono = map(fixed, ("reset_after", "forget_bias", "chrono"))

    def __init__(self, *args, reset_after=True, forget_bias=None, chrono=None, **options):
        self._reset_after = check_flag("reset_after", reset_after)
        self._forget_bias = check_optional("forget_bias", forget_bias)
        self._chrono = check_optional("chrono", chrono, least=2)
        self._cell = CELLS["gru" if reset_after else "gru_before"]
        super().__init__(*args, **options)

    def options(self):
        """Return the arguments that make a layer like this one, as plain data."""
        names = ("reset_after", "forget_bias", "chrono")
        return super().options() | {name: getattr(self, name) for name in names}


KINDS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}  # the recurrent layers by the kind of their cells
