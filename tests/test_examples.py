"""The programs that a user would copy run, small, and do what they say."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="example")["main"]


def test_every_example_is_tested():
    here = {"language_model", "own_layer", "step", "tones", "train_by_hand"}
    elsewhere = {"vanish_and_explode", "conveyor_belt", "long_term"}  # test_claims, test_problems
    assert {path.stem for path in EXAMPLES.glob("*.py")} == here | elsewhere


def test_step(capsys):
    heard = load("step")(steps=300)
    assert heard.shape == (300, 1)
    assert np.ptp(heard) > 0
    assert "the same bits as one call: True" in capsys.readouterr().out


def test_train_by_hand():
    assert load("train_by_hand")(updates=150) < 0.1  # chance is 0.69


def test_tones():
    """More than level, rising and falling told apart, which is 0.75: a dip needs the middle of a syllable."""
    assert load("tones")(updates=150) > 0.85


def test_own_layer(capsys):
    assert load("own_layer")(updates=150) < 0.3  # 0.49 by the mean of the readings
    output = capsys.readouterr().out
    assert "in float64, loss" in output
    assert ": right" in output
    assert "layer 0: vanishing" in output
    assert "stepped, the same bits: True" in output


def test_language_model(tmp_path):
    model = load("language_model")(tmp_path / "cats.safetensors", epochs=6)
    assert model.perplexity("the cat sat on the mat.\n") < 2  # of 14 words
    assert model.vocabulary.level == "word"


def test_the_readme_shows_what_its_first_example_prints(capsys):
    blocks = re.findall(r"```(?:python)?\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert capsys.readouterr().out == blocks[1]


@pytest.mark.parametrize("page", ["files.md", "own_layers.md"])
def test_pages_run_as_they_are(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    assert blocks
