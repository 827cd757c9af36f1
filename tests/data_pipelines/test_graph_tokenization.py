import unicodedata

import pytest
import tensorflow as tf

from tfmoe.data_pipelines import tokenize
from tfmoe.data_pipelines.graph_tokenization import CHARACTERS, split_words, tokenize_text

TEXTS = [
    "The cat, which sat.",
    "don’t stop batch_size; rock'n'roll 'tis _a_ x'2",
    "in 2024, 12345 lines, 1234 and ٣٤٥٦٧ and ²²²²²²",
    'x2 (a+b) == c**2 != "quoted"',
    "木曜日 3日 ひらがな カタカナ ภาษาไทย ๑๒๓",
    "1\u202f980 secondes\u00a0! a\u3000b\u2028c\x1cd",
    "हिन्दी भाषा, العربيّة, עִבְרִית",
    "cafe\u0301 CAFÉ ÀÉÎ Straße ΟΔΟΣ ΑΣ. İstanbul Ǆ",
    "żółw Я люблю Москву",
    "👩‍👩‍👧‍👦 ☃️ … — ½ Ⅷ",
    "a\tb\r\nc\u0085d",
    "",
    " \n",
    "' '' a' 'b a'_b",
]


def words_of(ragged):
    return [[word.decode() for word in row] for row in ragged.to_list()]


@pytest.fixture(scope="module")
def tokenized():
    return tf.function(tokenize_text, input_signature=[tf.TensorSpec([None], tf.string)])


def test_the_same_words_as_in_python(tokenized):
    assert words_of(tokenized(tf.constant(TEXTS))) == [tokenize(text) for text in TEXTS]
    assert words_of(tokenized(tf.constant([], tf.string))) == []


def test_every_character(tokenized):
    """The exceptions are what the docstring says: NUL, and capital letters new in Unicode 14."""
    characters = CHARACTERS[::7] + "\0" + "\u2c2f"
    texts = [f"a{character}b" for character in characters]
    found = words_of(tokenized(tf.constant(texts)))
    different = [
        character
        for character, text, words in zip(characters, texts, found, strict=True)
        if tokenize(text) != words
    ]
    assert {"\0", "\u2c2f"} <= set(different) and len(different) <= 42
    assert all(c == "\0" or unicodedata.category(c) == "Lu" for c in different)


def test_nul_and_bytes_that_are_not_utf8(tokenized):
    found = words_of(tokenized(tf.constant([b"A\0b", b"one \xff\xfe two \xc3"])))
    assert found == [["a", "\ufffd", "b"], ["one", "\ufffd", "\ufffd", "two", "\ufffd"]]


def test_words_at_white_space():
    lines = [
        b"\xef\xbb\xbfThe  cat\t,\x0b12345\r\n",
        b"",
        b"a\xc2\xa0b \xff",
        b"a\rb",
        b"\r\xef\xbb\xbfa",
    ]
    assert split_words(tf.constant(lines)).to_list() == [
        [b"The", b"cat", b",", b"12345"],
        [],
        [b"a\xc2\xa0b", b"\xff"],
        [b"ab"],
        [b"a"],
    ]
