"""Losses, gate updates and metrics, computed from the sums of the global batch."""

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.tensorflow_internals import in_loop_of_call, outermost_layer


def apply_sums(layer, gate, sums, training, metrics=None):
    """Adds up the sums of all devices in one operation, then adds the loss and updates the gate (in
    training) and updates the metrics (in training and evaluation).

    Args:
        layer: the Keras layer to which the loss is added.
        gate: the gate that computed the sums.
        sums: `{name: tensor}`, possibly nested, for the tokens of this device; all of one dtype.
        training: whether the step trains.
        metrics: `tfmoe.layers.expert_metrics.ExpertMetrics`, or `None`.

    Raises:
        ValueError: the gate has a loss, and the layer runs in a `tf.while_loop` inside the model,
            or in several replicas of a strategy other than `MixedStrategy`.
    """
    updates_metrics = metrics is not None and metrics.measures_now(training)
    if not (training or updates_metrics):
        return
    values = tf.nest.flatten(sums)
    sums = tf.nest.pack_sequence_as(sums, collectives.all_reduce_sums(*values))
    if training:
        loss = gate.loss(sums)
        if loss is not None:
            check_losses_supported(layer)
            # Keras adds it to losses of this dtype.
            layer.add_loss(tf.cast(loss, keras.config.floatx()))
        gate.update(sums)
    if updates_metrics:
        metrics.update_state(gate, sums)


def check_losses_supported(layer):
    """Raises a `ValueError` if a loss would be lost, or would count more than once."""
    if collectives.num_replicas() > 1 and not collectives.shards_experts():
        raise ValueError(
            f"{layer.name} adds a balancing loss, but runs under a strategy whose replicas share "
            "Keras' list of losses: use tfmoe.distribute.MixedStrategy, or set the weights of the "
            "gate's losses to 0"
        )
    if in_loop_of_call(outermost_layer(layer).name):
        raise ValueError(
            f"{layer.name} adds a balancing loss, but runs inside a loop over time steps, where "
            "Keras collects no losses: create keras.layers.RNN with unroll=True, or set the "
            "weights of the gate's losses to 0"
        )
