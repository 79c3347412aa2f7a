"""Dropout: a share of the features is zeroed in training."""

from .._kernels import kernels_of
from ..files import built_in, check_rng, generator
from ..layer import Layer, check_share, float_array
from ..steppers import copying
from ..traces import Trace

__all__ = ["Dropout"]


@built_in(p=0.5)
class Dropout(Layer):
    """Zero a share of x in training and scale the rest up by 1 / (1 - p) (Zaremba et al. 2014, section 3.1).

    Parameters
    ----------
    p : float
        The share that is dropped, in [0, 1).
    rng : int, numpy Generator or None
        Draws the masks, in training only.

    Raises
    ------
    ValueError
        p is not in [0, 1).
    """

    keeps_features, out_features = True, "same"

    def __init__(self, p=0.5, rng=None):
        super().__init__()
        self.p, self.rng = p, generator(rng, of_weights=False)

    @property
    def p(self):
        """The share that is dropped, in [0, 1)."""
        return self._p

    @p.setter
    def p(self, p):
        self._p = check_share("p", p)

    @property
    def rng(self):
        """The generator of the masks; an int or None, when set, makes a new one."""
        return self._rng

    @rng.setter
    def rng(self, rng):
        self._rng = check_rng(rng)

    def options(self):
        """Return the arguments that make a layer like this one, as plain data; not where masks come from."""
        return {"p": self.p}

    def forward(self, x, state=None, training=True, drop=True):
        """Return y in the shape and type of x, the state unchanged, and a trace.

        Parameters
        ----------
        x : ndarray
        state : optional
        training : bool
            Return a trace, and drop.
        drop : bool
            If not, nothing is dropped in training either: the trace is then that of inference.

        Raises
        ------
        TypeError
            x is not an array of floats.
        """
        kernels = kernels_of(x)
        x = float_array(kernels, "x", x)
        if not training:
            return x.copy(), state, None
        mask = kernels.dropout_mask(self.rng, self.p, x.shape) if drop else None
        form = {"shape": x.shape, "dtype": x.dtype, "kernels": kernels}
        trace = Trace(self, None, mask=mask, factor=1 / (1 - self.p), **form)
        return self._masked(x, trace), state, trace

    def fingerprint(self):
        """Return None: there are no weights."""

    def _masked(self, x, trace):
        if trace.mask is None:
            return x.copy()
        pool = self.pool if trace.kernels is self.kernels else trace.kernels.Pool()
        y = pool.array(x.shape, trace.dtype)
        trace.kernels.masked(y, x, trace.mask, trace.factor)
        return y

    def backward(self, dy, trace, dstate=None):
        """Return dx, and dstate unchanged.

        Raises
        ------
        TypeError, ValueError
            dy does not fit, or the trace is not this layer's.
        """
        self.check_trace(trace)
        dy = trace.kernels.checked("dy", dy, trace.dtype, trace.shape)
        return self._masked(dy, trace), dstate

    def stepper(self, batch=1, num_threads=None):
        """Return a function of one step. Stepping is inference, which drops nothing."""
        return copying(self)
