"""The balancing loss and the summary of mixtures in `fit` on several devices."""

import contextlib

import keras
import numpy as np
import pytest

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE

D = 6
X = np.random.default_rng(0).standard_normal((16, D)).astype("float32")
Y = np.sin(X[:, :2])


def train(strategy, num_mixtures, metrics):
    """The history of a model that does not learn."""
    gate = NoisyTopK(k=2, noise=False, importance_weight=0.5)
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        inputs = x = keras.Input([D])
        for i in range(num_mixtures):
            x = x + MoE(8, 5, gate=gate, metrics=metrics, name=f"moe_{i}")(x)
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
        model.compile(keras.optimizers.SGD(0.0), "mse")
    data = {"validation_data": (X, Y), "validation_batch_size": 8, "shuffle": False}
    return model.fit(X, Y, batch_size=8, epochs=2, verbose=0, **data).history


@pytest.mark.parametrize(
    ("replicas", "num_mixtures"),
    [
        (2, 3),
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(4, 1, marks=pytest.mark.slow),
        pytest.param(4, 3, marks=pytest.mark.slow),
    ],
)
def test_summary_on_several_devices(strategy_of, replicas, num_mixtures):
    expected = train(None, num_mixtures, "summary")
    history = train(strategy_of(replicas), num_mixtures, "summary")
    assert set(history) == set(expected)
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-6), name
    for each in (history, expected):
        task = np.subtract(each["loss"], each["moe_balancing_loss"])
        np.testing.assert_allclose(task, each["val_loss"], rtol=1e-6)
        assert each["moe_balancing_loss"][0] > 0.01


def test_all_metrics_on_several_devices(strategy_of):
    expected, history = train(None, 2, "all"), train(strategy_of(2), 2, "all")
    assert set(history) == set(expected)
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-6), name
    balancing = np.add(history["moe_0_balancing_loss"], history["moe_1_balancing_loss"])
    np.testing.assert_allclose(history["loss"] - balancing, history["val_loss"], rtol=1e-6)
