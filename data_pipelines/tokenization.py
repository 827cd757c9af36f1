"""From running text to words."""

import re
import sys
import unicodedata

LONGEST_NUMBER = 4  # digits: years stay, identifiers and constants become one word
LONG_NUMBER = "0"

_MARKS = "".join(
    character
    for character in map(chr, range(sys.maxunicode))
    if unicodedata.category(character)[0] == "M"
)
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"
# Classes of characters, each a regular expression for one character.
DIGIT = r"\d"
# Scripts written without spaces: kana, Han and Thai characters are words of their own.
UNSPACED = rf"[{_UNSPACED}]"
LETTER = rf"(?![\d_{_UNSPACED}])[\w{_MARKS}]"
LETTER_AFTER_APOSTROPHE = rf"(?![\d_])[\w{_MARKS}]"
SEPARATOR = r"[\s_]"
_TOKEN = re.compile(
    rf"{DIGIT}+|{UNSPACED}|(?:{LETTER})+(?:['’](?:{LETTER_AFTER_APOSTROPHE})+)?"
    rf"|[^\w\s{_MARKS}]"
)
# What _TOKEN matches in lower-case ASCII text, ten times as fast.
_ASCII_TOKEN = re.compile(r"[0-9]+|[a-z]+(?:'[a-z]+)?|[^\w\s\x1c-\x1f]", re.ASCII)


def tokenize(text: str) -> list[str]:
    """Splits text into lower-case words, numbers and punctuation marks.

    Words are runs of letters, with at most one apostrophe inside; underscores separate words and
    disappear; numbers of more than four digits become `0`; Han, kana and Thai characters are one
    word each.

    Args:
        text: string.

    Returns:
        List of strings without white space.
    """
    if text.isascii():
        tokens = _ASCII_TOKEN.findall(text.lower())
    else:
        tokens = _TOKEN.findall(unicodedata.normalize("NFC", text).lower().replace("’", "'"))
    return [
        LONG_NUMBER if token.isdigit() and len(token) > LONGEST_NUMBER else token
        for token in tokens
    ]
