"""A folder with the small texts, the current directory of every test."""

import pytest
from tasks.translation.small_corpora import TEXT


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name, text in TEXT.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFMOE_CACHE", str(tmp_path / "cache"))
    return tmp_path
