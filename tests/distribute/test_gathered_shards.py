import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute.gathered_shards import gather_shards


@pytest.mark.parametrize(
    ("length", "unit", "shards"), [(3, 1, [2, 1]), (4, 4, [2, 2]), (6, 2, [4, 2])]
)
def test_shards_of_two_replicas(in_replicas, length, unit, shards):
    whole = np.arange(2.0 * length).reshape(length, 2)

    def gathered(replica):
        begin = sum(shards[:replica])
        shard = tf.constant(whole[begin : begin + shards[replica]])
        with tf.GradientTape() as tape:
            tape.watch(shard)
            rows = gather_shards(shard, length, unit)
            # Row e counts e + 1 times in replica 0, and ten times as much in replica 1.
            loss = 10.0**replica * tf.reduce_sum(
                rows * (tf.range(length, dtype="float64") + 1)[:, None]
            )
        return rows, tape.gradient(loss, shard)

    results = in_replicas(2, gathered)
    begin = 0
    for size, (rows, gradient) in zip(shards, results, strict=True):
        np.testing.assert_array_equal(rows, whole)
        expected = 11 * (np.arange(begin, begin + size) + 1)
        np.testing.assert_array_equal(gradient, np.repeat(expected[:, None], 2, axis=1))
        begin += size


def test_on_one_device():
    shard = tf.ones([3, 2])
    assert gather_shards(shard, 3) is shard
