import pytest

from tfmoe.data_pipelines import Splits, TextError
from tfmoe.data_pipelines.corpora.text import Text


def test_splits(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("x\n")
    a, b = (str(tmp_path / name) for name in "ab")
    assert Text(train=[f"{tmp_path}/?"], test=[b]).splits(None) == Splits([a, b], [], [b])
    with pytest.raises(TextError, match="/c: no such file"):
        Text(train=[a], valid=[f"{tmp_path}/c"]).splits(None)


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"^train must be a list of at least one item, got \[\]"):
        Text(train=[])
