import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.layers import VocabularySoftmax

D, V = 4, 11
FEATURES = np.random.default_rng(0).standard_normal((6, D)).astype("float32")
TARGETS = tf.constant([0, 3, 3, 10, 1, 7])


def random_layer(vocabulary_size=V, **arguments):
    layer = VocabularySoftmax(vocabulary_size, **arguments)
    layer.build((None, D))
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def plain_loss(layer, features=FEATURES, targets=TARGETS):
    logits = features @ tf.transpose(layer.kernel) + layer.bias
    return -tf.gather(tf.nn.log_softmax(logits), targets, batch_dims=1)


def test_loss_by_hand():
    layer = random_layer(3)
    layer.kernel.assign(tf.zeros([3, D]))
    layer.bias.assign([math.log(4), math.log(2), math.log(2)])
    # p = 1/2, 1/4, 1/4.
    expected = [math.log(2), math.log(4), math.log(4)]
    for loss in (layer.negative_log_likelihood, layer.training_loss):
        result = loss(FEATURES[:3], tf.constant([0, 1, 2])).numpy()
        np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("block_rows", [1, 2, 3, 5, 10, 11, 100])
@pytest.mark.parametrize("in_graph", [False, True])
def test_blocks_equal_the_plain_softmax(block_rows, in_graph):
    layer = random_layer()
    layer.BLOCK_ELEMENTS = 6 * block_rows
    loss = layer.negative_log_likelihood
    if in_graph:
        spec = [tf.TensorSpec([None, D]), tf.TensorSpec([None], tf.int32)]
        loss = tf.function(loss, input_signature=spec)
    result = loss(FEATURES, TARGETS).numpy()
    np.testing.assert_allclose(result, plain_loss(layer).numpy(), rtol=2e-6)


def test_more_tokens_than_block_elements_and_no_tokens():
    layer = random_layer()
    layer.BLOCK_ELEMENTS = 2
    result = layer.negative_log_likelihood(FEATURES, TARGETS).numpy()
    np.testing.assert_allclose(result, plain_loss(layer).numpy(), rtol=2e-6)
    assert layer.negative_log_likelihood(FEATURES[:0], TARGETS[:0]).shape == (0,)


def test_large_logits_do_not_overflow():
    layer = random_layer()
    layer.BLOCK_ELEMENTS = 18
    layer.bias.assign(np.linspace(-2000, 2000, V))
    result = layer.negative_log_likelihood(FEATURES, TARGETS).numpy()
    np.testing.assert_allclose(result, plain_loss(layer).numpy(), rtol=1e-5)


class RecordingSoftmax(VocabularySoftmax):
    """Records the shape of every block of logits."""

    def _logits(self, *arguments):
        logits = super()._logits(*arguments)
        self.shapes = [*getattr(self, "shapes", []), tuple(logits.shape)]
        return logits


def test_block_sizes():
    layer = RecordingSoftmax(V)
    layer.build((None, D))
    layer.BLOCK_ELEMENTS = 12
    layer.negative_log_likelihood(FEATURES, TARGETS)
    assert list(layer.shapes) == [(6, 2)] * 5 + [(6, 1)]


def gradients(layer, loss):
    features = tf.constant(FEATURES)
    with tf.GradientTape() as tape:
        tape.watch(features)
        total = tf.reduce_mean(loss(features, TARGETS))
    result = tape.gradient(total, [features, layer.kernel, layer.bias])
    return [tf.convert_to_tensor(gradient) for gradient in result]


def kernel_gradient(layer, loss):
    return gradients(layer, loss)[1]


def full_loss(layer):
    return lambda features, targets: plain_loss(layer, features, targets)


@pytest.mark.parametrize("num_sampled", [V, V + 1, 5000])
def test_num_sampled_of_at_least_v_is_the_full_softmax(num_sampled):
    layer = random_layer(num_sampled=num_sampled, seed=1)
    result = layer.training_loss(tf.constant(FEATURES), TARGETS).numpy()
    np.testing.assert_allclose(result, plain_loss(layer).numpy(), rtol=1e-5)
    for a, b in zip(
        gradients(layer, layer.training_loss), gradients(layer, full_loss(layer)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_sampled_gradient_converges_to_the_full_gradient():
    errors = []
    for num_sampled in (2, 8, 32):
        layer = random_layer(40, num_sampled=num_sampled, seed=1)
        gradient = tf.function(lambda layer=layer: kernel_gradient(layer, layer.training_loss))
        draws = [gradient().numpy() for _ in range(60)]
        error = np.mean(draws, axis=0) - kernel_gradient(layer, full_loss(layer))
        errors.append(np.linalg.norm(error))
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2], errors


def test_sampled_loss_by_its_definition():
    layer = random_layer(num_sampled=4, seed=9)
    generator = keras.random.SeedGenerator(9)
    uniform = keras.random.uniform([V], seed=generator).numpy().astype("float64")
    p = np.log1p(1 / np.arange(1, V + 1)) / math.log(V + 1)
    times = -np.log(uniform) / p
    *candidates, next_word = np.argsort(times)[:5]

    def log_q(i):
        return math.log(1 - math.exp(-p[i] * times[next_word]))

    logits = FEATURES @ layer.kernel.numpy().T + layer.bias.numpy()
    expected = []
    for token, target in enumerate(TARGETS.numpy()):
        numerator = math.exp(logits[token, target] - log_q(target))
        others = sum(math.exp(logits[token, i] - log_q(i)) for i in candidates if i != target)
        expected.append(-math.log(numerator / (numerator + others)))
    result = layer.training_loss(tf.constant(FEATURES), TARGETS).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-4)
    assert {0, 3, 1} & set(candidates)  # some targets are candidates


def test_draws_of_a_resumed_run():
    layer, resumed = (random_layer(1000, num_sampled=4, seed=seed) for seed in (9, 1))
    layer.training_loss(FEATURES, TARGETS)
    resumed.seed_generator.state.assign(layer.seed_generator.state)
    expected = layer.training_loss(FEATURES, TARGETS).numpy()
    np.testing.assert_array_equal(resumed.training_loss(FEATURES, TARGETS).numpy(), expected)


def test_sampled_loss_without_tokens_and_with_changing_draws():
    layer = random_layer(num_sampled=4, seed=9)
    assert layer.training_loss(tf.constant(FEATURES[:0]), TARGETS[:0]).shape == (0,)
    a, b = (layer.training_loss(tf.constant(FEATURES), TARGETS).numpy() for _ in range(2))
    assert np.abs(a - b).max() > 1e-3


def test_only_candidates_and_targets_get_a_gradient():
    layer = random_layer(1000, num_sampled=5, seed=2)
    kernel = kernel_gradient(layer, layer.training_loss).numpy()
    assert 0 < np.count_nonzero(np.abs(kernel).max(axis=1)) <= 5 + 5  # five different targets


def test_evaluation_in_bfloat16_is_accurate():
    layer = random_layer(dtype="mixed_bfloat16")
    features = tf.cast(FEATURES, tf.bfloat16)
    result = layer.negative_log_likelihood(features, TARGETS)
    assert result.dtype == tf.float32
    expected = plain_loss(layer, tf.cast(features, tf.float32)).numpy()
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5)
    assert layer(features).dtype == tf.float32
    symbolic = VocabularySoftmax(V, dtype="mixed_bfloat16")(keras.KerasTensor((None, D)))
    assert symbolic.dtype == "float32"


def test_counts_and_config():
    layer = random_layer(num_sampled=4, seed=9)
    trainable = sum(int(np.prod(weight.shape)) for weight in layer.trainable_weights)
    assert trainable == V * (D + 1)
    assert layer.ops_per_timestep(D) == V * D
    assert VocabularySoftmax.from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize(("name", "value"), [("vocabulary_size", 0), ("num_sampled", 0)])
def test_wrong_arguments(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got {value}"):
        VocabularySoftmax(**{"vocabulary_size": 5, name: value})


@pytest.mark.parametrize("num_sampled", [None, 4])
@pytest.mark.parametrize("dtype", ["int64", "uint8", "int32"])
def test_word_ids_of_any_integer_type(dtype, num_sampled):
    for convert in (tf.constant, np.asarray):
        targets = convert(TARGETS.numpy().astype(dtype))
        actual, expected = (
            layer.training_loss(FEATURES, ids).numpy()
            for layer, ids in (
                (random_layer(num_sampled=num_sampled, seed=9), targets),
                (random_layer(num_sampled=num_sampled, seed=9), TARGETS),
            )
        )
        np.testing.assert_array_equal(actual, expected)
        layer = random_layer()
        np.testing.assert_array_equal(
            layer.negative_log_likelihood(FEATURES, targets).numpy(),
            layer.negative_log_likelihood(FEATURES, TARGETS).numpy(),
        )


def test_word_ids_must_be_integers():
    layer = random_layer()
    for loss in (layer.training_loss, layer.negative_log_likelihood):
        with pytest.raises(ValueError, match="targets must be integers, got float32"):
            loss(FEATURES, tf.cast(TARGETS, tf.float32))


@pytest.mark.parametrize("num_sampled", [None, 4])
def test_losses_of_integer_features(num_sampled):
    integers = np.round(3 * FEATURES).astype("int64")
    for name in ("training_loss", "negative_log_likelihood"):
        actual, expected = (
            getattr(random_layer(num_sampled=num_sampled, seed=9), name)(x, TARGETS).numpy()
            for x in (integers, integers.astype("float32"))
        )
        np.testing.assert_array_equal(actual, expected)


def test_seed_must_be_an_integer():
    with pytest.raises(ValueError, match=r"seed must be an integer or None, got 1\.5"):
        VocabularySoftmax(5, seed=1.5)


@pytest.mark.parametrize("num_sampled", [None, 4])
def test_without_biases(num_sampled):
    options = {"num_sampled": num_sampled, "seed": 9}
    layer, plain = random_layer(**options), random_layer(**options, use_bias=False)
    assert [weight.name for weight in plain.trainable_weights] == ["kernel"]
    layer.bias.assign(np.zeros(V))
    np.testing.assert_array_equal(plain(FEATURES), layer(FEATURES))
    for name in ("training_loss", "negative_log_likelihood"):
        actual, expected = (getattr(each, name)(FEATURES, TARGETS) for each in (plain, layer))
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
