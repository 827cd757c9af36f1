"""The placement of variables under a `MixedStrategy`: which rows of a sharded variable a device
holds, and which random generators draw the same numbers on all devices.

Axes: E experts (or groups, or any other first axis of a variable), R replicas.
"""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import NamedTuple

_scope = threading.local()


def shard_bounds(length: int, replicas: int, unit: int = 1) -> list[tuple[int, int]]:
    """Divides the first axis of a variable into one range for each replica.

    The axis consists of units, such as the experts of a group, which stay on one replica. The
    numbers of units of two replicas differ by at most one; the first replicas have more. If there
    are fewer units than replicas, units are divided: the rows are shared out one by one.

    Args:
        length: the length of the axis, a multiple of `unit`.
        replicas: R.
        unit: the number of consecutive rows that stay on one replica.

    Returns:
        List of R pairs `(begin, end)`.

    Raises:
        ValueError: `unit` does not divide `length`.
    """
    if length % unit:
        raise ValueError(f"{length} rows cannot be divided into units of {unit}")
    if length // unit < replicas:
        unit = 1
    each, rest = divmod(length // unit, replicas)
    ends = [unit * (each * r + min(r, rest)) for r in range(replicas + 1)]
    return list(itertools.pairwise(ends))


class Sharding(NamedTuple):
    """How a `MixedStrategy` shards a variable along its first axis.

    Attributes:
        unit: as for `shard_bounds`.
        is_divisible: whether units may be divided if there are fewer units than replicas. If not,
            every replica then holds the whole variable.
    """

    unit: int = 1
    is_divisible: bool = True

    def bounds(self, length: int, replicas: int) -> list[tuple[int, int]] | None:
        """The `shard_bounds` of a variable; `None` if every replica holds the whole variable.

        Args:
            length: the length of the first axis.
            replicas: R.
        """
        if not self.is_divisible and length // self.unit < replicas:
            return None
        return shard_bounds(length, replicas, self.unit)


@contextlib.contextmanager
def sharded(unit: int = 1, is_divisible: bool = True) -> Iterator[None]:
    """Shards the variables created in this context under a `MixedStrategy` along their first axis;
    without a `MixedStrategy` it has no effect.

    Args:
        unit: the number of consecutive rows that stay on one device.
        is_divisible: as for `Sharding`.
    """
    outer = current_sharding()
    _scope.sharding = Sharding(unit, is_divisible)
    try:
        yield
    finally:
        _scope.sharding = outer


def current_sharding() -> Sharding | None:
    """The `Sharding` of the current `sharded` context, or `None`."""
    return getattr(_scope, "sharding", None)


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
