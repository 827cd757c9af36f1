"""Checks of a gate: its values, noise and thresholds.

The functions take values and return `Check`s, as in `balance`.

Axes: K experts per token.
"""

import math

from tfmoe.inspection.doctor.finding import PROBLEM, WARNING, Figure, Setting, check, short

# Mean entropy of a token's gate values over log2 K: 0.69 and more in healthy runs, 0.4 in a
# collapsed one, 0.01 if a learning rate of 1 made the logits very large.
LEAST_ENTROPY = 0.05
# Standard deviation of the noise. It is 0.69 at the beginning and 0.29 at the end of a healthy run.
# Without noise the load (eq 10) is a step function, and the load loss has no gradient.
LEAST_NOISE = 0.01
# Experts per token over K, and share of tokens without experts, with thresholds.
MOST_OVER_K, MOST_UNROUTED = 1.5, 0.05


def check_saturation(mixture, sample, learning_rate=None):
    """`saturated_gate`: one gate value of a token is 1 and the others are 0.

    Args:
        mixture: a `Mixture`.
        sample: `{name: float}` of routed text: `NAME/gate_entropy`, in bits.
        learning_rate: its `Setting`, or `None`.
    """
    name = f"{mixture.name}/gate_entropy"
    if name not in sample or mixture.selected < 2:
        return []
    figure = Figure(name, sample[name], least=LEAST_ENTROPY * math.log2(mixture.selected))
    cause = (
        f"One of the {short(mixture.selected)} gate values of a token is almost 1: the logits are "
        "so large that noise has no effect, and the gate hardly learns. The learning rate is too "
        "high, or the gate's initial weights are too large."
    )
    changes = lower_rate(learning_rate)
    return [check("saturated_gate", PROBLEM, mixture.name, figure, cause, changes)]


def lower_rate(learning_rate):
    """Changes that reduce a learning rate, given as a `Setting` or `None`."""
    if learning_rate is None or not learning_rate.now:
        return []
    return [learning_rate.to(min(float(f"{learning_rate.now / 10:.2g}"), 0.01))]


def check_noise(mixture, sample):
    """`noise_gone`: the gate has learned a noise of almost 0.

    Args:
        mixture: a `Mixture`.
        sample: as for `check_saturation`: `NAME/noise`, for a hierarchical gate
            `NAME/primary_noise` and `NAME/secondary_noise`.
    """
    names = [f"{mixture.name}/{name}" for name in ("noise", "primary_noise", "secondary_noise")]
    cause = (
        "The gate has learned to switch its noise off: the load loss has no gradient, and "
        "experts that are not selected are never explored."
    )
    change = Setting(f"{mixture.key}gate.noise_floor").to(0.1)
    return [
        check(
            "noise_gone",
            WARNING,
            mixture.name,
            Figure(name, sample[name], least=LEAST_NOISE),
            cause,
            [change],
        )
        for name in names
        if name in sample
    ]


def check_thresholds(mixture, row, epochs=None):
    """`thresholds_off`: at evaluation, the thresholds of a gate (`Batchwise`, `ExpertThreshold`)
    select more or fewer than k experts.

    Args:
        mixture: a `Mixture`.
        row: the last epoch's logs.
        epochs: `Setting` of the number of epochs, or `None`.
    """
    if mixture.depends_on_batch:  # there are no thresholds
        return []
    k, checks = mixture.selected, []
    if mixture.ema is None:
        changes = [epochs.to(2 * epochs.now)] if epochs and epochs.now else []
        cause = (
            f"The thresholds are not learned yet: in training a token has {short(k)} experts on "
            "average, in evaluation those whose gate values exceed the thresholds."
        )
    else:
        changes = [mixture.setting("gate.ema").to(0.9)] if mixture.ema > 0.9 else []
        cause = (
            "The thresholds are averages over earlier batches, and follow the gate too slowly: a "
            f"token should have {short(k)} experts on average, and has those whose gate values "
            "exceed the thresholds."
        )
    name, selected = mixture.metric(row, "val_experts_per_token")
    if selected is not None:
        figure = Figure(name, selected, least=k / MOST_OVER_K, most=k * MOST_OVER_K)
        checks.append(check("thresholds_off", WARNING, mixture.name, figure, cause, changes))
    name, unrouted = mixture.metric(row, "val_unrouted")
    if unrouted is not None:
        figure = Figure(name, unrouted, most=MOST_UNROUTED)
        cause = "For tokens below all thresholds the mixture returns 0 at evaluation."
        checks.append(check("thresholds_off", WARNING, mixture.name, figure, cause, changes))
    return checks
