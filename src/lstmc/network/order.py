"""Which layers may follow which: none twice, and nothing that needs time where there is no time."""

from ..layers import Last

__all__ = ["check_layers", "check_time", "directions_of"]


def check_layers(layers):
    """Refuse what is not a row of layers, each of them free to join a network and time-major."""
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    seen = set()
    for i, layer in enumerate(layers):
        if isinstance(layer, type):
            raise TypeError(f"layers[{i}] must be a layer, got the class {layer.__name__}: call it")
        name = f"layers[{i}] ({type(layer).__name__})"
        for method in ("forward", "backward"):
            if not callable(getattr(layer, method, None)):
                raise TypeError(f"layers[{i}] must have {method}(), got {type(layer).__name__}")
        if getattr(layer, "in_network", False) or id(layer) in seen:
            raise ValueError(f"{name} is part of a network already")
        if getattr(layer, "batch_first", False):
            raise ValueError(
                f"{name}: batch_first must be False within a network: give it to the network"
            )
        seen.add(id(layer))


def directions_of(layer):
    """Return in how many directions a layer runs through time; 0 of one that is not recurrent."""
    return getattr(layer, "num_directions", 0)


def check_time(leaves):
    """Refuse a Last that has no place where it is, and layers that need time after it.

    Parameters
    ----------
    leaves : iterable of (str, layer)
        All layers in order, those of networks within the network in the place of these, with names for
        messages.

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
        if recurrent:
            directions, mixer = recurrent, ""
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
