"""Figures, findings and proposed changes of a diagnosis."""

import dataclasses
import math
from typing import Any, NamedTuple

PROBLEM, WARNING, NOTE = "problem", "warning", "note"
SEVERITIES = (PROBLEM, WARNING, NOTE)  # the worst first


class Change(NamedTuple):
    """A setting with a value that should help.

    Attributes:
        key: a config key (`model.blocks[1].gate.load_weight`); for a Keras model the name of a
            layer or `optimizer`, and a constructor argument (`moe.gate.load_weight`).
        value: the new value.
        now: the current value; `None` if it is unknown or `None`.
    """

    key: str
    value: Any
    now: Any = None

    def assignment(self):
        """`KEY=VALUE`, as `tfmoe train --set` takes it."""
        return f"{self.key}={as_yaml(self.value)}"

    def __str__(self):
        now = "" if self.now is None else f" (now {as_yaml(self.now)})"
        return f"{self.assignment()}{now}"


class Setting(NamedTuple):
    """A setting: its key, as in `Change`, and its current value."""

    key: str
    now: Any = None

    def to(self, value):
        """The `Change` to a new value."""
        return Change(self.key, value, self.now)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured value and its healthy range.

    Attributes:
        name: the metric, as logs and TensorBoard name it (`moe_1_cv_load`, `moe_1/gate_entropy`),
            or a name of its own.
        value: the measured value.
        least, most: the range; `None` for no limit.
    """

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def healthy(self):
        """Whether the value is finite and within the range."""
        least = -math.inf if self.least is None else self.least
        most = math.inf if self.most is None else self.most
        return math.isfinite(self.value) and least <= self.value <= most

    def limits(self):
        """The range in words."""
        if self.least is None:
            return "finite" if self.most is None else f"at most {short(self.most)}"
        if self.most is None:
            return f"at least {short(self.least)}"
        return f"{short(self.least)} to {short(self.most)}"

    def __str__(self):
        return f"{self.name} is {short(self.value)}; healthy: {self.limits()}"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The diagnosis of a figure outside its healthy range.

    Attributes:
        kind: `"collapse"`, `"dead_experts"`, …, see `tfmoe.inspection.doctor.KINDS`.
        severity: `"problem"` (quality is lost), `"warning"` (quality or time is lost, or will be)
            or `"note"`.
        where: the mixture, or `"training"`.
        figure: the `Figure`.
        cause: the likely cause, in a sentence or more.
        changes: tuple of `Change`s to make together.
    """

    kind: str
    severity: str
    where: str
    figure: Figure
    cause: str
    changes: tuple[Change, ...] = ()

    def __str__(self):
        changes = " and ".join(map(str, self.changes))
        advice = f" Set {changes}." if changes else ""
        return f"{self.where}: {self.kind}: {self.figure}. {self.cause}{advice}"

    def as_json(self):
        """A dictionary of plain values; a non-finite number is a string."""
        value = self.figure.value
        return {
            "kind": self.kind,
            "severity": self.severity,
            "where": self.where,
            "figure": self.figure.name,
            "value": value if math.isfinite(value) else str(value),
            "least": self.figure.least,
            "most": self.figure.most,
            "cause": self.cause,
            "changes": [change._asdict() for change in self.changes],
        }


class Check(NamedTuple):
    """A figure, and a finding if the figure is outside its healthy range."""

    figure: Figure
    finding: Finding | None = None


def check(kind, severity, where, figure, cause, changes=()):
    """The `Check` of a figure.

    Args:
        kind, severity, where, figure: as for `Finding`.
        cause, changes: as for `Finding`, if the figure is outside its range.
    """
    if figure.healthy:
        return Check(figure)
    return Check(figure, Finding(kind, severity, where, figure, cause, tuple(changes)))


def short(number):
    """A number with three significant digits, with an exponent only if very large or small."""
    if not math.isfinite(number) or abs(number) >= 1e7 or 0 < abs(number) < 1e-4:
        return f"{number:.3g}"
    digits = 2 - math.floor(math.log10(abs(number))) if number else 0
    text = f"{number:,.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def as_yaml(value):
    """A value in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
