"""A `SoftMoE` with random weights, and inputs, for its tests.

Axes: B batch, S steps, D width.
"""

import numpy as np

from tfmoe.layers import SoftMoE

B, S, D = 6, 5, 4
X = np.random.default_rng(0).standard_normal((B, S, D))
MASK = np.arange(S) < np.array([5, 3, 1, 4, 0, 2])[:, None]


def random_layer(num_experts=3, slots=2, **options):
    options = {"metrics": "all", **options}
    layer = SoftMoE(num_experts, 7, slots, dtype="float64", name="soft", **options)
    layer.build((None, None, D))
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer
