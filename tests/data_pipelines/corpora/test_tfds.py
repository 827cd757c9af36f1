import pathlib

import numpy as np
import pytest

from tfmoe.data_pipelines import TextError, sentence_pairs
from tfmoe.data_pipelines.corpora.tfds import ParallelTfds, TfdsText

GERMAN_ENGLISH = {"source_language": "de", "target_language": "en"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder with the data set `mine`, as TensorFlow Datasets prepares it."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    # Builders outside of its own package need it, and it does not say so.
    pytest.importorskip("importlib_resources", reason="importlib_resources is not installed")
    features = tfds.features

    class Mine(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            columns = {
                "text": features.Text(),
                "number": features.Scalar(np.int64),
                "translation": features.Translation(["de", "en"]),
            }
            return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(columns))

        def _split_generators(self, _):
            return {"train": self._generate_examples(10), "dev": self._generate_examples(2)}

        def _generate_examples(self, count):
            for n in range(count):
                pair = {"de": f"c {n}", "en": f"d {n}"}
                yield n, {"text": f"a {n}\nb", "number": n, "translation": pair}

    path = tmp_path_factory.mktemp("tfds")
    Mine(data_dir=path).download_and_prepare()
    return str(path)


def settings(data_dir, **changes):
    return {"dataset": "mine", "data_dir": data_dir, "valid": "dev", "test": None, **changes}


def test_text(tmp_path, data_dir):
    corpus = TfdsText(**settings(data_dir, test="train[:20%]"))
    splits = corpus.splits(tmp_path)
    train, valid, test = (pathlib.Path(*part).read_text() for part in vars(splits).values())
    assert sorted(train.split("\n")[:-1:2]) == [f"a {n}" for n in range(10)]
    assert train.split("\n")[1::2] == ["b"] * 10
    assert sorted(valid.split("\n")) == ["", "a 0", "a 1", "b", "b"]
    assert test == "".join(train.splitlines(keepends=True)[:4])
    written = pathlib.Path(splits.train[0]).stat().st_mtime_ns
    again = TfdsText(**settings(data_dir, dataset="mine:1.2.0", test="train[:20%]"))
    assert again.splits(tmp_path) == splits
    assert pathlib.Path(splits.train[0]).stat().st_mtime_ns == written


def test_pairs(tmp_path, data_dir):
    splits = ParallelTfds(**settings(data_dir), **GERMAN_ENGLISH).splits(tmp_path)
    (files,) = splits.train
    assert sorted(sentence_pairs(files)) == [(f"c {n}", f"d {n}") for n in range(10)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid": "x"}, r"mine/1\.2\.0\[x\] cannot be loaded \(data.valid\): Unknown split 'x'"),
        ({"dataset": "yours"}, r"yours cannot be loaded .*dataset\): Dataset yours not found"),
        ({"dataset": "mine:2.0.0"}, "mine:2.0.0 cannot be loaded .* cannot be loaded at version"),
        (
            {"column": "txt"},
            "no column 'txt'.*; did .* text.*: text, number, translation.de,",
        ),
        ({"column": "number"}, "row 1: column 'number' must be text, got "),
    ],
)
def test_what_cannot_be_loaded(tmp_path, data_dir, changes, message):
    with pytest.raises(TextError, match=message):
        TfdsText(**settings(data_dir, **changes)).splits(tmp_path)


@pytest.mark.parametrize("dataset", ["", "a b", "huggingface:glue", "a/b/c", "a:x", "../a", "a:"])
def test_names_are_checked(dataset):
    with pytest.raises(ValueError, match=r"^dataset must be NAME or NAME/CONFIG, :VERSION may"):
        TfdsText(dataset=dataset)
    for right in ("mine", "wmt14_translate/de-en", "wikipedia/20230601.en:1.0.0", "a:3.*.*"):
        assert TfdsText(dataset=right).dataset == right
