"""Few rows for many experts: what is computed depends on the rows, not on the number of experts."""

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops import expert_matmul
from tfmoe.ops.batched_rows import batched_size, visits_of_loop
from tfmoe.ops.copied_weights import is_fast
from tfmoe.ops.expert_matmul import expert_ffn

E, D, H = 80, 3, 4
RNG = np.random.default_rng(0)
KERNELS = [tf.constant(RNG.standard_normal(shape)) for shape in ([E, D, H], [E, H, D])]


def counts_of(*experts):
    return tf.constant(np.bincount(experts, minlength=E), tf.int32)


def values(x, counts, recompute, training):
    """The outputs and the gradients of the inputs and kernels."""
    with tf.GradientTape() as tape:
        tape.watch([x, *KERNELS])
        y = expert_ffn(
            x, counts, KERNELS, activation=tf.tanh, recompute=recompute, training=training
        )
        loss = tf.reduce_sum(tf.sin(y))
    return [y, *tape.gradient(loss, [x, *KERNELS])]


def dense_values(x, experts):
    with tf.GradientTape() as tape:
        tape.watch([x, *KERNELS])
        first, second = (tf.gather(kernel, experts) for kernel in KERNELS)
        hidden = tf.tanh(tf.einsum("ai,aij->aj", x[: len(experts)], first))
        y = tf.pad(tf.einsum("ai,aij->aj", hidden, second), [[0, len(x) - len(experts)], [0, 0]])
        loss = tf.reduce_sum(tf.sin(y))
    return [y, *map(tf.convert_to_tensor, tape.gradient(loss, [x, *KERNELS]))]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("recompute", "training"), [(False, True), (False, False), (True, True)])
def test_every_call_has_its_own_gradient(recompute, training, compiled):
    """Also the second call of a function, whose experts are others."""
    spec = [tf.TensorSpec([None, D], tf.float64), tf.TensorSpec([E], tf.int32)]
    function = lambda x, counts: values(x, counts, recompute, training)  # noqa: E731
    function = tf.function(function, input_signature=spec) if compiled else function
    for experts in ([3, 3, 70], [5, 41], [], [0] * 9 + [79]):
        x = tf.constant(RNG.standard_normal([len(experts) + 2, D]))  # two rows of no expert
        expected = dense_values(x, np.array(experts, int))
        for a, b in zip(function(x, counts_of(*experts)), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_when_copies_are_fast():
    stacks = [tf.zeros([4, 64, 128]), tf.zeros([4, 128, 64])]  # 2^14 elements of an expert
    assert is_fast(2, stacks)
    assert is_fast(16, stacks)  # as long as visits of 4 experts
    assert not is_fast(17, stacks)
    assert not is_fast(1, [tf.zeros([4, 512, 256])])


def test_eager_code_copies(monkeypatch):
    """It starts as many operations for 80 experts as for 8."""
    monkeypatch.setattr(expert_matmul, "runner_for", None)
    x = tf.constant(RNG.standard_normal([3, D]))
    assert values(x, counts_of(1, 2, 70), False, True)[0].shape == (3, D)
    with pytest.raises(TypeError):
        values(tf.zeros([10**6, D], tf.float64), counts_of(1, 2, 70), False, True)


def test_experts_that_a_loop_visits():
    np.testing.assert_array_equal(visits_of_loop(tf.constant([0, 2, 0, 1])), [0, 1, 0, 1])
    assert np.all(visits_of_loop(tf.constant([3, 2, 0, 1])))
    # Together: 64 · (32 + 8). In the loop: 2 · (55 + 1) + 62 · 8 + 2.
    counts = tf.constant([1, 1] + 62 * [0])
    assert batched_size(counts, 2**20) == 0
    assert batched_size(tf.ones([64], tf.int32), 2**20) == 8
