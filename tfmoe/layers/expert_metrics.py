"""Metrics of layers with experts.

Axes: E experts, L layers, N metrics.
"""

import sys
import weakref
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.tensorflow_internals import call_context, inner_layers, outermost_layer
from tfmoe.ops.balancing import balance_metrics, load_metrics

METRICS = (
    "cv_importance", "cv_load", "max_over_mean_load", "unused_experts", "dropped",
    "selected_per_token", "balancing_loss",
)  # fmt: skip
SUMMARY = ("balancing_loss", "max_over_mean_load", "unused_experts", "dropped")
MODES = ("summary", "all", None)
Mode = Literal["summary", "all"] | bool | None  # the type of the argument `metrics` of layers
# Methods of a Keras model that read the values of its metrics.
READERS = ("get_metrics_result", "train_step", "test_step")


def metrics_mode(metrics):
    """The mode that the argument `metrics` of a layer names: `"summary"`, `"all"` or `None`. The
    aliases of earlier versions are `True` for `"all"` and `False` for `None`.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(metrics, (bool, np.bool_)):
        return "all" if metrics else None
    if metrics in MODES:
        return metrics
    raise ValueError(f"metrics must be 'summary', 'all' or None, got {metrics!r}")


@keras.saving.register_keras_serializable("tfmoe")
class LayerMetrics(keras.metrics.Metric):
    """Metrics of a layer with experts, averaged over the batches of an epoch.

    Keras shows the metrics of one layer as `LAYER_NAME`, such as `moe_cv_load`. If several layers
    with metrics in a model have the same name, the names of the layers around them come first:
    `encoder_moe_cv_load`. With `summary`, all layers of a model with the same prefix share one
    value for each name: the largest, but for `balancing_loss` the sum. The first of these layers
    reports the values, the others report nothing. The model is the one that asks: the same layers
    can be part of several models.

    Logs contain only the metrics that the step (training or evaluation) computes.

    Args:
        layer: the layer.
        names: names of the metrics.
        summary: `None` for metrics of this layer; or the prefix of the names, for metrics of all
            layers.
    """

    def __init__(self, layer, names, summary=None, **kwargs):
        super().__init__(name=layer.name, dtype="float32", **kwargs)
        self.prefix = layer.name
        self.summary = summary
        self.names = tuple(names)
        self.measured: tuple[str, ...] = ()
        self._layer = weakref.ref(layer)
        self._root = None
        # Totals and counts, `[2, N]`: one variable, because each update of a variable costs time.
        self.sums = self.add_variable(
            shape=(2, len(self.names)), initializer="zeros", name="totals_and_counts"
        )

    def measures_now(self, training):
        """Whether code runs in training or in a step of `evaluate`."""
        return training or (collectives.in_step() and not in_predict_step())

    def update_state(self, values, uncounted=()):
        """Updates the metrics for a batch.

        Args:
            values: `{name: scalar}`, the same on all replicas; may lack some of `names`.
            uncounted: names of values that are added to the value of an earlier call of the layer
                in the same step.
        """
        self._name_within_model()
        self.measured = tuple(name for name in self.names if name in values)
        if not self.measured:
            return
        totals = tf.stack([tf.cast(values.get(name, 0.0), self.dtype) for name in self.names])
        counts = [float(name in values and name not in uncounted) for name in self.names]
        # All replicas add the same value; together they count once.
        self.sums.assign_add(tf.stack([totals, counts]) / collectives.num_replicas())

    def measured_names(self):
        """The names of what was measured since the last reset; in a graph, of what the step
        measures, because a graph cannot ask for the values.
        """
        if not tf.executing_eagerly():
            return self.measured
        counts = tf.convert_to_tensor(self.sums.value)[1].numpy()
        return [name for name, count in zip(self.names, counts, strict=True) if count > 0]

    def means(self):
        """The means over the batches, `[N]`; 0 for what was not measured."""
        sums = tf.convert_to_tensor(self.sums.value)
        return tf.math.divide_no_nan(sums[0], sums[1])

    def result(self):
        group, prefix = [self], self.prefix
        if self.summary is not None:
            group, prefix = self._group()
            if group[0] is not self:
                return {}
        means = tf.stack([metric.means() for metric in group])  # [L, N]
        values = {
            name: tf.reduce_sum(column) if name == "balancing_loss" else tf.reduce_max(column)
            for name, column in zip(self.names, tf.unstack(means, axis=1), strict=True)
        }
        measured = {name for metric in group for name in metric.measured_names()}
        return {f"{prefix}_{name}": values[name] for name in self.names if name in measured}

    def _group(self):
        """The metrics with the same summary in the model that asks, and the prefix of names."""
        metrics = asking_model_metrics(self)
        if metrics is None:
            root = None if self._root is None else self._root()
            metrics = [self] if root is None else expert_metrics_of(root)
        group = [each for each in metrics if each.summary == self.summary]
        taken = {each.prefix for each in metrics if each.summary is None}
        prefix = f"{self.summary}_summary" if self.summary in taken else self.summary
        return group if any(each is self for each in group) else [self], prefix

    def _name_within_model(self):
        layer = self._layer()
        root = outermost_layer(layer)
        if root is None or (self._root is not None and self._root() is root):
            return
        self._root = weakref.ref(root)
        if self.summary is None:
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
        mode: `"all"`; or `"summary"` for the metrics `SUMMARY` of all mixtures of a model together.
    """

    def __init__(self, layer, gate_metrics=(), mode="all", **kwargs):
        if mode == "all":
            super().__init__(layer, (*METRICS, *gate_metrics), **kwargs)
        else:
            super().__init__(layer, SUMMARY, summary="moe", **kwargs)
        self._context = None

    def update_state(self, gate, sums, loss=None):
        """Updates the metrics for a batch.

        Args:
            gate: the mixture's gate.
            sums: the sums of the global batch; see `tfmoe.layers.global_sums.apply_sums`.
            loss: the balancing loss, 0 for none; `None` outside of training.

        Raises:
            ValueError: the gate measures something that its `METRICS` lacks.
        """
        load = sums["load"]
        received = sums.get("received", load)
        has_capacity = "received" in sums or "received" in sums.get("outer", {})
        if self.summary is None:
            values = {
                **balance_metrics(sums["importance"], received),
                "selected_per_token": tf.math.divide_no_nan(tf.reduce_sum(load), sums["tokens"]),
                **measures_of(gate, sums),
            }
        else:
            values = load_metrics(received)
        if has_capacity or self.summary is None:
            values["dropped"] = dropped(sums)
        if loss is not None:
            values["balancing_loss"] = loss
        super().update_state(values, ("balancing_loss",) if self._is_called_again() else ())

    def _is_called_again(self):
        """Whether the layer was called before in the current call of the outermost model."""
        context = call_context(self._layer())
        again = self._context is not None and self._context() is context
        self._context = weakref.ref(context)
        return again


def measures_of(gate, sums):
    """What a gate measures.

    Raises:
        ValueError: the gate measures something that its `METRICS` lacks.
    """
    measures = gate.measures(sums)
    unknown = sorted(measures.keys() - {*gate.METRICS})
    if unknown:
        raise ValueError(
            f"{type(gate).__name__}.METRICS lacks {', '.join(map(repr, unknown))}, which its "
            f"measures return; it has {gate.METRICS}"
        )
    return measures


def expert_metrics_or_none(layer, gate, metrics):
    """The `ExpertMetrics` of a mixture for its argument `metrics`; `None` for none."""
    mode = metrics_mode(metrics)
    return None if mode is None else ExpertMetrics(layer, gate.METRICS, mode)


def mode_of(metrics):
    """The argument `metrics` of the layer that has these `LayerMetrics`, which may be `None`."""
    if metrics is None:
        return None
    return "all" if metrics.summary is None else "summary"


def dropped(sums):
    """The fraction of assignments beyond the capacity, of experts and of groups."""
    load = sums["load"]
    selected = tf.reduce_sum(load)
    if "received" not in sums and "received" not in sums.get("outer", {}):
        return tf.zeros_like(selected)
    kept = tf.math.divide_no_nan(tf.reduce_sum(sums.get("received", load)), selected)
    if "received" in sums.get("outer", {}):  # assignments to groups were dropped
        kept *= tf.math.divide_no_nan(
            *(tf.reduce_sum(sums["outer"][name]) for name in ("received", "load"))
        )
    return tf.where(selected > 0, 1 - kept, 0)


def asking_model_metrics(metric):
    """The `LayerMetrics` of the model that is reading its metrics: the innermost model on the call
    stack, in one of the methods `READERS`, that has this metric. `None` if there is none.

    Keras does not tell a metric who reads it.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in READERS:
            model = frame.f_locals.get("self")
            metrics = expert_metrics_of(model) if isinstance(model, keras.Model) else []
            if any(each is metric for each in metrics):
                return metrics
        frame = frame.f_back
    return None


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


def expert_metrics_of(layer):
    """The list of the `LayerMetrics` of a model or layer and the layers in it, each once."""
    found = (metric for metric in layer.metrics if isinstance(metric, LayerMetrics))
    return list({id(metric): metric for metric in found}.values())


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
