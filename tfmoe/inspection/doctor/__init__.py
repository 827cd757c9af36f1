"""Diagnosis of the training of a mixture of experts: figures with limits, likely causes, and the
settings to change.

`tfmoe doctor RUN` diagnoses a run, `ExpertHealth` a Keras model during training. Both use the same
functions, which take values and return findings (`balance`, `gates`, `capacity`, `losses`).
"""

from tfmoe.inspection.doctor.capacity import check_expert_size
from tfmoe.inspection.doctor.examination import (
    KINDS,
    Settings,
    check_training,
    findings_of,
)
from tfmoe.inspection.doctor.expert_health import ExpertHealth
from tfmoe.inspection.doctor.finding import (
    NOTE,
    PROBLEM,
    SEVERITIES,
    WARNING,
    Change,
    Check,
    Figure,
    Finding,
    Setting,
    short,
)
from tfmoe.inspection.doctor.mixture import Mixture, mixture_of

__all__ = [
    "KINDS",
    "NOTE",
    "PROBLEM",
    "SEVERITIES",
    "WARNING",
    "Change",
    "Check",
    "ExpertHealth",
    "Figure",
    "Finding",
    "Mixture",
    "Setting",
    "Settings",
    "check_expert_size",
    "check_training",
    "findings_of",
    "mixture_of",
    "short",
]
