import gzip

import numpy as np
import pytest

from tfmoe import data_pipelines
from tfmoe.inspection import count_lines, numbered_batches, numbered_pairs, read_labels

VOCABULARY = data_pipelines.Vocabulary.from_counts({"a": 9, "b": 5, "c": 3})  # ids 3, 4, 5


def rows_of(batches):
    """`{(line, start): tokens without padding}` of the inputs of batches."""
    return {
        (int(line), int(start)): [int(token) for token in tokens if token]
        for inputs, lines, starts in batches
        for tokens, line, start in zip(inputs, lines, starts, strict=True)
    }


def test_lines_are_numbered_through_all_files(tmp_path):
    """Blank lines count, also at the end of the first file. Rows have at most 3 tokens."""
    (tmp_path / "z.txt").write_text("a b\n\nc c c c\n\n")
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("b z")  # no line break
    files = [tmp_path / "z.txt", tmp_path / "a.txt.gz"]
    assert [count_lines(file) for file in files] == [4, 1]
    assert rows_of(numbered_batches(files, VOCABULARY, max_length=3)) == {
        (1, 0): [1, 3, 4],
        (3, 0): [1, 5, 5],
        (3, 3): [5, 5],
        (5, 0): [1, 4, 2],  # z is not in the vocabulary
    }


def test_rows_equal_those_of_evaluation(tmp_path):
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(["a", "b", "c", "x"], n)) for n in range(1, 40)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    settings = {"batch_tokens": 64, "max_length": 16}
    batches = numbered_batches(tmp_path / "text.txt", VOCABULARY, **settings)
    assert all(batch.inputs.size <= 64 or len(batch.inputs) == 1 for batch in batches)
    evaluated = data_pipelines.language_model_batches(
        [str(tmp_path / "text.txt")], VOCABULARY, **settings
    )
    expected = [
        [int(token) for token in row if token] for inputs, _ in evaluated for row in inputs.numpy()
    ]
    assert sorted(rows_of(batches).values()) == sorted(expected)


def test_sentences_are_sampled_evenly(tmp_path):
    """4 of 10 sentences: the indices are 0, 10/4 = 2.5, 5 and 7.5, rounded down."""
    (tmp_path / "text.txt").write_text("a\n" * 10)
    batches = numbered_batches(tmp_path / "text.txt", VOCABULARY, sentences=4)
    assert sorted(line for line, _ in rows_of(batches)) == [1, 3, 6, 8]
    with pytest.raises(ValueError, match="sentences must be at least 1, got 0"):
        numbered_batches(tmp_path / "text.txt", VOCABULARY, sentences=0)
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="no sentence to inspect"):
        numbered_batches(tmp_path / "blank.txt", VOCABULARY)


def test_pairs(tmp_path):
    for name, text in {"en": "one two\nthree\n", "fr": "un deux\ntrois\n"}.items():
        (tmp_path / f"text.{name}").write_text(text)
    words = ["one two", "three", "un deux", "trois"] * 20
    subwords = data_pipelines.Subwords.train(words, 40, languages=["en", "fr"])
    en_fr = data_pipelines.find_parallel(tmp_path / "text", "en", "fr")
    fr_en = data_pipelines.find_parallel(tmp_path / "text", "fr", "en")
    pairs = {}
    for (sources, targets), lines, starts in numbered_pairs([en_fr, fr_en], subwords):
        assert not starts.any()
        for *pair, line in zip(sources.tolist(), targets.tolist(), lines.tolist(), strict=True):
            pairs[line] = [[token for token in tokens if token] for tokens in pair]
    to_english, to_french = subwords.language_id("en"), subwords.language_id("fr")
    assert pairs == {
        1: [[to_french, *subwords.encode("one two")], [1, *subwords.encode("un deux")]],
        2: [[to_french, *subwords.encode("three")], [1, *subwords.encode("trois")]],
        3: [[to_english, *subwords.encode("un deux")], [1, *subwords.encode("one two")]],
        4: [[to_english, *subwords.encode("trois")], [1, *subwords.encode("three")]],
    }
    (one,) = numbered_pairs(en_fr, subwords, sentences=1)
    assert one.lines.tolist() == [1]


def test_labels(tmp_path):
    (tmp_path / "text.txt").write_text("a\nb\n")
    (tmp_path / "more.txt").write_text("c\n")
    (tmp_path / "text.label").write_text("news \r\n\n")
    (tmp_path / "more.label").write_text("Märchen")
    texts = [tmp_path / "text.txt", tmp_path / "more.txt"]
    labels = [tmp_path / "text.label", tmp_path / "more.label"]
    assert read_labels(labels, texts) == ["news", "", "Märchen"]
    with pytest.raises(ValueError, match=r"one file for each text file: got 1 for 2 \(.*more.txt"):
        read_labels(labels[:1], texts)
    message = r"more.label has 1 lines, but .*text.txt has 2: it must have one label for each line"
    with pytest.raises(ValueError, match=message):
        read_labels(labels[::-1], texts)
    (tmp_path / "more.label").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"more.label:1:1: byte 0xff is not valid UTF-8"):
        read_labels(labels, texts)
    with pytest.raises(ValueError, match=r"nowhere: no such file"):
        read_labels([tmp_path / "nowhere"], texts[:1])
