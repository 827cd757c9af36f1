"""Valid and invalid arguments and inputs of every layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

OTHERS = {
    "capacity_priority",
    "evaluation_capacity_factor",
    "activation",
    "attention",
    "capacity_factor",
    "dropout",
    "expert_dropout",
    "expert_inputs",
    "experts",
    "gate",
    "gate_from",
    "groups",
    "kind",
    "layer",
    "metrics",
    "mixture_of",
    "name",
    "norm",
    "norm_epsilon",
    "output_units",
    "query_key_norm",
    "query_key_norm_epsilon",
    "rotary_base",
    "seed",
    "shared_experts",
    "task_experts",
    "tasks",
}


def test_every_argument_has_a_kind(case):
    kinds = {*case.integers, *case.booleans, *case.initializers, *case.penalties}
    assert case.parameters - OTHERS == kinds


@pytest.mark.parametrize("value", [2.0, 0, -1, "2", True])
def test_integers_are_checked(with_integers, value):
    for name in with_integers.integers:
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got"):
            with_integers.changed(**{name: value})


@pytest.mark.parametrize("value", ["no", 0, None])
def test_booleans_are_checked(with_booleans, value):
    for name in with_booleans.booleans:
        with pytest.raises(ValueError, match=f"{name} must be True or False, got"):
            with_booleans.changed(**{name: value})


@pytest.mark.parametrize("value", ["rellu", 3, keras.layers.PReLU, keras.layers.PReLU()])
def test_invalid_activations(with_activation, value):
    with pytest.raises(ValueError, match="activation must be a "):
        with_activation.changed(activation=value)


@pytest.mark.parametrize("value", [lambda x: tf.nn.relu(x), keras.layers.ReLU()])
def test_activation_of_a_function_and_of_a_layer_without_variables(with_activation, value):
    case = with_activation
    layer, other = case.changed(activation=value), case.changed(activation="relu")
    outputs = case.call(layer)
    case.call(other)
    for a, b in zip(layer.weights, other.weights, strict=True):
        b.assign(a)
    for a, b in zip(outputs, case.call(other), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


def draw(shape, dtype=None):
    return 3 + keras.random.uniform(shape, dtype=dtype)


class Draw(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return draw(shape, dtype)


@pytest.mark.parametrize("value", [draw, Draw, Draw(), lambda shape, dtype=None: draw(shape)])
def test_initializers_that_are_functions_or_classes(with_initializers, value):
    for name in with_initializers.initializers:
        layer = with_initializers.changed(**{name: value})
        with_initializers.call(layer)
        weights = [weight.numpy() for weight in layer.weights]
        drawn = np.concatenate([weight.ravel() for weight in weights if np.all(weight >= 3)])
        assert len(np.unique(drawn)) > 0.99 * drawn.size  # independent draws


def test_unknown_initializer(with_initializers):
    for name in with_initializers.initializers:
        with pytest.raises(ValueError, match=f"{name} must be a Keras initializer, .*'zeroes'"):
            with_initializers.changed(**{name: "zeroes"})


def test_unknown_regularizers_and_constraints(with_penalties):
    for name in with_penalties.penalties:
        with pytest.raises(ValueError, match=f"{name} must be a Keras .*'l3'"):
            with_penalties.changed(**{name: "l3"})


def test_output_units_are_checked(cases):
    for case in cases.values():
        if "output_units" in case.parameters:
            with pytest.raises(ValueError, match="output_units must be an integer of at least 1"):
                case.changed(output_units=0)


@pytest.mark.parametrize("shape", [6, None, (), (None, None), [(2, 6), (2, 6)]], ids=str)
def test_build_without_a_last_dimension(case, shape):
    with pytest.raises(ValueError, match=r"must (have a known last dimension|be one tensor), got "):
        case.make().build(shape)


def converted(inputs, convert):
    return keras.tree.map_structure(convert, inputs)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_integer_inputs(case, dtype, policy):
    layer = case.make(dtype=policy)
    integers = converted(case.inputs, lambda x: np.abs(np.round(x)).astype(dtype))
    expected = case.call(layer, converted(integers, lambda x: x.astype("float32")))
    for inputs in (integers, converted(integers, tf.constant)):
        for a, b in zip(case.call(layer, inputs), expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_float64_inputs(case):
    layer = case.make()
    expected = case.call(layer)
    inputs = converted(case.inputs, lambda x: x.astype("float64"))
    for a, b in zip(case.call(layer, inputs), expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    "make",
    [tf.sparse.from_dense, lambda x: tf.RaggedTensor.from_tensor(x)],
    ids=["sparse", "ragged"],
)
def test_sparse_and_ragged_inputs(case, make):
    layer = case.built()
    for i in range(len(case.inputs)):
        if isinstance(case.inputs[i], list):
            continue
        inputs = list(case.inputs)
        inputs[i] = make(inputs[i])
        with pytest.raises(ValueError, match=r"must be a dense tensor, got a .*: convert it with"):
            case.call(layer, inputs)


def test_sparse_inputs_of_a_feed_forward_network(cases):
    layer = cases["FeedForward"].make()
    x = np.eye(4, 6, dtype="float32")
    expected = layer(x).numpy()
    np.testing.assert_allclose(layer(tf.sparse.from_dense(x)).numpy(), expected, rtol=1e-6)


def test_inputs_of_another_width(case):
    layer = case.built()
    first = case.inputs[0]
    with pytest.raises(ValueError, match=r"expected axis -1|must be"):
        case.call(layer, (first[..., :-1], *case.inputs[1:]))
