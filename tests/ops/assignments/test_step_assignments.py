import numpy as np
import tensorflow as tf

from tfmoe.ops.assignments import assign_tokens
from tfmoe.ops.step_assignments import split_by_step

# Tokens 0 to 4 are (row, step) (0, 0), (0, 1), (0, 2), (2, 0), (2, 2); no token is in row 1.
ROWS, STEPS = tf.constant([0, 0, 0, 2, 2]), tf.constant([0, 1, 2, 0, 2])
# Two of three experts for each token. The id 3 drops an assignment.
EXPERTS = tf.constant([[2, 0], [1, 2], [3, 0], [0, 1], [2, 0]])
WEIGHTS = tf.constant([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8], [0.9, 1.0]])


def test_by_hand():
    with tf.GradientTape() as tape:
        tape.watch(WEIGHTS)
        split = split_by_step(assign_tokens(EXPERTS, WEIGHTS, 3), ROWS, STEPS, tf.constant(3))
        loss = tf.reduce_sum(split.weights * tf.constant([[1.0], [10.0], [100.0]]))
    # Step 0: row 0 to 0 and 2, row 2 to 0 and 1. Step 1: row 0 to 1 and 2. Step 2: to 0, 0 and 2.
    np.testing.assert_array_equal(split.counts, [[2, 1, 1], [0, 1, 1], [2, 0, 1]])
    np.testing.assert_array_equal(split.rows, [[0, 2, 2, 0], [0, 0, 0, 0], [0, 2, 2, 0]])
    expected = np.float32([[0.2, 0.7, 0.8, 0.1], [0.3, 0.4, 0, 0], [0.6, 1.0, 0.9, 0]])
    np.testing.assert_array_equal(split.weights, expected)
    expected = [[1, 1], [10, 10], [0, 100], [1, 1], [100, 100]]
    np.testing.assert_array_equal(tape.gradient(loss, WEIGHTS), expected)
    first = tf.nest.map_structure(lambda part: part[1], split).of_rows(3, 3)
    rows = first.combine(first.dispatch(tf.constant([[1.0], [2.0], [4.0]])) * [[1], [1], [0], [0]])
    np.testing.assert_allclose(rows, [[0.7], [0], [0]], rtol=1e-6)


def test_without_tokens_or_steps():
    nothing = assign_tokens(EXPERTS[:0], WEIGHTS[:0], 3)
    for num_steps in (0, 2):
        split = split_by_step(nothing, ROWS[:0], STEPS[:0], tf.constant(num_steps))
        assert split.counts.shape == (num_steps, 3)
        assert split.rows.shape == split.weights.shape == (num_steps, 0)
