"""When layers need static shapes."""

import threading

import keras
import tensorflow as tf

from tfmoe.distribute.static_shapes import portable_operations, static_shapes


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
