"""Requirements on every layer: configs, masks, policies, models, shapes."""

import inspect
import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import layers
from tfmoe.analysis.variables import GraphBuild

POLICIES = ["mixed_bfloat16", "float64"]


def test_every_layer_is_tested(cases):
    assert set(cases) == set(layers.__all__) - {"BLOCKS", "Block"}


def train(model, inputs, **options):
    """Runs two steps of `fit` and returns the losses."""
    model.compile(keras.optimizers.SGD(0.01), "mse", **options)
    target = np.ones(model(inputs).shape, "float32")
    rows = len(target)
    return model.fit(inputs, target, batch_size=rows, epochs=2, verbose=0).history["loss"]


def values_of(layer):
    return [variable.numpy() for variable in layer.variables]


def copy_weights(source, target):
    for a, b in zip(source.weights, target.weights, strict=True):
        b.assign(a)


def test_config_round_trip(case):
    layer = case.make(name="layer", trainable=False, dtype="mixed_bfloat16")
    config = layer.get_config()
    parameters = inspect.signature(type(layer).__init__).parameters
    names = {name for name in parameters if name not in ("self", "kwargs")}
    assert names <= set(config)
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    for restored in (
        type(layer).from_config(config),
        type(layer).from_config(json.loads(json.dumps(config))),
        keras.saving.deserialize_keras_object(serialized),
    ):
        assert type(restored) is type(layer)
        assert restored.get_config() == config
        assert (restored.name, restored.trainable) == ("layer", False)
        assert restored.dtype_policy.name == "mixed_bfloat16"


def test_mask_is_passed_on(sequence):
    tokens = np.array([[1, 2, 0], [1, 0, 0], [1, 2, 3], [2, 2, 2]])
    embedded = keras.layers.Embedding(9, sequence.inputs[0].shape[-1], mask_zero=True)(tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = sequence.call(sequence.make(), (embedded, *sequence.inputs[1:]))[0]
    np.testing.assert_array_equal(output._keras_mask.numpy(), tokens != 0)


def test_masked_steps_do_not_affect_others(sequence):
    mask = tf.sequence_mask([2, 1, 3, 3], 3)
    layer, outputs = sequence.make(), []
    for padding in (0.0, 100.0):
        x = tf.where(mask[..., None], sequence.inputs[0], padding)
        x._keras_mask = mask
        output = sequence.call(layer, (x, *sequence.inputs[1:]))[0]
        outputs.append(tf.boolean_mask(output, mask))
    np.testing.assert_array_equal(*outputs)


def test_mask_of_the_memory_is_used(cases):
    mask = tf.sequence_mask([2, 1, 3, 5], 5)
    for name in ("Attention", "AttentionLSTM", "CrossAttention"):
        case = cases[name]
        layer, outputs = case.make(), []
        for padding in (0.0, 100.0):
            *others, memory = case.inputs
            memory = tf.where(mask[..., None], memory, padding)
            memory._keras_mask = mask
            outputs.append(case.call(layer, (*others, memory))[0])
        np.testing.assert_array_equal(*outputs)


@pytest.fixture
def global_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture(params=POLICIES)
def policy(request):
    return keras.DTypePolicy(request.param)


def check_policy(case, layer, policy):
    """Checks the dtypes of outputs and variables, and that gradients are finite."""
    symbolic = keras.tree.flatten(layer(*case.symbolic_inputs()))
    with tf.GradientTape() as tape:
        outputs = case.call(layer, training=True)
        total = sum(tf.reduce_sum(tf.cast(output, tf.float32) ** 2) for output in outputs)
    dtypes = [policy.compute_dtype] * len(outputs)
    for i in case.float32_outputs:
        dtypes[i] = "float32"
    assert [output.dtype.name for output in outputs] == dtypes
    assert [output.dtype for output in symbolic] == dtypes
    assert {weight.dtype for weight in layer.weights} == {policy.variable_dtype}
    gradients = tape.gradient(total, layer.trainable_weights)
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        if weight.name not in case.idle:
            gradient = tf.convert_to_tensor(gradient)
            assert gradient.dtype.name == policy.variable_dtype
            assert np.all(np.isfinite(gradient.numpy())), weight.path


def test_policy_of_the_layer(case, policy):
    layer = case.make(dtype=policy.name)
    check_policy(case, layer, policy)
    assert np.all(np.isfinite(train(case.functional(layer), case.model_inputs)))


def test_global_policy(case, policy, global_policy):
    global_policy(policy.name)
    layer = case.make()
    check_policy(case, layer, policy)
    assert np.all(np.isfinite(train(case.functional(layer), case.model_inputs)))


class Subclassed(keras.Model):
    def __init__(self, case, layer):
        super().__init__()
        self.case, self.layer = case, layer

    def call(self, inputs, training=False):
        inputs = keras.tree.pack_sequence_as(self.case.inputs, inputs)
        return keras.tree.flatten(self.layer(*inputs))[0]


def check_model(case, model, layer):
    expected = case.call(layer)[0].numpy()
    np.testing.assert_allclose(model(case.model_inputs).numpy(), expected, rtol=1e-5, atol=1e-6)
    predicted = model.predict(case.model_inputs, verbose=0)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-6)
    before = values_of(layer)
    losses = train(model, case.model_inputs)
    assert np.all(np.isfinite(losses))
    changed = [not np.array_equal(a, b) for a, b in zip(before, values_of(layer), strict=True)]
    assert any(changed)


def test_in_a_functional_model(case):
    layer = case.make()
    check_model(case, case.functional(layer), layer)


def test_in_a_subclassed_model(case):
    layer = case.make()
    check_model(case, Subclassed(case, layer), layer)


def test_in_a_sequential_model(with_one_input):
    layer = with_one_input.make()
    model = keras.Sequential([keras.Input(with_one_input.inputs[0].shape[1:]), layer])
    predicted = keras.tree.flatten(model.predict(with_one_input.inputs[0], verbose=0))
    for actual, expected in zip(predicted, with_one_input.call(layer), strict=True):
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-5, atol=1e-6)
    if len(predicted) == 1:
        assert np.all(np.isfinite(train(model, with_one_input.inputs[0])))


def test_in_a_function_of_unknown_shape(case):
    layer = case.built()

    def spec(x):
        return tf.TensorSpec([None] * (x.ndim - 1) + [x.shape[-1]], x.dtype)

    signature = keras.tree.map_structure(spec, case.inputs)
    function = tf.function(lambda *inputs: case.call(layer, inputs), input_signature=signature)
    for actual, expected in zip(function(*case.inputs), case.call(layer), strict=True):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_output_shape(case):
    shapes = [tuple(output.shape) for output in case.call(case.make())]
    symbolic = keras.tree.flatten(case.make()(*case.symbolic_inputs()))
    assert [tuple(output.shape)[1:] for output in symbolic] == [shape[1:] for shape in shapes]
    layer = case.make()
    if type(layer).compute_output_shape is keras.layers.Layer.compute_output_shape:
        return  # a cell: Keras computes its shapes from a call
    computed = layer.compute_output_shape(*(x.shape for x in case.inputs))
    if not isinstance(computed[0], tuple):
        computed = [computed]
    assert [tuple(shape) for shape in computed] == shapes[: len(computed)]


def test_a_graph_lists_the_variables(case):
    def listed(layer):
        variables = GraphBuild(layer, case.inputs[0].shape).variables()
        return [(variable.path, variable.shape, variable.dtype) for variable in variables]

    unbuilt = case.make(name="layer")
    variables = listed(unbuilt)
    assert variables and not unbuilt.built
    layer = case.make(name="layer")
    layer.build(case.inputs[0].shape)
    assert variables == listed(layer)
    trainable = [(v.path, tuple(v.shape), v.dtype) for v in layer.trainable_variables]
    assert variables == trainable
