"""Text: the rule for words, numbers of tokens, and files that are not text."""

import io
import sys
from types import SimpleNamespace

import numpy as np
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
    ],
)
def test_words_are_cut_by_the_stated_rule(text, expected):
    assert tokenize(text, "word") == expected
    assert tokenize(text, "char") == list(text)


def test_a_level_that_is_none_is_refused():
    with pytest.raises(ValueError, match='level must be "char" or "word", got \'line\''):
        tokenize("a", "line")
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        tokenize(b"a", "char")


def test_characters_are_numbered_in_their_order():
    vocabulary = Vocabulary.from_text("banana\n")
    assert vocabulary.tokens == ["\n", "a", "b", "n"]
    assert (vocabulary.level, len(vocabulary)) == ("char", 4)
    ids = vocabulary.encode("nab")
    assert ids.dtype == np.int64
    assert ids.tolist() == [3, 1, 2]
    assert vocabulary.decode(ids) == "nab"
    assert vocabulary.index("b") == 2
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.encode("").dtype == np.int64


def test_words_are_numbered_in_their_order_after_the_unknown_one():
    vocabulary = Vocabulary.from_text("b a b\nc a", level="word")
    assert vocabulary.tokens == ["<unk>", "\n", "a", "b", "c"]
    assert vocabulary.encode("a zebra b").tolist() == [2, 0, 3]
    assert vocabulary.index("zebra") == 0
    rarer = Vocabulary.from_text("b a b\nc a", level="word", min_count=2)
    assert rarer.tokens == ["<unk>", "a", "b"]
    assert rarer.encode("b a b\nc a").tolist() == [2, 1, 2, 0, 0, 1]


def test_a_character_unseen_is_named_with_its_position():
    vocabulary = Vocabulary.from_text("a text of café".replace("é", "e"))
    with pytest.raises(
        ValueError, match=r"^character 'é' at position 3 was not in the training text"
    ):
        vocabulary.encode("café é")
    with pytest.raises(ValueError, match="character 'é' was not in the training text"):
        vocabulary.index("é")
    with pytest.raises(ValueError, match="token must be one character, got 'ca'"):
        vocabulary.index("ca")


@pytest.mark.parametrize(
    "text",
    [
        "The cat sat.",
        "One, two; three: (four) [five] {six}!\nSeven?",
        "don't stop\n\nnow",
        "",
    ],
)
def test_decoded_words_read_well(text):
    vocabulary = Vocabulary.from_text(text + " x", level="word")
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_numbers_out_of_range_are_not_decoded():
    vocabulary = Vocabulary.from_text("ab")
    for wrong in (2, -1):
        with pytest.raises(
            ValueError, match=rf"ids must be in \[0, 2\), got {wrong} at position 1"
        ):
            vocabulary.decode([0, wrong])


def test_vocabularies_are_equal_by_tokens_and_level():
    assert Vocabulary.from_text("ab") == Vocabulary(["a", "b"], "char")
    assert Vocabulary.from_text("ab") != Vocabulary(["b", "a"], "char")
    assert Vocabulary(["<unk>"], "word") != Vocabulary(["<"], "char")
    assert Vocabulary.from_text("ab") != ["a", "b"]


@pytest.mark.parametrize(
    ("tokens", "level", "message"),
    [
        ([], "char", "at least one token"),
        (["a", "bc"], "char", r"tokens\[1\] must be one character, got 'bc'"),
        (["a", "b", "a"], "char", "'a' twice"),
        (["a", "b"], "word", r'tokens\[0\] must be "<unk>"'),
        (["<unk>", ""], "word", r"tokens\[1\] must be at least one character"),
        (["a"], "line", "level must be"),
    ],
)
def test_tokens_that_make_no_vocabulary_are_refused(tokens, level, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens, level)


def test_arguments_of_from_text_are_checked():
    with pytest.raises(ValueError, match="text is empty"):
        Vocabulary.from_text("")
    with pytest.raises(ValueError, match="text is empty"):
        Vocabulary.from_text("  \t", level="word")
    with pytest.raises(ValueError, match='min_count must be 1 at level "char", got 2'):
        Vocabulary.from_text("ab", min_count=2)
    with pytest.raises(ValueError, match="min_count must be a positive integer, got 0"):
        Vocabulary.from_text("ab", level="word", min_count=0)


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
