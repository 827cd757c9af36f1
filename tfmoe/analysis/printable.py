"""Escaping of untrusted text (words, labels, file names) for terminals, plots and spreadsheets."""

import re

# Control characters (C0, DEL, C1), Unicode line and paragraph separators, marks that change the
# text direction, and lone surrogates, which represent bytes of file names that are not UTF-8.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
                    "\ud800-\udfff]")  # fmt: skip
# Characters that start a formula in a spreadsheet, and the prefix that `cell` adds.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")


def printable(text: str, keep: str = "") -> str:
    """Escapes the characters that control a terminal or change the text direction.

    Args:
        text: a string.
        keep: control characters that are not escaped.

    Returns:
        The text with escape sequences such as `\\x1b` and `\\u202e`.
    """
    return UNSEEN.sub(lambda match: match[0] if match[0] in keep else escaped(match[0]), text)


def escaped(character):
    """A character as a Python escape sequence."""
    return character.encode("unicode_escape").decode("ascii")


def plot_text(text: str) -> str:
    """Escapes text for matplotlib, which parses text between two `$` as mathematics."""
    return printable(text).replace("$", r"\$")


def cell(text: str) -> str:
    """Escapes text for a cell of a CSV file, so that spreadsheets do not read it as a formula.

    A text that starts with one of `FORMULA` gets the prefix `'`. `cell.removeprefix("'")` reads it
    back.
    """
    return f"'{text}" if text.startswith(FORMULA) else text
