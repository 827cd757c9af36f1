"""Training on several devices, to compare it with training on one: losses, gradients (as steps of
plain descent), metrics and weights. Batches are even, uneven, padded, or have fewer rows than there
are devices.

Axes: B rows of a batch, S steps, D width.
"""

import contextlib
import functools
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfmoe.distribute import MixedStrategy, collectives
from tfmoe.distribute.strategy import rows_of
from tfmoe.testing.logical_devices import cpu_names
from tfmoe.testing.mixtures import draw_from_tokens, gate_options, in_dtype

D = 5
# Rows, steps, real tokens of each row; the last batches have fewer rows than devices.
BATCHES = [(8, 3, None), (7, 2, None), (6, 4, (4, 1, 3, 2, 0, 4)), (3, 3, None), (1, 4, (3,))]
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


def batches(dtype):
    """Yields the inputs `[B, S, D]` and the mask `[B, S]` of each batch."""
    rng = np.random.default_rng(0)
    for rows, steps, lengths in BATCHES:
        x = rng.standard_normal((rows, steps, D)).astype(dtype)
        lengths = np.full(rows, steps) if lengths is None else np.array(lengths)
        yield x, np.arange(steps) < lengths[:, None]


def specs(dtype):
    """The signature of a batch."""
    return tf.TensorSpec([None, None, D], dtype), tf.TensorSpec([None, None], tf.bool)


class Result(NamedTuple):
    """The results of training.

    Attributes:
        losses: the task loss and the balancing loss of every step.
        metrics: the metrics of every step.
        weights: all weights after every step, including those without a gradient.
        outputs: the outputs for every batch in evaluation, after the last step.
        trained: `{path: whether training must change it}`, of all weights: of those without a
            gradient, only the ones of a gate that updates weights must change.
    """

    losses: list
    metrics: list
    weights: list
    outputs: list
    trained: dict


class Model(keras.Model):
    """A residual mixture between two dense layers."""

    def __init__(self, make_layer, **options):
        super().__init__()
        self.supports_masking = True
        self.first = keras.layers.Dense(D, name="first")
        self.mixture = make_layer(**options)
        self.last = keras.layers.Dense(2, name="last")

    def build(self, input_shape):
        for layer in (self.first, self.mixture, self.last):
            layer.build(input_shape)

    def call(self, inputs, mask=None, training=False):
        x = self.first(inputs)
        options = gate_options(self.mixture, inputs)
        return self.last(x + self.mixture(x, mask=mask, training=training, **options))


def train(make_layer, replicas, dtype, kind=None, **options) -> Result:
    """Trains a model with a mixture for a step on each batch.

    Args:
        make_layer: function of keyword arguments of the mixture, which returns it.
        replicas: the number of devices; `None` for no strategy.
        dtype: `"float64"` or `"float32"`.
        kind: the class of the strategy; `None` for `MixedStrategy`.
        **options: arguments of the mixture.
    """
    strategy = None
    if replicas is not None:
        strategy = (kind or MixedStrategy)(cpu_names(replicas))
    with in_dtype(dtype):
        keras.utils.set_random_seed(3)
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = Model(make_layer, **options)
            model.build((None, None, D))
            draw_from_tokens(model.mixture)
            optimizer = keras.optimizers.SGD(0.1)
            optimizer.build(model.trainable_variables)
        return run(model, optimizer, strategy, dtype)


def run(model, optimizer, strategy, dtype) -> Result:
    """Trains a built model; arguments as in `train`."""
    replicas = 1 if strategy is None else strategy.num_replicas_in_sync

    def step(x, mask):
        real = tf.cast(mask, x.dtype)
        num_tokens = collectives.all_reduce_sum(tf.reduce_sum(real))
        with tf.GradientTape() as tape:
            y = model(x, mask=mask, training=True)
            errors = tf.reduce_sum((y - tf.sin(x[..., :2])) ** 2, axis=-1) * real
            task = tf.reduce_sum(errors) / num_tokens
            balancing = tf.add_n(model.losses or [tf.zeros([], x.dtype)])
            loss = task + tf.cast(balancing, x.dtype) / replicas
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return collectives.all_reduce_sum(task), balancing, model.mixture.expert_metrics.result()

    @tf.function(input_signature=specs(dtype), autograph=False)
    def one_device(x, mask):
        return step(x, mask)

    def evaluate(x, mask):
        return model(x, mask=mask, training=False)

    if strategy is None:
        results = (one_device(*batch) for batch in batches(dtype))
    else:
        results = on_devices(strategy, step, dtype)
    updates = model.mixture.gate.updates_weights
    weights = [weight for weight in model.weights if "seed" not in weight.path]
    trained = {weight.path: weight.trainable or updates for weight in weights}
    result = Result([], [], [], [], trained)
    for values in results:
        task, balancing, metrics = (
            values if strategy is None else local_values(strategy, values, replicas)
        )
        result.losses.append([float(task), float(balancing)])
        result.metrics.append({name: float(value) for name, value in metrics.items()})
        result.weights.append([weight.numpy() for weight in weights])
    if strategy is None:
        result.outputs.extend(evaluate(*batch).numpy() for batch in batches(dtype))
        return result
    for parts in map(strategy.experimental_local_results, on_devices(strategy, evaluate, dtype)):
        result.outputs.append(np.concatenate([part.numpy() for part in parts]))
    return result


def on_devices(strategy, function, dtype):
    """The results of a function of `x` and `mask` for every batch, in every replica."""
    if not isinstance(strategy, MixedStrategy):

        @tf.function(autograph=False, reduce_retracing=True)
        def run_values(x, mask):
            return strategy.run(function, args=(x, mask))

        return (run_values(*split_batch(strategy, batch)) for batch in batches(dtype))

    @tf.function(autograph=False)
    def run_next(iterator):
        return strategy.run(function, args=next(iterator))

    dataset = tf.data.Dataset.from_generator(lambda: batches(dtype), output_signature=specs(dtype))
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    return (run_next(iterator) for _ in BATCHES)


def split_batch(strategy, batch):
    """The rows of a batch for each replica."""

    def replica_rows(context, index):
        replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
        return rows_of(tf.constant(batch[index]), replica, replicas)

    return [
        strategy.experimental_distribute_values_from_function(
            functools.partial(replica_rows, index=index)
        )
        for index in range(2)
    ]


def local_values(strategy, values, replicas):
    """The values that all replicas returned, which must be the same."""
    results = [strategy.experimental_local_results(value) for value in tf.nest.flatten(values)]
    for first, *others in results:
        if len(others) != replicas - 1:
            raise AssertionError(f"{len(others) + 1} replicas of {replicas} returned a value")
        for other in others:
            np.testing.assert_array_equal(first.numpy(), other.numpy())
    return tf.nest.pack_sequence_as(values, [result[0] for result in results])


def check_equal(actual: Result, expected: Result, tolerance: float) -> None:
    """Raises an `AssertionError` if two results of training differ.

    Args:
        actual: a result.
        expected: a result.
        tolerance: absolute and relative, of everything but metrics, which are float32.
    """
    np.testing.assert_allclose(
        actual.losses, expected.losses, tolerance, tolerance, err_msg="task and balancing losses"
    )
    for metrics, expected_metrics in zip(actual.metrics, expected.metrics, strict=True):
        np.testing.assert_equal(sorted(metrics), sorted(expected_metrics))
        for name, value in expected_metrics.items():
            if not abs(metrics[name] - value) <= max(1e-5 * abs(value), 1e-6):
                raise AssertionError(f"metric {name}: {metrics[name]}, expected {value}")
    for step, weights in enumerate(zip(actual.weights, expected.weights, strict=True)):
        for a, b in zip(*weights, strict=True):
            np.testing.assert_allclose(a, b, tolerance, tolerance, err_msg=f"after step {step}")
    for a, b in zip(actual.outputs, expected.outputs, strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance, err_msg="outputs in evaluation")
