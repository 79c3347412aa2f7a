"""The tokens that a model knows, numbered."""

import functools
import itertools
from array import array
from collections import Counter

import numpy as np

from ..layer import check_size
from .text import PIECE, RULE, UNKNOWN, check_level, check_text, cut, line_ends_hint

__all__ = ["Vocabulary"]

# Before which tokens, and after which, text has no blank.
_NO_BLANK = {"word": (frozenset(".,;:!?)]}'\n"), frozenset("([{\n")), "token": ("\n", "\n")}


class Vocabulary:
    """The tokens a model knows, numbered from 0.

    Parameters
    ----------
    tokens : sequence of str
        All different. At level "char" they are single characters; at the others the first is "<unk>".
    level : "char", "word" or "token"
        What a token is; see `tokenize`.
    rule : int
        At level "word", the rule that words are cut by: 2, or 1 as in models of earlier versions, which cut
        words at combining marks and joiners.

    Attributes
    ----------
    tokens : list of str
        By number.
    level : str
    rule : int or None
        None but at level "word".
    unknown : int or None
        The number of "<unk>", which is 0; None at level "char".

    Raises
    ------
    TypeError, ValueError
        The tokens, the level or the rule are not such.
    """

    def __init__(self, tokens, level, rule=RULE):
        self.level = check_level(level)
        if isinstance(rule, bool) or rule not in range(1, RULE + 1):
            raise ValueError(f"rule must be an integer from 1 to {RULE}, got {rule!r}")
        self.rule = int(rule) if level == "word" else None
        self.unknown = None if level == "char" else 0
        self.tokens = list(tokens)
        for i, token in enumerate(self.tokens):
            check_text(f"tokens[{i}]", token)
            if not token or (level == "char" and len(token) != 1):
                length = "one character" if level == "char" else "at least one character"
                raise ValueError(f"tokens[{i}] must be {length}, got {token!r}")
        if not self.tokens:
            raise ValueError("tokens must hold at least one token, got none")
        if self.unknown is not None and self.tokens[0] != UNKNOWN:
            raise ValueError(
                f'tokens[0] must be "{UNKNOWN}" at level "{level}", got {self.tokens[0]!r}'
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
        level : "char", "word" or "token"
        min_count : int
            Rarer words or tokens are left out, and read as "<unk>". Must be 1 at level "char", which has
            no "<unk>".

        Returns
        -------
        Vocabulary
            At levels "word" and "token", "<unk>" is number 0; at level "token" that is also what the text
            itself writes as "<unk>".

        Raises
        ------
        ValueError
            The text is empty, or an argument is out of range.
        """
        min_count = check_size("min_count", min_count)
        check_text("text", text)
        counts = set(text) if check_level(level) == "char" else Counter(cut(text, level))
        if not counts:
            raise ValueError("text is empty: there are no tokens in it")
        if level == "char":
            if min_count != 1:
                raise ValueError(f'min_count must be 1 at level "char", got {min_count}')
            return cls(sorted(counts), level)
        known = (t for t, n in counts.items() if n >= min_count and t != UNKNOWN)
        return cls([UNKNOWN, *sorted(known)], level)

    def options(self):
        """Return the arguments that make a vocabulary like this one, as files have them."""
        options = {"level": self.level, "tokens": self.tokens}
        return options if self.rule in (None, 1) else {**options, "rule": self.rule}

    @classmethod
    def from_options(cls, options):
        """Return a vocabulary with these options; where there is no rule, it is the first one."""
        return cls(**{"rule": 1, **options})

    def __len__(self):
        return len(self.tokens)

    def __eq__(self, other):
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (self.level, self.rule, self.tokens) == (other.level, other.rule, other.tokens)

    __hash__ = None

    def __repr__(self):
        kinds = {"char": "characters", "word": "words", "token": "tokens"}
        return f"<Vocabulary of {len(self)} {kinds[self.level]}>"

    def index(self, token):
        """Return a token's number; for an unknown one that of "<unk>", where there is one.

        Parameters
        ----------
        token : str

        Returns
        -------
        int

        Raises
        ------
        ValueError
            At level "char": the character was not in the training text.
        """
        check_text("token", token)
        if self.unknown is not None:
            return self._ids.get(token, self.unknown)
        if token not in self._ids:
            if len(token) != 1:
                raise ValueError(f"token must be one character, got {token!r}")
            raise ValueError(f"character {token!r} was not in the training text")
        return self._ids[token]

    def unseen(self, text):
        """Return the tokens of a text that the vocabulary does not have, each once, sorted.

        Parameters
        ----------
        text : str

        Returns
        -------
        list of str
        """
        check_text("text", text)
        tokens = text if self.level == "char" else cut(text, self.level, self.rule)
        return sorted(set(tokens).difference(self._ids))

    def encode(self, text, unknown="error"):
        """Return the numbers of a text's tokens.

        Parameters
        ----------
        text : str
        unknown : "error", "skip" or "count"
            What to do at level "char" with characters that were not in the training text: raise an error,
            or leave them out; "count" also returns how many these are. At the other levels an unknown token
            is "<unk>" in any case, and "count" also returns how many are.

        Returns
        -------
        ids : ndarray (n,) of int64
        count : int
            If unknown is "count".

        Raises
        ------
        TypeError, ValueError
            An argument does not fit, or, with "error" at level "char", a character was not in the training
            text. The message names it and its position, counted in characters from 0.
        """
        check_text("text", text)
        if unknown not in ("error", "skip", "count"):
            raise ValueError(f'unknown must be "error", "skip" or "count", got {unknown!r}')
        encode = self._encode_characters if self.level == "char" else self._encode_tokens
        ids, count = encode(text, unknown == "error")
        return (ids, count) if unknown == "count" else ids

    def _encode_characters(self, text, strict):
        """Return ids, and how many characters are left out; piece by piece, or lists would need much room."""
        ids, n = np.empty(len(text), np.int64), 0
        for start in range(0, len(text), PIECE):
            piece = self._by_code_point.take(code_points(text[start : start + PIECE]), mode="clip")
            known = piece[piece >= 0]
            if strict and len(known) < len(piece):
                at = start + int((piece < 0).argmax())
                raise ValueError(
                    f"character {text[at]!r} at position {at} was not in the training text"
                    + line_ends_hint(text, self.unseen(text))
                )
            ids[n : n + len(known)] = known
            n += len(known)
        return ids[:n], len(text) - n

    @functools.cached_property
    def _by_code_point(self):
        """The number of each character by its code point, -1 for others; the last is for all beyond."""
        codes = code_points("".join(self.tokens))
        numbers = np.full(int(codes.max()) + 2, -1, np.int64)
        numbers[codes] = np.arange(len(codes))
        return numbers

    def _encode_tokens(self, text, strict):
        """Return ids, and how many are unknown; they are gathered in one array that grows."""
        ids = array("q", map(self._ids.get, cut(text, self.level, self.rule), itertools.repeat(-1)))
        ids = np.frombuffer(ids, np.int64) if ids else np.empty(0, np.int64)
        unknown = ids < 0
        ids[unknown] = self.unknown
        return ids, int(unknown.sum())

    def decode(self, ids):
        """Return the text of some numbers.

        Parameters
        ----------
        ids : sequence of int, or ndarray (n,) of integers

        Returns
        -------
        str
            At level "char" the characters joined; at the others the tokens with spaces between them,
            but none beside a newline and, at level "word", none before closing punctuation or after an
            opening bracket: this reads well, but is not always the text that was encoded.

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
        no_blank_before, no_blank_after = _NO_BLANK[self.level]
        parts = [tokens[0]]
        for before, token in itertools.pairwise(tokens):
            tight = token in no_blank_before or before in no_blank_after
            parts.append(token if tight else " " + token)
        return "".join(parts)


def code_points(text):
    """Return the code points (n,) of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
