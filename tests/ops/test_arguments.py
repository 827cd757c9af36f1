import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops import arguments


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_boolean(value):
    assert arguments.boolean("flag", value) is bool(value)


@pytest.mark.parametrize("value", ["no", 0, 1, None, np.int64(1), []])
def test_not_a_boolean(value):
    with pytest.raises(ValueError, match="flag must be True or False, got"):
        arguments.boolean("flag", value)


@pytest.mark.parametrize("value", [2.0, 2.5, "2", -1, 0, True, None, np.float32(3)])
def test_not_positive(value):
    with pytest.raises(ValueError, match=r"units must be an integer of at least 1, got"):
        arguments.positive("units", value)


def test_positive_accepts_numpy_integers():
    assert type(arguments.positive("units", np.int32(3))) is int


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, "0.5", float("nan"), True, None])
def test_not_a_fraction(value):
    with pytest.raises(ValueError, match="rate must be a number of at least 0 and below 1, got"):
        arguments.fraction("rate", value)


@pytest.mark.parametrize("value", [0, 0.0, 0.999, np.float32(0.5)])
def test_fraction(value):
    assert arguments.fraction("rate", value) == value


@pytest.mark.parametrize("value", [1.0, "1", True])
def test_not_a_seed(value):
    with pytest.raises(ValueError, match="seed must be an integer or None, got"):
        arguments.random_seed("seed", value)


def test_seed():
    assert arguments.random_seed("seed", None) is None
    assert type(arguments.random_seed("seed", np.int64(-3))) is int


@pytest.mark.parametrize(
    "value",
    [
        None,
        "relu",
        keras.activations.relu,
        lambda x: x**2,
        keras.layers.ReLU(),
        keras.layers.LeakyReLU(),
        keras.layers.Activation("tanh"),
        keras.saving.serialize_keras_object(keras.layers.ReLU()),
    ],
)
def test_activation(value):
    function = arguments.activation("activation", value)
    assert function(tf.constant([[1.0, -2.0]])).shape == (1, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rellu", "activation must be a Keras activation, its name or a function .*, got 'rellu'"),
        (3, "activation must be a Keras activation"),
        (keras.layers.PReLU, "activation must be a Keras activation"),
        ({"class_name": "nothing", "config": {}}, "activation must be a Keras activation"),
        (keras.layers.PReLU(), "activation must be a function without variables, got .*PReLU"),
        (keras.layers.Dense(3), "activation must be a function without variables, got .*Dense"),
        (keras.layers.GaussianNoise(0.1), "activation must be a function without variables"),
    ],
)
def test_not_an_activation(value, message):
    with pytest.raises(ValueError, match=message):
        arguments.activation("activation", value)


def test_a_built_layer_with_variables_is_no_activation():
    layer = keras.layers.PReLU()
    layer.build((None, 3))
    with pytest.raises(ValueError, match="without variables"):
        arguments.activation("activation", layer)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "zeros",
        keras.initializers.HeNormal(),
        keras.initializers.HeNormal,
        lambda shape, dtype=None: tf.ones(shape, dtype),
        np.ones((2, 3), "float32"),
        {"class_name": "Zeros", "config": {}},
    ],
)
def test_initializer(value):
    assert arguments.initializer("kernel_initializer", value)((2, 3), dtype="float32").shape == (
        2,
        3,
    )


@pytest.mark.parametrize("value", ["zeroes", 3, {"class_name": "nothing", "config": {}}])
def test_not_an_initializer(value):
    message = "kernel_initializer must be a Keras initializer, its name or class, .*, got"
    with pytest.raises(ValueError, match=message):
        arguments.initializer("kernel_initializer", value)


@pytest.mark.parametrize(
    "shape", [(None, 5), [2, 3, 5], tf.TensorShape([None, 5]), (5,), (None, np.int64(5))]
)
def test_last_dimension(shape):
    assert arguments.last_dimension("inputs", shape) == 5


@pytest.mark.parametrize(
    "shape",
    [5, None, (), (5, None), (5, 0), "five", [(2, 3), (4, 5)], (None, 2.5),
     tf.TensorShape(None), tf.TensorShape([3, None])],
)  # fmt: skip
def test_no_last_dimension(shape):
    message = "inputs of moe must (have a known last dimension, got shape|be one tensor, got 2)"
    with pytest.raises(ValueError, match=message):
        arguments.last_dimension("inputs of moe", shape)


def test_rank_of_last_dimension():
    assert arguments.last_dimension("inputs", (None, None, 5), rank=3) == 5
    with pytest.raises(ValueError, match=r"inputs must have 3 dimensions, got shape \(2, 5\)"):
        arguments.last_dimension("inputs", (2, 5), rank=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize(
    "value",
    [[[1, 2]], np.array([[1, 2]], "int64"), np.array([[1, 2]], "float16"), tf.constant([[1, 2]])],
)
def test_float_tensor(value, dtype):
    tensor = arguments.float_tensor("inputs", value, dtype)
    assert tensor.dtype.name == dtype
    np.testing.assert_array_equal(tf.cast(tensor, tf.int32), [[1, 2]])


def test_float_tensor_rejects_sparse_and_ragged_tensors():
    with pytest.raises(ValueError, match=r"inputs must be a dense tensor, got a SparseTensor.*to_"):
        arguments.float_tensor("inputs", tf.sparse.from_dense([[1.0]]), "float32")
    with pytest.raises(ValueError, match=r"inputs must be a dense tensor, got a RaggedTensor.*to_"):
        arguments.float_tensor("inputs", tf.ragged.constant([[1.0], []]), "float32")
