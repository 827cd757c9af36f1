"""What can be wrong with a config, and how it is said: one line for each problem, all of them at
once.
"""

import dataclasses
import unicodedata

MOST_PROBLEMS = 20  # that are shown of a config
# Controls, halves of characters, and separators of lines and paragraphs.
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
BIDIRECTIONAL = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: the place that the user wrote, `"demo.yaml:12"` or `"--set model.d_model=0"`; may be
            empty.
        key: the full key, `"model.blocks[1].gate.k"`; may be empty.
        message: what is wrong, the value, and what would be right.
    """

    where: str
    key: str
    message: str

    def __str__(self):
        where, key = (printable(shortened(part, 200)) for part in (self.where, self.key))
        lines = shortened(self.message, 1000).split("\n")
        message = "\n".join(map(printable, lines))
        return ": ".join(part for part in (where, key, message) if part)


class ConfigError(ValueError):
    """A config that cannot be used. Its text has one line for each of the first problems.

    Args:
        problems: `Problem`s, at least one.
    """

    def __init__(self, problems):
        self.problems = list(problems)
        lines = list(map(str, self.problems[:MOST_PROBLEMS]))
        if len(self.problems) > MOST_PROBLEMS:
            lines.append("… and more")
        super().__init__("\n".join(lines))


def key_of(path):
    """`("model", "blocks", 1, "gate")` as it is written: `"model.blocks[1].gate"`."""
    key = ""
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def shown(value, limit=60):
    """A value as it would stand in YAML, shortened to about `limit` characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        value = value[: limit + 1]  # a text may have a million characters
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shortened(text, limit):
    """A text of at most `limit` characters, its middle left out if it is longer."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}…{text[len(text) - (limit - 1) // 2 :]}"


def is_printable(text):
    """Whether a text shows what it is on a terminal: in one line, without control characters."""
    if text.isprintable():
        return True
    categories = set(map(unicodedata.category, text))
    return not (categories & UNPRINTABLE or BIDIRECTIONAL & set(text))


def printable(text):
    """A text with escapes in place of what a terminal should not get: `"\\x1b"`."""
    if is_printable(text):
        return text
    return "".join(
        each if is_printable(each) else each.encode("unicode_escape").decode() for each in text
    )
