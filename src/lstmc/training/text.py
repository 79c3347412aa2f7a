"""Texts: reading them, and cutting them into tokens.

Deliberately not a trained tokeniser: a token is a character, a word by one fixed rule, or what white space
separates.
"""

import itertools
import os
import re
import sys
import unicodedata

__all__ = ["default_text", "read_text", "tokenize"]

LEVELS = ("char", "word", "token")
RULE = 2  # for words; rule 1, of earlier models, cut at combining marks and joiners
UNKNOWN = "<unk>"
PIECE = 1 << 16  # characters that are cut or encoded at a time
_SPACE = re.compile(r"\s")
_PATTERNS: dict = {}  # of tokens, by level and rule, made when they are first used


def check_level(level):
    if level not in LEVELS:
        raise ValueError(f'level must be "char", "word" or "token", got {level!r}')
    return level


def check_text(name, text):
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, got {type(text).__name__}")
    return text


def tokenize(text, level):
    r"""Cut a text into tokens.

    Parameters
    ----------
    text : str
    level : "char", "word" or "token"

    Returns
    -------
    list of str

    Notes
    -----
    At level "char" every character is a token.

    At level "word" the rule is: a word begins with a letter, a digit or an underscore, and is the longest
    run of these, combining marks and joiners (U+200C, U+200D), in any script; an apostrophe between two
    such runs belongs to the word (*don't*); a newline is the token ``"\n"``; every other character that
    is not white space is a token by itself; other white space separates and is dropped. Upper and lower
    case differ.

    Level "token" is for texts that are cut already: a newline is the token ``"\n"``, everything else is cut
    at white space alone.

    Raises
    ------
    TypeError, ValueError
        The text is not a str, or the level is another one.
    """
    check_text("text", text)
    return list(text) if check_level(level) == "char" else list(cut(text, level))


def cut(text, level, rule=RULE):
    """Return an iterator of the tokens of a text at level "word", by a rule of that number, or "token".

    No more than a piece of the text is held as tokens.
    """
    find = _pattern(level, rule).findall
    return itertools.chain.from_iterable(find(text, *piece) for piece in _pieces(text))


def _pieces(text):
    """Yield where pieces of a text start and end: after white space, where a token ends too."""
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + PIECE)
        end = space.end() if space else len(text)
        yield start, end
        start = end


def _pattern(level, rule):
    """Return the compiled pattern of a token."""
    if (level, rule) not in _PATTERNS:
        if level == "token":
            pattern = r"\n|\S+"
        else:
            word = r"\w++" if rule == 1 else rf"\w++(?:{_marks()}\w*+)*+"
            pattern = rf"\n|{word}(?:['\u2019]{word})*|[^\w\s]"  # U+2019: a typographic apostrophe
        _PATTERNS[level, rule] = re.compile(pattern)
    return _PATTERNS[level, rule]


def _marks():
    """Return a pattern of combining marks and joiners.

    Python's re looks up a character below U+10000 in a table, and compares one above with each of a class;
    so that is only tried where there are marks at all, which is not among emoji and ideographs.
    """
    planes = "[\U00010000-\U0001efff\U000e0000-\U000e0fff]"
    codes = itertools.chain(range(0x300, 0x1F000), range(0xE0000, 0xE1000))
    marks = [c for c in map(chr, codes) if unicodedata.category(c)[0] == "M"]
    near = "".join(c for c in marks if c < "\U00010000")
    far = "".join(c for c in marks if c >= "\U00010000")
    return f"(?:[{near}\u200c\u200d]++|(?={planes})[{far}]++)"


def line_ends_hint(text, unseen):
    """Return what to add to an error if the characters unseen in training are those of line ends alone."""
    if set(unseen) == {"\r"} and "\r\n" in text:
        return ": the text has CRLF line ends and the training text does not"
    return ""


def read_text(source):
    """Return a whole text.

    Parameters
    ----------
    source : path, or "-" for standard input
        UTF-8, with or without a byte order mark.

    Returns
    -------
    str

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is not UTF-8 (the first wrong byte is named), or it is empty.
    """
    if source == "-":
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        name = str(source)
        with open(os.fspath(source), "rb") as file:
            data = file.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = data[error.start]
        raise ValueError(
            f"{name} is not UTF-8: byte 0x{wrong:02x} at offset {error.start} ({error.reason})"
        ) from None
    text = text.removeprefix("\ufeff")
    if not text:
        raise ValueError(f"{name} is empty")
    return text


def default_text():
    """Return the English text that comes with Python: its help topics, some 465,000 characters.

    Returns
    -------
    str
        The topics in the order of their names, with blank lines between them.
    """
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
