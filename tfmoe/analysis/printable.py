"""Text of others, such as words, labels and names of files, so that a terminal, a plot or a
spreadsheet shows it and does nothing else with it.
"""

import re

# Control characters (C0, DEL, C1), ends of lines and paragraphs of Unicode, marks that turn the
# direction of writing, and halves of surrogate pairs, which are what names of files have for bytes
# that are not UTF-8.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
                    "\ud800-\udfff]")  # fmt: skip
# What a spreadsheet takes for the beginning of a formula, and the sign that `cell` puts before it.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")


def printable(text, keep=""):
    """Text with escape sequences (`\\x1b`, `\\u202e`) in place of the characters that move a
    terminal's cursor, colour it, or turn the direction of writing.

    Args:
        text: a string.
        keep: such characters that stay.
    """
    return UNSEEN.sub(lambda found: found[0] if found[0] in keep else escaped(found[0]), text)


def escaped(character):
    """A character as Python writes it in a string."""
    return character.encode("unicode_escape").decode("ascii")


def drawn(text):
    """Text for matplotlib, which would read what stands between two `$` as mathematics."""
    return printable(text).replace("$", r"\$")


def cell(text):
    """Text for a cell of a CSV file, which no spreadsheet takes for a formula: a `'` stands before
    a text that begins with one of `FORMULA`. `cell.removeprefix("'")` reads it back.
    """
    return f"'{text}" if text.startswith(FORMULA) else text
