"""Checks of the gate on several devices."""

import numpy as np

from tfmoe.testing.device_runs import TOLERANCE, check_equal
from tfmoe.testing.properties import gate_check, require

EQUAL = (
    "training on {} devices with MixedStrategy gives the losses, metrics, weights and outputs of "
    "training on one, in float64, also for uneven and padded batches."
)
CAUSE = (
    "a mean over the tokens of one device: loss, measures and update must compute from `sums` "
    "alone; or random numbers that are not drawn in a method draw(inputs)."
)


@gate_check(EQUAL.format(2), CAUSE)
def two_devices(case):
    check_devices(case, 2)


@gate_check(EQUAL.format(4), CAUSE)
def four_devices(case):
    check_devices(case, 4)


def check_devices(case, devices, dtype="float64"):
    """Raises an `AssertionError` if training on several devices differs from one device.

    Args:
        case: a `GateCase`.
        devices: the number of devices.
        dtype: floating-point type.
    """
    check_equal(case.trained_on(devices, dtype), case.trained_on(None, dtype), TOLERANCE[dtype])


@gate_check(
    "plain gradient descent changes every weight, trainable or updated.",
    "a weight without a gradient, or whose gradient is 0; or one that `update` never changes.",
)
def updates(case):
    result = case.trained_on(None)
    first, *later = result.weights
    for (path, must_change), before, *after in zip(
        result.trained.items(), first, *later, strict=True
    ):
        changed = any(np.any(before != weight) for weight in after)
        require(changed or not must_change, f"{path} did not change")
