"""Checkpoints and saved models of every model."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import models
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, ProjectedLSTM

V, D = 11, 6
TOKENS = np.array([[1, 4, 5], [1, 3, 0]])
TARGETS = np.array([[4, 5, 0], [3, 0, 0]])
OPTIONS = {"dropout": 0.1, "num_sampled": 3, "seed": 5, "name": "model"}


def lstm(name):
    return ProjectedLSTM(7, D, return_sequences=True, name=name)


def inner(mixture):
    return MoE(4, 5, name="inner") if mixture else FeedForward(5, name="inner")


def language_model(mixture):
    blocks = models.residual_blocks([lstm("first"), inner(mixture)], dropout=0.1, seed=1)
    return models.LanguageModel(V, D, blocks, **OPTIONS)


def translation_model(mixture):
    encoder = models.residual_blocks([lstm("encoder")], dropout=0.1, seed=2)
    layers = [AttentionLSTM(7, D, name="decoder"), inner(mixture)]
    decoder = models.residual_blocks(layers, dropout=0.1, seed=3)
    return models.TranslationModel(V, D, encoder, decoder, **OPTIONS)


MODELS = {"LanguageModel": language_model, "TranslationModel": translation_model}
INPUTS = {"LanguageModel": TOKENS, "TranslationModel": (TOKENS, TOKENS)}


def test_every_model_is_tested():
    exported = {name: getattr(models, name) for name in models.__all__}
    classes = {name: value for name, value in exported.items() if isinstance(value, type)}
    assert set(MODELS) == {name for name, cls in classes.items() if issubclass(cls, keras.Model)}


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture(params=["dense", "mixture"])
def make(request, name):
    """Function that creates the model and calls it once, or trains it for a step."""

    def make_model(trained):
        model = MODELS[name](request.param == "mixture")
        model(INPUTS[name])
        if trained:
            model.compile(keras.optimizers.Adam(0.1), run_eagerly=True)  # tracing takes longer
            model.fit(INPUTS[name], TARGETS, verbose=0)
        return model

    return make_model


def variables_of(model):
    optimizer = model.optimizer.variables if model.compiled else []
    return [*model.variables, *optimizer, *model.perplexity.variables, *model.words.variables]


# In a trained model TensorFlow also reaches all trainable weights through the optimizer.
@pytest.mark.parametrize("trained", [False, True], ids=["called", "trained"])
def test_checkpoint_holds_every_variable(make, trained, tmp_path):
    model, restored = make(trained), make(trained)
    rng = np.random.default_rng(1)
    for variable in variables_of(model):
        variable.assign(rng.uniform(1, 9, variable.shape).astype(variable.dtype))
    path = tf.train.Checkpoint(model).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(restored).read(path).assert_existing_objects_matched().assert_consumed()
    for a, b in zip(variables_of(restored), variables_of(model), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.path)


def test_saved_model(name, tmp_path):
    model = MODELS[name](mixture=True)
    inputs = tf.nest.map_structure(lambda x: tf.constant(x, tf.int32), INPUTS[name])
    expected = model(inputs).numpy()
    module = tf.Module()
    module.model = model
    spec = tf.nest.map_structure(lambda x: tf.TensorSpec([None, None], tf.int32), inputs)
    module.features = tf.function(lambda x: model(x), input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.features(inputs).numpy(), expected, rtol=1e-5)


def test_word_ids_of_64_bits(name):
    model = MODELS[name](mixture=False)
    model.compile("adam")
    ids = tf.nest.map_structure(lambda x: tf.constant(x, tf.int64), (INPUTS[name], TARGETS))
    loss = model.fit(*ids, epochs=2, verbose=0).history["loss"]
    assert np.all(np.isfinite(loss))
    assert model.evaluate(*ids, verbose=0, return_dict=True)["perplexity"] > 1


def datasets(path):
    """The names of the arrays in an HDF5 file."""
    names = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return names


# Keras loads arrays by these names. They must not change, so that files of earlier versions load.
FEED_FORWARD = ["dense/dense/vars/0", "dense/dense_1/vars/0"]


def test_layout_of_the_weights_file_of_a_language_model(tmp_path):
    model = language_model(mixture=False)
    model(TOKENS)
    model.save_weights(tmp_path / "m.weights.h5")
    assert datasets(tmp_path / "m.weights.h5") == [
        "blocks/residual/layer/cell/vars/0",
        "blocks/residual/layer/cell/vars/1",
        "blocks/residual/layer/vars/0",
        "blocks/residual/layer/vars/1",
        *(f"blocks/residual_1/layer/{name}" for name in FEED_FORWARD),
        "embedding/vars/0",
        "layers/vocabulary_softmax/vars/0",
        "layers/vocabulary_softmax/vars/1",
    ]


def test_layout_of_the_weights_file_of_a_feed_forward_network(tmp_path):
    model = keras.Sequential([keras.Input((D,)), FeedForward(5)])
    model.save_weights(tmp_path / "m.weights.h5")
    names = datasets(tmp_path / "m.weights.h5")
    assert names == [f"layers/feed_forward/{name}" for name in FEED_FORWARD]
