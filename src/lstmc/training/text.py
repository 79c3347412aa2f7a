"""Texts: reading them, and cutting them into tokens.

Deliberately not a trained tokeniser: a token is a character, or a word by one fixed rule.
"""

import os
import re
import sys

__all__ = ["default_text", "read_text", "tokenize"]

LEVELS = ("char", "word")
UNKNOWN = "<unk>"
_WORDS = re.compile(r"\n|\w+(?:['\u2019]\w+)*|[^\w\s]")  # U+2019: the typographic apostrophe


def check_level(level):
    if level not in LEVELS:
        raise ValueError(f'level must be "char" or "word", got {level!r}')
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
    level : "char" or "word"

    Returns
    -------
    list of str

    Notes
    -----
    At level "char" every character is a token. At level "word" the rule is: a word is a longest run
    of letters, digits and underscores, in any script; an apostrophe with such characters on both
    sides belongs to the word (*don't*); a newline is the token ``"\n"``; every other character that
    is not white space is a token by itself; other white space separates and is dropped. Upper and
    lower case differ.

    Raises
    ------
    TypeError, ValueError
        The text is not a str, or the level is another one.
    """
    check_text("text", text)
    return list(text) if check_level(level) == "char" else _WORDS.findall(text)


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
