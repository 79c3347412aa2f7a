"""The command line and tokens that a model does not know, and texts that are cut already."""

import re

import pytest

from lstmc import LanguageModel, Vocabulary, cli, set_num_threads
from lstmc.cli import train as cli_train

TEXT = "the cat sat on the mat.\nthe dog saw the cat.\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder of its own, with models in it that have not learnt anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_train, "draw", lambda *_: None)
    for level in ("char", "word"):
        vocabulary = Vocabulary.from_text(TEXT, level)
        LanguageModel(vocabulary, layers=1, hidden=4, embed=4, rng=1).save(f"{level}.safetensors")
    yield tmp_path
    set_num_threads(None)


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def write(text):
    with open("other.txt", "w", encoding="utf-8", newline="") as file:
        file.write(text)


def test_eval_counts_unknown_characters(capsys):
    write("the cat Ω sat\u00e9.\n")
    assert run("eval", "char.safetensors", "other.txt") == 0
    first, second = capsys.readouterr().out.splitlines()
    loss = LanguageModel.load("char.safetensors").loss("the cat  sat.\n")
    assert first.startswith(f"14 characters: loss {loss:.4f} nats per character")
    assert second == (
        "2 of 16 characters were not in the training text and are left out ('\u00e9', 'Ω')"
    )
    assert run("eval", "char.safetensors", "other.txt", "--unknown", "skip") == 0
    assert capsys.readouterr().out.splitlines() == [first]
    assert run("eval", "char.safetensors", "other.txt", "--unknown", "error") == 1
    assert "character 'Ω' at position 8 was not in the training text" in capsys.readouterr().err
    write("the cat sat.\n")
    assert run("eval", "char.safetensors", "other.txt") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_eval_tells_that_line_ends_differ(capsys):
    hint = "the text has CRLF line ends and the training text does not"
    write(TEXT.replace("\n", "\r\n"))
    assert run("eval", "char.safetensors", "other.txt") == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(f"left out ('\\r'): {hint}")
    assert run("eval", "char.safetensors", "other.txt", "--unknown", "error") == 1
    assert hint in capsys.readouterr().err


def test_eval_names_a_few_of_many_unknown_characters(capsys):
    write("the cat" + "0123456789" * 3)
    assert run("eval", "char.safetensors", "other.txt") == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("30 of 37 characters")
    assert line.endswith("('0', '1', '2', '3', '4', ...)")


@pytest.mark.parametrize("unknown", ["error", "skip", "count"])
def test_eval_scores_unknown_words(unknown, capsys):
    write("the zebra sat.\n")
    assert run("eval", "word.safetensors", "other.txt", "--unknown", unknown) == 0
    loss = LanguageModel.load("word.safetensors").loss("the zebra sat.\n")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"5 words: loss {loss:.4f} nats per word")
    assert second == "20.00% of the words are unknown to the model"


@pytest.mark.parametrize(
    "command", [("next", "the Ωca"), ("sample", "--prompt", "the Ωca", "--seed", "1")]
)
def test_next_and_sample_leave_out_what_they_are_told_to(command, capsys):
    name, *arguments = command
    call = (name, "char.safetensors", *arguments)
    assert run(*call) == 1
    assert "character 'Ω' at position 4 was not in the training text" in capsys.readouterr().err
    assert run(*call, "--unknown", "skip") == 0
    skipped = capsys.readouterr()
    assert skipped.err == ""
    assert run(*call, "--unknown", "count") == 0
    counted = capsys.readouterr()
    assert counted.out == skipped.out
    assert counted.err == (
        "1 of 7 characters were not in the training text and are left out ('Ω')\n"
    )
    assert run(*[a.replace("Ω", "") for a in call]) == 0
    assert capsys.readouterr().out == skipped.out.replace("Ω", "")


def test_a_text_of_which_nothing_is_left(capsys):
    assert run("next", "char.safetensors", "Ω", "--unknown", "skip") == 1
    assert (
        "text must have at least 1 token, got 0 of 1: the rest was not in the training text"
    ) in capsys.readouterr().err


def test_a_text_that_is_cut_already(folder, capsys):
    text = " the <unk> sat on N mats \n a 2 @-@ year <unk> rise \n" * 60
    (folder / "cut.txt").write_text(text)
    small = ("--layers", 1, "--hidden", 8, "--embed", 4, "--batch", 4, "--steps", 10, "--epochs", 8)
    rest = ("--lr", 0.02, "--valid", 0, "--threads", 1)
    assert run("train", "cut.txt", "--out", "run", "--level", "token", *small, *rest) == 0
    assert "840 tokens to train on" in capsys.readouterr().out
    model = LanguageModel.load("run/model.safetensors")
    assert model.vocabulary == Vocabulary.from_text(text, "token")
    assert model.vocabulary.level == "token"
    assert run("eval", "run/model.safetensors", "cut.txt") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.match(r"840 tokens: loss \S+ nats per token", first)
    assert (
        second
        == "0.00% of the tokens are unknown to the model, 14.29% are <unk> in the text itself"
    )
    assert run("next", "run/model.safetensors", "2 @-@", "-k", 1) == 0
    assert "'year'" in capsys.readouterr().out
    sampling = ("--prompt", "a 2 @-@", "--length", 1, "--temperature", 0)
    assert run("sample", "run/model.safetensors", *sampling) == 0
    assert capsys.readouterr().out == "a 2 @-@ year\n"
    assert (
        run("train", "cut.txt", "--out", "rare", "--level", "token", "--min-count", 61, *small) == 0
    )
    assert LanguageModel.load("rare/model.safetensors").vocabulary.tokens == ["<unk>", "\n"]
    assert LanguageModel.load("run/model.safetensors").sample("a", 30, rng=1).count("<unk>") == 0
