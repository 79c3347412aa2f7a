"""The tokens that a model knows, numbered."""

import itertools
from collections import Counter

import numpy as np

from .text import UNKNOWN, check_level, check_text, tokenize

__all__ = ["Vocabulary"]

_NO_BLANK_BEFORE = frozenset(".,;:!?)]}'\n")
_NO_BLANK_AFTER = frozenset("([{\n")


class Vocabulary:
    """The tokens a model knows, numbered from 0.

    Parameters
    ----------
    tokens : sequence of str
        All different. At level "char" they are single characters; at level "word" the first is "<unk>".
    level : "char" or "word"

    Attributes
    ----------
    tokens : list of str
        By number.
    level : str

    Raises
    ------
    TypeError, ValueError
        The tokens or the level are not such.
    """

    def __init__(self, tokens, level):
        self.level = check_level(level)
        self.tokens = list(tokens)
        for i, token in enumerate(self.tokens):
            check_text(f"tokens[{i}]", token)
            if not token or (level == "char" and len(token) != 1):
                length = "one character" if level == "char" else "at least one character"
                raise ValueError(f"tokens[{i}] must be {length}, got {token!r}")
        if not self.tokens:
            raise ValueError("tokens must hold at least one token, got none")
        if level == "word" and self.tokens[0] != UNKNOWN:
            raise ValueError(
                f'tokens[0] must be "{UNKNOWN}" at level "word", got {self.tokens[0]!r}'
            )
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if self._ids[t] != i)
            raise ValueError(f"tokens must all be different, got {twice!r} twice")

    @classmethod
    def from_text(cls, text, level="char", min_count=1):
        """Return the vocabulary of a text: its tokens, sorted.

        Parameters
        ----------
        text : str
        level : "char" or "word"
        min_count : int
            Rarer words are left out, and read as "<unk>". Must be 1 at level "char", which has no
            "<unk>".

        Returns
        -------
        Vocabulary
            At level "word", "<unk>" is number 0.

        Raises
        ------
        ValueError
            The text is empty, or an argument is out of range.
        """
        if not isinstance(min_count, (int, np.integer)) or min_count < 1:
            raise ValueError(f"min_count must be a positive integer, got {min_count!r}")
        counts = Counter(tokenize(text, level))
        if not counts:
            raise ValueError("text is empty: there are no tokens in it")
        if level == "word":
            return cls([UNKNOWN, *sorted(t for t, n in counts.items() if n >= min_count)], level)
        if min_count != 1:
            raise ValueError(f'min_count must be 1 at level "char", got {min_count}')
        return cls(sorted(counts), level)

    def __len__(self):
        return len(self.tokens)

    def __eq__(self, other):
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.level == other.level and self.tokens == other.tokens

    __hash__ = None

    def __repr__(self):
        return f"<Vocabulary of {len(self)} {'characters' if self.level == 'char' else 'words'}>"

    def index(self, token):
        """Return a token's number; at level "word" that of "<unk>" for an unknown word.

        Raises
        ------
        ValueError
            At level "char": the character was not in the training text.
        """
        check_text("token", token)
        if self.level == "word":
            return self._ids.get(token, 0)
        if token not in self._ids:
            if len(token) != 1:
                raise ValueError(f"token must be one character, got {token!r}")
            raise ValueError(f"character {token!r} was not in the training text")
        return self._ids[token]

    def encode(self, text):
        """Return the numbers of a text's tokens.

        Parameters
        ----------
        text : str

        Returns
        -------
        ndarray (n,) of int64
            Unknown words are "<unk>", number 0.

        Raises
        ------
        ValueError
            At level "char": a character was not in the training text. The message names it and its
            position.
        """
        tokens = tokenize(text, self.level)
        ids = np.fromiter((self._ids.get(token, -1) for token in tokens), np.int64, len(tokens))
        if self.level == "word":
            return np.maximum(ids, 0)
        unseen = np.flatnonzero(ids < 0)
        if unseen.size:
            at = int(unseen[0])
            raise ValueError(
                f"character {text[at]!r} at position {at} was not in the training text"
            )
        return ids

    def decode(self, ids):
        """Return the text of some numbers.

        Parameters
        ----------
        ids : sequence of int, or ndarray (n,) of integers

        Returns
        -------
        str
            At level "char" the characters joined. At level "word" the words with spaces between them,
            but none before closing punctuation, after an opening bracket, or beside a newline: this
            reads well, but is not always the text that was encoded.

        Raises
        ------
        ValueError
            A number is out of range.
        """
        tokens = []
        for at, i in enumerate(ids):
            if not 0 <= i < len(self.tokens):
                raise ValueError(
                    f"ids must be in [0, {len(self.tokens)}), got {i} at position {at}"
                )
            tokens.append(self.tokens[i])
        if self.level == "char" or not tokens:
            return "".join(tokens)
        parts = [tokens[0]]
        for before, token in itertools.pairwise(tokens):
            tight = token in _NO_BLANK_BEFORE or before in _NO_BLANK_AFTER
            parts.append(token if tight else " " + token)
        return "".join(parts)
