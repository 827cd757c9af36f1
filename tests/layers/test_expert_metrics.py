import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import MoE
from tfmoe.layers.expert_metrics import METRICS, in_predict_step

D = 3
X = np.random.default_rng(0).standard_normal((8, D)).astype("float32")
Y = np.sin(X[:, :2])


EVALUATION = tuple(name for name in METRICS if name != "balancing_loss")


def make_layer(name="moe", metrics="all", **options):
    return MoE(4, 5, gate=NoisyTopK(k=2, seed=1), metrics=metrics, name=name, **options)


def make_model(**options):
    keras.utils.set_random_seed(1)
    inputs = keras.Input([D])
    model = keras.Model(inputs, keras.layers.Dense(2)(make_layer(**options)(inputs)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def names(*prefixes, metrics=METRICS):
    return {f"{prefix}_{name}" for prefix in prefixes for name in metrics}


# Calls that update the metrics.


def totals(metric):
    return metric.sums.numpy()[0].tolist()


def counts(metric):
    """The number of batches that were counted, for every value but the balancing loss, which
    evaluation does not have.
    """
    return {int(count) for count in metric.sums.numpy()[1, :-1]}


def test_a_plain_call_updates_the_metrics_in_training_only():
    layer = make_layer()
    layer(X)
    assert counts(layer.expert_metrics) == {0}
    layer(X, training=True)
    assert counts(layer.expert_metrics) == {1}
    tf.function(lambda: layer(X))()
    assert counts(layer.expert_metrics) == {1}
    tf.function(lambda: layer(X, training=True))()
    assert counts(layer.expert_metrics) == {2}


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_fit_and_evaluate_update_the_metrics_and_predict_does_not(run_eagerly):
    model = make_model()
    model.run_eagerly = run_eagerly
    metric = model.layers[1].expert_metrics
    history = model.fit(X, Y, batch_size=4, epochs=2, verbose=0).history
    assert names("moe") | {"loss"} == set(history)
    assert counts(metric) == {2}  # the batches of an epoch
    before = totals(metric)
    model.predict(X, batch_size=2, verbose=0)
    assert counts(metric) == {2}
    assert totals(metric) == before
    result = model.evaluate(X, Y, batch_size=8, verbose=0, return_dict=True)
    assert names("moe", metrics=EVALUATION) | {"loss"} == set(result)
    assert counts(metric) == {1}
    assert result["moe_max_over_mean_load"] >= 1


class Predict(keras.callbacks.Callback):
    """Predicts after every batch, on data that uses other experts."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.predict(100 * np.abs(X), verbose=0)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_predict_in_a_callback_does_not_change_the_metrics_of_the_epoch(run_eagerly):
    histories = []
    for callbacks in ([], [Predict()]):
        model = make_model()
        model.run_eagerly = run_eagerly
        fit = model.fit(X, Y, batch_size=4, verbose=0, shuffle=False, callbacks=callbacks)
        histories.append(fit.history)
    assert histories[0] == histories[1]
    assert histories[0]["moe_max_over_mean_load"][0] >= 1


def test_in_predict_step():
    def predict_step(depth):
        return deeper(depth)

    def deeper(depth):
        return in_predict_step() if depth == 0 else deeper(depth - 1)

    assert not in_predict_step()
    assert not deeper(2)
    assert predict_step(0) and predict_step(3)
    assert not in_predict_step()


def test_in_predict_step_within_the_steps_of_keras():
    recorded = []

    class Recorder(keras.layers.Layer):
        def call(self, inputs):
            callers = {frame.f_code.co_name for frame in frames()}
            recorded.append((in_predict_step(), "test_step" in callers, "train_step" in callers))
            return inputs

    def frames():
        frame = sys._getframe(1)
        while frame is not None:
            yield frame
            frame = frame.f_back

    model = keras.Sequential([Recorder(), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    for run, expected in (
        (lambda: model.predict(X, verbose=0), (True, False, False)),
        (lambda: model.evaluate(X, Y, verbose=0), (False, True, False)),
        (lambda: model.fit(X, Y, verbose=0), (False, False, True)),
    ):
        recorded.clear()
        run()
        assert recorded[-1] == expected


def test_logs_contain_only_the_metrics_of_the_step():
    keras.utils.set_random_seed(1)
    layer = MoE(4, 5, gate=Batchwise(k=2), groups=2, metrics="all", name="moe")
    model = keras.Sequential([layer, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    history = model.fit(X, Y, verbose=0, validation_data=(X, Y)).history
    training = {*METRICS, "threshold_precision", "threshold_recall"}
    evaluation = {*EVALUATION, "experts_per_token", "unrouted"}
    expected = {"loss", "val_loss"} | names("moe", metrics=training)
    assert set(history) == expected | names("val_moe", metrics=evaluation)
    assert np.all(np.isfinite([values[-1] for values in history.values()]))


# Without metrics.


def test_without_metrics():
    model = make_model(metrics=False)
    layer = model.layers[1]
    assert layer.expert_metrics is None
    assert layer.metrics == []
    assert set(model.fit(X, Y, verbose=0).history) == {"loss"}
    assert MoE.from_config(layer.get_config()).expert_metrics is None
    assert make_layer().get_config()["metrics"] == "all"


def test_evaluate_returns_a_plain_list_without_metrics():
    model = make_model(metrics=False)
    model.compile("sgd", "mse", metrics=["mae"])
    loss, mae = model.evaluate(X, Y, verbose=0)
    errors = model.predict(X, verbose=0) - Y
    assert loss == pytest.approx(np.mean(errors**2), rel=1e-5)
    assert mae == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)


def test_metrics_do_not_change_the_training():
    weights = []
    for metrics in (True, False):
        model = make_model(metrics=metrics)
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        weights.append([weight.numpy() for weight in model.trainable_weights])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


# Names.


def submodel(name, layer_name="moe"):
    inputs = keras.Input([D])
    return keras.Model(inputs, make_layer(layer_name)(inputs), name=name)


class TwoParts(keras.Model):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second
        self.out = keras.layers.Dense(2)

    def call(self, inputs, training=False):
        x = self.first(inputs, training=training)
        return self.out(self.second(x, training=training))


@pytest.mark.parametrize("kind", ["functional", "subclassed", "sequential"])
def test_metric_names_of_mixtures_with_the_same_name(kind):
    parts = submodel("encoder"), submodel("decoder")
    if kind == "functional":
        inputs = keras.Input([D])
        x = parts[1](parts[0](inputs))
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
    elif kind == "subclassed":
        model = TwoParts(*parts)
    else:
        model = keras.Sequential([*parts, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    history = model.fit(X, Y, verbose=0, validation_data=(X, Y)).history
    both = names("encoder_moe", "decoder_moe", metrics=EVALUATION)
    validation = {f"val_{name}" for name in both} | {"val_loss"}
    assert set(history) == {"loss"} | names("encoder_moe", "decoder_moe") | validation
    result = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(result) == {"loss"} | both


def test_metric_names_of_mixtures_with_different_names():
    model = keras.Sequential([submodel("a", "one"), submodel("b", "two"), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    assert set(model.fit(X, Y, verbose=0).history) == {"loss"} | names("one", "two")


def test_only_mixtures_of_the_same_name_get_longer_names():
    parts = [submodel("a"), submodel("b"), submodel("c", "other"), keras.layers.Dense(2)]
    model = keras.Sequential(parts)
    model.compile("sgd", "mse")
    assert set(model.fit(X, Y, verbose=0).history) == {"loss"} | names("a_moe", "b_moe", "other")


def test_metric_names_use_the_shortest_unique_path():
    inner = [keras.Sequential([submodel("part")], name=name) for name in ("encoder", "decoder")]
    model = keras.Sequential([*inner, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    expected = names("encoder_part_moe", "decoder_part_moe")
    assert set(model.fit(X, Y, verbose=0).history) == {"loss"} | expected


def test_metric_names_of_a_part_of_a_model():
    part = submodel("encoder")
    model = keras.Sequential([part, submodel("decoder"), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    part.compile("sgd", "mse")
    assert set(part.fit(X, X, verbose=0).history) == {"loss"} | names("moe")
    expected = {"loss"} | names("encoder_moe", "decoder_moe")
    assert set(model.fit(X, Y, verbose=0).history) == expected


def test_metric_values_of_mixtures_with_the_same_name():
    """They are not mixed up or averaged."""
    parts = submodel("encoder"), submodel("decoder")
    model = keras.Sequential([*parts, keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = model.fit(X, Y, verbose=0).history
    for part in parts:
        (layer,) = [inner for inner in part.layers if isinstance(inner, MoE)]
        for name, value in layer.expert_metrics.result().items():
            assert history[name][0] == pytest.approx(float(value)), name


def test_metrics_of_a_loaded_model_start_at_zero(tmp_path):
    model = make_model()
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert counts(loaded.layers[1].expert_metrics) == {0}
    result = loaded.evaluate(X, Y, verbose=0, return_dict=True)
    assert result == pytest.approx(model.evaluate(X, Y, verbose=0, return_dict=True))
    assert names("moe", metrics=EVALUATION) < set(result)
