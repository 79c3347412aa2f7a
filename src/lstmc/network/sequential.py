"""Sequential: layers one after another."""

from ..files import built_in
from ..layer import check_flag
from .composite import Composite
from .order import check_features, check_time, features_of, leaves_of
from .place import check_layers

__all__ = ["Sequential"]


@built_in("layers", batch_first=False)
class Sequential(Composite):
    """Layers in a row, each fed by the one before.

    Parameters
    ----------
    *layers
        As for ``Composite``.
    batch_first : bool
        Whether x and y are (B, T, ...) instead of (T, B, ...): integers of two or more axes, and floats of
        three or more. The layers see (T, B, ...), states are not affected, nor are unbatched sequences.

    Attributes
    ----------
    in_features, out_features
        What the network reads and gives, as its layers say it.

    Raises
    ------
    ValueError
        As for ``Composite``; or a layer reads other features than the one before gives, a Last does not
        follow a recurrent layer, or a layer that needs time follows a Last.
    TypeError
        An object is not a layer.
    """

    _is_chain = True
    has_loose_last = False

    def __init__(self, *layers, batch_first=False):
        check_layers(layers)
        leaves = list(leaves_of(layers))
        followed = check_time(leaves)
        if self.in_a_row:
            check_features(leaves)
        self._batch_first = check_flag("batch_first", batch_first)
        super().__init__(*layers)
        for last, directions in followed.items():
            last.follow(directions)

    def options(self):
        """Return the descriptions of the layers, as plain data, and ``batch_first``."""
        return super().options() | {"batch_first": self._batch_first}

    @property
    def in_a_row(self):
        """Whether the class does with its layers what Sequential says; one that inherits it may not."""
        cls = type(self)
        own = cls.forward is not Composite.forward or cls.compute is not Sequential.compute
        return not own and not self.says_directions

    @property
    def in_features(self):
        """What the network reads: features, "tokens", or None if its layers do not say."""
        return features_of(leaves_of(self._layers))[0] if self.in_a_row else None

    @property
    def out_features(self):
        """What the network gives: features, "same" as it reads, or None if its layers do not say."""
        return features_of(leaves_of(self._layers))[1] if self.in_a_row else None

    def compute(self, x, call):
        """Return what the last layer gives."""
        timed = True
        for place in self._places:
            x = call(place.index, x, timed)
            timed = timed and place.keeps_time
        return x

    def differentiate(self, dy, call):
        """Return the gradient with respect to what the first layer reads."""
        for place in reversed(self._places):
            dy = call(place.index, dy)
        return dy

    def chain(self, steppers):
        """Return the steppers of all layers but the last, and that of the last."""
        return steppers[:-1], steppers[-1]
