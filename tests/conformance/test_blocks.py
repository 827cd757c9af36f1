"""The interface of `tfmoe.layers.Block`, for every layer that models stack."""

import numpy as np
import tensorflow as tf
from gradient_reads import kept, read_by_gradient, step_by_step

from tfmoe import layers
from tfmoe.layers.block import Kept


def shapes_of(state):
    return tf.nest.map_structure(lambda tensor: tuple(tensor.shape), state)


def initial_state(layer, batch_size, max_length):
    """The initial state of a layer with or without a cache."""
    return layers.Residual(layer).initial_state(batch_size, max_length)


def run_steps(layer, inputs, *memory):
    """The outputs `[B, S, D]` of a layer that is called in steps; checks the shapes of states."""
    prepared = [layer.prepared(*memory)] if layer.needs_memory else []
    state, outputs = initial_state(layer, *inputs.shape[:2]), []
    shapes = shapes_of(state)
    for t in range(inputs.shape[1]):
        output, state, *attention = layer.step(inputs[:, t], state, *prepared)
        assert shapes_of(state) == shapes
        assert [weights.shape for weights in attention] == [source.shape[:2] for source in memory]
        outputs.append(output)
    return np.stack(outputs, axis=1)


def test_steps_equal_a_call(with_steps):
    layer = with_steps.built()
    expected = with_steps.call(layer)[0].numpy()
    np.testing.assert_allclose(run_steps(layer, *with_steps.inputs), expected, rtol=0, atol=1e-6)


def test_steps_in_half_precision(with_steps):
    layer = with_steps.built(dtype="mixed_bfloat16")
    expected = tf.cast(with_steps.call(layer)[0], tf.float32).numpy()
    outputs = run_steps(layer, *with_steps.inputs)
    assert outputs.dtype == layer.compute_dtype
    np.testing.assert_allclose(outputs.astype("float32"), expected, rtol=0, atol=0.1)


def test_states_with_an_unknown_batch_size(with_steps):
    layer = with_steps.built()
    inputs, *memory = with_steps.inputs
    prepared = [layer.prepared(*memory)] if layer.needs_memory else []

    @tf.function(input_signature=[tf.TensorSpec([None, *inputs.shape[1:]])])
    def last_output(inputs):
        def body(t, output, state):
            return t + 1, *layer.step(inputs[:, t], state, *prepared)[:2]

        state = initial_state(layer, tf.shape(inputs)[0], tf.shape(inputs)[1])
        output, state, *_ = layer.step(inputs[:, 0], state, *prepared)
        return tf.while_loop(lambda t, *_: t < inputs.shape[1], body, (1, output, state))[1]

    expected = with_steps.call(layer)[0][:, -1]
    np.testing.assert_allclose(last_output(inputs), expected, rtol=0, atol=1e-6)
    states = tf.nest.flatten(initial_state(layer, 7, 3))
    assert all(state.shape[0] == 7 for state in states)


def test_a_causal_layer_does_not_depend_on_later_positions(causal):
    layer = causal.built()
    inputs, *memory = causal.inputs
    changed = inputs.copy()
    changed[:, -1] += 1
    before, after = (causal.call(layer, (x, *memory))[0] for x in (inputs, changed))
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
    assert np.abs(before[:, -1] - after[:, -1]).max() > 1e-3


def test_operations(block):
    width = block.inputs[0].shape[-1]
    for layer in (block.make(), block.built()):
        assert layer.ops_per_timestep(width) == block.ops
        assert layer.gate_ops_per_timestep(width) == block.gate_ops


def test_kept_for_the_backward_pass(block):
    layer = block.make()
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((2, 10, 8)).astype("float32")]
    if layer.needs_memory:
        inputs.append(rng.standard_normal((2, 7, 8)).astype("float32"))
    layer.build(inputs[0].shape)
    call = step_by_step(layer) if block.is_loop else lambda *x: layer(*x, training=True)
    read = sum(read_by_gradient(layer, *inputs, call=call, by_hand=block.reads_views).values())
    # Steps read slices of the inputs, a call reads the inputs.
    read += sum(array.size for array in (inputs[1:] if block.is_loop else inputs))
    # The count is a model of the memory, without integers, masks and the values of assignments.
    assert 0.7 * kept(layer, *inputs) <= read <= 1.4 * kept(layer, *inputs)


def test_kept_with_and_without_recomputation(block):
    layer = block.make()
    result = layer.kept_for_backward(8, 5)
    assert type(result) is Kept and all(type(size) is int for size in result[:2])
    assert result.total(False) == result.always + result.recomputable
    assert result.total(True) == result.always > 0
    assert result.total() == result.total(result.recomputes)
    assert layer.kept_of_source(8) > 0 or not layer.needs_memory


def test_block_arguments_are_constructor_arguments(block):
    assert set(type(block.make()).BLOCK_ARGUMENTS) <= block.parameters


def test_every_layer_with_steps_is_a_block():
    names = [name for name in layers.__all__ if hasattr(getattr(layers, name), "step")]
    assert all(issubclass(getattr(layers, name), layers.Block) for name in names)
