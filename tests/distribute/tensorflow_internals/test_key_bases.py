"""The keys of groups of devices.

A failure here names the private API of TensorFlow or Keras that changed; other tests would only
show that training fails.
"""

from itertools import pairwise

import tensorflow as tf

from tfmoe.distribute.tensorflow_internals.key_bases import KEYS_PER_STRATEGY, MIRRORED_KEY_BASE


def test_every_strategy_has_a_unique_base_key(strategy_of):
    plain = tf.distribute.MultiWorkerMirroredStrategy
    devices = ["CPU:0", "CPU:1"]
    strategies = [
        strategy_of(2),
        tf.distribute.MirroredStrategy(devices),
        strategy_of(2),
        plain(
            cluster_resolver=tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec({})
            )
        ),
        tf.distribute.MirroredStrategy(devices),
    ]
    bases = [strategy.extended._collective_key_base for strategy in strategies]
    for base, next_base in pairwise(sorted(bases)):
        assert next_base - base >= KEYS_PER_STRATEGY
    assert [base >= MIRRORED_KEY_BASE for base in bases] == [False, True, False, False, True]
    for base, strategy in zip(bases, strategies, strict=True):
        keys = strategy.extended._collective_keys
        assert base < keys.get_group_key(["new"]) < base + KEYS_PER_STRATEGY
        # Instances are counted by group.
        assert keys.get_instance_key(keys.get_group_key(["new"]), "new") == 100
