import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.models import Perplexity


def test_by_hand():
    metric = Perplexity()
    # p = 1/4, 1/2 in one batch and 1/2 in another: (4·2·2)^(1/3). Every word counts once.
    metric.update_state(tf.math.log([4.0, 2.0]))
    metric.update_state(tf.math.log([2.0]))
    assert metric.result().numpy() == pytest.approx(16 ** (1 / 3), rel=1e-6)
    assert metric.count.numpy() == 3


def test_is_one_without_words_and_after_reset():
    metric = Perplexity()
    metric.update_state(tf.zeros([0]))
    assert metric.result().numpy() == 1
    metric.update_state(tf.constant([3.0]))
    metric.reset_state()
    assert metric.result().numpy() == 1


def test_sum_over_many_words_is_precise():
    metric = Perplexity()
    values = np.full(1_000_003, 3.1415927, "float32")
    for _ in range(20):  # a sum of 6e7, where the spacing of float32 values is 4
        metric.update_state(values)
    assert metric.result().numpy() == pytest.approx(np.exp(np.float64(values[0])), rel=1e-9)
    assert metric.count.numpy() == 20_000_060


def test_config_round_trip():
    restored = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(Perplexity(name="per_word"))
    )
    assert (type(restored), restored.name) == (Perplexity, "per_word")
