"""Mixtures with random weights and their metrics, for the tests of `MoE`."""

import numpy as np
import tensorflow as tf

D = 5


def randomize(layer, input_dim=D):
    layer.build((None, input_dim))
    rng = np.random.default_rng(2)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def metric_values(layer):
    """Returns the metrics since the last call, and resets them."""
    values = {name: float(value) for name, value in layer.expert_metrics.result().items()}
    layer.expert_metrics.reset_state()
    return values


def run(layer, inputs, training, **options):
    """Calls a layer as in a step of Keras: a plain call updates metrics in training only."""
    return tf.distribute.get_strategy().run(lambda: layer(inputs, training=training, **options))


def set_thresholds(layer, times_mean):
    """Sets the thresholds of a layer with `Batchwise` to a multiple of 1/E at each level."""
    for weight in layer.trainable_weights:
        if weight.name == "log_thresholds":
            weight.assign(np.full(weight.shape, np.log(times_mean / weight.shape[-1])))
