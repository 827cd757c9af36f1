"""Mixtures with random weights, and what they measure: what the tests of `MoE` share."""

import numpy as np
import tensorflow as tf

D = 5


def randomised(layer, input_dim=D):
    layer.build((None, input_dim))
    rng = np.random.default_rng(2)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def metric_values(layer):
    """Those that were measured since the last time."""
    values = {name: float(value) for name, value in layer.expert_metrics.result().items()}
    layer.expert_metrics.reset_state()
    return values


def run(layer, inputs, training, **options):
    """Calls a layer as a step does: a plain call measures in training only."""
    return tf.distribute.get_strategy().run(lambda: layer(inputs, training=training, **options))


def set_thresholds(layer, times_mean):
    """Thresholds of a layer with `Batchwise`: a multiple of 1/E at each level."""
    for weight in layer.trainable_weights:
        if weight.name == "log_thresholds":
            weight.assign(np.full(weight.shape, np.log(times_mean / weight.shape[-1])))
