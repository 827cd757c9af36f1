"""All checks of a training run."""

from typing import NamedTuple

from tfmoe.inspection.doctor.balance import check_load, check_strength, check_unused
from tfmoe.inspection.doctor.capacity import (
    check_dropped,
    check_expert_batch,
    check_expert_size,
    check_idle_capacity,
)
from tfmoe.inspection.doctor.finding import SEVERITIES, Setting
from tfmoe.inspection.doctor.gates import check_noise, check_saturation, check_thresholds
from tfmoe.inspection.doctor.losses import check_divergence, check_overfitting

# The kinds of findings, and the check that reports each kind.
KINDS = {
    "collapse": check_load,
    "balancing_off": check_load,
    "balancing_weak": check_load,
    "balancing_strong": check_strength,
    "dead_experts": check_unused,
    "saturated_gate": check_saturation,
    "noise_gone": check_noise,
    "thresholds_off": check_thresholds,
    "capacity_too_small": check_dropped,
    "capacity_too_large": check_idle_capacity,
    "small_expert_batch": check_expert_batch,
    "small_experts": check_expert_size,
    "divergence": check_divergence,
    "overfitting": check_overfitting,
}

DEAD = "dead_experts"
LEAVES_EXPERTS_UNUSED = {"collapse", "saturated_gate", "thresholds_off"}


class Settings(NamedTuple):
    """The settings that changes may name; `None` for a setting that the training does not have."""

    learning_rate: Setting | None = None
    epochs: Setting | None = None
    dropout: Setting | None = None
    batch: Setting | None = None


NO_SETTINGS = Settings()


def check_training(mixtures, rows, sample=None, uniform=None, settings=NO_SETTINGS):
    """Runs all checks of a training.

    Args:
        mixtures: list of `tfmoe.inspection.doctor.Mixture`; empty for a dense model.
        rows: logs of the finished epochs, `{name: float}`, in order; at least one.
        sample: `{name: float}` of a routed sample: `NAME/gate_entropy` (bits), `NAME/noise`.
        uniform: the loss of guessing all classes alike, as for `check_divergence`.
        settings: `Settings`.

    Returns:
        A list of `Check`s.
    """
    checks = check_divergence(rows, uniform, settings.learning_rate)
    diverged = bool(findings_of(checks))
    if not diverged:
        checks += check_overfitting(rows, settings.epochs, settings.dropout)
    for mixture in mixtures:
        if not diverged:  # the load of a diverged model has no meaning
            checks += check_balance(mixture, rows, settings)
        checks += check_gate_and_costs(mixture, rows[-1], sample or {}, settings)
    return without_consequences(checks)


def check_balance(mixture, rows, settings):
    """Checks of how evenly a mixture uses its experts; arguments as for `check_training`."""
    load = check_load(mixture, rows[-1])
    unused = check_unused(mixture, rows, bool(findings_of(load)), settings.epochs)
    return [*load, *unused, *check_strength(mixture, rows[-1])]


def check_gate_and_costs(mixture, row, sample, settings):
    """The other checks of a mixture, on the last epoch's logs."""
    return [
        *check_saturation(mixture, sample, settings.learning_rate),
        *check_thresholds(mixture, row, settings.epochs),
        *check_noise(mixture, sample),
        *check_dropped(mixture, row),
        *check_idle_capacity(mixture, row),
        *check_expert_batch(mixture, settings.batch),
    ]


def without_consequences(checks):
    """Removes findings of dead experts in mixtures whose other findings explain them."""
    explained = {
        check.where for check in findings_of(checks) if check.kind in LEAVES_EXPERTS_UNUSED
    }
    return [
        check
        for check in checks
        if not (check.finding and check.finding.kind == DEAD and check.finding.where in explained)
    ]


def findings_of(checks):
    """The `Finding`s of checks, the worst first."""
    findings = [check.finding for check in checks if check.finding]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
