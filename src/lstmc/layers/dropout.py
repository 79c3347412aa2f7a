"""Dropout: a share of the features is zeroed in training."""

from .._kernels import kernels_of
from .._kernels.messages import shape_text
from ..files import built_in, check_rng, generator
from ..layer import Layer, check_flag, check_share, fixed, float_array
from ..steppers import copying
from ..traces import Trace

__all__ = ["Dropout", "draw_mask"]


def draw_mask(kernels, rng, p, shape, variational=False):
    """Return booleans, false with probability p, for ``masked`` of an array of a shape.

    Parameters
    ----------
    kernels : module
        Those of the array's device.
    rng : numpy Generator
    p : float
    shape : tuple of int
        (T, ..., F) with `variational`: what is drawn is (..., F), and every step has the same mask.
    variational : bool

    Returns
    -------
    mask : ndarray of `shape`
    """
    if not variational:
        return kernels.dropout_mask(rng, p, shape)
    return kernels.arrays.broadcast_to(kernels.dropout_mask(rng, p, shape[1:]), shape)


@built_in(p=0.5, variational=False)
class Dropout(Layer):
    """Zero a share of x in training and scale the rest up by 1 / (1 - p).

    Where a network has it before and after a recurrent layer, it drops from what enters and what leaves that
    layer (Zaremba et al. 2014, section 3.1); of what the layer passes on in time nothing is dropped.

    Parameters
    ----------
    p : float
        The share that is dropped, in [0, 1).
    rng : int, numpy Generator or None
        Draws the masks, in training only.
    variational : bool
        Whether one mask is drawn for all steps of a call, (B, F) for x (T, B, F) and (F,) for (T, F), instead
        of a mask for each step (Gal & Ghahramani 2016, section 4). The first axis of x is time then: no layer
        before it in a network may have taken that away, as ``Last`` does.

    Raises
    ------
    TypeError, ValueError
        p is not in [0, 1), or `variational` not True or False.
    """

    keeps_features, out_features = True, "same"
    variational = fixed("variational")

    def __init__(self, p=0.5, rng=None, variational=False):
        super().__init__()
        self._variational = check_flag("variational", variational)
        self.p, self.rng = p, generator(rng, of_weights=False)

    @property
    def needs_time(self):
        """Whether x must have an axis of time."""
        return self._variational

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
        return {"p": self.p, "variational": self._variational}

    def forward(self, x, state=None, training=True, drop=True):
        """Return y in the shape and type of x, the state unchanged, and a trace.

        Parameters
        ----------
        x : ndarray (...), with `variational` (T, ..., F)
        state : optional
        training : bool
            Return a trace, and drop.
        drop : bool
            If not, nothing is dropped in training either: the trace is then that of inference.

        Raises
        ------
        TypeError
            x is not an array of floats.
        ValueError
            x has no axis of time, and one mask is for all steps.
        """
        kernels = kernels_of(x)
        x = float_array(kernels, "x", x)
        if self._variational and x.ndim < 2:
            raise ValueError(
                f"x must be (T, ..., features) with variational=True, got {shape_text(x.shape)}"
            )
        if not training:
            return x.copy(), state, None
        mask = draw_mask(kernels, self.rng, self.p, x.shape, self._variational) if drop else None
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
