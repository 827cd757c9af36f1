"""Checks of load balance, and of the balancing losses.

The functions take values and return a list of `Check`s, which is empty if a value is missing. The
limits are from healthy runs of `demo/grammars`, and from runs that were made to fail in each way.

Axes: E experts, K experts per token.
"""

import math

from tfmoe.inspection.doctor.finding import PROBLEM, WARNING, Figure, check, short
from tfmoe.inspection.doctor.mixture import default_weight, last_part

# Evenness of the load: 0 if all tokens go to the same K experts, 1 if all experts receive the same
# number. Below 0.15 without a balancing loss, 0.45 with weights of 0.001, 0.95 with 0.1.
COLLAPSED, UNEVEN = 0.2, 0.5
# The balancing losses as a share of the loss: below 0.01 with weights of 0.1, 0.06 with 10, where
# the gate learns nothing (perplexity 9.3 instead of 2.5), 0.4 with 100. With usual weights it is
# large only if the task's loss is small, which is harmless while it is the larger part.
MOST_BALANCING, MOST_OF_USUAL_WEIGHTS = 0.04, 0.5
USUAL_WEIGHT = 10  # times the default: weights of 1 are harmless in the paper's Table 6
# Share of experts without a token in an evaluation batch, in excess of chance. A healthy gate has a
# few at the beginning of training, and none later.
MOST_UNUSED, LAST_EPOCHS = 0.1, 3


def check_load(mixture, row):
    """`collapse`: few experts get almost all tokens (in a dense mixture, almost all of the gate
    values). `balancing_off`, `balancing_weak`: the load is uneven, without a balancing loss or
    despite one.

    Args:
        mixture: a `Mixture`.
        row: the last epoch's logs, `{name: float}`.
    """
    name, variation = mixture.metric(row, "cv_importance" if mixture.dense else "cv_load")
    if variation is None or mixture.num_experts == 1:
        return []
    effective = mixture.num_experts / (1 + max(variation**2 - mixture.chance, 0))
    collapsed = not variation <= variation_at(COLLAPSED, mixture)
    evenness = COLLAPSED if collapsed or mixture.dense else UNEVEN
    figure = Figure(name, variation, most=variation_at(evenness, mixture))
    kind = "balancing_weak" if mixture.balanced or mixture.bias_step else "balancing_off"
    severity = WARNING
    if collapsed:
        kind, severity = "collapse", PROBLEM
    cause = (
        f"{'Weight' if mixture.dense else 'Load'} is spread as if only {short(effective)} of "
        f"{mixture.num_experts} experts were used. {why_uneven(mixture)}"
    )
    return [check(kind, severity, mixture.name, figure, cause, stronger(mixture))]


def variation_at(evenness, mixture):
    """The coefficient of variation of a load with this evenness (see `COLLAPSED`), including
    chance.
    """
    fewest = 1 if mixture.dense else mixture.selected
    effective = fewest + evenness * (mixture.num_experts - fewest)
    return math.sqrt(mixture.num_experts / effective - 1 + mixture.chance)


def why_uneven(mixture):
    """Why the load is uneven, given what balances the gate."""
    if mixture.bias_step is not None:
        return "The bias that balances the gate changes too slowly."
    if not mixture.weights:
        return "The gate has no balancing loss."
    if not mixture.balanced:
        names = ", ".join(last_part(name) for name, _ in mixture.weights)
        verb = "are" if len(mixture.weights) > 1 else "is"
        return (
            f"No loss balances the gate ({names} {verb} 0): experts that are a little better at "
            "first receive ever more tokens, and the others never learn."
        )
    return (
        "The balancing losses are too weak beside the task's loss, or the learning rate is too "
        "high."
    )


def stronger(mixture):
    """Changes that balance a gate more: ten times its weights or the step of its bias, or default
    weights if all are 0.
    """
    if mixture.bias_step is not None:
        return [mixture.setting("gate.bias_step").to(10 * mixture.bias_step or 0.001)]
    if mixture.balanced:
        return [mixture.setting(name).to(10 * value) for name, value in mixture.weights if value]
    names = [name for name, _ in mixture.weights]
    if mixture.noise is False:
        names = [name for name in names if last_part(name) != "load_weight"]
    names = [name for name in names if last_part(name) == "balance_weight"] or names
    return [mixture.setting(name).to(default_weight(name)) for name in names]


def check_unused(mixture, rows, uneven=False, epochs=None):
    """`dead_experts`: experts that receive no token of an evaluation batch (without evaluation, of
    a training batch), in each of the last three epochs.

    Args:
        mixture: a `Mixture`.
        rows: logs of the epochs, in order.
        uneven: whether the load is uneven in training too.
        epochs: `Setting` of the number of epochs, or `None`.
    """
    for metric in ("val_unused_experts", "unused_experts"):
        pairs = [mixture.metric(row, metric) for row in rows[-LAST_EPOCHS:]]
        if len(pairs) == LAST_EPOCHS and all(value is not None for _, value in pairs):
            break
    else:
        return []
    name, share = min(pairs, key=lambda pair: pair[1])
    by_chance = math.exp(-mixture.expert_batch) if mixture.expert_batch else 0
    figure = Figure(name, share, most=MOST_UNUSED + by_chance)
    cause = (
        f"About {round(share * mixture.num_experts)} of {mixture.num_experts} experts receive no "
        "token of a batch, and only use memory. "
    )
    if uneven or not mixture.balanced:
        cause, changes = cause + why_uneven(mixture), stronger(mixture)
    else:
        changes = [epochs.to(2 * epochs.now)] if epochs and epochs.now else []
        cause += (
            "In training the load is even, but only because of the gate's noise: without noise the "
            "gate does not yet distinguish so many experts. Train longer, or use fewer experts "
            f"(num_experts={max(mixture.num_experts // 2, 1)})."
        )
    return [check("dead_experts", WARNING, mixture.name, figure, cause, changes)]


def check_strength(mixture, row):
    """`balancing_strong`: the balancing losses are a large share of the loss although the load is
    even.

    Args:
        mixture: a `Mixture`.
        row: the last epoch's logs.
    """
    loss, (_, load) = row.get("loss"), mixture.metric(row, "cv_load")
    balancing = balancing_loss(mixture, row)
    if not loss or balancing is None or not 0 < loss < math.inf:
        return []
    if load > variation_at(UNEVEN, mixture):  # then a large balancing loss is correct
        return []
    usual = all(weight <= USUAL_WEIGHT * default_weight(name) for name, weight in mixture.weights)
    most = MOST_OF_USUAL_WEIGHTS if usual else MOST_BALANCING
    figure = Figure(f"{mixture.name}: balancing loss / loss", balancing / loss, most=most)
    by_chance = (
        f"; by chance it would be {short(math.sqrt(mixture.chance))}" if mixture.chance else ""
    )
    cause = (
        "The gate learns to balance instead of to select. Routing is close to random, and "
        f"experts do not specialise (cv_load is {short(load)}{by_chance})."
    )
    changes = [
        mixture.setting(name).to(min(default_weight(name), weight / 10))
        for name, weight in mixture.weights
        if weight
    ]
    return [check("balancing_strong", WARNING, mixture.name, figure, cause, changes)]


def balancing_loss(mixture, row):
    """The approximate balancing loss, computed from metrics: `w · CV²`, for Switch `α · (1 + CV²)`;
    `None` without a balancing loss or without metrics.
    """
    measured = {name: mixture.metric(row, name)[1] for name in ("cv_importance", "cv_load")}
    if None in measured.values() or not mixture.balanced:
        return None
    total = 0.0
    for argument, weight in mixture.weights:
        name = last_part(argument)
        squared = measured["cv_importance" if name == "importance_weight" else "cv_load"] ** 2
        total += weight * (squared + (name == "balance_weight"))
    return total
