"""From text to words in a TensorFlow graph, for exported models.

Axes: B texts.
"""

import functools
import re
import sys
import unicodedata
from typing import NamedTuple

import tensorflow as tf

from tfmoe.data_pipelines import tokenization
from tfmoe.data_pipelines.reading import drop_byte_order_mark
from tfmoe.extras import optional

tensorflow_text = optional("tensorflow_text")

# No letter, digit or space is among the code points left out: surrogates, private, not assigned.
CHARACTERS = "".join(
    character
    for character in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(character) not in ("Cs", "Co", "Cn")
)


def split_words(lines):
    """Splits lines at white space, as training reads a tokenised text (see `reading`, `text`).

    Args:
        lines: `[B]` strings. Bytes that are not UTF-8 stay in their words.

    Returns:
        Ragged `[B, words]` strings.
    """
    lines = tf.strings.regex_replace(lines, r"\r", "")
    return tf.strings.split(drop_byte_order_mark(lines))


@tf.autograph.experimental.do_not_convert
def tokenize_text(texts):
    """Splits running text into lower-case words, numbers and punctuation marks: what
    `tokenization.tokenize` does.

    The characters of each class are those of this Python's Unicode, written out, so that both ways
    agree on them. Normalisation and lower case are by TensorFlow's own Unicode tables. They differ
    from those of Python 3.11 in 40 capital letters that Unicode got lately, which stay as they are,
    and in some rare characters after a capital sigma, where one says `σ` and the other `ς`.

    Args:
        texts: `[B]` strings. What is not UTF-8, and the character NUL, become U+FFFD, a punctuation
            mark.

    Returns:
        Ragged `[B, words]` strings.
    """
    patterns = _patterns()
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    texts = tf.strings.regex_replace(texts, r"\x00", "\ufffd")  # where `lower` would end
    texts = tensorflow_text.normalize_utf8(texts, "NFC")
    texts = tf.strings.lower(texts, encoding="utf-8")
    texts = tf.strings.regex_replace(texts, "’", "'")
    texts = tf.strings.regex_replace(texts, patterns.separators, " ")
    words = tf.strings.split(tf.strings.regex_replace(texts, patterns.token, r"\1 "))
    return words.with_flat_values(
        tf.strings.regex_replace(words.flat_values, patterns.long_number, tokenization.LONG_NUMBER)
    )


class _Patterns(NamedTuple):
    """Regular expressions for RE2, which has neither look-ahead nor Python's `\\w`."""

    token: str
    separators: str
    long_number: str


@functools.cache
def _patterns():
    def every(expression):
        """A class of characters, from a regular expression of Python for one of them."""
        ranges = []
        for code in map(ord, re.findall(expression, CHARACTERS)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
        return "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges) + "]"

    digit, letter = every(tokenization.DIGIT), every(tokenization.LETTER)
    after_apostrophe = every(tokenization.LETTER_AFTER_APOSTROPHE)
    numeral = every(f"[{''.join(filter(str.isdigit, CHARACTERS))}]")
    word = f"{letter}+(?:'{after_apostrophe}+)?"
    return _Patterns(
        # What is neither of the first three nor a separator is a punctuation mark.
        token=f"({digit}+|{tokenization.UNSPACED}|{word}|[^ ])",
        separators=f"{every(tokenization.SEPARATOR)}+",
        long_number=rf"\A{numeral}{{{tokenization.LONGEST_NUMBER + 1},}}\z",
    )
