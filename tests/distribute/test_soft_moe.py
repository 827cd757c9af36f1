"""`SoftMoE` on several devices equals one device: each replica has sequences of its own."""

import numpy as np
import pytest
import tensorflow as tf
from layers.small_soft_mixtures import MASK, B, X, random_layer

from tfmoe.distribute import collectives


def train_step(layer, rows, mask):
    """The outputs, the gradients of the sum of all replicas' losses, and the metrics."""
    x = tf.constant(X)[rows]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, mask=None if mask is None else tf.constant(mask)[rows], training=True)
        loss = tf.reduce_sum(tf.sin(y))
    variables = [layer.slot_kernel, layer.scale, *layer.experts.kernels]
    dx, dkernel, dscale, *dexperts = tape.gradient(loss, [x, *(v.value for v in variables)])
    dense_gradients = [collectives.all_reduce_sum(g) for g in (dkernel, dscale)]
    return [y, dx], dense_gradients, dexperts, list(layer.expert_metrics.result().values())


@pytest.mark.parametrize(
    ("replicas", "experts", "mask"),
    [
        (2, 3, MASK),
        pytest.param(4, 5, MASK, marks=pytest.mark.slow),  # the last device has no experts
        pytest.param(4, 8, None, marks=pytest.mark.slow),
    ],
)
def test_replicas_equal_one_device(strategy_of, in_replicas, replicas, experts, mask):
    bounds = [0, 4, 6] if replicas == 2 else [0, 3, 3, 5, 6]  # one device has no sequences
    expected = train_step(random_layer(experts), slice(0, B), mask)
    strategy = strategy_of(replicas)
    with strategy.scope():
        layer = random_layer(experts)

    def step(r):
        return train_step(layer, slice(bounds[r], bounds[r + 1]), mask)

    results = in_replicas(strategy, step)
    tokens, _, dexperts, _ = (
        [np.concatenate(parts) for parts in zip(*(result[i] for result in results), strict=True)]
        if i in (0, 2)
        else None
        for i in range(4)
    )
    for a, b in zip([*tokens, *dexperts], [*expected[0], *expected[2]], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    for _, gradients, _, metrics in results:
        for a, b in zip(gradients, expected[1], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
        np.testing.assert_allclose(metrics, expected[3], rtol=1e-5)
