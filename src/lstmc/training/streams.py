"""A corpus as parallel streams of tokens, cut into windows, and the loss over it."""

import math

import numpy as np

from .._kernels import kernels_of
from ..layer import check_size
from ..losses import softmax_cross_entropy
from ..passes import recurrent_layers

__all__ = [
    "check_time_major",
    "check_tokens",
    "evaluate",
    "mean_loss",
    "on_device_of",
    "perplexity_of",
    "streams",
    "windows",
]


def check_time_major(net):
    """Refuse a network that is batch_first, or whose output has no time: windows are (T, B)."""
    if getattr(net, "batch_first", False):
        raise ValueError(f"net must take windows (T, B), but {type(net).__name__} is batch_first")
    if not getattr(net, "keeps_time", True):
        raise ValueError("net must predict at every step, but its output has no axis of time")
    for name, layer, _ in recurrent_layers(net):
        if layer.bidirectional:
            named = f"{name}{type(layer).__name__}" if name else type(layer).__name__
            raise ValueError(
                f"net must read forward only, but {named} is bidirectional: it reads what is to be predicted"
            )


def check_tokens(name, tokens):
    """Return a corpus as a 1-D array of int64; refuse what is not one, or is empty."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} must be a 1-D array of integers, got {tokens.ndim}-D {tokens.dtype}"
        )
    if not tokens.size:
        raise ValueError(f"{name} is empty: there is nothing to read")
    return tokens.astype(np.int64, copy=False)


def streams(tokens, batch):
    """Cut a corpus into parallel streams.

    Parameters
    ----------
    tokens : ndarray (n,) of integers
    batch : int
        B, how many streams.

    Returns
    -------
    ndarray (n // B, B) of int64
        Time-major: column b is the b-th stretch of the corpus. The remainder at its end is left out.

    Raises
    ------
    ValueError
        The corpus is empty, or too short for one window: a stream needs two tokens, one to read and
        one to predict.
    """
    tokens, batch = check_tokens("tokens", tokens), check_size("batch", batch)
    steps = len(tokens) // batch
    if steps < 2:
        raise ValueError(
            f"tokens is shorter than one window: {batch} streams need at least {2 * batch} tokens, "
            f"got {len(tokens)}"
        )
    return np.ascontiguousarray(tokens[: steps * batch].reshape(batch, steps).T)


def windows(stream, steps):
    """Yield the windows of streams.

    Parameters
    ----------
    stream : ndarray (n, B)
        As ``streams`` returns it.
    steps : int
        T, the length of a window.

    Yields
    ------
    x : ndarray (T, B)
        The last one may be shorter.
    targets : ndarray (T, B)
        The token after each one of x. All but the first of each stream are a target once.
    """
    steps = check_size("steps", steps)
    for start in range(0, len(stream) - 1, steps):
        end = min(start + steps, len(stream) - 1)
        yield stream[start:end], stream[start + 1 : end + 1]


def evaluate(net, tokens, batch=20, steps=100, num_threads=None):
    """Return the mean loss of a network over a text, which it reads in parallel streams.

    Parameters
    ----------
    net : Sequential
        Tokens in, logits out.
    tokens : ndarray (n,) of integers
    batch : int
        How many streams; fewer if the text is shorter than two tokens for each. The state of
        each starts at zeros and is carried to the end of the stream.
    steps : int
        How many steps are computed at once. It changes the result only by rounding.
    num_threads : int, optional

    Returns
    -------
    float
        In nats per token. Its exponential is the perplexity.

    Raises
    ------
    ValueError
        The text is too short, or an argument does not fit.
    """
    return mean_loss(net, tokens, batch, steps, num_threads, lambda: None)


def mean_loss(net, tokens, batch, steps, num_threads, after_each):
    """Return what `evaluate` does; call after_each() after every window."""
    check_time_major(net)
    tokens = check_tokens("tokens", tokens)
    stream = streams(tokens, max(1, min(check_size("batch", batch), len(tokens) // 2)))
    stream = on_device_of(net, stream)
    state, total, count = None, 0.0, 0
    for x, targets in windows(stream, steps):
        logits, state, _ = net.forward(x, state, training=False, num_threads=num_threads)
        total += softmax_cross_entropy(logits, targets, num_threads=num_threads)[0] * x.size
        count += x.size
        after_each()
    return float(total / count)


def perplexity_of(loss):
    """Return the exponential of a loss in nats; infinity where that is beyond all numbers, above 709 nats."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def on_device_of(net, stream):
    """Return streams on the device of a network."""
    return kernels_of(net.params).arrays.asarray(stream)
