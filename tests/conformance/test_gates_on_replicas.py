"""Training on R devices equals training on one, for every gate in every mixture: losses, gradients
(as steps of plain descent), metrics and weights. Batches are even, uneven, padded, or have fewer
rows than there are devices.
"""

import contextlib
import functools
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance.gates import (
    AS_LEVEL,
    FULLY_TESTED,
    GATES,
    RECURRENT,
    VARIANTS,
    draw_from_tokens,
    gate_options,
    is_quick,
    make_mixture,
)

from tfmoe import gating
from tfmoe.distribute import MixedStrategy, collectives
from tfmoe.distribute.strategy import rows_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:NoisyTopK with k=1", "ignore:ExpertChoice:UserWarning"
)
D = 5
# Rows, steps, real tokens of each row; the last batches have fewer rows than devices.
BATCHES = [(8, 3, None), (7, 2, None), (6, 4, (4, 1, 3, 2, 0, 4)), (3, 3, None), (1, 4, (3,))]
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


def batches(dtype):
    rng = np.random.default_rng(0)
    for rows, steps, lengths in BATCHES:
        x = rng.standard_normal((rows, steps, D)).astype(dtype)
        lengths = np.full(rows, steps) if lengths is None else np.array(lengths)
        yield x, np.arange(steps) < lengths[:, None]


def specs(dtype):
    return tf.TensorSpec([None, None, D], dtype), tf.TensorSpec([None, None], tf.bool)


class Result(NamedTuple):
    """The results of training.

    Attributes:
        losses: the task loss and the balancing loss of every step.
        metrics: the metrics of every step.
        weights: all weights after every step, including those without a gradient.
        outputs: the outputs for every batch in evaluation, after the last step.
    """

    losses: list
    metrics: list
    weights: list
    outputs: list


class Model(keras.Model):
    def __init__(self, variant, **options):
        super().__init__()
        self.supports_masking = True
        self.first = keras.layers.Dense(D, name="first")
        self.mixture = make_mixture(variant, **options)
        self.last = keras.layers.Dense(2, name="last")

    def build(self, input_shape):
        for layer in (self.first, self.mixture, self.last):
            layer.build(input_shape)

    def call(self, inputs, mask=None, training=False):
        x = self.first(inputs)
        options = gate_options(self.mixture, inputs)
        return self.last(x + self.mixture(x, mask=mask, training=training, **options))


@functools.cache
def train(variant, replicas, dtype, kind=MixedStrategy, **options):
    """Trains a model; `None` replicas for no strategy."""
    strategy = None
    if replicas is not None:
        strategy = kind([f"CPU:{i}" for i in range(replicas)])
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(3)
    try:
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = Model(variant, **options)
            model.build((None, None, D))
            draw_from_tokens(model.mixture)
            optimizer = keras.optimizers.SGD(0.1)
            optimizer.build(model.trainable_variables)
        return run(model, optimizer, strategy, dtype)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def run(model, optimizer, strategy, dtype):
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
    result = Result([], [], [], [])
    for values in results:
        task, balancing, metrics = (
            values if strategy is None else local_values(strategy, values, replicas)
        )
        result.losses.append([float(task), float(balancing)])
        result.metrics.append({name: float(value) for name, value in metrics.items()})
        weights = (weight for weight in model.weights if "seed" not in weight.path)
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
        assert len(others) == replicas - 1
        for other in others:
            np.testing.assert_array_equal(first.numpy(), other.numpy())
    return tf.nest.pack_sequence_as(values, [result[0] for result in results])


def check_equal(actual, expected, tolerance):
    np.testing.assert_allclose(actual.losses, expected.losses, tolerance, tolerance)
    for metrics, expected_metrics in zip(actual.metrics, expected.metrics, strict=True):
        assert set(metrics) == set(expected_metrics)
        for name, value in expected_metrics.items():  # float32
            assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for step, weights in enumerate(zip(actual.weights, expected.weights, strict=True)):
        for a, b in zip(*weights, strict=True):
            np.testing.assert_allclose(a, b, tolerance, tolerance, err_msg=f"after step {step}")
    for a, b in zip(actual.outputs, expected.outputs, strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance)


def quick_if(names, quick):
    """Names as test parameters; those not in `quick` are marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def ids(variant):
    return f"{variant[0]}-{variant[1]}"


def test_every_gate_is_tested():
    assert set(GATES) == set(gating.GATES)


def variants_on_devices():
    """Variants on 2 and on 4 devices. `make test` runs `flat` mixtures of the gates in
    `FULLY_TESTED` on 4 devices, and other quick variants on 2.
    """
    for gate, mixture in VARIANTS:
        for replicas in (2, 4):
            devices = 4 if mixture == "flat" and gate in FULLY_TESTED else 2
            quick = replicas == devices and is_quick((gate, mixture))
            marks = () if quick else pytest.mark.slow
            yield pytest.param(
                (gate, mixture), replicas, marks=marks, id=f"{gate}-{mixture}-{replicas}"
            )


@pytest.mark.parametrize(("variant", "replicas"), variants_on_devices())
def test_float64(variant, replicas):
    actual, expected = (train(variant, n, "float64") for n in (replicas, None))
    check_equal(actual, expected, TOLERANCE["float64"])


@pytest.mark.parametrize(
    ("name", "replicas"),
    [
        pytest.param(name, n, marks=() if (name, n) == ("batchwise", 4) else pytest.mark.slow)
        for name in AS_LEVEL
        for n in (2, 4)
    ],
)
def test_groups_that_the_devices_do_not_divide(name, replicas):
    """2 devices have 2 groups and 1 group; of 4 devices none has a whole group."""
    actual, expected = (train((name, "few groups"), n, "float64") for n in (replicas, None))
    check_equal(actual, expected, TOLERANCE["float64"])


@pytest.mark.slow
@pytest.mark.parametrize("priority", ["position", "weight", "choice"])
def test_capacity_of_divided_groups(priority):
    options = {"capacity_factor": 1.1, "capacity_priority": priority}
    variant = ("noisy_top_k", "few groups")
    actual, expected = (train(variant, n, "float64", **options) for n in (4, None))
    check_equal(actual, expected, TOLERANCE["float64"])


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("mixture", RECURRENT)
@pytest.mark.parametrize("name", ["noisy_top_k", "softmax", "top_k"])
def test_recurrent_mixture(name, mixture, replicas):
    actual, expected = (train((name, mixture), n, "float64") for n in (replicas, None))
    check_equal(actual, expected, TOLERANCE["float64"])


@pytest.mark.parametrize("name", quick_if(GATES, (*FULLY_TESTED, "hierarchical")))
def test_float32(name):
    actual, expected = (train((name, "flat"), n, "float32") for n in (2, None))
    check_equal(actual, expected, TOLERANCE["float32"])


@pytest.mark.parametrize("name", quick_if(GATES, (*FULLY_TESTED, "hierarchical")))
def test_mirrored_strategy(name):
    """Every replica holds all experts, and has its own losses, of the global batch."""
    actual = train((name, "flat"), 2, "float64", tf.distribute.MirroredStrategy)
    check_equal(actual, train((name, "flat"), None, "float64"), TOLERANCE["float64"])


@pytest.mark.parametrize("variant", VARIANTS, ids=ids)
def test_every_weight_is_trained(variant):
    """Otherwise the tests above would compare initial values."""
    first, *later = train(variant, None, "float64").weights
    for before, *after in zip(first, *later, strict=True):
        assert any(np.any(before != weight) for weight in after)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batchwise", "hierarchical", "switch", "expert_threshold"])
def test_gate_that_communicates_in_a_recurrent_mixture(name):
    with pytest.raises(ValueError, match=r"replicas cannot communicate .*gate_from='input'"):
        train((name, "state"), 2, "float64")
    actual, expected = (train((name, "at once"), n, "float64") for n in (2, None))
    check_equal(actual, expected, TOLERANCE["float64"])
