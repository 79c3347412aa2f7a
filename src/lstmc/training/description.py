"""The network of a language model as a description: made of the model's arguments, and these read from it."""

from ..files import entry
from ..recurrent import KINDS

__all__ = ["config_of", "network_description"]


def network_description(tokens, cell, layers, hidden, embed, dropout, dtype, variational=False,
                        tied=False):  # fmt: skip
    """Return the description of the network of a LanguageModel."""
    recurrent = KINDS[cell].__name__
    stack = [entry("Embedding", num_embeddings=tokens, embedding_dim=embed, dtype=dtype)]
    if dropout:
        drop = entry("Dropout", p=dropout, variational=variational)
        for i in range(layers):
            stack.append(drop)
            size = hidden if i else embed
            stack.append(entry(recurrent, input_size=size, hidden_size=hidden, dtype=dtype))
        stack.append(drop)
    else:
        sizes = {"input_size": embed, "hidden_size": hidden, "num_layers": layers}
        stack.append(entry(recurrent, **sizes, dtype=dtype))
    sizes = {"in_features": hidden, "out_features": tokens}
    stack.append(entry("Linear", **sizes, dtype=dtype, tied_to="0" if tied else None))
    return entry("Sequential", layers=stack)


def config_of(description, tokens):
    """Return the arguments that network_description made a description of; refuse another description."""
    layers = description["options"]["layers"]
    kinds = {cls.__name__: kind for kind, cls in KINDS.items()}
    recurrent = [one for one in layers if one["layer"] in kinds]
    if not recurrent:
        raise ValueError("its network has no recurrent layer")
    dropout = [one["options"] for one in layers if one["layer"] == "Dropout"]
    first = recurrent[0]["options"]
    config = {
        "cell": kinds[recurrent[0]["layer"]],
        "layers": len(recurrent) if dropout else first.get("num_layers", 1),
        "hidden": first["hidden_size"],
        "embed": first["input_size"],
        "dropout": dropout[0].get("p", 0.5) if dropout else 0.0,
        "dtype": first.get("dtype", "float32"),
        "variational": bool(dropout) and dropout[0].get("variational", False),
        "tied": "tied_to" in layers[-1]["options"],
    }
    if network_description(tokens, **config) != description:
        raise ValueError("its network is not that of a language model of so many tokens")
    return config
