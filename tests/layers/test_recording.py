import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE
from tfmoe.layers.recording import recording_routings

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
MASK = np.array([[True, False, True], [False, True, False]])


def built_layer(**options):
    layer = MoE(num_experts=5, hidden_units=3, gate=NoisyTopK(k=2, noise=False), **options)
    layer.build((None, None, 4))
    return layer


def assert_same(routing, expected):
    for a, b in zip(routing.assignments.by_token(), expected.assignments.by_token(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("groups", [None, 5])
def test_an_eager_call(groups):
    layer = MoE(num_experts=5, hidden_units=3, groups=groups, gate=NoisyTopK(k=1, load_weight=0.1))
    with recording_routings() as recordings:
        outputs = layer(X)
    (recording,) = recordings
    assert recording.layer is layer
    assert_same(recording.routing, layer.route(X))
    np.testing.assert_array_equal(recording.tokens, X.reshape(6, 4))
    np.testing.assert_array_equal(recording.positions, range(6))
    np.testing.assert_array_equal(recording.shape, [2, 3])
    np.testing.assert_array_equal(outputs, layer(X))
    assert len(recordings) == 1  # the last call was outside of the context


def test_masked_positions_are_not_recorded():
    layer = built_layer()
    with recording_routings() as recordings:
        layer(X, mask=tf.constant(MASK))
    (recording,) = recordings
    np.testing.assert_array_equal(recording.positions, [0, 2, 4])
    np.testing.assert_array_equal(recording.tokens, X[MASK])
    np.testing.assert_array_equal(recording.shape, [2, 3])
    assert_same(recording.routing, layer.route(X[MASK]))


def test_a_function_traced_in_the_context():
    layer = built_layer()

    @tf.function(autograph=False)
    def tokens_and_experts(x):
        with recording_routings() as recordings:
            layer(x)
        return recordings[0].routing.assignments.by_token()

    for a, b in zip(tokens_and_experts(X), layer.route(X).assignments.by_token(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_experts_are_not_computed_for_the_routing():
    """A graph that returns only the routing does not use the weights of experts."""
    layer = built_layer()

    @tf.function(autograph=False)
    def experts(x):
        with recording_routings() as recordings:
            layer(x)
        return recordings[0].routing.assignments.by_token()[1]

    for variable in layer.experts.weights:
        variable.assign(np.full(variable.shape, np.nan))
    assert np.isfinite(experts(X)).all()


def test_training_is_not_recorded():
    layer = built_layer()
    with recording_routings() as recordings:
        layer(X, training=True)
    assert recordings == []


def test_metrics_are_not_changed():
    layer = built_layer(metrics="all", name="moe")
    model = keras.Sequential([layer])
    model.compile("sgd", "mse")
    expected = model.evaluate(X, X, verbose=0, return_dict=True)
    with recording_routings() as recordings:
        model(X)
        before = {metric.name: metric.variables for metric in layer.metrics}
        model(X)
    assert len(recordings) == 2
    assert before == {metric.name: metric.variables for metric in layer.metrics}
    with recording_routings():
        logs = model.evaluate(X, X, verbose=0, return_dict=True)
    assert logs == expected and "moe_cv_load" in logs


def test_nested_recordings():
    layer = built_layer()
    with recording_routings() as outer:
        with pytest.raises(KeyError), recording_routings() as inner:
            layer(X)
            raise KeyError
        layer(X[:1])
    assert [recording.shape.numpy().tolist() for recording in inner] == [[2, 3]]
    assert [recording.shape.numpy().tolist() for recording in outer] == [[1, 3]]


def test_other_threads_are_not_recorded():
    layer = built_layer()
    with recording_routings() as recordings:
        thread = threading.Thread(target=layer, args=(X,))
        thread.start()
        thread.join()
    assert recordings == []


def test_mixed_precision():
    layer = built_layer(dtype="mixed_bfloat16")
    with recording_routings() as recordings:
        layer(X)
    assert recordings[0].tokens.dtype == tf.bfloat16
    assert_same(recordings[0].routing, layer.route(X))
