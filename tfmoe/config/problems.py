"""Errors of configs: one line per problem, all problems at once."""

import dataclasses
from collections.abc import Iterable

from tfmoe.analysis.printable import printable

MAX_PROBLEMS = 20  # in one error message


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem of a config.

    Attributes:
        where: where the user wrote the value, `"demo.yaml:12"` or `"--set model.d_model=0"`; may be
            empty.
        key: the full key, `"model.blocks[1].gate.k"`; may be empty.
        message: the problem, the value, and what would be valid.
    """

    where: str
    key: str
    message: str

    def __str__(self):
        where, key = (printable(shorten(part, 200)) for part in (self.where, self.key))
        message = printable(shorten(self.message, 1000), keep="\n")
        return ": ".join(part for part in (where, key, message) if part)


class ConfigError(ValueError):
    """An invalid config. Its text has one line per problem, at most 20 lines.

    Args:
        problems: `Problem`s, at least one.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        lines = list(map(str, self.problems[:MAX_PROBLEMS]))
        if len(self.problems) > MAX_PROBLEMS:
            lines.append("… and more")
        super().__init__("\n".join(lines))


def key_of(path):
    """The key of a path as a config writes it: `"model.blocks[1].gate"` for
    `("model", "blocks", 1, "gate")`.
    """
    key = ""
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def format_value(value, limit=60):
    """Formats a value as YAML would write it, shortened to about `limit` characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        value = value[: limit + 1]  # it may have a million characters
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shorten(text, limit):
    """Shortens text to at most `limit` characters by cutting its middle."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}…{text[len(text) - (limit - 1) // 2 :]}"
