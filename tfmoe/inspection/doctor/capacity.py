"""Checks of capacity and cost: dropped tokens, limits without effect, too little work per expert.

The functions take values and return `Check`s, as in `balance`.
"""

import math

from tfmoe.inspection.doctor.finding import NOTE, PROBLEM, WARNING, Figure, Setting, check, short

# Assignments over capacity: 0.04 at capacity_factor 1 with an even gate, 0.75 at 0.25.
MOST_DROPPED, FAR_TOO_MANY_DROPPED = 0.1, 0.3
# A limit of this many times the largest load has no effect.
IDLE_CAPACITY = 2.0
# Tokens per expert and step. An expert's weights are read and updated in each step, however few its
# tokens are. On a CPU demo/grammars trained 0.6 times as fast with 32 as with 128, and 0.1 times
# with 8.
LEAST_EXPERT_BATCH, GOOD_EXPERT_BATCH = 32, 64
MOST_LARGER_BATCH = 16
# Multiply-adds of an expert per number sent to it or back. They should exceed the device's
# ratio of arithmetic to bandwidth, which is thousands for a GPU (section 3.2 of the paper).
LEAST_COMPUTE = 1000


def check_dropped(mixture, row):
    """`capacity_too_small`: many assignments exceed the capacity and are dropped.

    Args:
        mixture: a `Mixture`.
        row: the last epoch's logs.
    """
    checks = []
    for metric, in_training in (("dropped", True), ("val_dropped", False)):
        name, dropped = mixture.metric(row, metric)
        limits = [limit for limit in mixture.limits if limit.in_training == in_training]
        if dropped is None or not limits:
            continue
        severity = PROBLEM if dropped > FAR_TOO_MANY_DROPPED else WARNING
        figure = Figure(name, dropped, most=MOST_DROPPED)
        cause = (
            f"An expert takes at most {short(min(limit.of_mean for limit in limits))} times the "
            "mean load; the rest is dropped. "
            "Without a limit nothing is dropped; a limit of 2 still bounds the memory."
        )
        changes = [mixture.setting(limit.argument).to(None) for limit in limits]
        checks.append(check("capacity_too_small", severity, mixture.name, figure, cause, changes))
    return checks


def check_idle_capacity(mixture, row):
    """`capacity_too_large`: a limit far above the load of every expert.

    Args:
        mixture: a `Mixture`.
        row: the last epoch's logs.
    """
    _, largest = mixture.metric(row, "max_over_mean_load")
    if not largest:
        return []
    checks = []
    for limit in mixture.limits:
        if not limit.in_training or not limit.is_idle_if_large:
            continue
        name = f"{mixture.name}: capacity / (mean load · max_over_mean_load)"
        figure = Figure(name, limit.of_mean / largest, most=IDLE_CAPACITY)
        cause = (
            f"The busiest expert receives {short(largest)} times the mean load, so the limit "
            "has no effect: it saves no memory."
        )
        # The factor of a gate is relative to all tokens, not to the mean load.
        factor = math.ceil(12.5 * largest * limit.factor / limit.of_mean) / 10
        change = mixture.setting(limit.argument).to(factor)
        checks.append(check("capacity_too_large", NOTE, mixture.name, figure, cause, [change]))
    return checks


def check_expert_batch(mixture, batch=None):
    """`small_expert_batch`: so few tokens per expert that reading the weights takes longer
    than the computation (the shrinking batch problem, section 3.1 of the paper).

    Args:
        mixture: a `Mixture`.
        batch: `Setting` of the batch size, or `None`.
    """
    tokens = mixture.expert_batch
    if not tokens:
        return []
    figure = Figure(f"{mixture.name}: tokens for an expert", tokens, least=LEAST_EXPERT_BATCH)
    factor = 2 ** math.ceil(math.log2(max(GOOD_EXPERT_BATCH / tokens, 1)))
    fewer = max(math.ceil(mixture.selected), mixture.num_experts // factor)
    larger = batch is not None and batch.now and factor <= MOST_LARGER_BATCH
    other = f"fewer experts ({fewer})" if larger else "larger batches"
    cause = (
        "The weights of an expert are read and updated for few tokens per step, so memory "
        f"traffic takes most of the time. If this change is not possible, use {other}."
    )
    change = batch.to(factor * batch.now) if larger else mixture.setting("num_experts").to(fewer)
    return [check("small_expert_batch", WARNING, mixture.name, figure, cause, [change])]


def check_expert_size(mixture, ratio, hidden_units):
    """`small_experts`: on several devices, experts that compute little per number sent.

    Args:
        mixture: a `Mixture`.
        ratio: `compute_to_communication` of `tfmoe.analysis.traffic.traffic_of`.
        hidden_units: number of hidden units of an expert.
    """
    figure = Figure(f"{mixture.name}: multiply-adds for a number sent", ratio, least=LEAST_COMPUTE)
    cause = "Sending tokens between devices takes longer than the experts' computation."
    factor = 2 ** math.ceil(math.log2(max(LEAST_COMPUTE / ratio, 1)))
    change = Setting(f"{mixture.key}hidden_units", hidden_units).to(factor * hidden_units)
    return [check("small_experts", NOTE, mixture.name, figure, cause, [change])]
