"""Steps on a variable and on a small model, for the tests of `FactoredAdam`."""

import keras
import numpy as np
import tensorflow as tf

from tfmoe.layers import MoE

X = np.random.default_rng(0).standard_normal((24, 6)).astype("float32")
Y = np.sin(X[:, :2])


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def run_steps(optimizer, value, gradients, dtype="float64"):
    """The values of the variable after each step, `[steps, …]`."""
    variable = keras.Variable(value, dtype=dtype)
    values = []
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, dtype)], [variable])
        values.append(variable.numpy())
    return np.array(values)


def make_model(use_bias=True):
    keras.utils.set_random_seed(1)
    inputs = keras.Input([6])
    hidden = keras.layers.Dense(5, name="dense")(inputs)
    gate = {"name": "softmax"}
    hidden = MoE(4, 7, gate=gate, use_bias=use_bias, activation="tanh", name="moe")(hidden)
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(hidden))


def fit(model, optimizer=None, epochs=2, **arguments):
    if optimizer is not None:
        model.compile(optimizer, "mse", **arguments)
    history = model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0).history
    return np.array(history["loss"])


def weights(model):
    return {weight.path: weight.numpy() for weight in model.trainable_weights}
