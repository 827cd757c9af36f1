"""`MultiGateMoE` on several devices equals one device."""

import numpy as np
import pytest
import tensorflow as tf
from layers.small_task_mixtures import PLE, X, random_layer

from tfmoe.distribute import collectives
from tfmoe.gating import Batchwise, NoisyTopK, Softmax

TOP_2 = NoisyTopK(k=2, noise=False, importance_weight=0.1)
SETTINGS = {
    "two gates": {"gate": [TOP_2, Softmax()]},
    "three gates": {"tasks": 3, "gate": [TOP_2, Softmax(), Batchwise(k=1)]},
    "PLE": {"tasks": ["a", "b", "shared"], "gate": TOP_2, **PLE},
}


def train_step(layer, rows, replicas):
    """The results of a step whose loss is the sum of the losses of all replicas."""
    inputs = [tf.constant(x)[rows] for x in ([X, X + 1, np.sin(X)] if layer.expert_inputs else [X])]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs if layer.expert_inputs else inputs[0], training=True)
        loss = sum(tf.reduce_sum(tf.sin(y) * (1 + j)) for j, y in enumerate(outputs))
        loss += tf.cast(tf.add_n(layer.losses), loss.dtype) / replicas
    kernels = [kernel.value for kernel in layer.experts.kernels]
    gates = [
        weight.value for mixture in layer.mixtures for weight in mixture.gate.trainable_weights
    ]
    gradients = tape.gradient(loss, [*inputs, *kernels, *gates], unconnected_gradients="zero")
    n, m = len(inputs), len(inputs) + len(kernels)
    metrics = [
        value for mixture in layer.mixtures for value in mixture.expert_metrics.result().values()
    ]
    return {
        "by token": [*outputs, *gradients[:n]],
        "by expert": gradients[n:m],
        "same": [*map(collectives.all_reduce_sum, gradients[m:]), tf.add_n(layer.losses)],
        "metrics": metrics,
    }


@pytest.mark.parametrize(
    ("setting", "replicas"),
    [
        ("two gates", 2),
        pytest.param("three gates", 4, marks=pytest.mark.slow),
        pytest.param("PLE", 2, marks=pytest.mark.slow),
        pytest.param("PLE", 4, marks=pytest.mark.slow),
    ],
)
def test_replicas_equal_one_device(strategy_of, in_replicas, setting, replicas):
    bounds = [0, 5, 9] if replicas == 2 else [0, 4, 4, 6, 9]  # one device has no tokens
    expected = train_step(random_layer(**SETTINGS[setting]), slice(0, len(X)), 1)
    strategy = strategy_of(replicas)
    with strategy.scope():
        layer = random_layer(**SETTINGS[setting])

    def step(r):
        return train_step(layer, slice(bounds[r], bounds[r + 1]), replicas)

    results = in_replicas(strategy, step)
    for kind in ("by token", "by expert"):
        parts = zip(*(result[kind] for result in results), strict=True)
        for a, b in zip(map(np.concatenate, parts), expected[kind], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    for result in results:
        for a, b in zip(result["same"], expected["same"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-10)
        np.testing.assert_allclose(result["metrics"], expected["metrics"], rtol=1e-5, atol=1e-6)
