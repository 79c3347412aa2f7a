"""A run whose files are damaged is refused in one line."""

import pytest

from lstmc import cli
from lstmc.files import read_safetensors, write_safetensors

OPTIONS = [
    *("--hidden", "5", "--embed", "4", "--layers", "1", "--batch", "4", "--steps", "5"),
    *("--epochs", "1", "--threads", "1"),
]
CHECKPOINT = "run/checkpoint.safetensors"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Train in a folder of its own; return what is in the checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the cat sat on the mat.\n" * 20)
    assert cli.main(["train", "text.txt", *OPTIONS]) == 0
    return read_safetensors(CHECKPOINT)


@pytest.mark.parametrize(
    ("name", "value"),
    [("optimizer", "magic"), ("schedule", None), ("layers", 10**30), ("hidden", "x"), ("lr", [])],
)
def test_a_setting_that_is_none(checkpoint, name, value, capsys):
    arrays, metadata = checkpoint
    metadata["note"]["settings"][name] = value
    write_safetensors(CHECKPOINT, arrays, metadata)
    assert cli.main(["train", "--resume", "--epochs", "2"]) == 1
    error = capsys.readouterr().err
    assert f"is damaged: its note has {name} = " in error
    assert error.count("\n") == 1


def test_settings_that_are_missing(checkpoint, capsys):
    arrays, metadata = checkpoint
    for name in metadata["note"]["settings"]:
        settings = {k: v for k, v in metadata["note"]["settings"].items() if k != name}
        write_safetensors(
            CHECKPOINT, arrays, {**metadata, "note": {"settings": settings, "text": []}}
        )
        assert cli.main(["train", "--resume", "--epochs", "2"]) == 1
        error = capsys.readouterr().err
        assert "is damaged: its note does not have the settings of a run" in error
        assert error.count("\n") == 1
