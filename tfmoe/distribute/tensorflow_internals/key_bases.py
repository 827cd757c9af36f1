"""The numbers by which TensorFlow tells groups of devices apart.

A strategy counts the groups of its collective operations from a base. Two strategies of a process
must not share one.
"""

import itertools

import tensorflow as tf

KEYS_PER_STRATEGY = 1_000
# Far beyond the bases of any `MixedStrategy`.
MIRRORED_KEY_BASE = 1_000_000_000


def next_key_base():
    """The base of a new `MixedStrategy`, which no other strategy of this process shares.

    TensorFlow's class keeps the count, so reloading this module does not reset it. Workers that
    make the same strategies in the same order get the same numbers.
    """
    kind = tf.distribute.MultiWorkerMirroredStrategy
    base = kind._collective_key_base + KEYS_PER_STRATEGY
    kind._collective_key_base = base + KEYS_PER_STRATEGY
    return base


def number_mirrored_strategies():
    """Gives every `tf.distribute.MirroredStrategy` a base of its own.

    By default all of them count from 0, so the second one in a process continues collectives of the
    first, fails with "Shape mismatch in the collective instance 100", and disables the collectives
    of the whole process: https://github.com/tensorflow/tensorflow/issues/62790.
    """
    kind = tf.distribute.MirroredStrategy
    if not isinstance(vars(kind)["_collective_key_base"], property):
        bases = itertools.count(MIRRORED_KEY_BASE, KEYS_PER_STRATEGY)
        kind._collective_key_base = property(lambda strategy: next(bases))


number_mirrored_strategies()
