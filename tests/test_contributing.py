"""The examples of CONTRIBUTING.md run as printed."""

import pathlib
import re

import keras
import numpy as np
import pytest

from tfmoe import gating
from tfmoe.data_pipelines.corpora import LanguageCorpus
from tfmoe.data_pipelines.reading import TextError
from tfmoe.gating.registry import FLAT_GATES
from tfmoe.layers import MoE

TEXT = (pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def names():
    """What all Python blocks define, run one after the other as in the file."""
    registered = dict(keras.saving.get_custom_objects())
    names = {"__name__": "contributing"}
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        exec(block, names)
    yield names
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(registered)


def test_the_gate(names, monkeypatch, tmp_path):
    names["test_weights_by_hand"]()
    for registry in (FLAT_GATES, gating.GATES):
        monkeypatch.setitem(registry, "sigmoid_top_k", names["SigmoidTopK"])
    gate = {"name": "sigmoid_top_k", "k": 1, "importance_weight": 0.1}
    x = np.random.default_rng(0).standard_normal((16, 4)).astype("float32")
    model = keras.Sequential([MoE(4, 8, gate=gate, groups=2)])
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    losses = model.fit(x, x, epochs=3, verbose=0).history["loss"]
    assert losses[2] < losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))


def test_the_corpus(names, tmp_path):
    folder = names["Folder"]
    assert issubclass(folder, LanguageCorpus)
    with pytest.raises(ValueError, match="held_out must be at least 1, got 0"):
        folder(root=".", held_out=0)
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text(f"{name} b c\n")
    splits = folder(root=str(tmp_path)).splits(tmp_path / "unused")
    parts = [[pathlib.Path(path).stem for path in part] for part in vars(splits).values()]
    assert parts == [["a", "b"], ["c"], ["d"]]
    with pytest.raises(TextError, match=r"needs more than 4 \*\.txt files, has 4"):
        folder(root=str(tmp_path), held_out=2).splits(tmp_path)


def test_every_path_exists():
    root = pathlib.Path(__file__).parents[1]
    new = {"tfmoe/gating/sigmoid_top_k.py", "tests/gating/test_sigmoid_top_k.py"}
    shown = set(re.findall(r"[`(]((?:tfmoe|tests|docs|data_pipelines)/[\w./]*)", TEXT)) - new
    assert len(shown) > 10
    assert [path for path in shown if not (root / path).exists()] == []
