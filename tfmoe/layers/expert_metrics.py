"""Metrics of layers with experts.

Axes: E experts.
"""

import sys
import weakref

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.tensorflow_internals import inner_layers, outermost_layer
from tfmoe.ops.balancing import balance_metrics

METRICS = (
    "cv_importance", "cv_load", "max_over_mean_load", "unused_experts", "dropped",
    "selected_per_token",
)  # fmt: skip


@keras.saving.register_keras_serializable("tfmoe")
class LayerMetrics(keras.metrics.Metric):
    """Metrics of a layer with experts, averaged over the batches of an epoch.

    Keras shows them as `LAYER_NAME`, such as `moe_cv_load`. If several layers with metrics in a
    model have the same name, the names of the layers around them come first: `encoder_moe_cv_load`.
    Logs contain only the metrics that the step (training or evaluation) computes.

    Args:
        layer: the layer.
        names: names of the metrics.
    """

    def __init__(self, layer, names, **kwargs):
        super().__init__(name=layer.name, dtype="float32", **kwargs)
        self.prefix = layer.name
        self._layer = weakref.ref(layer)
        self._root = None
        self.names = self.measured = tuple(names)
        self.sums = {
            name: [
                self.add_variable(shape=(), initializer="zeros", name=part)
                for part in ("total", "count")
            ]
            for name in self.names
        }

    def measures_now(self, training):
        """Whether code runs in training or in a step of `evaluate`."""
        return training or (collectives.in_step() and not in_predict_step())

    def update_state(self, values):
        """Updates the metrics for a batch.

        Args:
            values: `{name: scalar}`, the same on all replicas; may lack some of `names`.
        """
        self._name_within_model()
        self.measured = tuple(name for name in self.names if name in values)
        for name in self.measured:
            value = tf.cast(values[name], self.dtype)
            # All replicas add the same value; together they count once. The weight depends on the
            # value, so that a step without data does not count.
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
        """Saves nothing: the metrics of a loaded model start at zero."""

    def load_own_variables(self, store):
        """Loads nothing; see `save_own_variables`."""


@keras.saving.register_keras_serializable("tfmoe")
class ExpertMetrics(LayerMetrics):
    """The metrics of a mixture with a gate.

    Args:
        layer: the mixture.
        gate_metrics: names of the gate's metrics, in addition to `METRICS`.
    """

    def __init__(self, layer, gate_metrics=(), **kwargs):
        super().__init__(layer, (*METRICS, *gate_metrics), **kwargs)

    def update_state(self, gate, sums):
        """Updates the metrics for a batch.

        Args:
            gate: the mixture's gate.
            sums: the sums of the global batch; see `tfmoe.layers.global_sums.apply_sums`.

        Raises:
            ValueError: the gate measures something that its `METRICS` lacks.
        """
        measures = gate.measures(sums)
        unknown = sorted(measures.keys() - {*self.names})
        if unknown:
            raise ValueError(
                f"{type(gate).__name__}.METRICS lacks {', '.join(map(repr, unknown))}, which its "
                f"measures return; it has {gate.METRICS}"
            )
        load = sums["load"]
        received = sums.get("received", load)
        selected = tf.reduce_sum(load)
        kept = tf.math.divide_no_nan(tf.reduce_sum(received), selected)
        if "received" in sums.get("outer", {}):  # assignments to groups were dropped
            kept *= tf.math.divide_no_nan(
                *(tf.reduce_sum(sums["outer"][name]) for name in ("received", "load"))
            )
        super().update_state(
            {
                **balance_metrics(sums["importance"], received),
                "dropped": tf.where(selected > 0, 1 - kept, 0),
                "selected_per_token": tf.math.divide_no_nan(selected, sums["tokens"]),
                **measures,
            }
        )


def shortest_path(root, layer):
    """The shortest end of a layer's path in a model that no other layer of the same name, with
    metrics, has.

    Args:
        root: the model, or any layer.
        layer: a layer in it.

    Returns:
        Names of layers; the last is that of `layer`.
    """
    paths = {}

    def visit(parent, path):
        for child in inner_layers(parent):
            if id(child) in paths:
                continue
            paths[id(child)] = (*path, child.name) if has_expert_metrics(child) else ()
            visit(child, (*path, child.name))

    visit(root, ())
    layer_path = paths.pop(id(layer), None) or (layer.name,)
    others = [path for path in paths.values() if path and path[-1] == layer.name]
    for length in range(1, len(layer_path) + 1):
        if all(path[-length:] != layer_path[-length:] for path in others):
            return layer_path[-length:]
    return layer_path


def has_expert_metrics(layer):
    """Whether a layer has metrics of its experts."""
    return isinstance(getattr(layer, "expert_metrics", None), LayerMetrics)


def expert_metrics_of(model):
    """The list of the `ExpertMetrics` among the metrics of a Keras model."""
    return [metric for metric in model.metrics if isinstance(metric, ExpertMetrics)]


def in_predict_step():
    """Whether code runs in a step of Keras' `predict`, which updates no metrics.

    Keras does not pass this to layers, so the call stack is searched for `predict_step`.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "predict_step":
            return True
        frame = frame.f_back
    return False
