"""The calls of its layers that a composite makes: of their forward, their backward, and their steppers."""

from .._kernels import kernels_of
from .._kernels.messages import located
from ..layer import write_out
from ..traces import frozen

__all__ = ["BackwardCalls", "ForwardCalls", "entries", "step_of"]


def entries(name, state, count):
    """Return a state, or its gradient, as a tuple with one entry for each of so many layers."""
    if state is None:
        return (None,) * count
    if not isinstance(state, (tuple, list)) or len(state) != count:
        is_row = isinstance(state, (tuple, list))
        got = f"{len(state)} entries" if is_row else type(state).__name__
        raise ValueError(
            f"{name} must be None or a tuple of {count} entries, one per layer, got {got}"
        )
    return tuple(state)


class Calls:
    """What all calls share: each layer is called once, by its number.

    Attributes
    ----------
    places : list of Place
    waiting : set of int
        The layers that have not been called yet.
    may_be_none : bool
        Whether a method of the composite may return None.
    """

    may_be_none = False

    def __init__(self, places):
        self.places, self.waiting = places, set(range(len(places)))

    def run(self, method, x):
        """Return what a method of the composite makes of x and these calls.

        Raises
        ------
        ValueError
            It has left out a layer.
        TypeError
            It has returned nothing.
        """
        y = method(x, self)
        if self.waiting:
            missed = self.places[min(self.waiting)]
            raise ValueError(
                f"{_name(missed)} must be called once, and {method.__name__}() has not called it"
            )
        if y is None and not self.may_be_none:
            raise TypeError(f"{method.__name__}() must return an array, got None")
        return y

    def place(self, i):
        """Return the place of layer i, which has its turn once."""
        if i not in self.waiting:
            self._refuse(i)
        self.waiting.remove(i)
        return self.places[i]

    def _refuse(self, i):
        if i in range(len(self.places)):
            raise ValueError(f"{_name(self.places[i])} must be called once, and was called before")
        raise ValueError(
            f"a layer must be called by its number, 0 to {len(self.places) - 1}, got {i!r}"
        )


def _name(place):
    return f"layers[{place.index}] ({type(place.layer).__name__})"


class ForwardCalls(Calls):
    """The layers of a composite, as its ``compute`` runs them: ``y = call(i, x)``.

    Attributes
    ----------
    lengths, resets
        Those of this call, as layers take them, or None.
    """

    def __init__(self, places, states, call, lengths, resets):
        super().__init__(places)
        self.lengths, self.resets = lengths, resets
        self.after, self.traces, self.saved = [None] * len(places), [None] * len(places), {}
        self._before, self._call = states, call

    def run(self, method, x):
        """Return what ``compute`` makes of x: see ``Calls``."""
        self._x, self._arrays = x, kernels_of(x).arrays
        return super().run(method, x)

    def __call__(self, i, x, timed=True):
        """Run layer i.

        Parameters
        ----------
        i : int
        x : ndarray
        timed : bool
            Whether x has an axis of time, which lengths and resets are about.

        Returns
        -------
        ndarray
        """
        times = (self.lengths, self.resets) if timed else (None, None)
        place = self.place(i)
        try:
            y, self.after[i], self.traces[i] = self._call(place, x, self._before[i], *times)
        except (TypeError, ValueError) as error:
            raise located(error, i, place.layer) from error
        return y

    def save(self, **values):
        """Keep values, by name, for ``differentiate``; of x, which the caller may write to later, a copy."""
        for name, value in values.items():
            is_array = isinstance(value, self._arrays.ndarray)
            is_x = is_array and self._arrays.may_share_memory(value, self._x)
            self.saved[name] = frozen(value.copy() if is_x else value)


class BackwardCalls(Calls):
    """The layers of a composite, as its ``differentiate`` goes back through them: ``dx = call(i, dy)``.

    Attributes
    ----------
    saved : dict
        What ``compute`` has saved.
    """

    def __init__(self, places, trace, arriving, call):
        super().__init__(places)
        self.saved, self.departing = trace.saved, [None] * len(places)
        self._traces, self._arriving, self._call = trace.layers, arriving, call

    def __call__(self, i, dy):
        """Differentiate layer i: return the gradient with respect to what it read.

        Parameters
        ----------
        i : int
        dy : ndarray
            The gradient of the loss with respect to what it gave.

        Returns
        -------
        ndarray, or None where the layer has none (an embedding)
        """
        place = self.place(i)
        try:
            dx, self.departing[i] = self._call(place, dy, self._traces[i], self._arriving[i])
        except (TypeError, ValueError) as error:
            raise located(error, i, place.layer) from error
        self.may_be_none |= dx is None  # it reads tokens
        return dx


class _StepCalls(Calls):
    """The layers of a composite, as its ``compute`` steps them: a sequence of one step at a time."""

    lengths = resets = None

    def __init__(self, places, steppers):
        super().__init__(places)
        self._steppers = steppers

    def __call__(self, i, x, timed=True):
        """Take a step x (1, ...) with layer i."""
        return self._steppers[self.place(i).index](x[0])[None]

    def save(self, **values):
        """Keep nothing: a step is not differentiated."""


def step_of(net, places, steppers):
    """Return the step of a composite, a function of x and out: its ``compute`` of a sequence of one step.

    Raises
    ------
    ValueError
        A layer has no axis of time: what ``compute`` makes of it is no matter of single steps.
    """
    for place in places:
        if not place.keeps_time:
            raise ValueError(
                f"{type(net).__name__} has no stepper: {_name(place)} reads sequences as a whole"
            )

    def step(x, out=None):
        x = x if hasattr(x, "shape") else net.kernels.arrays.asarray(x)
        y = _StepCalls(places, steppers).run(net.compute, frozen(x[None]))[0]
        return y if out is None else write_out(net.kernels, out, y)

    return step
