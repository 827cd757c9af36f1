"""`tf.debugging.enable_check_numerics`."""

import numpy as np
import pytest
import tensorflow as tf
from ops.expert_matmul.dense_formula import (
    derivative_case,
    gradients,
    maybe_compiled,
    random_stacks,
)

from tfmoe.ops import expert_runners
from tfmoe.ops.expert_matmul import expert_ffn


@pytest.fixture
def check_numerics():
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()


@pytest.mark.parametrize("compiled, recompute", [(False, False), (True, False), (True, True)])
def test_check_numerics_accepts_the_loop(check_numerics, compiled, recompute):
    num_experts = expert_runners.UNROLLED_EXPERTS + 1
    stacks = tf.nest.flatten(random_stacks(num_experts, [30, 40, 20]))
    x = tf.random.normal([num_experts, 30], dtype=tf.float64)
    counts = tf.constant([1, 0] * (num_experts // 2) + [3])

    def ffn(x, kernels, biases):
        return expert_ffn(x, counts, kernels, biases, tf.nn.gelu, recompute)

    step = maybe_compiled(lambda *tensors: gradients(ffn, list(tensors)), compiled)
    for _ in range(2):
        # Freed memory full of NaN, which TensorFlow will reuse. `Fill` is not checked.
        freed = [tf.fill(stack.shape, tf.constant(np.nan, tf.float64)) for stack in stacks * 20]
        del freed
        results = step(x, *stacks)
    assert all(np.isfinite(gradient).all() for gradient in results)


def test_check_numerics_reports_nan_in_a_row(check_numerics, all_runners):
    (x, *stacks), sparse, _ = derivative_case()
    bad = [tf.fill(x.shape, tf.constant(np.nan, tf.float64)), *stacks]
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN"):
        gradients(sparse, bad)
