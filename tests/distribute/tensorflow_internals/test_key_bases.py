"""The numbers of groups of devices.

A failure here says which private interface of TensorFlow or Keras changed; other tests would say
only that training fails.
"""

from itertools import pairwise

import tensorflow as tf

from tfmoe.distribute.tensorflow_internals.key_bases import KEYS_PER_STRATEGY, MIRRORED_KEY_BASE


def test_every_strategy_numbers_its_own_collectives(strategy_of):
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
    bases = [each.extended._collective_key_base for each in strategies]
    apart = sorted(bases)
    for one, other in pairwise(apart):
        assert other - one >= KEYS_PER_STRATEGY
    assert [base >= MIRRORED_KEY_BASE for base in bases] == [False, True, False, False, True]
    for base, strategy in zip(bases, strategies, strict=True):
        keys = strategy.extended._collective_keys
        assert base < keys.get_group_key(["new"]) < base + KEYS_PER_STRATEGY
        # Instances are counted by group.
        assert keys.get_instance_key(keys.get_group_key(["new"]), "new") == 100
