"""Training, evaluation and prediction of models with XLA: equal to those without."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import dense_models
from tfmoe.distribute.static_shapes import portable_operations
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE, MoELSTM, ProjectedLSTM, VocabularySoftmax
from tfmoe.optimizers import FactoredAdam


def mixture(**options):
    """A language model whose mixture drops tokens."""
    gate = NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1)
    layers = [
        ProjectedLSTM(dense_models.D, return_sequences=True, name="lstm"),
        MoE(4, 8, gate=gate, capacity_factor=1.0, name="moe"),
    ]
    return dense_models.language_model(layers, {}, **options)


def recurrent_mixture(**options):
    return dense_models.language_model(
        [MoELSTM(4, dense_models.D, gate=NoisyTopK(k=2, load_weight=0.1), name="moe")],
        {},
        **options,
    )


MODELS = {
    "lstm": dense_models.lstm_language_model,
    "transformer": dense_models.transformer_language_model,
    "translation lstm": dense_models.lstm_translation_model,
    "translation transformer": dense_models.transformer_translation_model,
    "mixture": mixture,
    "recurrent mixture": recurrent_mixture,
}


def trained(make, optimizer, jit_compile, **options):
    """The losses of the steps of `fit`, the result of `evaluate` and that of `predict`, for 10
    sentences in batches of 4.
    """
    keras.utils.set_random_seed(3)
    model = make(**options)
    model.build((None, None))
    model.compile(optimizer(), jit_compile=jit_compile)
    assert model.jit_compile == jit_compile
    inputs, targets = dense_models.batch_of(model, rows=10)
    losses = []
    log = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: losses.append(logs))
    fit = {"epochs": 3, "batch_size": 4, "shuffle": False, "verbose": 0, "callbacks": [log]}
    model.fit(inputs, targets, **fit)
    evaluated = model.evaluate(inputs, targets, batch_size=4, verbose=0, return_dict=True)
    return losses, evaluated, model.predict(inputs, batch_size=4, verbose=0)


def assert_close(results, expected):
    for result, value in zip(tf.nest.flatten(results), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("num_sampled", [None, 7])
@pytest.mark.parametrize("name", MODELS)
def test_fit_evaluate_and_predict(name, num_sampled, recwarn):
    optimizer = {
        None: lambda: keras.optimizers.Adam(0.01, global_clipnorm=1.0),
        7: lambda: FactoredAdam(0.01),
    }[num_sampled]
    compiled, plain = (
        trained(MODELS[name], optimizer, jit_compile, num_sampled=num_sampled)
        for jit_compile in (True, False)
    )
    assert_close(compiled, plain)
    assert not [warning for warning in recwarn if "jit_compile" in str(warning.message)]


def loss_and_gradients(model, inputs, targets):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(inputs, targets, model(inputs, training=True))
    gradients = tape.gradient(loss, model.trainable_weights)
    return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]


def test_loss_and_gradients_with_dropout_and_sampled_words():
    compiled = tf.function(loss_and_gradients, jit_compile=True, autograph=False)
    results = []
    for step in (loss_and_gradients, compiled):
        keras.utils.set_random_seed(1)
        layers = [ProjectedLSTM(dense_models.D, return_sequences=True, name="lstm")]
        model = dense_models.language_model(layers, {}, num_sampled=7)
        model = dense_models.randomised(model)
        inputs, targets = dense_models.batch_of(model)
        results.append(step(model, tf.constant(inputs), tf.constant(targets)))
    assert_close(results[1], results[0])


@pytest.mark.parametrize("name", MODELS)
def test_static_shapes_in_training_and_evaluation(name):
    """The path that XLA compiles, without XLA."""
    keras.utils.set_random_seed(1)
    model = dense_models.randomised(MODELS[name](dropout=0.0))
    inputs, targets = dense_models.batch_of(model)
    for training in (False, True) if "mixture" not in name else (False,):
        results = []
        for context in (portable_operations, tf.name_scope):
            with context(*["plain"] * (context is tf.name_scope)):
                features = model(inputs, training=training)
                results.append(model.compute_loss(inputs, targets, features, training=training))
                results.append(model.perplexity.result())
                model.perplexity.reset_state()
        np.testing.assert_allclose(results[:2], results[2:], rtol=1e-5)


@pytest.mark.parametrize("block", [1, 4, 5, 12, 13, 99])
def test_static_blocks_of_the_vocabulary(block):
    softmax = VocabularySoftmax(13)
    softmax.STATIC_BLOCK = block
    softmax.build((None, 4))
    rng = np.random.default_rng(0)
    softmax.kernel.assign(rng.standard_normal([13, 4]))
    softmax.bias.assign(rng.standard_normal([13]))
    features, targets = rng.standard_normal([6, 4]), np.array([0, 3, 12, 7, 1, 3])
    expected = softmax.negative_log_likelihood(features, targets)
    with portable_operations():
        result = softmax.negative_log_likelihood(features, targets)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
