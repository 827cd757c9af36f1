"""Inputs of mixtures that are not dense tensors of known width."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE, MoELSTM, MultiGateMoE, SoftMoE

D = 6
X = np.random.default_rng(0).standard_normal((2, 3, D)).astype("float32")
RAGGED = tf.RaggedTensor.from_row_lengths(X.reshape(6, D), [2, 1, 3])
GATE = NoisyTopK(k=2, noise=False)
LAYERS = {
    "MoE": lambda **options: MoE(4, 8, gate=GATE, **options),
    "MoELSTM": lambda **options: MoELSTM(4, 8, gate=GATE, **options),
    "MultiGateMoE": lambda **options: MultiGateMoE(2, 4, 8, gate=GATE, **options),
    "SoftMoE": lambda **options: SoftMoE(4, 8, **options),
}


def test_what_the_error_for_ragged_inputs_advises():
    layer = MoE(4, 8, gate=GATE)
    with pytest.raises(ValueError, match=r"x.to_tensor\(\), .*mask.*map_flat_values\(layer, x\)"):
        layer(RAGGED)
    flat = tf.ragged.map_flat_values(layer, RAGGED)
    padded = layer(RAGGED.to_tensor(), mask=tf.sequence_mask(RAGGED.row_lengths()))
    np.testing.assert_allclose(flat.to_tensor(), padded, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat.flat_values, layer(X.reshape(6, D)), rtol=1e-5, atol=1e-6)


def test_what_the_error_for_sparse_inputs_advises():
    layer = MoE(4, 8, gate=GATE)
    x = tf.sparse.from_dense(np.eye(4, D, dtype="float32"))
    with pytest.raises(ValueError, match=r"a SparseTensor: convert it with tf.sparse.to_dense\(x"):
        layer(x)
    assert layer(tf.sparse.to_dense(x)).shape == (4, D)


@pytest.mark.parametrize("name", LAYERS)
def test_unknown_width(name):
    with pytest.raises(ValueError, match=r"got shape .*: give the width, as in keras.Input"):
        LAYERS[name]()(keras.Input([None, None]))
    layer = LAYERS[name]()
    expected = tf.nest.flatten(layer(X))
    # A layer that is built knows its width.
    function = tf.function(layer).get_concrete_function(tf.TensorSpec([None, None, None]))
    for y, other in zip(tf.nest.flatten(function(X)), expected, strict=True):
        assert y.shape[-1] is not None
        np.testing.assert_allclose(y, other, rtol=1e-5, atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError):
        function(X[..., :4])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("values", [np.array([[["a"] * D]]), X.astype("complex64")])
def test_values_that_are_not_real_numbers(name, values):
    with pytest.raises(ValueError, match=r"inputs of \w+ must be real numbers, got a tensor of"):
        LAYERS[name]()(values)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["float16", "mixed_float16", "float64"])
def test_other_dtypes_and_no_rows(name, dtype):
    layer = LAYERS[name](dtype=dtype)
    for inputs in (X.astype("float64"), X.astype("float16"), X.astype("int32")):
        for y in tf.nest.flatten(layer(inputs)):
            assert y.dtype == layer.compute_dtype and np.all(np.isfinite(y.numpy()))
    for y in tf.nest.flatten(layer(X[:0])):
        assert y.shape[:2] == (0, 3)


def test_a_single_vector():
    with pytest.raises(ValueError, match="expected min_ndim=2, found ndim=1"):
        MoE(4, 8, gate=GATE)(X[0, 0])


def test_quantization_leaves_mixtures_unchanged():
    layer = MoE(4, 8, gate=GATE)
    model = keras.Sequential([keras.Input([3, D]), layer, keras.layers.Dense(2)])
    before = [weight.numpy() for weight in layer.weights]
    with pytest.warns(UserWarning, match="does not have a `quantize` method"):
        model.quantize("int8")
    assert model.layers[1].kernel.dtype == "int8"
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(NotImplementedError, match=r"got mode='int8': model.quantize\(…\) quant"):
        layer.quantize("int8")
    with pytest.raises(NotImplementedError, match=r"set trainable=False on layers, or on layer.ex"):
        layer.enable_lora(4)
    layer.experts.trainable = False  # what the error advises
    assert all("gate" in weight.path for weight in layer.trainable_weights)
