"""Which layers may follow which in a Sequential: features that fit, and time where a layer needs it."""

from ..layers import Last
from .composite import Composite
from .place import directions_of

__all__ = ["check_features", "check_time", "features_of", "leaves_of"]


def leaves_of(layers, name="layers"):
    """Yield all layers in order with names for messages, those of a Sequential in the place of it.

    One of a class that computes something else of its layers, or says its own num_directions, is one layer.
    """
    for i, layer in enumerate(layers):
        if getattr(layer, "in_a_row", False):
            yield from leaves_of(layer.layers, f"{name}[{i}].layers")
        else:
            yield f"{name}[{i}] ({type(layer).__name__})", layer


def check_time(leaves):
    """Refuse a Last that has no place where it is, and layers that need time after it.

    Parameters
    ----------
    leaves : iterable of (str, layer)
        As ``leaves_of`` yields them.

    Returns
    -------
    dict of Last to int
        The directions of the recurrent layer that each of them follows.
    """
    directions, mixer, end, places = 0, "", "", {}
    for name, layer in leaves:
        recurrent, last = directions_of(layer), isinstance(layer, Last)
        if end and (recurrent or last or getattr(layer, "needs_time", False)):
            raise ValueError(f"{name} must not follow {end}, whose output has no axis of time")
        if directions > 1 and getattr(layer, "has_loose_last", False):
            raise ValueError(
                f"{name} must not follow a bidirectional layer: its Last may only do so in one Sequential"
            )
        if recurrent:
            joined = isinstance(layer, Composite) and not layer.says_directions
            directions, mixer = recurrent, name if joined else ""
        elif last and not directions:
            raise ValueError(f"{name} must follow a recurrent layer, and there is none before it")
        elif last and directions > 1 and mixer:
            raise ValueError(
                f"{name} must not follow {mixer}, which mixes the features of the two directions "
                "of the layer before it: a layer that does not says keeps_features = True"
            )
        elif last:
            places[layer] = directions
        elif not getattr(layer, "keeps_features", False):
            mixer = mixer or name
        if not getattr(layer, "keeps_time", True):
            end = name
    return places


def check_features(leaves):
    """Refuse layers that read other features than those before them give.

    Parameters
    ----------
    leaves : iterable of (str, layer)
        As ``leaves_of`` yields them.
    """
    source, given = "", None
    for name, layer in leaves:
        reads, gives = _said(layer, "in_features"), _said(layer, "out_features")
        if None not in (reads, given) and reads != given:
            raise ValueError(f"{name} reads {_text(reads)}, and {source} gives {_text(given)}")
        if gives != "same":
            source, given = name, gives
        elif reads is not None:
            source, given = name, reads


def features_of(leaves):
    """Return what layers one after another read and give: numbers, "tokens", "same" or None."""
    first, given = None, "same"
    for _, layer in leaves:
        reads, gives = _said(layer, "in_features"), _said(layer, "out_features")
        if given == "same":
            first = reads
        given = (reads or given) if gives == "same" else gives
    return first, given


def _said(layer, name):
    """Return what a layer says of its features, None where it says nothing that is known here."""
    said = getattr(layer, name, None)
    if isinstance(said, str):
        return said if said == "tokens" or (said, name) == ("same", "out_features") else None
    return said if isinstance(said, int) and not isinstance(said, bool) else None


def _text(features):
    return features if features == "tokens" else f"{features} features"
