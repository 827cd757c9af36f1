"""A `MultiGateMoE` with random weights, and inputs, for its tests.

Axes: T tokens, E experts, D width.
"""

import numpy as np
import tensorflow as tf

from tfmoe.layers import MultiGateMoE

D, E = 4, 6
X = np.random.default_rng(0).standard_normal((9, D))
# The levels of PLE: two experts of each task and two that both share.
PLE = {
    "task_experts": [[0, 1, 4, 5], [2, 3, 4, 5], [0, 1, 2, 3, 4, 5]],
    "expert_inputs": [0, 0, 1, 1, 2, 2],
}


def random_layer(tasks=("a", "b"), gate="softmax", **options):
    options = {"metrics": "all", "dtype": "float64", **options}
    layer = MultiGateMoE(tasks, E, 7, gate=gate, name="moe", **options)
    num_inputs = max(layer.expert_inputs or [0]) + 1
    layer.build([(None, D)] * num_inputs if layer.expert_inputs else (None, D))
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def expert_outputs(layer, x):
    """`[T, E, D]`, every expert for every token, as plain products."""
    h = tf.repeat(x[:, None, :], layer.num_experts, axis=1)
    for i, kernel in enumerate(layer.experts.kernels):
        h = tf.einsum("tei,eio->teo", tf.nn.relu(h) if i else h, tf.convert_to_tensor(kernel))
    return h
