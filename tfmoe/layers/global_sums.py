"""Losses, gate updates and metrics, computed from the sums of the global batch."""

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.tensorflow_internals import (
    accumulation,
    graph_in_call,
    in_recompute_grad,
    outermost_layer,
)
from tfmoe.gating.micro_step import WHOLE_STEP, MicroStep

# What a layer does in a call that must run once in a step, and what to do instead of a loop.
ADDS_LOSS = (
    "adds a balancing loss",
    "where Keras collects no losses: create keras.layers.RNN with unroll=True, or set the weights "
    "of the gate's losses to 0 (NoisyTopK has them by default: importance_weight=0, load_weight=0 "
    "switch them off)",
)
INNER_GRAPHS = {"branch": "branch of tf.cond", "function": "tf.function"}
UPDATES_GATE = (
    "updates weights of its gate",
    "which would update them in every time step: call it on all time steps at once, or use a gate "
    "without such weights",
)


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
        ValueError: the gate has a loss or updates weights, and the layer runs in a `tf.while_loop`
            inside the model or is recomputed; or it has a loss, and runs in a `tf.cond` or
            `tf.function` inside the model.
    """
    updates_metrics = metrics is not None and metrics.measures_now(training)
    if not (training or updates_metrics):
        return
    values = tf.nest.flatten(sums)
    sums = tf.nest.pack_sequence_as(sums, collectives.all_reduce_sums(*values))
    loss = None
    if training:
        loss = gate.loss(sums)
        if loss is not None:
            check_runs_once(layer, *ADDS_LOSS)
            check_keeps_loss(layer)
            # Keras adds it to losses of this dtype.
            layer.add_loss(tf.cast(loss, keras.config.floatx()))
        if gate.updates_weights:
            check_runs_once(layer, *UPDATES_GATE)
            gate.update(sums, micro_step_of(layer))
        loss = 0.0 if loss is None else loss
    if updates_metrics:
        metrics.update_state(gate, sums, loss)


def check_runs_once(layer, does, instead_of_loop):
    """Raises a `ValueError` if the call runs in a loop over time steps, or is computed again in the
    backward pass: a loss would be lost, and an update would happen several times in a step.

    Args:
        layer: the layer.
        does: what the layer does in the call, for the error.
        instead_of_loop: what to do instead, for the error.
    """
    graph = graph_in_call(outermost_layer(layer).name)
    if graph == "loop":
        raise ValueError(
            f"{layer.name} {does}, but runs inside a loop over time steps, {instead_of_loop}"
        )
    if in_recompute_grad():
        raise ValueError(
            f"{layer.name} {does}, but runs inside tf.recompute_grad or keras.RematScope, which "
            "compute the call twice and lose its losses: use recompute=True of the layer instead, "
            "which computes only the experts' hidden activations again, or set the weights of the "
            "gate's losses to 0 (NoisyTopK has them by default: importance_weight=0, "
            "load_weight=0 switch them off)"
        )


def check_keeps_loss(layer):
    """Raises a `ValueError` if the call runs in a graph of its own inside the model, in which its
    loss would be lost.
    """
    graph = graph_in_call(outermost_layer(layer).name)
    if graph in INNER_GRAPHS:
        raise ValueError(
            f"{layer.name} adds a balancing loss, but runs inside a {INNER_GRAPHS[graph]} within "
            "the model, from which Keras collects no losses: call the layer outside of it, or set "
            "the weights of the gate's losses to 0 (NoisyTopK has them by default: "
            "importance_weight=0, load_weight=0 switch them off)"
        )


def micro_step_of(layer):
    """The `MicroStep` of the current call. The optimizer is that of the outermost model, after
    `compile`; without one every call is a whole step.
    """
    optimizer = getattr(outermost_layer(layer), "optimizer", None)
    position, length = (0, 1) if optimizer is None else accumulation(optimizer)
    if length == 1:
        return WHOLE_STEP
    return MicroStep(tf.equal(position, 0), tf.equal(position, length - 1))
