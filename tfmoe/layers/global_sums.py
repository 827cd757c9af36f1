"""What follows from how the global batch uses the experts: losses, updates of gates, metrics."""

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.tensorflow_internals import in_loop_of_call, outermost_layer


def settle(layer, gate, sums, training, metrics=None):
    """Adds up the sums of all devices, in one operation, and does what follows from them: in
    training the loss and the update of the gate; in training and evaluation the metrics.

    Args:
        layer: the Keras layer that gets the loss.
        gate: which made the sums.
        sums: `{name: tensor}` of this device's tokens, also nested; all of one type.
        training: whether the step trains.
        metrics: `tfmoe.layers.expert_metrics.ExpertMetrics`, or `None`.

    Raises:
        ValueError: if the gate has a loss, and the layer runs in a `tf.while_loop` within the
            model, or in several replicas of another strategy than `MixedStrategy`.
    """
    measures = metrics is not None and metrics.measures_now(training)
    if not (training or measures):
        return
    values = tf.nest.flatten(sums)
    sums = tf.nest.pack_sequence_as(sums, collectives.all_reduce_sums(*values))
    if training:
        loss = gate.loss(sums)
        if loss is not None:
            check_that_losses_count(layer)
            # Keras adds it to losses of this type.
            layer.add_loss(tf.cast(loss, keras.config.floatx()))
        gate.update(sums)
    if measures:
        metrics.update_state(gate, sums)


def check_that_losses_count(layer):
    """Raises a ValueError where a loss would get lost, or count more than once."""
    if collectives.num_replicas() > 1 and not collectives.shards_experts():
        raise ValueError(
            f"{layer.name} adds a balancing loss, and runs under a strategy whose replicas share "
            "Keras' list of losses while they run: use tfmoe.distribute.MixedStrategy, or set the "
            "weights of the gate's losses to 0"
        )
    if in_loop_of_call(outermost_layer(layer).name):
        raise ValueError(
            f"{layer.name} adds a balancing loss, and runs inside a loop over time steps, which "
            "Keras cannot take losses from: call keras.layers.RNN with unroll=True, or set the "
            "weights of the gate's losses to 0"
        )
