"""Metrics of how a mixture uses its experts.

Axes: E experts.
"""

import sys
import weakref

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.tensorflow_internals import inner_layers, outermost_layer
from tfmoe.ops.balancing import balance_metrics

METRICS = ("cv_importance", "cv_load", "max_over_mean_load", "unused_experts", "dropped")


@keras.saving.register_keras_serializable("tfmoe")
class ExpertMetrics(keras.metrics.Metric):
    """Means over the batches of an epoch of what a mixture measures in each.

    Keras shows them as `LAYER_NAME`, such as `moe_cv_load`. Where several mixtures of a model have
    the same name, the names of the layers around them come first: `encoder_moe_cv_load`. Logs leave
    out what their kind of step does not measure.

    Args:
        layer: the mixture.
        gate_metrics: names of values that its gate measures beside `METRICS`.
    """

    def __init__(self, layer, gate_metrics=(), **kwargs):
        super().__init__(name=layer.name, dtype="float32", **kwargs)
        self.prefix = layer.name
        self._layer = weakref.ref(layer)
        self._root = None
        self.names = self.measured = (*METRICS, *gate_metrics)
        self.sums = {
            name: [
                self.add_variable(shape=(), initializer="zeros", name=part)
                for part in ("total", "count")
            ]
            for name in self.names
        }

    def measures_now(self, training):
        """Whether code runs in training, or in a step of `evaluate`."""
        return training or (collectives.in_step() and not in_predict_step())

    def update_state(self, gate, sums):
        """Measures a batch.

        Args:
            gate: the mixture's gate.
            sums: of the global batch, as `tfmoe.layers.settle` has them.
        """
        self._name_within_model()
        load = sums["load"]
        received = sums.get("received", load)
        selected = tf.reduce_sum(load)
        kept = tf.math.divide_no_nan(tf.reduce_sum(received), selected)
        if "received" in sums.get("outer", {}):  # of assignments to groups
            kept *= tf.math.divide_no_nan(
                *(tf.reduce_sum(sums["outer"][name]) for name in ("received", "load"))
            )
        values = {
            **balance_metrics(sums["importance"], received),
            "dropped": tf.where(selected > 0, 1 - kept, 0),
            **gate.measures(sums),
        }
        self.measured = tuple(name for name in self.names if name in values)
        for name in self.measured:
            value = tf.cast(values[name], self.dtype)
            # All replicas add the same; together they count once. The weight hangs on the value: a
            # step that finds no more data must not count.
            weight = tf.ones_like(value) / collectives.num_replicas()
            total, count = self.sums[name]
            total.assign_add(value * weight)
            count.assign_add(weight)

    def result(self):
        return {
            f"{self.prefix}_{name}": tf.math.divide_no_nan(*(v.value for v in self.sums[name]))
            for name in self.measured
        }

    def _name_within_model(self):
        layer = self._layer()
        root = outermost_layer(layer)
        if root is None or (self._root is not None and self._root() is root):
            return
        self._root = weakref.ref(root)
        self.prefix = "_".join(shortest_path(root, layer))

    def save_own_variables(self, store):
        """Nothing: a saved model starts to measure anew."""

    def load_own_variables(self, store):
        """Nothing; see `save_own_variables`."""


def shortest_path(root, layer):
    """The end of a layer's path in a model that tells it from other mixtures of the same name.

    Args:
        root: the model, or any layer.
        layer: a layer in it.

    Returns:
        Names of layers, the last that of `layer`.
    """
    paths = {}

    def visit(parent, path):
        for child in inner_layers(parent):
            if id(child) in paths:
                continue
            paths[id(child)] = (*path, child.name) if own_metrics(child) else ()
            visit(child, (*path, child.name))

    visit(root, ())
    own = paths.pop(id(layer), None) or (layer.name,)
    others = [path for path in paths.values() if path and path[-1] == layer.name]
    for length in range(1, len(own) + 1):
        if all(path[-length:] != own[-length:] for path in others):
            return own[-length:]
    return own


def own_metrics(layer):
    """Whether a layer measures how it uses experts."""
    return isinstance(getattr(layer, "expert_metrics", None), ExpertMetrics)


def in_predict_step():
    """Whether code runs in a step of Keras' `predict`, which measures nothing. Keras does not tell
    layers; it calls the model's method `predict_step`.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "predict_step":
            return True
        frame = frame.f_back
    return False
