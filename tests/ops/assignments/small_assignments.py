"""Small assignments, for the tests of assignments."""

import numpy as np
import tensorflow as tf

from tfmoe.ops.assignments import Assignments, assign_tokens

# Three tokens select two of three experts each: assignments 0..5 go to experts 2 0 | 0 1 | 2 0.
# Sorted by expert, then by token: expert 0 has assignments 1, 2, 5; expert 1 has 3; expert 2 has
# 0, 4.
EXPERTS = tf.constant([[2, 0], [0, 1], [2, 0]])
X = tf.constant([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])


def indexed_assignments(experts, num_experts):
    """Assignments whose weights are their indices, `token * K + slot`."""
    indices = tf.range(tf.size(experts), dtype=tf.int32)
    return assign_tokens(
        experts, tf.cast(tf.reshape(indices, tf.shape(experts)), tf.float32), num_experts
    )


def check(assignments, **expected):
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(assignments, name), values, err_msg=name)


# Expert 0 has tokens 2 and 0, expert 1 none, expert 2 token 0; token 1 has no expert.
VARYING = Assignments(
    tokens=tf.constant([2, 0, 0]),
    weights=tf.constant([0.5, 0.25, 2.0]),
    counts=tf.constant([2, 0, 1]),
    num_tokens=tf.constant(3),
)
# Two tokens for each of two experts: expert 0 has 2 and 0, expert 1 has 0 and 3.
EQUAL = Assignments(
    tokens=tf.constant([2, 0, 0, 3]),
    weights=tf.constant([1.0, 0.5, 0.25, 0.0]),
    counts=tf.constant([2, 2]),
    num_tokens=tf.constant(4),
    rows_per_expert=tf.constant(2),
)


def by_token(assignments):
    return [values.numpy().tolist() for values in assignments.by_token()]
