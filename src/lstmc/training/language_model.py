"""A language model: a recurrent network that reads tokens and says what comes next.

It holds a vocabulary and a network, steps them, samples from them and keeps both in one file. How it
is trained is in training.py; what a token is, in text.py.
"""

import math

import numpy as np

from .._kernels import copy_into, cpu, host
from ..files import read_safetensors, write_safetensors
from ..layer import check_dtype, check_share, check_size
from ..layers import Dropout, Embedding, Linear
from ..losses import softmax_cross_entropy
from ..network import Sequential
from ..recurrent import LSTM, RNN
from .text import UNKNOWN, tokenize
from .vocabulary import Vocabulary

__all__ = ["LanguageModel"]

CELLS = {"lstm": LSTM, "rnn": RNN}
FORMAT = "lstmc language model 1"
CHUNK = 256  # steps whose logits are held at once


class LanguageModel:
    """An embedding, a stack of recurrent layers and a linear map to logits, over a vocabulary.

    Parameters
    ----------
    vocabulary : Vocabulary
    cell : "lstm" or "rnn"
    layers, hidden : int
        How many recurrent layers, of how many units each.
    embed : int
        Features of the embedding.
    dropout : float in [0, 1)
        If not 0, what enters and leaves each recurrent layer is dropped at this rate in training, but
        not what a layer passes on in time (Zaremba et al. 2014, section 3.1).
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Of the initial weights and of what is dropped.
    device : "cpu", "cuda" or "cuda:N"
        Where the network is; ``net.to`` moves it. Probabilities are NumPy arrays wherever it is.

    Attributes
    ----------
    vocabulary : Vocabulary
    net : Sequential
        Its weights may be trained or written at any time: every method sees them as they are.
    config : dict
        The parameters above but the vocabulary, rng and device, as plain values.

    Raises
    ------
    TypeError, ValueError
        A parameter is not what is said here.
    """

    def __init__(self, vocabulary, cell="lstm", layers=2, hidden=128, embed=128, dropout=0.0,
                 dtype=np.float32, rng=None, device="cpu"):  # fmt: skip
        if not isinstance(vocabulary, Vocabulary):
            raise TypeError(f"vocabulary must be a Vocabulary, got {type(vocabulary).__name__}")
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {cell!r}")
        self.vocabulary = vocabulary
        self.config = {
            "cell": cell,
            "layers": check_size("layers", layers),
            "hidden": check_size("hidden", hidden),
            "embed": check_size("embed", embed),
            "dropout": check_share("dropout", dropout),
            "dtype": check_dtype(dtype).name,
        }
        self.net = build_network(len(vocabulary), rng=np.random.default_rng(rng), **self.config)
        self.net.to(device)
        self._stepper = None  # made by the first step
        self._stepper_on = None  # the device that it was made for
        self._packed_from: list = []  # fingerprints of the weights that it was packed from

    # -- one token at a time ---------------------------------------------------------------------

    def step(self, token):
        """Read one token, update the state, and give the probability of every continuation.

        Parameters
        ----------
        token : str or int
            A token of the vocabulary or its id.

        Returns
        -------
        probabilities : ndarray (V,), of the network's type
            ``probabilities[i]`` is that of ``vocabulary.tokens[i]``.

        Raises
        ------
        TypeError, ValueError
            It is not one token, or an id out of range.

        Notes
        -----
        The packed weights are compared with the network's at each step, so that a change is seen.
        ``net.stepper()`` does not compare, and is faster by that.
        """
        return self._probabilities(self._step(self._current_stepper(), self._one_id(token)))

    @property
    def state(self):
        """The memory: the state of the network, zeros at first. Reading copies; it may be assigned."""
        return self._current_stepper().state

    @state.setter
    def state(self, state):
        self._current_stepper().state = state

    def reset(self):
        """Forget what was read: set the state to zeros."""
        self._current_stepper().reset()

    def _current_stepper(self):
        """Give the stepper behind `step`, packed from the weights as they are now."""
        weights = [host(layer._fingerprint()) for layer in self.net.layers]
        if self._stepper is None or self._stepper_on != self.net.device:
            made = self.net.stepper(batch=1)
            if self._stepper is not None:  # the network has moved, and the memory moves with it
                made.state = _moved(self._stepper.state, self.net._kernels.arrays.asarray)
            self._stepper, self._stepper_on = made, self.net.device
        elif weights != self._packed_from:
            self._stepper.refresh()
        self._packed_from = weights
        return self._stepper

    def _step(self, stepper, ids):
        """Read one token, ids (1,), and give logits (1, V) where the network is."""
        return stepper(self.net._kernels.arrays.asarray(ids))

    def _probabilities(self, logits):
        """Give the probabilities (V,) of logits (1, V), which are written over, as NumPy has them."""
        self.net._kernels.softmax(logits, logits)
        return host(logits[0])

    def _one_id(self, token):
        """Give a token, as str or id, as an array of one id."""
        if isinstance(token, str):
            i = self.vocabulary.index(token)
            unseen = self.vocabulary.level == "word" and i == 0 and token != UNKNOWN
            if unseen and len(tokenize(token, "word")) != 1:
                raise ValueError(f"token must be one word, got {token!r}")
            return np.array([i])
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
            raise TypeError(f"token must be a str or an int, got {type(token).__name__}")
        if not 0 <= token < len(self.vocabulary):
            raise ValueError(f"token must be in [0, {len(self.vocabulary)}), got {token}")
        return np.array([token], np.int64)

    # -- from zeros, leaving the state alone -----------------------------------------------------

    def continuations(self, text, k=5):
        """Give the likeliest tokens after a text.

        Parameters
        ----------
        text : str
            Read from a memory of zeros; at least one token.
        k : int
            How many; all, if the vocabulary has fewer.

        Returns
        -------
        list of (str, float)
            Token and probability, likeliest first.
        """
        k = check_size("k", k)
        ids = self._encode("text", text, least=1)
        probabilities = self._probabilities(self._read(self.net.stepper(), ids))
        best = np.argsort(-probabilities, kind="stable")[:k]
        return [(self.vocabulary.tokens[i], float(probabilities[i])) for i in best]

    def sample(self, prompt="", length=200, temperature=1.0, top_k=None, rng=None):
        """Write on after a prompt.

        Parameters
        ----------
        prompt : str
            Read from a memory of zeros. If empty, the text starts as after a newline (or, where the
            vocabulary has none, as after its first token).
        length : int
            How many tokens to add.
        temperature : float
            What the logits are divided by: below 1 likelier tokens gain, 0 always takes the likeliest.
        top_k : int, optional
            Draw from that many likeliest tokens only.
        rng : int, numpy Generator or None
            What to draw with: the same seed gives the same text.

        Returns
        -------
        str
            The prompt and what follows. Unknown words are never drawn where there is anything else.
        """
        temperature = _check_temperature(temperature)
        top_k = None if top_k is None else check_size("top_k", top_k)
        length = 0 if length == 0 else check_size("length", length)
        rng = np.random.default_rng(rng)
        ids = list(self._encode("prompt", prompt))
        read = self.vocabulary.decode(ids)  # at word level, blanks may differ from the prompt's
        stepper = self.net.stepper()
        logits = self._read(stepper, ids or [self._opening()])
        for _ in range(length):
            ids.append(self._draw(host(logits[0]), temperature, top_k, rng))
            logits = self._step(stepper, np.array([ids[-1]]))
        return prompt + self.vocabulary.decode(ids).removeprefix(read)

    def perplexity(self, text):
        """Give exp of the mean loss, in nats, of every token of a text given those before it.

        Parameters
        ----------
        text : str
            Read in one go from a memory of zeros; at least two tokens: the first is not predicted.

        Returns
        -------
        float
        """
        return math.exp(self.loss(text))

    def loss(self, text):
        """Give the mean loss of every token but the first, in nats; see `perplexity`."""
        ids = self.net._kernels.arrays.asarray(self._encode("text", text, least=2))
        total, state = 0.0, None
        for start in range(0, len(ids) - 1, CHUNK):
            read = ids[start : start + CHUNK + 1, None]
            logits, state, _ = self.net.forward(read[:-1], state, training=False)
            total += softmax_cross_entropy(logits, read[1:])[0] * (len(read) - 1)
        return float(total / (len(ids) - 1))

    def _encode(self, name, text, least=0):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a str, got {type(text).__name__}")
        ids = self.vocabulary.encode(text)
        if len(ids) < least:
            plural = "s" if least > 1 else ""
            raise ValueError(f"{name} must have at least {least} token{plural}, got {len(ids)}")
        return ids

    def _read(self, stepper, ids):
        """Step through ids and give the last logits (1, V)."""
        for i in ids:
            logits = self._step(stepper, np.array([i]))
        return logits

    def _opening(self):
        tokens = self.vocabulary.tokens
        return tokens.index("\n") if "\n" in tokens else 0

    def _draw(self, logits, temperature, top_k, rng):
        """Draw an id from logits (V,)."""
        logits = logits.astype(np.float64)
        if not np.isfinite(logits).all():
            raise ValueError("the network's output is not finite: its training has diverged")
        if self.vocabulary.level == "word" and len(logits) > 1:
            logits[0] = -np.inf  # <unk>
        if temperature == 0:
            return int(logits.argmax())
        if top_k is not None and top_k < len(logits):
            # Ties at the edge go to the lower id, so that exactly top_k remain.
            logits[np.argsort(-logits, kind="stable")[top_k:]] = -np.inf
        with np.errstate(over="ignore"):  # a tiny temperature: infinitely unlikely is right
            weights = np.exp((logits - logits.max()) / temperature)
        return int(rng.choice(len(weights), p=weights / weights.sum()))

    # -- files -----------------------------------------------------------------------------------

    def save(self, path):
        """Write weights, configuration and vocabulary to one safetensors file.

        Parameters
        ----------
        path : str or path
            Written beside it first and renamed: a file that is there is whole, old or new.
        """
        vocabulary = {"level": self.vocabulary.level, "tokens": list(self.vocabulary.tokens)}
        arrays = {name: host(self.net[name]) for name in self.net.parameters()}
        metadata = {"format": FORMAT, "config": self.config, "vocabulary": vocabulary}
        write_safetensors(path, arrays, metadata)

    @classmethod
    def load(cls, path, device="cpu"):
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path
        device : "cpu", "cuda" or "cuda:N"
            Where the network is to be.

        Returns
        -------
        LanguageModel
            Its memory at zeros, its weights to the bit what they were.

        Raises
        ------
        ValueError
            The file is truncated, lacks tensors or has wrong ones, or is something else.
        OSError
            It can not be read.
        """
        arrays, metadata = read_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path}: not a language model of lstmc")
        try:
            vocabulary, config = Vocabulary(**metadata["vocabulary"]), metadata["config"]
            _check_sizes(arrays, config)
            model = cls(vocabulary, rng=0, **config)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: broken configuration: {error}") from None
        _check_tensors(path, arrays, model.net)
        for name, array in arrays.items():
            copy_into(model.net[name], array)
        model.net.to(device)
        return model


def build_network(tokens, cell, layers, hidden, embed, dropout, dtype, rng):
    """Make the network of a LanguageModel; `rng` is a Generator."""
    recurrent = CELLS[cell]
    stack: list = [Embedding(tokens, embed, dtype=dtype, rng=rng)]
    if dropout:
        for i in range(layers):
            stack.append(Dropout(dropout, rng=int(rng.integers(2**63))))
            stack.append(recurrent(hidden if i else embed, hidden, dtype=dtype, rng=rng))
        stack.append(Dropout(dropout, rng=int(rng.integers(2**63))))
    else:
        stack.append(recurrent(embed, hidden, layers, dtype=dtype, rng=rng))
    return Sequential(*stack, Linear(hidden, tokens, dtype=dtype, rng=rng))


def _moved(state, put):
    """Give a state whose arrays are where put(array) puts them."""
    if isinstance(state, tuple):
        return tuple(_moved(part, put) for part in state)
    return None if state is None else put(host(state))


def _check_temperature(value):
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise ValueError(f"temperature must be a finite number, 0 or above, got {value!r}")
    return float(value)


def _check_sizes(arrays, config):
    """Refuse sizes far from those of the tensors, before a network of such sizes is made."""
    largest = max((size for array in arrays.values() for size in array.shape), default=0)
    for name, most in (("hidden", largest), ("embed", largest), ("layers", len(arrays))):
        if config[name] > most:
            raise ValueError(f"{name} is {config[name]}, and no tensor is as large")


def _check_tensors(path, arrays, net):
    """Refuse tensors other than the network's own."""
    wanted = net.parameters()
    for name in sorted(wanted.keys() | arrays.keys()):
        if name not in arrays:
            raise ValueError(f"{path}: tensor {name!r} is missing")
        if name not in wanted:
            raise ValueError(f"{path}: tensor {name!r} is not one of the model's")
        try:
            cpu.checked(f"tensor {name!r}", arrays[name], net.dtype, wanted[name])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
