"""Folders that commands work in."""

import pytest
from commands import TEXT

from lstmc import set_num_threads


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder of its own, with a text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    yield tmp_path
    set_num_threads(None)
