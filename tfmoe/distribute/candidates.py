"""The best tokens of a global batch, for experts that are spread over replicas.

Axes: R replicas, E experts, E_r of them on one replica (the most that any has), C candidates.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.shards import shard_bounds


def taken_of_candidates(best, num_taken):
    """How many of this replica's best candidates are among the best of all replicas.

    Each expert's device compares the candidates that all replicas sent, and answers with numbers:
    whole rows of values travel there, `[E]` integers back.

    Args:
        best: `[E, C]` floating point, for each expert its best values on this replica, by falling
            value; C is the same on all replicas.
        num_taken: m, how many an expert takes of all replicas together; int32 scalar.

    Returns:
        `[E]` int32. Among equal values those of an earlier replica count first.
    """
    replicas, num_experts = collectives.num_replicas(), best.shape[0]
    bounds = shard_bounds(num_experts, replicas)
    here = bounds[0][1] - bounds[0][0]  # E_r
    num_candidates = tf.shape(best)[1]
    missing = here * replicas - num_experts
    best = tf.pad(best, [[0, missing], [0, 0]])
    arrived = collectives.all_to_all(tf.reshape(best, [replicas, here, num_candidates]))
    by_expert = tf.reshape(tf.transpose(arrived, [1, 0, 2]), [here, replicas * num_candidates])
    places = tf.math.top_k(by_expert, num_taken).indices
    of_replica = tf.one_hot(places // tf.maximum(num_candidates, 1), replicas, dtype=tf.int32)
    counts = tf.transpose(tf.reduce_sum(of_replica, axis=1))  # [R, E_r]
    return tf.reshape(collectives.all_to_all(counts), [-1])[:num_experts]
