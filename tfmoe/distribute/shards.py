"""What is to become of variables under a `MixedStrategy`: which rows of a sharded one a device
holds, and which random generators draw the same everywhere.

Axes: E experts (or groups, or whatever the first axis of a variable is), R replicas.
"""

import contextlib
import threading

_scope = threading.local()


def shard_bounds(length, replicas, together=1):
    """Divides the first axis of a variable into one range for each replica.

    Every replica gets `⌈units / R⌉` units of `together` rows; the last ones get fewer, or none,
    where R does not divide them.

    Args:
        length: of the axis, a multiple of `together`.
        replicas: R.
        together: rows that must not be parted, such as the experts of a group.

    Returns:
        List of R pairs `(begin, end)`.

    Raises:
        ValueError: if `together` does not divide `length`.
    """
    if length % together:
        raise ValueError(f"{length} rows cannot be divided into units of {together}")
    step = -(-length // together // replicas) * together
    return [(min(r * step, length), min((r + 1) * step, length)) for r in range(replicas)]


@contextlib.contextmanager
def sharded(together=1):
    """Variables created in this context under a `MixedStrategy` are sharded along their first axis;
    elsewhere it has no effect.

    Args:
        together: rows of the axis that stay on one device together.
    """
    before = sharding_unit()
    _scope.together = together
    try:
        yield
    finally:
        _scope.together = before


def sharding_unit():
    """`together` of the `sharded` context that the caller is in, or `None`."""
    return getattr(_scope, "together", None)


@contextlib.contextmanager
def drawing_alike():
    """Random generators created in this context draw the same on all replicas of a `MixedStrategy`;
    any other draws something else on each.
    """
    before = draws_alike()
    _scope.alike = True
    try:
        yield
    finally:
        _scope.alike = before


def draws_alike():
    """Whether the caller is in a `drawing_alike` context."""
    return getattr(_scope, "alike", False)
