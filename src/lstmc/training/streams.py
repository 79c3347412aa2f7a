"""A corpus as parallel streams of tokens, cut into windows, and the loss over it."""

import math
import zlib

import numpy as np

from .._kernels import kernels_of
from ..layer import check_size
from ..layers import Embedding, Linear
from ..losses import softmax_cross_entropy
from ..passes import recurrent_layers
from ..recurrent import Recurrent

__all__ = [
    "TokenStream",
    "check_time_major",
    "check_tokens",
    "evaluate",
    "mean_loss",
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


def check_known(name, tokens, net):
    """Refuse tokens beyond what the Embedding or the last Linear of a network know, naming the first."""
    layers = getattr(net, "layers", [])
    sizes = [layers[0].num_embeddings] if layers and isinstance(layers[0], Embedding) else []
    sizes += [layers[-1].out_features] if layers and isinstance(layers[-1], Linear) else []
    if not sizes or not len(tokens):
        return
    if tokens.min() < 0 or tokens.max() >= min(sizes):
        at = int(np.flatnonzero((tokens < 0) | (tokens >= min(sizes)))[0])
        raise ValueError(
            f"{name}[{at}] must be in [0, {min(sizes)}), the tokens that the network knows, got {tokens[at]}"
        )


class TokenStream:
    """A text as a Trainer reads it: parallel streams of tokens, in windows, the state carried along.

    Parameters
    ----------
    tokens : ndarray (n,) of integers
    batch : int
        B, the parallel streams.
    steps : int
        T, the length of a window.

    Attributes
    ----------
    batch, steps : int
    tokens : ndarray (n,) of int64
    count : int
        The targets of an epoch: all tokens of a stream but the first, and not the remainder that ``streams``
        leaves out.
    num_windows : int
        The windows of an epoch.
    identity : list
        The length and a checksum, which tell a text from another, and batch and steps.

    Raises
    ------
    ValueError
        There are no tokens, they are no integers, or too few for so many streams.
    """

    def __init__(self, tokens, batch, steps):
        self.tokens = check_tokens("tokens", tokens)
        self.batch, self.steps = check_size("batch", batch), check_size("steps", steps)
        self._stream = streams(self.tokens, batch)
        self.count = (len(self._stream) - 1) * self.batch
        self.num_windows = -(-(len(self._stream) - 1) // self.steps)
        checksum = zlib.crc32(np.ascontiguousarray(self.tokens))
        self.identity = [len(self.tokens), checksum, self.batch, self.steps]

    def __repr__(self):
        return (
            f"<TokenStream of {len(self.tokens):,} tokens: batch={self.batch}, steps={self.steps}>"
        )

    def check(self, name, net):
        """Refuse a network that does not read such windows, or tokens that it does not know.

        Raises
        ------
        ValueError
            The message speaks of `name`, and says where the first such token is.
        """
        check_time_major(net)
        first = getattr(net, "layers", [net])[0]
        if isinstance(first, (Linear, Recurrent)):
            given = type(first).__name__
            raise ValueError(f"net must begin with an Embedding to read tokens, got {given}")
        check_known(name, self.tokens, net)

    def windows(self, net, first=0):
        """Yield the windows from the `first` on, on the device of a network, as ``lstmc.windows`` does."""
        stream = kernels_of(net.params).arrays.asarray(self._stream[first * self.steps :])
        return windows(stream, self.steps)


def token_stream(name, given, trainer):
    """Return what `fit` of a trainer was given as a TokenStream; refuse what its network does not read."""
    if not isinstance(given, TokenStream):
        tokens, batch = check_tokens(name, given), trainer.batch
        for size in ("batch", "steps"):
            if getattr(trainer, size) is None:
                raise ValueError(f"{size} must be given to the Trainer, where {name} is an array")
        if name == "valid":
            if len(tokens) < 2:
                raise ValueError(f"valid must hold at least 2 tokens, got {len(tokens)}")
            batch = max(1, min(batch, len(tokens) // 2))
        given = TokenStream(tokens, batch, trainer.steps)
    given.check(name, trainer.net)
    return given


def check_same_corpus(before, now):
    """Refuse texts, given by their identities, that are not those that training began with, if it did."""
    for name, identity in (before or {}).items():
        if identity != now[name]:
            text = "{} tokens (checksum {:08x}) in {} streams, windows of {}"
            was, got = ("none" if i is None else text.format(*i) for i in (identity, now[name]))
            raise ValueError(f"{name} must be the text that training began with, {was}; got {got}")


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
        each starts anew and is carried to the end of the stream.
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
        The text is too short, holds a token that the network does not know, or an argument does not fit.
    """
    tokens, batch = check_tokens("tokens", tokens), check_size("batch", batch)
    stream = TokenStream(tokens, max(1, min(batch, len(tokens) // 2)), steps)
    stream.check("tokens", net)

    def loss(y, targets):
        return softmax_cross_entropy(y, targets, num_threads=num_threads)

    return mean_loss(net, stream, loss, num_threads, lambda: None)


def mean_loss(net, data, loss, num_threads, after_each):
    """Return the mean over data of loss(y, targets)[0]; call after_each() after every window."""
    state, total, count = None, 0.0, 0
    for x, targets in data.windows(net):
        y, state, _ = net.forward(x, state, training=False, num_threads=num_threads)
        total += loss(y, targets)[0] * x.size
        count += x.size
        after_each()
    return float(total / count)


def perplexity_of(loss):
    """Return the exponential of a loss in nats; infinity where that is beyond all numbers, above 709 nats."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
