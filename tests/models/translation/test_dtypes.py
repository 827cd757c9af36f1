"""bfloat16 and float64."""

import keras
import numpy as np
import tensorflow as tf
from models.translation.small_model import (
    REAL,
    SOURCE,
    TARGET,
    TARGETS,
    evaluate,
    log_softmax,
    make_model,
)


def test_mixed_bfloat16():
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model(num_sampled=5, dropout=0.1)
    finally:
        keras.config.set_dtype_policy(default)
    model.compile("adam", run_eagerly=True)
    history = model.fit((SOURCE, TARGET), TARGETS, verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert model((SOURCE, TARGET)).dtype == tf.bfloat16
    assert np.isfinite(evaluate(model)["perplexity"])
    assert model.attention(SOURCE, TARGET).dtype == tf.float32
    # Keras casts inputs in the model's call only.
    expected = log_softmax(model.word_logits(model((SOURCE, TARGET))).numpy())
    step, states = model.decoding_step(*model.encode(SOURCE)), model.initial_states(3)
    for t in range(TARGET.shape[1]):
        log_p, _, states = step(tf.constant(TARGET[:, t]), states)
        on = REAL[:, t]
        np.testing.assert_allclose(log_p.numpy()[on], expected[on, t], rtol=0, atol=0.2)
    result = model.translate(SOURCE, beam_size=2)
    assert np.all(np.isfinite(result.scores.numpy()))


def test_float64():
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model = make_model(num_sampled=5, dropout=0.1)
    finally:
        keras.config.set_dtype_policy(default)
    model.compile("adam", run_eagerly=True)
    assert np.isfinite(model.fit((SOURCE, TARGET), TARGETS, verbose=0).history["loss"][0])
    assert np.isfinite(evaluate(model)["perplexity"])
    assert np.all(np.isfinite(model.translate(SOURCE, beam_size=2).scores.numpy()))
