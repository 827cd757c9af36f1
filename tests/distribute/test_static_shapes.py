"""When layers need static shapes."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute.static_shapes import portable_operations, static_shapes
from tfmoe.gating import Switch
from tfmoe.layers import MoE


def test_within_portable_operations_of_a_thread():
    recorded = [static_shapes()]
    with portable_operations():
        with portable_operations():
            recorded.append(static_shapes())
        recorded.append(static_shapes())
        thread = threading.Thread(target=lambda: recorded.append(static_shapes()))
        thread.start()
        thread.join()
    assert [*recorded, static_shapes()] == [False, True, True, False, False]


def test_under_xla():
    recorded = []
    for jit_compile in (False, True):

        @tf.function(jit_compile=jit_compile, autograph=False)
        def record(x):
            recorded.append(static_shapes())
            return x

        record(1.0)
    assert recorded == [False, True]


def test_in_an_export_for_another_runtime(tmp_path):
    recorded = []
    inputs = keras.Input([2])
    layer = keras.layers.Lambda(lambda x: recorded.append(static_shapes()) or x)
    model = keras.Model(inputs, layer(inputs))
    recorded.clear()
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    assert recorded and all(recorded)


def test_a_capacity_of_the_batch_of_several_replicas(in_replicas):
    """All rows that an expert keeps can be on one replica."""
    x = np.random.default_rng(0).standard_normal([16, 6]).astype("float32")
    x[:8, 0], x[8:, 0] = 9, -9  # tokens of one replica prefer the same expert
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        layer = MoE(4, 4, gate=Switch(), activation="tanh", evaluation_capacity_factor=1.5)
        layer.build([None, 6])
    layer.gate.gate_kernel.assign(np.eye(6, 1) * [[1, -1, 0, 0]])

    def run(replica):
        rows = tf.constant(x)[8 * replica : 8 * replica + 8]
        with portable_operations():
            outputs = layer(rows)
        return outputs, layer(rows)

    for static, expected in in_replicas(strategy, run):
        np.testing.assert_allclose(static, expected, atol=1e-6)
        assert np.count_nonzero(np.any(expected, axis=1)) == 6  # 1.5 · 16 / 4


def test_xla_in_several_replicas(in_replicas):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        layer = MoE(4, 4, name="moe", metrics=False)
        layer.build([None, 6])
    compiled = tf.function(layer, jit_compile=True)
    with pytest.raises(ValueError, match=r"moe .* by XLA in the 2 replicas of a MirroredStrategy"):
        in_replicas(strategy, lambda _: compiled(tf.ones([3, 6])))
