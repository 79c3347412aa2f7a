"""Text: the rules for tokens, and files that are not text."""

import io
import sys
from types import SimpleNamespace
from unicodedata import category

import pytest

from lstmc.training import Vocabulary, default_text, read_text, tokenize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("The cat sat.", ["The", "cat", "sat", "."]),
        ("a\tb  c\r\n\n", ["a", "b", "c", "\n", "\n"]),
        ("don't 'quote' it's' 3.5", ["don't", "'", "quote", "'", "it's", "'", "3", ".", "5"]),
        ("don\u2019t", ["don\u2019t"]),
        ("snake_case x2 --", ["snake_case", "x2", "-", "-"]),
        ("Übung, κόσμε!", ["Übung", ",", "κόσμε", "!"]),
        ("f(x)[0]", ["f", "(", "x", ")", "[", "0", "]"]),
        ("हिन्दी cafe\u0301", ["हिन्दी", "cafe\u0301"]),
        ("தமிழ் மொழி.", ["தமிழ்", "மொழி", "."]),
        ("שָׁלוֹם, עוֹלָם", ["שָׁלוֹם", ",", "עוֹלָם"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # U+200C, a joiner that keeps letters apart
        ("क्\u200dष ක්\u200dෂ", ["क्\u200dष", "ක්\u200dෂ"]),
        ("\U00011013\U00011038\U0001103a", ["\U00011013\U00011038\U0001103a"]),  # Brahmi
        ("l\u0301'e\u0301te\u0301", ["l\u0301'e\u0301te\u0301"]),
        ("\u2764\ufe0flove", ["\u2764", "\ufe0f", "love"]),  # a mark that follows no letter
        ("a\U0001f600", ["a", "\U0001f600"]),
        ("os.path.join", ["os", ".", "path", ".", "join"]),
    ],
)
def test_words_are_cut_by_the_stated_rule(text, expected):
    assert tokenize(text, "word") == expected
    assert tokenize(text, "char") == list(text)


def test_words_hold_all_marks_of_unicode():
    marks = [c for c in map(chr, range(sys.maxunicode + 1)) if category(c).startswith("M")]
    assert len(marks) > 2000
    for start in range(0, len(marks), 500):
        words = [f"a{mark}b" for mark in marks[start : start + 500]]
        assert tokenize(" ".join(words), "word") == words
    assert tokenize("a" + "".join(marks), "word") == ["a" + "".join(marks)]


@pytest.mark.parametrize("level", ["word", "token"])
@pytest.mark.parametrize("blank", [" ", "\n", "\r\n", "\u2003"])
def test_a_long_text_is_cut_as_a_short_one(level, blank):
    """In pieces, that is, which must not end within a token."""
    words = ["a" * (1 + i % 13) + "x" * (i % 7 == 0) for i in range(60_000)]
    words[1000] = "long" * 50_000
    separators = ["\n"] * (len(words) - 1) if "\n" in blank else []
    expected = [t for pair in zip(words, separators) for t in pair] + [words[-1]]
    assert tokenize(blank.join(words), level) == (expected if separators else words)


def test_a_text_that_is_cut_already_is_cut_at_white_space_alone():
    text = " the <unk> of N billion \n a 2 @-@ year\u00a0rise . \n\n"
    tokens = [
        "the",
        "<unk>",
        "of",
        "N",
        "billion",
        "\n",
        "a",
        "2",
        "@-@",
        "year",
        "rise",
        ".",
        "\n",
        "\n",
    ]
    assert tokenize(text, "token") == tokens


def test_a_level_that_is_none_is_refused():
    with pytest.raises(ValueError, match='level must be "char", "word" or "token", got \'line\''):
        tokenize("a", "line")
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        tokenize(b"a", "char")


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("día\r\n".encode())
    assert read_text(path) == read_text(str(path)) == "día\r\n"
    path.write_bytes(b"\xef\xbb\xbfa")
    assert read_text(path) == "a"


def test_standard_input_is_read_as_bytes(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("día".encode())))
    assert read_text("-") == "día"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    with pytest.raises(ValueError, match=r"^standard input is empty$"):
        read_text("-")


def test_what_is_not_text_is_refused(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("día".encode() + b"\xff...")
    with pytest.raises(ValueError, match="text is not UTF-8: byte 0xff at offset 4"):
        read_text(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"text is empty$"):
        read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")


def test_the_default_text_is_pythons_own_and_the_same_every_time():
    text = default_text()
    assert text == default_text()
    assert len(text) > 300_000
    assert 'The "assert" statement' in text
    vocabulary = Vocabulary.from_text(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text
