"""Replicas on the logical CPU devices that `tests/conftest.py` makes."""

import pytest
import tensorflow as tf

from tfmoe.distribute import MixedStrategy, collectives


def run_in_replicas(strategy, function):
    """What a function of the replica's number gives in each replica, as lists of arrays."""

    @tf.function
    def run():
        return strategy.run(lambda: function(collectives.replica_id()))

    results = run()
    replicas = range(strategy.num_replicas_in_sync)
    return [
        tf.nest.map_structure(
            lambda each, r=r: strategy.experimental_local_results(each)[r].numpy(), results
        )
        for r in replicas
    ]


@pytest.fixture(scope="session")
def strategy_of():
    """A function of R: a new `MixedStrategy` of that many replicas."""
    return lambda replicas: MixedStrategy([f"CPU:{i}" for i in range(replicas)])


@pytest.fixture(scope="session")
def in_replicas(strategy_of):
    """A function of R or a strategy, and of a function: see `run_in_replicas`."""

    def run(strategy, function):
        strategy = strategy_of(strategy) if isinstance(strategy, int) else strategy
        return run_in_replicas(strategy, function)

    return run
