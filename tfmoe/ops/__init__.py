"""Stateless tensor maths: no layers, no variables."""

import keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "tfmoe runs on Keras' TensorFlow backend, but Keras was started with "
        f"{keras.config.backend()!r}: set the environment variable KERAS_BACKEND=tensorflow"
    )
