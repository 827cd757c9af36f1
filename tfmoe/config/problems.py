"""What can be wrong with a config, and how it is said: one line for each problem, all of them at
once.
"""

import dataclasses


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
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ConfigError(ValueError):
    """A config that cannot be used. Its text has one line for each problem.

    Args:
        problems: `Problem`s, at least one.
    """

    def __init__(self, problems):
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


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
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
