"""Gradients of tables are the same sums on any number of devices, and for any optimizer."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.table_gradients import Rows, by_owner, sum_over_replicas, sum_repeated_rows
from tfmoe.layers import FeedForward
from tfmoe.models import LanguageModel, residual_blocks
from tfmoe.optimizers import FactoredAdam, FusedAdam

VOCABULARY, WIDTH = 13, 3
# Words of every batch: repeated within and between devices; some devices have none.
BATCHES = [[1, 5, 5, 1, 9, 1, 0, 5], [3, 3, 3], [12, 3, 12, 4, 4], [7, 1]]
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.1),
    "adam, norm": lambda: keras.optimizers.Adam(0.1, clipnorm=0.5),
    "adam, accumulated": lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "averaged, accumulated": lambda: keras.optimizers.SGD(
        0.1, gradient_accumulation_steps=2, use_ema=True
    ),
    "fused adam": lambda: FusedAdam(0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1, global_clipnorm=0.5),
    "sgd": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.5),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1, clipvalue=0.2),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1),
    "factored": lambda: FactoredAdam(0.1, factored="matrices"),
    "not factored": lambda: FactoredAdam(0.1, factored="none", use_ema=True),
}


def slices(indices, values):
    values = tf.constant(values, tf.float64)
    shape = tf.constant([VOCABULARY, *values.shape[1:]])
    return tf.IndexedSlices(values, tf.constant(indices, tf.int32), shape)


def test_two_tables_by_hand(in_replicas):
    """The rows of device 0 and 1; row i is summed by device i mod 2."""
    first = [slices([4, 1, 4], [[1, 2], [3, 4], [5, 6]]), slices([1, 6], [[10, 20], [30, 40]])]
    second = [slices([], np.zeros([0])), slices([3, 3, 2], [1, 2, 4])]

    def run(r):
        return [(total.indices, total.values) for total in sum_over_replicas([first[r], second[r]])]

    for (indices, values), (other_indices, other_values) in in_replicas(2, run):
        np.testing.assert_array_equal(indices, [4, 6, 1])  # of device 0, then of device 1
        np.testing.assert_array_equal(values, [[6, 8], [30, 40], [13, 24]])
        np.testing.assert_array_equal(other_indices, [2, 3])
        np.testing.assert_array_equal(other_values, [4, 3])


def test_no_rows_at_all(in_replicas):
    def run(r):
        (total,) = sum_over_replicas([slices([], np.zeros([0, 2]))])
        return total.indices, total.values

    for indices, values in in_replicas(2, run):
        assert indices.shape == (0,) and values.shape == (0, 2)


def test_parts_by_hand(in_replicas):
    def run(r):
        return by_owner(Rows(tf.constant([5, 2, 8, 3, 1]), tf.reshape(tf.range(5.0), [5, 1])), 4)

    parts = in_replicas(2, run)[0]
    np.testing.assert_array_equal(parts.indices, [[2, 8, -1, -1], [5, 3, 1, -1]])
    np.testing.assert_array_equal(parts.values[..., 0], [[1, 2, 0, 0], [0, 3, 4, 0]])


class Tied:
    """A table that is looked up for inputs, targets and candidates, with a bias for each word.

    Args:
        make: function that returns the optimizer.
        scope: in which the variables are created.
    """

    def __init__(self, make, scope):
        table = np.random.default_rng(1).standard_normal([VOCABULARY, WIDTH])
        with scope:
            self.table = keras.Variable(table, dtype="float64", name="table")
            self.bias = keras.Variable(np.zeros([VOCABULARY]), dtype="float64", name="bias")
            self.dense = keras.Variable(np.eye(WIDTH), dtype="float64", name="dense")
            self.optimizer = make()
            self.optimizer.build(self.variables)

    @property
    def variables(self):
        return [self.table, self.bias, self.dense]

    def gradients(self, words):
        """Those of the sum of the losses of some words, each of which predicts the next one."""
        words = tf.cast(words, tf.int32)
        candidates = tf.constant([2, 5, 11])
        with tf.GradientTape() as tape:
            table, bias = self.table.value, self.bias.value
            features = tf.gather(table, words) @ self.dense.value
            target = tf.reduce_sum(features * tf.gather(table, (words + 1) % VOCABULARY), axis=1)
            others = features @ tf.transpose(tf.gather(table, candidates))
            logits = others + tf.gather(bias, candidates)
            loss = tf.reduce_sum(tf.reduce_logsumexp(logits, axis=1) - target)
        return tape.gradient(loss, [variable.value for variable in self.variables])

    def arrays(self):
        return [variable.numpy() for variable in self.variables]


def on_one_device(name):
    """The weights after all batches, with dense gradients and Keras' own optimizer."""
    model = Tied(OPTIMIZERS[name], contextlib.nullcontext())
    for words in BATCHES:
        gradients = map(tf.convert_to_tensor, model.gradients(words))
        model.optimizer.apply([*gradients], model.variables)
    return model.arrays()


@pytest.mark.parametrize(
    "replicas",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)],
)
def test_devices_equal_dense_gradients(strategy_of, replicas):
    strategy = strategy_of(replicas)
    names = ["adam", "adamw"] if replicas == 2 else list(OPTIMIZERS)
    models = {name: Tied(OPTIMIZERS[name], strategy.scope()) for name in names}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def train(words):
        def step():
            r, size = collectives.replica_id(), tf.size(words)
            part = words[size * r // replicas : size * (r + 1) // replicas]
            for model in models.values():
                model.optimizer.apply(model.gradients(part), model.variables)

        strategy.run(step)

    for words in BATCHES:
        train(words)
    for name, model in models.items():
        for actual, expected in zip(model.arrays(), on_one_device(name), strict=True):
            np.testing.assert_allclose(actual, expected, 1e-10, 1e-12, err_msg=name)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_one_device_equals_dense_gradients(name):
    model = Tied(OPTIMIZERS[name], contextlib.nullcontext())
    initial = model.arrays()
    for words in BATCHES:
        gradients = sum_repeated_rows(model.gradients(words))
        assert isinstance(gradients[0], tf.IndexedSlices)  # not dense: most words are not used
        assert len(set(gradients[0].indices.numpy())) == len(gradients[0].indices)
        model.optimizer.apply(gradients, model.variables)
    for actual, expected, before in zip(model.arrays(), on_one_device(name), initial, strict=True):
        np.testing.assert_allclose(actual, expected, 1e-10, 1e-12)
        assert np.any(actual != before)


def test_another_strategy_sums_dense_gradients():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        table = tf.Variable(tf.zeros([VOCABULARY, 1], tf.float64))

    def run():
        index = [5, 5] if collectives.replica_id() == 0 else [5, 7]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, index))
        (gradient,) = sum_repeated_rows([tape.gradient(loss, table)])
        return tf.distribute.get_replica_context().all_reduce("sum", gradient)

    result = strategy.experimental_local_results(tf.function(lambda: strategy.run(run))())
    expected = np.zeros([VOCABULARY, 1])
    expected[[5, 7]] = [[3], [1]]
    np.testing.assert_array_equal(result[1], expected)


class Recorder(keras.optimizers.SGD):
    """Stores the gradients that it gets."""

    def apply(self, grads, trainable_variables=None):
        self.gradients = grads
        super().apply(grads, trainable_variables)


@pytest.mark.parametrize("num_sampled", [None, 4])
def test_a_tied_model_passes_one_row_for_each_word(num_sampled):
    blocks = residual_blocks([FeedForward(3)])
    model = LanguageModel(9, 2, blocks, num_sampled=num_sampled, tie_embeddings=True, seed=0)
    model.compile(Recorder(), run_eagerly=True)
    words = np.array([[1, 5, 5, 1], [5, 1, 5, 5]], np.int32)
    model.train_on_batch(words, words)
    gradient = model.optimizer.gradients[0]
    assert gradient.shape == (9, 2)
    if num_sampled is None:  # all rows have gradients
        assert not isinstance(gradient, tf.IndexedSlices)
    else:
        indices = gradient.indices.numpy().tolist()
        assert len(set(indices)) == len(indices) and {1, 5} <= set(indices)
        assert 4 <= len(indices) <= 4 + 2
