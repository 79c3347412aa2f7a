"""Vocabularies: numbers of tokens and back, what is unknown, what they are in files, and their memory."""

import tracemalloc

import numpy as np
import pytest

from lstmc.training import Vocabulary, read_text, tokenize

HINDI = "हिन्दी भाषा"


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
        (["a", "b"], "word", r'tokens\[0\] must be "<unk>" at level "word"'),
        (["a", "b"], "token", r'tokens\[0\] must be "<unk>" at level "token"'),
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


# -- what is unknown ------------------------------------------------------------------------------


def test_unknown_characters_are_left_out_and_counted():
    vocabulary = Vocabulary.from_text("cafe\n")
    for text, expected, count in [
        ("café Ω caf", "cafcaf", 4),
        ("ΩΩ", "", 2),
        ("", "", 0),
        ("face", "face", 0),
        ("\U0010fffff\udcffa", "fa", 2),
        ("Ω" + "caf" * 50_000 + "Ω", "caf" * 50_000, 2),
    ]:
        ids = vocabulary.encode(text, "skip")
        assert ids.dtype == np.int64
        assert vocabulary.decode(ids) == expected
        counted, n = vocabulary.encode(text, unknown="count")
        assert np.array_equal(counted, ids)
        assert n == count
    assert vocabulary.unseen("café Ω café") == [" ", "é", "Ω"]
    with pytest.raises(ValueError, match='unknown must be "error", "skip" or "count", got None'):
        vocabulary.encode("a", None)


def test_the_first_unknown_character_is_named_however_far_it_is():
    vocabulary = Vocabulary.from_text("ab")
    with pytest.raises(
        ValueError, match=r"^character 'Ω' at position 200000 was not in the training text$"
    ):
        vocabulary.encode("ab" * 100_000 + "Ωé")


def test_line_ends_that_differ_are_told():
    hint = "the text has CRLF line ends and the training text does not"
    vocabulary = Vocabulary.from_text("ab\n")
    with pytest.raises(
        ValueError, match=rf"'\\r' at position 2 was not in the training text: {hint}$"
    ):
        vocabulary.encode("ab\r\nb\r\n")
    for other in ("ab\r\nc", "a\rb", "c"):
        with pytest.raises(ValueError, match=r"was not in the training text$"):
            vocabulary.encode(other)


@pytest.mark.parametrize("level", ["word", "token"])
@pytest.mark.parametrize("unknown", ["error", "skip"])
def test_unknown_words_are_the_unknown_one_in_any_case(level, unknown):
    vocabulary = Vocabulary.from_text("the cat sat", level)
    assert vocabulary.unknown == 0
    assert vocabulary.encode("the zebra sat", unknown).tolist() == [3, 0, 2]
    ids, n = vocabulary.encode("the zebra sat on", "count")
    assert (ids.tolist(), n) == ([3, 0, 2, 0], 2)
    assert vocabulary.encode("", unknown).dtype == np.int64
    assert vocabulary.unseen("the zebra sat on") == ["on", "zebra"]


# -- texts that are cut already -------------------------------------------------------------------


def test_the_unknown_one_of_a_text_is_that_of_its_vocabulary():
    text = "the <unk> of N billion \n a <unk> rise . \n"
    vocabulary = Vocabulary.from_text(text, "token")
    assert vocabulary.tokens == ["<unk>", "\n", ".", "N", "a", "billion", "of", "rise", "the"]
    ids, n = vocabulary.encode("the <unk> fell . \n", "count")
    assert ids.tolist() == [8, 0, 0, 2, 1]
    assert n == 1, "only what the text itself does not call unknown"
    assert vocabulary.decode(vocabulary.encode(text)) == "the <unk> of N billion\na <unk> rise .\n"
    rarer = Vocabulary.from_text("a <unk> a b <unk>", "token", min_count=2)
    assert rarer.tokens == ["<unk>", "a"]
    assert repr(rarer) == "<Vocabulary of 2 tokens>"


# -- in files -------------------------------------------------------------------------------------


def test_a_vocabulary_keeps_the_rule_it_was_made_by():
    now = Vocabulary.from_text(HINDI, "word")
    assert now.options() == {"level": "word", "tokens": ["<unk>", "भाषा", "हिन्दी"], "rule": 2}
    assert Vocabulary.from_options(now.options()) == now
    before = Vocabulary.from_options({"level": "word", "tokens": ["<unk>", "ष", "ह"]})
    assert before.rule == 1
    assert before.options() == {"level": "word", "tokens": ["<unk>", "ष", "ह"]}
    assert before.encode(HINDI).tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert before != Vocabulary(before.tokens, "word")
    for wrong in (0, 3, True, "2", None):
        with pytest.raises(ValueError, match="rule must be an integer from 1 to 2, got"):
            Vocabulary(["<unk>"], "word", wrong)


@pytest.mark.parametrize("level", ["char", "token"])
def test_only_words_have_a_rule(level):
    vocabulary = Vocabulary.from_text("ab", level)
    assert vocabulary.options() == {"level": level, "tokens": vocabulary.tokens}
    assert Vocabulary.from_options(vocabulary.options()) == vocabulary


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["char", "word", "token"])
def test_reading_and_encoding_need_little_memory(level, tmp_path):
    """What lstmc train does before it trains; ids of characters alone are 4 times a Cyrillic file."""
    path = tmp_path / "text"
    line = "Все счастливые семьи похожи друг на друга, каждая несчастливая - по-своему.\n"
    path.write_text(line * 20_000, encoding="utf-8")
    Vocabulary.from_text(line, level).encode(line)  # patterns are made once
    tracemalloc.start()
    try:
        text = read_text(path)
        cut = len(text) * 9 // 10
        vocabulary = Vocabulary.from_text(text, level)
        train_ids, valid_ids = vocabulary.encode(text[:cut]), vocabulary.encode(text[cut:])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(train_ids) + len(valid_ids) >= 20_000 * len(tokenize(line, level))
    assert peak < 12 * path.stat().st_size
