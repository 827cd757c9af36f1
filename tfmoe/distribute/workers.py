"""The workers (processes) of a strategy: one, except for a `MixedStrategy` on a cluster."""

from collections.abc import Callable
from typing import TypeGuard

import tensorflow as tf

from tfmoe.distribute import tensorflow_internals


def is_mixed(strategy: tf.distribute.Strategy | None) -> TypeGuard[tf.distribute.Strategy]:
    """Whether a strategy is a `MixedStrategy`.

    Args:
        strategy: any strategy, or `None`.
    """
    extended = getattr(strategy, "extended", None)
    return isinstance(extended, tensorflow_internals.MixedExtended)


def num_workers(strategy: tf.distribute.Strategy | None) -> int:
    """The number of processes in the cluster."""
    return strategy.num_workers if is_mixed(strategy) else 1


def worker_index(strategy: tf.distribute.Strategy | None) -> int:
    """The index of this process, from 0."""
    return strategy.worker if is_mixed(strategy) else 0


def is_first_worker(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process is worker 0, which writes files and reports.

    Args:
        strategy: any strategy, or `None`.
    """
    return worker_index(strategy) == 0


def sum_over_workers(strategy: tf.distribute.Strategy | None, number: int) -> int:
    """Sums a Python integer over all workers. Every worker must call it.

    Args:
        strategy: any strategy, or `None`.
        number: this worker's summand.

    Returns:
        The sum; `number` if there is one worker.
    """
    if not is_mixed(strategy) or strategy.num_workers == 1:
        return number
    return int(strategy.sum_over_workers(number))


def wait_for_workers(strategy: tf.distribute.Strategy | None) -> None:
    """Blocks until every worker has called it.

    Args:
        strategy: any strategy, or `None`.
    """
    sum_over_workers(strategy, 0)


def distribute_rows(
    strategy: tf.distribute.Strategy | None, rows: Callable[[int, int, int], tf.data.Dataset]
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Batches for `fit` of which each worker reads only its own rows.

    Args:
        strategy: any strategy, or `None`.
        rows: as for `MixedStrategy.distribute_rows`; without such a strategy `rows(0, 1, 1)` is the
            result.
    """
    return strategy.distribute_rows(rows) if is_mixed(strategy) else rows(0, 1, 1)
