"""How the weights of a recurrent layer begin: ways to draw them, and biases that keep a state at first."""

import math

import numpy as np

from .._kernels.devices import copy_into, host

__all__ = ["INITIALISATIONS", "begin_keeping", "beginning", "check_beginning", "check_optional"]


def _uniform(layer, kind, shape, rng):
    """Draw within 1/sqrt(H), as PyTorch does."""
    bound = 1 / math.sqrt(layer.hidden_size)
    return rng.uniform(-bound, bound, shape)


def _orthogonal(layer, kind, shape, rng):
    """Draw by gates: what is read by Glorot's bound, what recurs orthogonal; the rest is zero."""
    if len(shape) == 1:
        return np.zeros(shape)
    draw = _orthogonal_matrix if kind == "weight_hh" else _glorot_matrix
    hidden = layer.hidden_size if kind in ("weight_ih", "weight_hh") else shape[0]
    return np.concatenate([draw(hidden, shape[1], rng) for _ in range(shape[0] // hidden)])


def _identity(layer, kind, shape, rng):
    """Draw what is read within 1/sqrt(H); what recurs is the identity, the rest is zero."""
    if kind == "weight_hh":
        return np.eye(*shape)
    return _uniform(layer, kind, shape, rng) if kind == "weight_ih" else np.zeros(shape)


INITIALISATIONS = {"uniform": _uniform, "orthogonal": _orthogonal, "identity": _identity}


def _glorot_matrix(rows, columns, rng):
    bound = math.sqrt(6 / (rows + columns))
    return rng.uniform(-bound, bound, (rows, columns))


def _orthogonal_matrix(rows, columns, rng):
    """Draw a matrix whose rows or columns, whichever are fewer, are orthonormal; uniform among those."""
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.where(np.diag(r) < 0, -1, 1)  # without it, q depends on how LAPACK chooses signs
    return q if rows >= columns else q.T


LARGEST = float(np.finfo(np.float32).max)


def check_optional(name, value, least=-LARGEST):
    """Return a number that float32 has, of at least so much, as a float, or None; refuse anything else."""
    if value is None:
        return None
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not least <= value <= LARGEST:
        or_more = f" of {least:g} or more" if least > -LARGEST else ""
        raise ValueError(f"{name} must be None or a finite number{or_more}, got {value!r:.100}")
    return float(value)


def check_beginning(layer):
    """Refuse options of how a layer begins that are unknown, cannot be met, or contradict each other."""
    if not isinstance(layer.init, str) or layer.init not in INITIALISATIONS:
        raise ValueError(f"init must be one of {', '.join(INITIALISATIONS)}, got {layer.init!r}")
    if layer.init == "identity" and layer.cell.h.bounds is not None:
        raise ValueError(
            'init must not be "identity" here: only an RNN whose nonlinearity is "relu" or "identity" '
            "passes on its state unchanged by that"
        )
    for name in ("forget_bias", "chrono"):
        if getattr(layer, name) is not None and not layer.bias:
            raise ValueError(f"{name} must be None with bias=False: it is a bias")
    if layer.forget_bias is not None and layer.chrono is not None:
        raise ValueError("forget_bias must be None with chrono, which sets the same biases")


def beginning(layer, name):
    """Return what ``allocate`` asks for of a parameter: a function of (rng, shape), by ``init``."""
    kind = name[: name.index("_l")]

    def draw(rng, shape):
        if kind.startswith("initial"):
            return np.zeros(shape)
        return INITIALISATIONS[layer.init](layer, kind, shape, rng)

    return draw


def begin_keeping(layer, rng):
    """Let a new layer's cells keep their state at first, as ``forget_bias`` or ``chrono`` says.

    u of ``chrono`` is drawn after all parameters, so that it does not change what these are.
    """
    cell, hidden = layer.cell, layer.hidden_size
    names = {gate.name: gate.activation for gate in cell.gates}
    keeps = [cell.rows(cell.keeps, hidden)] if cell.keeps in names else []
    # The gates that let in what is written; they are all there is to set where what is kept is 1 - i.
    lets_in = [cell.rows(n, hidden) for n in cell.writes if names.get(n) == "sigmoid"]
    if layer.forget_bias is None and layer.chrono is None:
        return
    for name in layer:
        if not name.startswith("bias"):
            continue
        bias = host(layer[name]).astype(np.float64)
        if layer.forget_bias is not None:
            for rows in keeps:
                bias[rows] += layer.forget_bias
            for rows in () if keeps else lets_in:
                bias[rows] -= layer.forget_bias
        else:
            log_u = np.log(rng.uniform(1, layer.chrono - 1, hidden))
            for rows in keeps:
                bias[rows] = log_u
            for rows in lets_in:
                bias[rows] = -log_u
        copy_into(layer[name], bias.astype(layer.dtype))
