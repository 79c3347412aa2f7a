"""A language model: a recurrent network that reads tokens and predicts the next one.

It holds a vocabulary and a network, steps the network, samples from it, and saves both in one file. The
Trainer is in trainer.py; what a token is, in text.py.
"""

import copy
import math

import numpy as np

from .._kernels.devices import host
from ..files import (
    FORMAT,
    check_kind,
    check_rng,
    make,
    make_network,
    read_safetensors,
    write_safetensors,
)
from ..layer import check_dtype, check_flag, check_share, check_size
from ..losses import softmax_cross_entropy
from ..recurrent import KINDS
from .description import config_of, network_description
from .streams import perplexity_of
from .text import UNKNOWN, cut
from .vocabulary import Vocabulary

__all__ = ["LanguageModel"]

OLD_FORMAT = "lstmc language model 1"  # of lstmc 0.1
CHUNK = 256  # steps whose logits are held in memory at once


class LanguageModel:
    """An embedding, a stack of recurrent layers and a linear map to logits, over a vocabulary.

    Parameters
    ----------
    vocabulary : Vocabulary
    cell : str
        The kind of its cells, such as "lstm" or "rnn": a key of ``lstmc.recurrent.KINDS``.
    layers, hidden : int
        The number of recurrent layers, and the hidden units of each.
    embed : int
        The features of the embedding.
    dropout : float in [0, 1)
        The share of what enters and leaves each recurrent layer that is dropped in training. What a layer
        passes on in time is not dropped (Zaremba et al. 2014, section 3.1).
    dtype : float32 or float64
    rng : int, numpy Generator or None
        Draws the initial weights and what is dropped.
    device : "cpu", "cuda" or "cuda:N"
        Where the network is; ``net.to`` moves it. Probabilities are NumPy arrays in any case.
    variational : bool
        Whether all steps of a window have the same dropout (Gal & Ghahramani 2016; see ``Dropout``). It needs
        `dropout` above 0.
    tied : bool
        Whether the linear map has the embedding's table for its weight (Press & Wolf 2017): fewer parameters,
        of which both add to the gradient. It needs `embed` equal to `hidden`.

    Attributes
    ----------
    vocabulary : Vocabulary
    net : Sequential
        Its weights may be trained or written at any time: every method reads them as they are.
    config : dict
        The parameters above as plain values, without vocabulary, rng and device.

    Raises
    ------
    TypeError, ValueError
        A parameter does not fit.
    """

    def __init__(self, vocabulary, cell="lstm", layers=2, hidden=128, embed=128, dropout=0.0,
                 dtype=np.float32, rng=None, device="cpu", *, variational=False,
                 tied=False):  # fmt: skip
        if not isinstance(vocabulary, Vocabulary):
            raise TypeError(f"vocabulary must be a Vocabulary, got {type(vocabulary).__name__}")
        if cell not in KINDS:
            raise ValueError(f"cell must be one of {', '.join(KINDS)}, got {cell!r}")
        config = {
            "cell": cell,
            "layers": check_size("layers", layers),
            "hidden": check_size("hidden", hidden),
            "embed": check_size("embed", embed),
            "dropout": check_share("dropout", dropout),
            "dtype": check_dtype(dtype).name,
            "variational": check_flag("variational", variational),
            "tied": check_flag("tied", tied),
        }
        if config["variational"] and not config["dropout"]:
            raise ValueError("variational needs dropout above 0, got 0")
        if config["tied"] and embed != hidden:
            raise ValueError(
                "tied needs embed equal to hidden, as the two layers have one weight, "
                f"got embed {embed} and hidden {hidden}"
            )
        description = network_description(len(vocabulary), **config)
        net = make(description, rng=check_rng(rng))
        self._begin(vocabulary, net.to(device), config)

    def _begin(self, vocabulary, net, config):
        self.vocabulary, self.net, self.config = vocabulary, net, config
        self._stepper = self._stepper_device = None  # made by the first step
        self._packed: list = []  # fingerprints of the weights that it has packed
        self._before = None  # the state of the stepper that is to be made

    def __repr__(self):
        config = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"LanguageModel({self.vocabulary!r}, {config})"

    def __getstate__(self):
        state = self._before if self._stepper is None else _moved(self._stepper.state, host)
        return {"parts": (self.vocabulary, self.net, self.config), "state": state}

    def __setstate__(self, saved):
        self._begin(*saved["parts"])
        self._before = saved["state"]

    def __copy__(self):
        return copy.deepcopy(self)  # as of its network

    # -- one token at a time ---------------------------------------------------------------------

    def step(self, token):
        """Read one token, update the state, and return the probability of every next token.

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
            It is not a single token, or its id is out of range.

        Notes
        -----
        Each step compares the packed weights with the network's, and packs them anew if they have changed.
        ``net.stepper()`` does not compare, and is faster.
        """
        return self._probabilities(self._step(self._current_stepper(), self._one_id(token)))

    @property
    def state(self):
        """The state of the network, zeros at first. Reading and assigning copy."""
        return self._current_stepper().state

    @state.setter
    def state(self, state):
        self._current_stepper().state = state

    def reset(self):
        """Set the state to zeros."""
        self._current_stepper().reset()

    def _current_stepper(self):
        """Return the stepper behind `step`, with the weights packed as they are now."""
        weights = [host(layer.fingerprint()) for layer in self.net.layers]
        if self._stepper is None or self._stepper_device != self.net.device:
            stepper = self.net.stepper(batch=1)
            # The network may have moved, and its state moves along.
            before = self._before if self._stepper is None else self._stepper.state
            if before is not None:
                stepper.state = _moved(before, self.net.kernels.arrays.asarray)
            self._stepper, self._stepper_device = stepper, self.net.device
        elif weights != self._packed:
            self._stepper.refresh()
        self._packed = weights
        return self._stepper

    def _step(self, stepper, ids):
        """Read one token, ids (1,), and return logits (1, V) on the network's device."""
        return stepper(self.net.kernels.arrays.asarray(ids))

    def _probabilities(self, logits):
        """Return the probabilities (V,) of logits (1, V), which are overwritten, as a NumPy array."""
        self.net.kernels.softmax(logits, logits)
        return host(logits[0])

    def _one_id(self, token):
        """Return a token, a str or an id, as an array of one id."""
        if isinstance(token, str):
            i = self.vocabulary.index(token)
            unseen = i == self.vocabulary.unknown and token != UNKNOWN
            if unseen and [*cut(token, self.vocabulary.level, self.vocabulary.rule)] != [token]:
                raise ValueError(f"token must be one {self.vocabulary.level}, got {token!r}")
            return np.array([i])
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
            raise TypeError(f"token must be a str or an int, got {type(token).__name__}")
        if not 0 <= token < len(self.vocabulary):
            raise ValueError(f"token must be in [0, {len(self.vocabulary)}), got {token}")
        return np.array([token], np.int64)

    # -- from zeros, leaving the state alone -----------------------------------------------------

    def continuations(self, text, k=5, unknown="error"):
        """Return the likeliest tokens after a text.

        Parameters
        ----------
        text : str
            At least one token, read from a state of zeros.
        k : int
            How many; all, if the vocabulary has fewer.
        unknown : "error" or "skip"
            Whether characters that were not in the training text are an error or left out. Unknown tokens
            of a vocabulary with "<unk>" are that in any case.

        Returns
        -------
        list of (str, float)
            Token and probability, the likeliest first.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit, a character was not in the training text, or the output of the network
            is not finite.
        """
        k = check_size("k", k)
        ids = self._encode("text", text, unknown, least=1)
        logits = self._read(self.net.stepper(), ids)
        _check_output(host(logits))
        probabilities = self._probabilities(logits)
        best = np.argsort(-probabilities, kind="stable")[:k]
        return [(self.vocabulary.tokens[i], float(probabilities[i])) for i in best]

    def sample(self, prompt="", length=200, temperature=1.0, top_k=None, rng=None, unknown="error"):
        """Continue a prompt by tokens drawn at random.

        Parameters
        ----------
        prompt : str
            Read from a state of zeros. If empty, the text starts as after a newline (or, if the
            vocabulary has none, as after its first token).
        length : int
            How many tokens to add.
        temperature : float
            Divides the logits: below 1 likelier tokens gain, 0 always takes the likeliest.
        top_k : int, optional
            Draw from that many likeliest tokens only.
        rng : int, numpy Generator or None
            Draws the tokens: the same seed gives the same text.
        unknown : "error" or "skip"
            See `continuations`. What is left out is not read, and stays in the text that is returned.

        Returns
        -------
        str
            The prompt and what follows. Unknown words are never drawn if there is anything else.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit, a character was not in the training text, or the output of the network
            is not finite.
        """
        temperature = _check_temperature(temperature)
        top_k = None if top_k is None else check_size("top_k", top_k)
        length = 0 if length == 0 else check_size("length", length)
        rng = check_rng(rng)
        ids = list(self._encode("prompt", prompt, unknown))
        read = self.vocabulary.decode(
            ids
        )  # but for characters, spaces may differ from the prompt's
        stepper = self.net.stepper()
        logits = self._read(stepper, ids or [self._opening()])
        for _ in range(length):
            ids.append(self._draw(host(logits[0]), temperature, top_k, rng))
            logits = self._step(stepper, np.array([ids[-1]]))
        return prompt + self.vocabulary.decode(ids).removeprefix(read)

    def perplexity(self, text, unknown="error"):
        """Return the perplexity of a text: exp of the mean loss, in nats, of its tokens given those before.

        Parameters
        ----------
        text : str
            At least two tokens, as the first is not predicted; read as a whole from a state of zeros.
        unknown : "error" or "skip"
            See `continuations`. What is left out is neither read nor predicted; "<unk>" is both.

        Returns
        -------
        float
            Infinity where the loss is above 709 nats: the perplexity is beyond all numbers then.

        Raises
        ------
        TypeError, ValueError
            It is not such a text, a character was not in the training text, or the output of the network is
            not finite.
        """
        return perplexity_of(self.loss(text, unknown))

    def loss(self, text, unknown="error"):
        """Return the mean loss of every token but the first, in nats; see `perplexity`."""
        ids = self.net.kernels.arrays.asarray(self._encode("text", text, unknown, least=2))
        total, state = 0.0, None
        for start in range(0, len(ids) - 1, CHUNK):
            read = ids[start : start + CHUNK + 1, None]
            logits, state, _ = self.net.forward(read[:-1], state, training=False)
            total += softmax_cross_entropy(logits, read[1:])[0] * (len(read) - 1)
        _check_output(float(total))
        return float(total / (len(ids) - 1))

    def _encode(self, name, text, unknown, least=0):
        """Return the ids of a text; refuse one of fewer tokens than `least`."""
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a str, got {type(text).__name__}")
        if unknown not in ("error", "skip"):
            raise ValueError(f'unknown must be "error" or "skip", got {unknown!r}')
        ids = self.vocabulary.encode(text, unknown)
        if len(ids) < least:
            message = (
                f"{name} must have at least {least} token{'s' if least > 1 else ''}, got {len(ids)}"
            )
            if self.vocabulary.unknown is None and len(ids) < len(text):
                message += f" of {len(text)}: the rest was not in the training text"
            raise ValueError(message)
        return ids

    def _read(self, stepper, ids):
        """Step through ids and return the last logits (1, V)."""
        for i in ids:
            logits = self._step(stepper, np.array([i]))
        return logits

    def _opening(self):
        """Return the id that an empty prompt stands for."""
        tokens = self.vocabulary.tokens
        return tokens.index("\n") if "\n" in tokens else 0

    def _draw(self, logits, temperature, top_k, rng):
        """Draw an id from logits (V,)."""
        logits = logits.astype(np.float64)
        _check_output(logits)
        if self.vocabulary.unknown is not None and len(logits) > 1:
            logits[self.vocabulary.unknown] = -np.inf
        if temperature == 0:
            return int(logits.argmax())
        if top_k is not None and top_k < len(logits):
            # Ties go to the lower id, so that exactly top_k remain.
            logits[np.argsort(-logits, kind="stable")[top_k:]] = -np.inf
        with np.errstate(over="ignore"):  # at a tiny temperature others become infinitely unlikely
            weights = np.exp((logits - logits.max()) / temperature)
        return int(rng.choice(len(weights), p=weights / weights.sum()))

    # -- files -----------------------------------------------------------------------------------

    def save(self, path):
        """Save weights, configuration and vocabulary in one safetensors file.

        Parameters
        ----------
        path : str or path
            Always a whole file, the old one or the new one: it is written under another name and renamed.

        Raises
        ------
        OSError
            It cannot be written.
        """
        metadata = {
            "format": FORMAT,
            "kind": "language model",
            "network": self.net.description,
            "vocabulary": self.vocabulary.options(),
        }
        write_safetensors(path, {name: host(a) for name, a in self.net.items()}, metadata)

    @classmethod
    def load(cls, path, device="cpu", verify=True):
        """Load what `save` wrote.

        Parameters
        ----------
        path : str or path
        device : "cpu", "cuda" or "cuda:N"
            Where the network is to be.
        verify : bool
            Compare the checksum.

        Returns
        -------
        LanguageModel
            Its state is zeros; its weights are those saved, to the bit.

        Raises
        ------
        ValueError
            The file is truncated or not a model's, or its tensors are not those of the model.
        OSError
            It cannot be read.
        """
        arrays, metadata = read_safetensors(path, verify)
        try:
            if metadata.get("format") == OLD_FORMAT:
                vocabulary = Vocabulary.from_options(metadata["vocabulary"])
                config = metadata["config"]
                if config["layers"] > len(arrays):
                    raise ValueError(f"layers is {config['layers']}, more than there are tensors")
                description = network_description(len(vocabulary), **config)
            else:
                check_kind(metadata, ("language model",))
                vocabulary = Vocabulary.from_options(metadata["vocabulary"])
                description = metadata["network"]
            config = config_of(description, len(vocabulary))
            net = make_network(description, arrays)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a language model of lstmc: {error}") from None
        model = cls.__new__(cls)
        model._begin(vocabulary, net.to(device), config)
        return model


def _moved(state, put):
    """Return a copy of a state, each array of it made by put(array)."""
    if isinstance(state, tuple):
        return tuple(_moved(part, put) for part in state)
    return None if state is None else put(host(state))


def _check_output(values):
    """Refuse logits, or a loss of them, that are not finite."""
    if not np.isfinite(values).all():
        raise ValueError("the network's output is not finite: its training has diverged")


def _check_temperature(value):
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise ValueError(f"temperature must be a finite number, 0 or above, got {value!r}")
    return float(value)
