import pytest
import tensorflow as tf

from tfmoe.distribute import (
    MixedStrategy,
    is_first_worker,
    is_mixed,
    sum_over_workers,
    wait_for_workers,
    workers,
)


@pytest.mark.parametrize("make", [lambda: None, tf.distribute.get_strategy, MixedStrategy])
def test_one_process_is_one_worker(make):
    strategy = make()
    assert workers.num_workers(strategy) == 1
    assert workers.worker_index(strategy) == 0 and is_first_worker(strategy)
    assert sum_over_workers(strategy, 3) == 3
    wait_for_workers(strategy)


def test_is_mixed():
    assert is_mixed(MixedStrategy(["CPU:0", "CPU:1"]))
    for other in (None, tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0"])):
        assert not is_mixed(other)
