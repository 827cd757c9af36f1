import json
import pathlib

import pytest

from tfmoe.data_pipelines import TextError, sentence_pairs
from tfmoe.data_pipelines.corpora.huggingface import HuggingFaceText, ParallelHuggingFace

datasets = pytest.importorskip("datasets", reason="datasets is not installed")
ROWS = [{"text": f"a {n}\nb", "translation": {"de": f"c {n}", "en": f"d {n}"}} for n in range(10)]
GERMAN_ENGLISH = {"source_language": "de", "target_language": "en"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a data set as JSON lines, and the same as `save_to_disk` writes it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "files").mkdir()
    for split, rows in (("train", ROWS), ("validation", ROWS[:3])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "files" / f"{split}.jsonl").write_text(text)
    splits = {
        "train": datasets.Dataset.from_list(ROWS),
        "dev": datasets.Dataset.from_list(ROWS[:3]),
    }
    datasets.DatasetDict(splits).save_to_disk("saved")
    return tmp_path


def texts(files):
    return [pathlib.Path(file).read_text() for file in files]


def test_data_files(folder):
    settings = {"path": "files", "cache_dir": "cache/huggingface", "test": "train[:20%]"}
    splits = HuggingFaceText(**settings).splits(folder / "cache")
    everything = "".join(row["text"] + "\n" for row in ROWS)
    assert texts(splits.train) == [everything]
    assert texts(splits.valid) == ["a 0\nb\na 1\nb\na 2\nb\n"]
    assert texts(splits.test) == ["a 0\nb\na 1\nb\n"]
    written = pathlib.Path(splits.train[0]).stat().st_mtime_ns
    again = HuggingFaceText(**settings).splits(folder / "cache")
    assert again == splits and pathlib.Path(again.train[0]).stat().st_mtime_ns == written

    (folder / "files" / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    changed = HuggingFaceText(**{**settings, "test": None}).splits(folder / "cache")
    assert texts(changed.train) == ["a 0\nb\n"]


def test_a_format(folder):
    settings = {"path": "json", "cache_dir": "cache/huggingface", "valid": None, "test": None}
    corpus = ParallelHuggingFace(**settings, **GERMAN_ENGLISH, data_files=["files/v*.jsonl"])
    splits = corpus.splits(folder / "cache")
    (files,) = splits.train
    assert (splits.valid, splits.test) == ([], [])
    assert list(sentence_pairs(files)) == [(f"c {n}", f"d {n}") for n in range(3)]


def test_a_saved_data_set(folder):
    settings = {"path": str(folder / "saved"), "valid": "dev", "test": None}
    splits = HuggingFaceText(**settings, column="translation.de").splits(folder / "cache")
    assert texts(splits.valid) == ["c 0\nc 1\nc 2\n"]
    (files,) = ParallelHuggingFace(**settings, **GERMAN_ENGLISH).splits(folder / "cache").valid
    assert list(sentence_pairs(files))[2] == ("c 2", "d 2")
    alone = {"path": str(folder / "saved" / "dev"), "valid": None, "test": None}
    assert texts(HuggingFaceText(**alone).splits(folder / "cache").train) == [
        "a 0\nb\na 1\nb\na 2\nb\n"
    ]


def test_a_feature_of_translations(folder):
    features = datasets.Features({"translation": datasets.Translation(["de", "en"])})
    rows = [{"translation": row["translation"]} for row in ROWS]
    datasets.Dataset.from_list(rows, features).save_to_disk("wmt")
    corpus = ParallelHuggingFace(path="wmt", **GERMAN_ENGLISH, valid=None, test=None)
    (files,) = corpus.splits(folder / "cache").train
    assert list(sentence_pairs(files))[9] == ("c 9", "d 9")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"files\[test\] cannot be loaded \(data.path, data.test\): Unknown split .test."),
        ({"config_name": "x"}, "cannot be loaded .*: BuilderConfig 'x' not found. Available"),
        ({"path": "empty"}, r"cannot be loaded \(data.path, data.train\): .* doesn't contain any"),
        ({"path": "json", "data_files": ["x"]}, "cannot be loaded .*: Unable to find '.*x'"),
        ({"path": "saved"}, r"no split 'validation' \(data.valid\); the saved .* train, dev$"),
        ({"column": "txt"}, r"files\[train\]: there is no column 'txt' .*; did you mean text\?"),
        ({"column": "translation"}, r"are: text, translation\.de, translation\.en"),
    ],
)
def test_what_cannot_be_loaded(folder, settings, message):
    (folder / "empty").mkdir()
    corpus = HuggingFaceText(**{"path": "files", "cache_dir": "cache/huggingface", **settings})
    with pytest.raises(TextError, match=message):
        corpus.splits(folder / "cache")


def test_a_full_disk(folder, full_disk):
    row = json.dumps({"text": "a" * 100_000})
    (folder / "files" / "train.jsonl").write_text(f"{row}\n")
    with full_disk(50_000), pytest.raises(OSError, match="too large"):
        HuggingFaceText(path="files", cache_dir="cache/huggingface").splits(folder / "cache")
