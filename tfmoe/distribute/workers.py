"""The workers of a strategy, which are processes: one, if not a `MixedStrategy` of a cluster."""

from tfmoe.distribute import tensorflow_internals


def is_mixed(strategy):
    """Whether a strategy is a `MixedStrategy`."""
    extended = getattr(strategy, "extended", None)
    return isinstance(extended, tensorflow_internals.MixedExtended)


def num_workers(strategy):
    """Processes of the cluster."""
    return strategy.num_workers if is_mixed(strategy) else 1


def worker_number(strategy):
    """The number of this process, from 0."""
    return strategy.worker if is_mixed(strategy) else 0


def is_first_worker(strategy):
    """Whether this process is the one that writes and reports."""
    return worker_number(strategy) == 0


def sum_over_workers(strategy, number):
    """A Python integer summed over all workers, each of which must call this."""
    return int(strategy.sum_over_workers(number)) if num_workers(strategy) > 1 else number


def wait_for_workers(strategy):
    """Waits until all workers have come here."""
    sum_over_workers(strategy, 0)
