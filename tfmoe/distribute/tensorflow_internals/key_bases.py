"""The keys by which TensorFlow identifies groups of devices.

A strategy numbers the groups of its collective operations from a base key. Two strategies of one
process must not have the same base key.
"""

import itertools

import tensorflow as tf

KEYS_PER_STRATEGY = 1_000
# Far above the base keys of any `MixedStrategy`.
MIRRORED_KEY_BASE = 1_000_000_000


def next_key_base():
    """Returns a base key for a new `MixedStrategy`, unique in this process.

    The counter is an attribute of TensorFlow's class, so reloading this module does not reset it.
    Workers that create the same strategies in the same order get the same keys.
    """
    cls = tf.distribute.MultiWorkerMirroredStrategy
    base = cls._collective_key_base + KEYS_PER_STRATEGY
    cls._collective_key_base = base + KEYS_PER_STRATEGY
    return base


def number_mirrored_strategies():
    """Gives every `tf.distribute.MirroredStrategy` a unique base key.

    By default all of them start at 0. The second strategy in a process then continues collectives
    of the first, fails with "Shape mismatch in the collective instance 100", and disables the
    collectives of the whole process: https://github.com/tensorflow/tensorflow/issues/62790.
    """
    cls = tf.distribute.MirroredStrategy
    if not isinstance(vars(cls)["_collective_key_base"], property):
        bases = itertools.count(MIRRORED_KEY_BASE, KEYS_PER_STRATEGY)
        cls._collective_key_base = property(lambda strategy: next(bases))


number_mirrored_strategies()
