import collections

import pytest
import tensorflow as tf

from tfmoe.data_pipelines import END, START, UNKNOWN, TextError, Vocabulary

COUNTS = collections.Counter({"the": 5, "cat": 2, "a": 2, "sat": 1})


def test_ids_are_by_falling_count_then_alphabet():
    vocabulary = Vocabulary.from_counts(COUNTS)
    words = ["</S>", "<S>", "<UNK>", "the", "a", "cat", "sat"]
    assert vocabulary.decode(range(len(vocabulary))) == words
    assert (END, START, UNKNOWN) == (0, 1, 2)
    assert vocabulary.encode(["sat", "dog", "the"]) == [6, UNKNOWN, 3]
    assert vocabulary.word(5) == "cat"
    assert "cat" in vocabulary and "dog" not in vocabulary and "<S>" not in vocabulary


def test_size_includes_the_special_words():
    assert len(Vocabulary.from_counts(COUNTS, max_size=5)) == 5
    assert Vocabulary.from_counts(COUNTS, max_size=5).word(4) == "a"
    assert len(Vocabulary.from_counts(COUNTS, min_count=2)) == 6


def test_special_words_in_a_text_are_unknown():
    vocabulary = Vocabulary.from_counts(COUNTS + collections.Counter({"</S>": 9, "<UNK>": 9}))
    assert len(vocabulary) == 7
    assert vocabulary.encode(["</S>", "<S>", "<UNK>"]) == [UNKNOWN] * 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"max_size": 3}, "max_size must be more than 3, the special words, got 3"),
        ({"min_count": 0}, "min_count must be at least 1, got 0"),
        ({"min_count": 6}, "min_count is 6, but the most frequent word, 'the', occurs 5 times"),
    ],
)
def test_from_counts_checks_its_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_counts(COUNTS, **arguments)


def test_a_text_without_words():
    with pytest.raises(TextError, match="no words but </S>, <S>, <UNK>, which stand for the end"):
        Vocabulary.from_counts(collections.Counter({"</S>": 9, "<UNK>": 9}))


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "must begin with the words .* begins with nothing"),
        (["<S>", "</S>", "<UNK>"], "this one begins with '<S>', '</S>', '<UNK>'"),
        (["</S>", "<S>", "<UNK>", "a", "a"], "'a' is in the vocabulary twice, as 3 and as 4"),
        (["</S>", "<S>", "<UNK>", "a b"], "word 3 of the vocabulary, 'a b', must be without white"),
        (["</S>", "<S>", "<UNK>"], "must have at least one word besides the special ones"),
        (["</S>", "<S>", "<UNK>", ""], "word 3 of the vocabulary, '', must be .* not empty"),
    ],
)
def test_words_are_checked(words, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(words)


def test_no_word_for_an_id():
    vocabulary = Vocabulary.from_counts(COUNTS)
    for index in (-1, 7):
        with pytest.raises(IndexError, match=f"id {index} is not in a vocabulary of 7 words"):
            vocabulary.word(index)


def test_save_and_load(tmp_path):
    vocabulary = Vocabulary.from_counts(collections.Counter(["naïve", "no\u00a0break", "木曜日"]))
    path = tmp_path / "run" / "vocabulary.txt"
    vocabulary.save(path)
    assert path.read_bytes().startswith(b"</S>\n<S>\n<UNK>\n")
    assert [file.name for file in path.parent.iterdir()] == ["vocabulary.txt"]
    loaded = Vocabulary.load(path)
    assert loaded.decode(range(6)) == vocabulary.decode(range(6))
    assert loaded.fingerprint == vocabulary.fingerprint
    assert len(loaded.fingerprint) == 64


def test_fingerprint_tells_order():
    special = ["</S>", "<S>", "<UNK>"]
    first, second = Vocabulary([*special, "a", "b"]), Vocabulary([*special, "b", "a"])
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"vocabulary.txt:1: the line is empty; a vocabulary has one word a line"),
        (b"</S>\n<S>\n", r"vocabulary.txt:3: expected <UNK>, found the end of the file"),
        (b"</S>\n<S>\n<UNK>\n", r"vocabulary.txt: has only the special words; it must have other"),
        (b"the\n", r"vocabulary.txt:1: expected </S>, found 'the'"),
        (b"</S>\n<S>\n<UNK>\na\n\nb\n", r"vocabulary.txt:5: the line is empty"),
        (b"</S>\n<S>\n<UNK>\na b\n", r"vocabulary.txt:4: the line has white space in it"),
        (b"</S>\n<S>\n<UNK>\na\nb\na\n", r"vocabulary.txt:6: the word 'a' is already on line 4"),
        (b"</S>\n<S>\n<UNK>\nb\xff\n", r"vocabulary.txt:4:2: the word is not valid UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    with pytest.raises(TextError, match=message):
        Vocabulary.load(path)


def test_windows_line_ends_are_accepted(tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(b"</S>\r\n<S>\r\n<UNK>\r\na\r\n")
    assert Vocabulary.load(path).word(3) == "a"


def test_a_missing_file(tmp_path):
    with pytest.raises(TextError, match=r"nowhere.txt: no such file"):
        Vocabulary.load(tmp_path / "nowhere.txt")


def test_lookup_table_is_encode():
    vocabulary = Vocabulary.from_counts(COUNTS)
    words = ["sat", "dog", "the", "</S>", "<S>", "<UNK>", ""]
    ids = vocabulary.lookup_table().lookup(tf.constant(words))
    assert ids.dtype == tf.int32
    assert ids.numpy().tolist() == vocabulary.encode(words) == [6, 2, 3, 2, 2, 2, 2]
