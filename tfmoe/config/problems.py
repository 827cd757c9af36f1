"""What can be wrong with a config, and how it is said: one line for each problem, all of them at
once.
"""

import dataclasses

from tfmoe.analysis.printable import printable

MOST_PROBLEMS = 20  # that are shown of a config


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
        message = printable(shortened(self.message, 1000), keep="\n")
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
