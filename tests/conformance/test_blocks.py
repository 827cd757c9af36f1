"""What every layer that models stack must say of itself, see `tfmoe.layers.Block`."""

import numpy as np
import tensorflow as tf
from gradient_reads import kept, read_by_gradient, step_by_step

from tfmoe import layers
from tfmoe.layers.block import Kept


def shapes_of(state):
    return tf.nest.map_structure(lambda each: tuple(each.shape), state)


def stepped(layer, inputs, *memory):
    """Outputs `[B, S, D]` of a layer that is called in steps; its states keep their shapes."""
    prepared = [layer.prepared(*memory)] if layer.needs_memory else []
    state, outputs = layer.initial_state(len(inputs)), []
    shapes = shapes_of(state)
    for t in range(inputs.shape[1]):
        output, state, *attention = layer.step(inputs[:, t], state, *prepared)
        assert shapes_of(state) == shapes
        assert [each.shape for each in attention] == [each.shape[:2] for each in memory]
        outputs.append(output)
    return np.stack(outputs, axis=1)


def test_steps_give_what_the_call_gives(block):
    layer = block.built()
    expected = block.call(layer)[0].numpy()
    np.testing.assert_allclose(stepped(layer, *block.inputs), expected, rtol=0, atol=1e-6)


def test_steps_of_half_precision(block):
    layer = block.built(dtype="mixed_bfloat16")
    expected = tf.cast(block.call(layer)[0], tf.float32).numpy()
    found = stepped(layer, *block.inputs)
    assert found.dtype == layer.compute_dtype
    np.testing.assert_allclose(found.astype("float32"), expected, rtol=0, atol=0.1)


def test_states_have_a_row_for_each_sentence_of_any_batch(block):
    layer = block.built()
    inputs, *memory = block.inputs
    prepared = [layer.prepared(*memory)] if layer.needs_memory else []

    @tf.function(input_signature=[tf.TensorSpec([None, *inputs.shape[1:]])])
    def last_output(inputs):
        def body(t, output, state):
            return t + 1, *layer.step(inputs[:, t], state, *prepared)[:2]

        output, state, *_ = layer.step(
            inputs[:, 0], layer.initial_state(tf.shape(inputs)[0]), *prepared
        )
        return tf.while_loop(lambda t, *_: t < inputs.shape[1], body, (1, output, state))[1]

    expected = block.call(layer)[0][:, -1]
    np.testing.assert_allclose(last_output(inputs), expected, rtol=0, atol=1e-6)
    states = tf.nest.flatten(layer.initial_state(7))
    assert all(state.shape[0] == 7 for state in states)


def test_a_causal_layer_sees_no_later_position(causal):
    layer = causal.built()
    inputs, *memory = causal.inputs
    changed = inputs.copy()
    changed[:, -1] += 1
    before, after = (causal.call(layer, (each, *memory))[0] for each in (inputs, changed))
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
    call = step_by_step(layer) if block.is_loop else lambda x: layer(x, training=True)
    read = sum(read_by_gradient(layer, *inputs, call=call).values())
    # Steps read their slices of the inputs, a call the inputs themselves.
    read += sum(each.size for each in (inputs[1:] if block.is_loop else inputs))
    # A model of the memory, not the memory: integers, masks and numbers of a pair are left out.
    assert 0.7 * kept(layer, *inputs) <= read <= 1.4 * kept(layer, *inputs)


def test_kept_with_and_without_recomputation(block):
    layer = block.make()
    found = layer.kept_for_backward(8, 5)
    assert type(found) is Kept and all(type(each) is int for each in found[:2])
    assert found.total(False) == found.always + found.recomputable
    assert found.total(True) == found.always > 0
    assert found.total() == found.total(found.recomputes)
    assert layer.kept_of_source(8) > 0 or not layer.needs_memory


def test_arguments_that_a_model_sets_are_those_of_the_constructor(block):
    assert set(type(block.make()).BLOCK_ARGUMENTS) <= block.parameters


def test_every_layer_that_steps_is_a_block():
    steps = [name for name in layers.__all__ if hasattr(getattr(layers, name), "step")]
    assert all(issubclass(getattr(layers, name), layers.Block) for name in steps)
