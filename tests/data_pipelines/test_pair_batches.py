import collections
import gzip
import itertools
import random

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.data_pipelines import (
    ParallelFiles,
    Subwords,
    TextError,
    bucket_boundaries,
    find_parallel,
    pair_lengths,
    parallel_batches,
    parallel_batches_per_pass,
    sentence_pairs,
)

SIZES = {"batch_tokens": 120}
GERMAN = ["der", "die", "Hund", "Katze", "sah", "lief", "und", "nicht", "über", "Straße", "heute"]
ENGLISH = ["the", "dog", "cat", "saw", "ran", "and", "not", "over", "street", "today"]
JAPANESE = list("犬猫が見た走っ道今日の上に座")


def write_pairs(directory, name, languages, words, count, seed):
    """Pairs of random words, of 1 to 25 words on each side, the first side of similar length."""
    choose = random.Random(seed)
    lines = ([], [])
    for _ in range(count):
        length = choose.randint(1, 22)
        for side, (known, separator) in enumerate(words):
            size = max(1, length + choose.randint(-3, 3))
            lines[side].append(separator.join(choose.choices(known, k=size)))
    for language, side in zip(languages, lines, strict=True):
        (directory / f"{name}.{language}").write_text("\n".join(side) + "\n", encoding="utf-8")
    return find_parallel(directory / name, *languages)


@pytest.fixture(scope="module")
def german(tmp_path_factory):
    directory = tmp_path_factory.mktemp("german")
    words = ((GERMAN, " "), (ENGLISH, " "))
    for part in range(3):
        write_pairs(directory, f"a{part}", ("de", "en"), words, 100 + 50 * part, part)
    return find_parallel(directory / "a?", "de", "en")


@pytest.fixture(scope="module")
def japanese(tmp_path_factory):
    directory = tmp_path_factory.mktemp("japanese")
    words = ((ENGLISH, " "), (JAPANESE, ""))
    return write_pairs(directory, "j", ("en", "ja"), words, 150, 9)


@pytest.fixture(scope="module")
def subwords(german, japanese):
    text = itertools.chain(sentence_pairs(german), sentence_pairs(japanese))
    return Subwords.train((side for pair in text for side in pair), 120, languages=["en", "ja"])


@pytest.fixture(scope="module")
def lengths(german, subwords):
    return pair_lengths(german, subwords)


def batches(*arguments, **options):
    dataset = parallel_batches(*arguments, **{**SIZES, **options})
    return [
        (source.tolist(), inputs.tolist(), targets.tolist())
        for (source, inputs), targets in dataset.as_numpy_iterator()
    ]


def read_back(found, subwords, tag_language=False):
    """The pairs of batches, as a Counter of text (with the tag before it); the form is checked."""
    pairs = collections.Counter()
    for batch in found:
        source, inputs, targets = map(np.array, batch)
        assert inputs.shape == targets.shape and len(source) == len(inputs)
        assert (inputs[:, 0] == 1).all()
        assert np.array_equal(np.where(inputs[:, 1:] != 0, targets[:, :-1], 0), inputs[:, 1:])
        for row in zip(source, inputs, targets, strict=True):
            lengths = [int(np.count_nonzero(part)) for part in row[:2]]
            assert all(part[:size].all() for part, size in zip(row, lengths, strict=False))
            assert not row[2][lengths[1] - 1 :].any()
            tag = subwords.piece(int(row[0][0])) if tag_language else ""
            pairs[tag + subwords.decode(row[0]), subwords.decode(row[2])] += 1
    return pairs


def expected(files, subwords, max_length=None, tag=""):
    return collections.Counter(
        (tag + source, target)
        for source, target in sentence_pairs(files)
        if max_length is None
        or max(len(subwords.encode(source)), len(subwords.encode(target))) <= max_length
    )


def test_a_literal_batch(tmp_path, subwords):
    (tmp_path / "a.de").write_text("der Hund\n\nKatze\n", encoding="utf-8")
    (tmp_path / "a.en").write_text("the  dog \nthe\ncat\n", encoding="utf-8")
    files = find_parallel(tmp_path / "a", "de", "en")
    first, second = subwords.encode("der Hund"), subwords.encode("Katze")
    the_dog, cat = subwords.encode("the dog"), subwords.encode("cat")
    (found,) = list(
        parallel_batches(
            files,
            subwords,
            batch_tokens=99,
            tag_language=True,
        )
    )
    (source, inputs), targets = found
    assert source.dtype == inputs.dtype == targets.dtype == tf.int32

    def padded(rows):
        width = max(map(len, rows))
        return sorted([*row, *[0] * (width - len(row))] for row in rows)

    assert sorted(source.numpy().tolist()) == padded([[3, *first], [3, *second]])
    assert sorted(inputs.numpy().tolist()) == padded([[1, *the_dog], [1, *cat]])
    assert sorted(targets.numpy().tolist()) == padded([[*the_dog, 0], [*cat, 0]])
    assert len(read_back([(source, inputs, targets)], subwords)) == 2


def test_literal_ids(tmp_path):
    (tmp_path / "a.xx").write_text("a b b\na\n")
    (tmp_path / "a.yy").write_text("b a\na a a b\n")
    subwords = Subwords.train(["a b a b"], 7, languages=["yy"])
    names = {subwords.piece(index): index for index in range(len(subwords))}
    assert list(names)[:4] == ["</s>", "<s>", "<unk>", "<2yy>"]
    files = find_parallel(tmp_path / "a", "xx", "yy")
    found = batches(files, subwords, tag_language=True, batch_tokens=400)
    a, b = subwords.encode("a"), subwords.encode("b")
    long, short = [3, *a, *b, *b], [3, *a]
    first, second = [*b, *a], [*a, *a, *a, *b]
    (batch,) = found
    assert batch == (
        [long, short + [0] * (len(long) - len(short))],
        [[1, *first] + [0] * (len(second) - len(first)), [1, *second]],
        [[*first, 0] + [0] * (len(second) - len(first)), [*second, 0]],
    )


def test_every_pair_comes_once(german, subwords, lengths):
    found = batches(german, subwords)
    assert read_back(found, subwords) == expected(german, subwords)
    assert len(found) == parallel_batches_per_pass(lengths, batch_tokens=120, max_length=None)
    assert sum(len(batch[0]) for batch in found) == 450
    for source, inputs, _ in found:
        assert len(source) == 1 or len(source) * (len(source[0]) + len(inputs[0])) <= 120
    longest = max(pair[0] for counter in lengths for pair in counter)
    assert {len(batch[0][0]) for batch in found} <= set(bucket_boundaries(longest))


@pytest.mark.parametrize("batch_tokens, tag_language", [(120, False), (10, True), (3000, True)])
def test_batches_per_pass(german, subwords, lengths, batch_tokens, tag_language):
    sizes = {"batch_tokens": batch_tokens, "tag_language": tag_language}
    one = parallel_batches_per_pass(lengths, **sizes, max_length=None)
    dataset = parallel_batches(german, subwords, lengths=lengths, **sizes)
    assert dataset.cardinality() == len(list(dataset)) == one


def test_little_is_padding(german, subwords):
    found = batches(german, subwords, batch_tokens=1000)
    arrays = [np.array(part) for batch in found for part in batch[:2]]
    assert sum(np.count_nonzero(part) for part in arrays) > 0.75 * sum(part.size for part in arrays)
    assert len(found) < 1.4 * sum(np.count_nonzero(part) for part in arrays) / 1000


def test_gzip_and_line_ends(tmp_path, subwords):
    text = "\ufeffder Hund\r\n \t\r\ndie\t  Katze \x0b\n猫".encode()
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.en").write_text("the dog\nx\ncat\n犬")
    files = find_parallel(tmp_path / "a", "de", "en")
    found = batches(files, subwords)
    assert read_back(found, subwords) == collections.Counter(sentence_pairs(files, empty="skip"))
    assert set(read_back(found, subwords)) == {
        ("der Hund", "the dog"),
        ("die Katze", "cat"),
        ("猫", "犬"),
    }


def test_sgm(tmp_path, subwords):
    (tmp_path / "a.de.sgm").write_text("<seg id='1'>der Hund</seg>\n<seg id='2'>Katze</seg>")
    (tmp_path / "a.en.sgm").write_text("<seg id='1'>the dog</seg>\n<seg id='2'>cat</seg>")
    files = ParallelFiles([f"{tmp_path}/a.de.sgm"], [f"{tmp_path}/a.en.sgm"], "de", "en")
    found = batches(files, subwords)
    assert set(read_back(found, subwords)) == {("der Hund", "the dog"), ("Katze", "cat")}


def test_a_row_longer_than_a_batch(tmp_path, subwords):
    (tmp_path / "a.de").write_text("der Hund " * 50 + "\nKatze\n")
    (tmp_path / "a.en").write_text("the dog " * 50 + "\ncat\n")
    files = find_parallel(tmp_path / "a", "de", "en")
    found = batches(files, subwords, batch_tokens=20)
    assert [len(batch[0]) for batch in found] == [1, 1]
    assert read_back(found, subwords) == expected(files, subwords)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
        ({"lengths": []}, "there is no pair of sentences to make a batch of"),
    ],
)
def test_arguments_are_checked(german, subwords, options, message):
    with pytest.raises(ValueError, match=message):
        batches(german, subwords, **options)


def test_other_errors(tmp_path, german, japanese, subwords, lengths):
    with pytest.raises(ValueError, match="no language 'de'; it has: en, ja"):
        reverse = ParallelFiles(german.target, german.source, "en", "de")
        batches(reverse, subwords, tag_language=True)
    with pytest.raises(TextError, match="no parallel text given"):
        batches([], subwords)
    with pytest.raises(TextError, match="there is no pair of sentences to make a batch of"):
        parallel_batches_per_pass([], batch_tokens=9, max_length=None)
    missing = ParallelFiles([f"{tmp_path}/x.de"], [f"{tmp_path}/x.en"], "de", "en")
    for known in (None, lengths[:1]):
        with pytest.raises(TextError, match=r"/x\.de: no such file"):
            batches(missing, subwords, lengths=known)
    (tmp_path / "x.de").write_text("der\nHund\n")
    (tmp_path / "x.en").write_text("the\n")
    with pytest.raises(TextError, match=r"/x\.de has 2 lines, but .*/x\.en has 1"):
        batches(missing, subwords)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`lengths` are not those of these fi"):
        batches(japanese, subwords, lengths=lengths[:1], batch_tokens=2000)
