"""The placement of variables under a `MixedStrategy`: which rows of a sharded variable a device
holds, and which random generators draw the same numbers on all devices.

Axes: E experts (or groups, or any other first axis of a variable), R replicas.
"""

import contextlib
import threading
from collections.abc import Iterator

_scope = threading.local()


def shard_bounds(length: int, replicas: int, unit: int = 1) -> list[tuple[int, int]]:
    """Divides the first axis of a variable into one range for each replica.

    Every replica gets `⌈units / R⌉` units of `unit` rows. If R does not divide the number of units,
    the last replicas get fewer, or none.

    Args:
        length: the length of the axis, a multiple of `unit`.
        replicas: R.
        unit: the number of consecutive rows that stay on one device, such as the experts of a
            group.

    Returns:
        List of R pairs `(begin, end)`.

    Raises:
        ValueError: `unit` does not divide `length`.
    """
    if length % unit:
        raise ValueError(f"{length} rows cannot be divided into units of {unit}")
    step = -(-length // unit // replicas) * unit
    return [(min(r * step, length), min((r + 1) * step, length)) for r in range(replicas)]


@contextlib.contextmanager
def sharded(unit: int = 1) -> Iterator[None]:
    """Shards the variables created in this context under a `MixedStrategy` along their first axis;
    without a `MixedStrategy` it has no effect.

    Args:
        unit: the number of consecutive rows that stay on one device.
    """
    outer = sharding_unit()
    _scope.unit = unit
    try:
        yield
    finally:
        _scope.unit = outer


def sharding_unit() -> int | None:
    """The `unit` of the current `sharded` context, or `None`."""
    return getattr(_scope, "unit", None)


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """Random generators created in this context draw the same numbers on all replicas of a
    `MixedStrategy`; other generators draw different numbers on each replica.
    """
    outer = in_same_draws()
    _scope.same_draws = True
    try:
        yield
    finally:
        _scope.same_draws = outer


def in_same_draws() -> bool:
    """Whether the caller is in a `same_draws` context."""
    return getattr(_scope, "same_draws", False)
