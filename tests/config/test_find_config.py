"""Finding a config by path or name."""

import pytest

from tfmoe.config import ConfigError, find_config
from tfmoe.config.shipped import ROOT


def test_a_file_comes_before_a_shipped_name(tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    file = tmp_path / "demo" / "dense"
    file.write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_config("demo/dense").resolve() == file.resolve()
    assert find_config("demo/dense.yaml") == ROOT / "demo" / "dense.yaml"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lm1b/moe-257", "lm1b/moe-257: no such file, and no shipped config of this name; "
         "did you mean lm1b/moe-256? `tfmoe configs` lists them"),
        ("moe-32", "did you mean lm1b/moe-32?"),
        ("/", "/: is a directory; give the path of a config file in it"),
        ("lm1b/_base", "no such file"),
    ],
)  # fmt: skip
def test_unknown(name, message):
    with pytest.raises(ConfigError) as caught:
        find_config(name)
    assert message in str(caught.value)
