"""Replicas on the logical CPU devices that `tests/conftest.py` creates."""

import pytest
import tensorflow as tf

from tfmoe.distribute import MixedStrategy, collectives


def run_in_replicas(strategy, function):
    """The results of a function of the replica's index in every replica, as lists of arrays."""

    @tf.function
    def run():
        return strategy.run(lambda: function(collectives.replica_id()))

    results = run()
    replicas = range(strategy.num_replicas_in_sync)
    return [
        tf.nest.map_structure(
            lambda value, r=r: strategy.experimental_local_results(value)[r].numpy(), results
        )
        for r in replicas
    ]


@pytest.fixture(scope="session")
def strategy_of():
    """A function of R that creates a `MixedStrategy` with R replicas."""
    return lambda replicas: MixedStrategy([f"CPU:{i}" for i in range(replicas)])


@pytest.fixture(scope="session")
def in_replicas(strategy_of):
    """`run_in_replicas`, for a strategy or for R replicas."""

    def run(strategy, function):
        strategy = strategy_of(strategy) if isinstance(strategy, int) else strategy
        return run_in_replicas(strategy, function)

    return run
