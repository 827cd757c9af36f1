"""Checks of a model with the gate: training, metrics, files, precision.

Axes: D width.
"""

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfmoe.analysis.variables import parameters_of
from tfmoe.layers.expert_metrics import METRICS
from tfmoe.testing.gate_case import X, Y, fit
from tfmoe.testing.mixtures import gate_options
from tfmoe.testing.properties import gate_check, require


def metric_names(names):
    """The names of metrics in the history of `fit`."""
    return {f"moe_{name}" for name in names}


def is_random_state(weight):
    """Whether a weight is the state of a random generator."""
    return "seed" in weight.path


@gate_check(
    "training lowers the loss, and changes every trainable weight and those of `update`.",
    "a weight without a gradient: the weights of route must depend on it, or a loss; a matrix that "
    "route does not use; or a weight for `update` that is created as trainable.",
)
def training(case):
    model, before, history = case.trained
    for name, values in history.items():
        require(bool(np.all(np.isfinite(values))), f"{name} is not finite: {values}")
    first, last = history["loss"][0], history["loss"][-1]
    require(last < first, f"the loss rose from {first} to {last}")
    updated = model.get_layer("moe").gate.updates_weights
    for weight, old in zip(model.weights, before, strict=True):
        if weight.trainable or (updated and not is_random_state(weight)):
            require(np.any(weight.numpy() != old), f"{weight.path} did not change")


@gate_check(
    "fit or evaluate reports every name in METRICS, and finite values.",
    "a name in METRICS that measures does not return.",
)
def metrics(case):
    gate = case.trained.model.get_layer("moe").gate
    reported = {*case.trained.history, *case.evaluated}
    missing = metric_names((*METRICS, *gate.METRICS)) - reported
    require(not missing, f"not reported: {sorted(missing)}")


@gate_check(
    "evaluate returns the loss of the task, without the losses of the gate.",
    "a loss that is added in route: return it from loss.",
)
def evaluation(case):
    predicted = case.trained.model.predict(X, verbose=0)
    expected = np.mean((predicted - Y) ** 2)
    np.testing.assert_allclose(case.evaluated["loss"], expected, rtol=1e-5)
    require(bool(np.all(np.isfinite([*case.evaluated.values()]))), "a value is not finite")


@gate_check(
    "a model that is loaded from its `.keras` file has the same outputs and settings.",
    "the class lacks @keras.saving.register_keras_serializable, get_config lacks an argument, or a "
    "value that is not a weight decides (a NumPy array, a tf.Variable).",
)
def keras_file(case):
    model = case.trained.model
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        restored = keras.saving.load_model(path, safe_mode=True)
    np.testing.assert_array_equal(restored(X).numpy(), model(X).numpy())
    np.testing.assert_equal(restored.count_params(), model.count_params())
    layer, expected = restored.get_layer("moe"), model.get_layer("moe")
    np.testing.assert_equal(layer.get_config(), expected.get_config())


@gate_check(
    "a new model with the weights of a file has the same outputs.",
    "a value that is not a weight decides (a NumPy array, a tf.Variable).",
)
def weights_file(case):
    model = case.trained.model
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.weights.h5"
        model.save_weights(path)
        restored = case.make_model()
        restored.load_weights(path)
    np.testing.assert_array_equal(restored(X).numpy(), model(X).numpy())


@gate_check(
    "a SavedModel, as model.export writes it, has the same outputs.",
    "a Python `if` on a tensor, or NumPy, in route.",
)
def saved_model(case):
    model = case.trained.model
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "exported")
        model.export(path, verbose=False)
        loaded = tf.saved_model.load(path)
        actual = loaded.serve(X)
    np.testing.assert_allclose(actual, model(X), rtol=1e-5, atol=1e-6)


@gate_check(
    "the weights that are counted without building the gate are those that it has.",
    "weights that build creates only under a condition, or outside of build.",
)
def parameters(case):
    layer = case.trained.model.get_layer("moe")
    counted = parameters_of(layer, (None, X.shape[-1]))
    expected = sum(int(np.prod(weight.shape)) for weight in layer.trainable_weights)
    np.testing.assert_equal(counted, expected)


@gate_check(
    'under the policy "mixed_bfloat16" the gate computes in float32, and training works.',
    "a fixed dtype: use inputs.dtype, and add_own_weight instead of add_weight.",
)
def mixed_precision(case):
    model = case.make_model(dtype="mixed_bfloat16")
    layer = model.get_layer("moe")
    y = layer(X, **gate_options(layer, X))
    require(y.dtype == tf.bfloat16, f"the output is {y.dtype.name}, not bfloat16")
    spec = layer.compute_output_spec(keras.KerasTensor((None, X.shape[-1])))
    require(spec.dtype == "bfloat16", f"the symbolic output is {spec.dtype}, not bfloat16")
    routing = layer.route(X[0], **gate_options(layer, X[0]))
    dtypes = {routing.assignments.weights.dtype}
    dtypes |= {total.dtype for total in tf.nest.flatten(routing.sums)}
    require(dtypes == {tf.float32}, f"weights and sums must be float32, got {dtypes}")
    for weight in layer.trainable_weights:
        require(weight.dtype == "float32", f"{weight.path} is {weight.dtype}, not float32")
    history = fit(model, epochs=1, eagerly=True)
    for name in ("loss", *metric_names(METRICS)):
        require(bool(np.all(np.isfinite(history[name]))), f"{name} is not finite")


@gate_check(
    "the same seed of Keras gives the same training, another seed another one.",
    "random numbers that are not drawn with a keras.random.SeedGenerator.",
)
def reproducible(case):
    results = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        model = case.make_model()
        fit(model, epochs=1, eagerly=True)
        results.append(np.concatenate([w.numpy().ravel() for w in model.trainable_weights]))
    np.testing.assert_array_equal(results[0], results[1])
    require(np.abs(results[0] - results[2]).max() > 1e-3, "another seed changed nothing")
